"""Localised LoRAs' cost: a denoising step with 1, 2 and 4 of them beside the other ways.

A step is one pass with both prompts (guidance), after the regions were located; each LoRA is looked
for in a quarter of the picture of its own, so that regions are of a size that characters have and
four of them fill the picture. Beside them: the step that locates, one LoRA in the whole picture,
the same LoRAs merged into the weights, and the passes alone that hooks and masked conditioning
need: one for the negative prompt, one for the whole prompt, and one per LoRA, without the weights
that core swaps in between. The target is 1.15 of the plain step and 0.1 more per LoRA.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import torch
from harness.interleaved import timed
from harness.results import Result
from harness.subject import Options

from conceptloom.attention.local_lora import LocalConfig, LocalLora
from conceptloom.attention.local_masks import MaskMeans
from conceptloom.attention.local_setup import LocalSetup, local_setup
from conceptloom.concepts.concept import LowRank
from conceptloom.concepts.lora_file import LoraFile
from conceptloom.host.ports import Role

from .turns import Promise, Steps, Turns, add_options, compare

WORDS = ("mug", "cat", "beach", "photo")
PROMPT = "a photo of a mug and a cat at the beach"
STEPS = 5  # of the run that is measured in
COUNTS = (1, 2, 4)


def lora_of(host: Any, number: int, rank: int, everywhere: bool = False) -> LocalLora:
    """A LoRA of random numbers on every linear layer of the UNet, in a quarter of the picture."""
    generator = torch.Generator().manual_seed(number)
    changes = {}
    for site in host.sites.layers:
        if Role.LINEAR in site.roles:
            shape = host.weight_shape(site.weight)
            up = 0.01 * torch.randn(shape[0], rank, generator=generator)
            changes[site.weight] = LowRank(up, torch.randn(rank, *shape[1:], generator=generator))
    file = LoraFile(changes=changes, identity=str(number))
    if everywhere:
        return LocalLora(file=file, name="all", words="", tokens=(), mask=torch.ones(2, 2))
    quarter = torch.zeros(4)
    quarter[number] = 1
    words = WORDS[number]
    return LocalLora(
        file=file, name=words, words=words, tokens=host.tokenize(words),
        mask=quarter.view(2, 2), config=LocalConfig(mask_means=MaskMeans.SOMEWHERE),
    )  # fmt: skip


@torch.no_grad()
def steps_of(host: Any, side: int, options: Options) -> Steps:
    """Name -> what to do in a step."""
    rows, device = options.batch, host.device
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(2 * rows, host.latent_channels, side, side, generator=generator).to(device)
    times = host.noise_path.timesteps(STEPS)
    flags = [False] * rows + [True] * rows

    @torch.no_grad()
    def step(at: float, prompts: Any, edits: Any = (), part: slice = slice(None)) -> None:
        some = latent[part]
        timesteps = torch.full((len(some),), at, device=device)
        host.predict(some, timesteps, prompts, edits, flags[part])

    def prompts_of(setup: LocalSetup | None) -> list[Any]:
        encode = setup.encode if setup else host.encode_prompt
        return [p for p in (encode(""), encode(PROMPT)) for _ in range(rows)]

    plain = prompts_of(None)
    found: dict[str, Callable[[], Any]] = {"plain": lambda: step(times[2], plain)}
    for count in COUNTS:
        setup = local_setup(host, [lora_of(host, g, options.rank) for g in range(count)])
        prompts, edit = prompts_of(setup), setup.edit(STEPS, {PROMPT: plain[-1].tokens})
        looking = setup.edit(STEPS, {PROMPT: plain[-1].tokens})
        step(times[0], prompts, [edit])
        found[f"{count} localised"] = lambda p=prompts, e=edit: step(times[2], p, [e])
        if count == 1:
            found["looking for 1"] = lambda p=prompts, e=looking: step(times[0], p, [e])
            everywhere = local_setup(host, [lora_of(host, 0, options.rank, everywhere=True)])
            whole = prompts_of(everywhere), everywhere.edit(STEPS, {PROMPT: plain[-1].tokens})
            found["1 in the whole picture"] = lambda w=whole: step(times[2], w[0], [w[1]])
        found[f"{count} merged"] = _merged(host, setup, lambda: step(times[2], plain))
        found[f"{count} by hooks, passes alone"] = lambda n=count: [
            step(times[2], plain[:1] * rows, part=slice(0, rows)) for _ in range(2 + n)
        ]
    return found


def _merged(host: Any, setup: LocalSetup, step: Callable[[], Any]) -> Callable[[], float]:
    """Times itself: merging happens before the step and does not count."""
    changes = [lora.file.changes for lora in setup.loras]
    edits = {
        name: lambda w, name=name: w + sum(c[name].delta(w.shape).to(w) for c in changes)
        for name in changes[0]
    }

    def run() -> float:
        with host.edited(edits, trainable=False):
            return timed(step, host.device.type)

    return run


TURNS = Turns(
    make=steps_of,
    models=("tinyworld", "sdxl_blocks"),
    promises=[
        Promise(
            says=f"{count} localised LoRA{'s' * (count > 1)}: at most {1.15 + 0.1 * count:.2f} of "
            "plain sampling",
            variant=f"{count} localised",
            at_most=1.15 + 0.1 * count,
        )
        for count in COUNTS
    ],
    about=(
        "A step is one pass with both prompts, LoRAs on every linear layer; the variants take "
        "turns; medians, the ratio is the median of the ratios within a round; on a CPU its own "
        "time. *Hooks, passes alone*: the passes that core's hooks and masked conditioning need, "
        "without the weights that core swaps in between.",
    ),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, rounds=21, seconds=60)
    parser.add_argument("--batch", type=int, default=1, help="pictures")
    parser.add_argument("--rank", type=int, default=16, help="of every LoRA")


def run(options: Options) -> Result:
    """Measure every model."""
    return compare(TURNS, options)
