"""CLiC's guidance from strong removal to strong pull: does the concept follow its eta?

Carries learned ornaments onto bare parts of other objects with every eta, from the same seeds, and
measures how much the word is attended to under the mask and how like the target with the ornament
it looks.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from harness.experiment import ONE_THREAD, add_options, budget_of, sheet_path
from harness.results import Column, Result, Section, Table, stamp
from harness.statistics import describe_trend
from harness.store import one_thread, save_sheet
from harness.subject import Options
from torch import Tensor
from torch.nn import functional as F

from conceptloom.attention.capture import read_attention
from conceptloom.cli.demo.judge import as_image
from conceptloom.concepts.concept import Concept, stacked
from conceptloom.host.ports import Host, Prompt
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.samplers.masks import composited
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.lineup import TARGET
from conceptloom.tinyworld.judge.scores import likeness
from conceptloom.viz.overlays import sample_strip

from . import world
from .clic import HANDLE, WHOLE, DetailBudget, budgets, config_of, learned_ornament, lineup_of
from .tasks import DETAILS, DetailTask
from .world import bare_of

PAGE = "clic_eta"

# budget -> etas, pairs, seeds
SWEEPS = {
    "full": ((-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2), 5, 3),
    "short": ((-0.2, -0.05, 0.0, 0.05, 0.2), 2, 2),
    "quick": ((-0.2, 0.2), 1, 1),
}
GUIDED = 0.6  # of the steps, the first ones; CLiC's official code
ATTENTION_SEED = 11  # of the noise that pictures are read through


def attention_under(
    host: Host, latent: Tensor, prompt: Prompt, word: str, mask: Tensor, downsample: int = 0
) -> float:
    """Mean probability of a word of the prompt under a mask, in a picture.

    Args:
        latent: [1, C, h, w] clean latents of the picture.
        mask: [H, W], 1 = where the word should look.
        downsample: see `attention.site_selection.sites_to_read`.
    """
    heat = read_attention(host, latent, prompt, [word], downsample=downsample, seed=ATTENTION_SEED)[
        word
    ]
    inside = F.interpolate(mask[None, None], heat.shape, mode="area")[0, 0]
    return float((heat * inside).sum() / inside.sum())


@dataclass(frozen=True, slots=True)
class Reading:
    """One edited picture."""

    attention: float  # mean probability of the word under the mask
    identity: float  # cosine with the target that bears the ornament
    outside: float  # largest change of a pixel outside of the mask
    picture: Tensor


def edited(
    host: Host,
    task: DetailTask,
    concept: Concept,
    seed: int,
    etas: Sequence[float],
    budget: DetailBudget,
) -> list[Reading]:
    """The target of a pair with every eta, from the same noise."""
    stack, bare = stacked([(concept, 1.0)]), bare_of(task)
    reference = lineup_of(task).references[TARGET]
    whole, mask = (torch.from_numpy(one) for one in bare.masks)
    image = as_image(bare.image)
    words = config_of(task, budget, 0, WHOLE).prompt_of(HANDLE)
    text = words.replace(task.source, task.target)
    readings: list[Reading] = []
    for eta in etas:
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt = host.encode_prompt(text, stack.handles)
            negative = host.encode_prompt("")
        config = EditConfig(
            steps=budget.sampling_steps,
            cfg=budget.cfg,
            blend=BlendConfig(start=budget.start),
            guidance=GuidanceConfig(eta=eta, steps=round(GUIDED * budget.sampling_steps)),
        )
        latent = edit_latents(
            host, host.encode_image(image[None]), [Region(prompt, mask, (f"<{HANDLE}>",))],
            negative, config, weights=stack.edits, seed=seed,
        )  # fmt: skip
        picture = composited(host.decode_latent(latent), image[None], mask, 0)[0]
        with host.edited(stack.edits, trainable=False):
            attention = attention_under(host, latent, prompt, f"<{HANDLE}>", mask, downsample=1)
        identity = likeness(load_judge().describe(picture, whole), reference)
        change = (picture - image).abs().amax(dim=-1)[mask == 0].max()
        readings.append(Reading(attention, identity, float(change), picture))
    return readings


def run(options: Options) -> Result:
    """All series, and the sheet of the first seed."""
    one_thread()
    host, budget = world.open_model(), budget_of(options, budgets())
    etas, n_pairs, seeds = budget_of(options, SWEEPS)
    tasks = DETAILS[:n_pairs]
    rows: list[list[Reading]] = []
    for task in tasks:
        concept = learned_ornament(host, task, budget)
        rows += [edited(host, task, concept, seed, etas, budget) for seed in range(seeds)]
    strip = sample_strip(
        [reading.picture for row in rows[::seeds] for reading in row],
        [f"eta {eta:g}" for _ in rows[::seeds] for eta in etas],
        n_columns=len(etas),
    )
    save_sheet(strip, sheet_path(PAGE))
    return result(rows, etas, [task.name for task in tasks], budget)


def result(
    rows: Sequence[Sequence[Reading]],
    etas: Sequence[float],
    pairs: Sequence[str],
    budget: DetailBudget,
) -> Result:
    """What the readings say."""

    def series(kind: str) -> list[list[float]]:
        return [[getattr(reading, kind) for reading in row] for row in rows]

    attention, identity, outside = map(series, ("attention", "identity", "outside"))
    table = Table(
        name="etas",
        columns=[
            Column(key="eta", title="eta"),
            Column(key="attention", title="attention under the mask", digits=4),
            Column(key="identity", title="likeness to the ornament", digits=3),
            Column(key="outside", title="change outside", digits=0),
        ],
        rows=[
            {
                "eta": eta,
                "attention": float(np.mean(attention, axis=0)[i]),
                "identity": float(np.mean(identity, axis=0)[i]),
                "outside": float(np.max(outside, axis=0)[i]),
            }
            for i, eta in enumerate(etas)
        ],
    )
    about = (
        f"{len(rows)} series ({'; '.join(pairs)}), CLiC with {budget.token_steps} + "
        f"{budget.weight_steps} steps, {budget.sampling_steps} sampling steps of which the first "
        f"{round(GUIDED * budget.sampling_steps)} are guided, sign rule, the mask as target."
    )
    after = (
        f"Attention under the mask {describe_trend(attention, 'eta', etas)}.\n"
        f"Likeness {describe_trend(identity, 'eta', etas)}."
    )
    return Result(
        **stamp("cpu", ONE_THREAD),
        about=[about], sections=[Section(table=table, after=after)],
        picture=(f"{PAGE}.jpg", "From removal to pull"),
    )  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    add_options(parser, keeps=False)
