"""Localised LoRAs in a full-size SDXL with random weights: three files of three layouts.

Every layer of the base model is real in shape, bfloat16; the weights are random, so the picture
shows nothing. What counts: all keys of all files are found, a run with three LoRAs goes through on
a CPU, and what it needs.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Mapping
from time import perf_counter

import torch
from harness.models import PRESETS, networks_of
from harness.results import Column, Result, Section, Table, bound, stamp
from harness.subject import Options, add_common_options
from torch import Tensor, nn

from conceptloom.attention.local_lora import LocalLora
from conceptloom.attention.local_setup import local_setup, lora_for
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Prompt, UNetEdit
from conceptloom.samplers.ddim import sample_ddim, seeded_noise

PROMPT = "a photo of a mug and a cat at the beach"
WORDS = {"kohya": "mug", "PEFT": "cat", "LyCORIS": "beach"}
GB = 2**30
POOL = 2**22  # random numbers that all weights are filled with
LINEAR = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
    "q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2",
)  # fmt: skip


def full_size(preset: str) -> DiffusersHost:
    """A model of the preset in bfloat16, never in float32: its weights are made in place."""
    from diffusers import DDPMScheduler

    sizes = PRESETS[preset]
    with torch.device("meta"):
        unet, vae, encoders = networks_of(sizes)
    generator = torch.Generator().manual_seed(0)
    pool = torch.randn(POOL, generator=generator).bfloat16()
    for network in (unet, vae, *(encoder.model for encoder in encoders)):
        network.to(torch.bfloat16).to_empty(device="cpu").requires_grad_(False).eval()
        _fill(network, pool)
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return DiffusersHost(unet=unet, vae=vae, encoders=encoders, scheduler=scheduler)


def _fill(network: nn.Module, pool: Tensor) -> None:
    for name, weight in network.named_parameters():
        if weight.ndim < 2:
            weight.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        scale = weight[0].numel() ** -0.5
        for part in weight.data.view(-1).split(len(pool)):
            torch.mul(pool[: len(part)], scale, out=part)
    for name, buffer in network.named_buffers():
        assert name.endswith("position_ids"), name
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))


def files(host: DiffusersHost, rank: int) -> dict[str, dict[str, Tensor]]:
    """Layout -> the tensors of a file on every linear layer, named as its program names them."""
    unet = {n: m for n, m in host.unet.named_modules() if n.endswith(LINEAR)}
    texts = [
        {
            # as files have it, whether this release of transformers has the outer module or not
            f"text_model.{n.removeprefix('text_model.')}": m
            for n, m in encoder.model.named_modules()
            if n.endswith(LINEAR)
        }
        for encoder in host._encoders
    ]
    # kohya names the layers of SDXL's UNet as the original checkpoint does
    original = {
        name.removeprefix("unet.").removesuffix(".weight"): host.weight(name)
        for name in host.weight_names()
        if name.startswith("unet.") and name.endswith(tuple(f"{end}.weight" for end in LINEAR))
    }
    kohya = {f"lora_unet_{n.replace('.', '_')}": w for n, w in original.items()}
    peft = {f"unet.{n}": m.weight for n, m in unet.items()}
    lycoris = {f"lycoris_{n.replace('.', '_')}": m.weight for n, m in unet.items()}
    for number, modules in enumerate(texts):
        behind = f"_{number + 1}" if number else ""
        for name, module in modules.items():
            kohya[f"lora_te{number + 1}_{name.replace('.', '_')}"] = module.weight
            peft[f"text_encoder{behind}.{name}"] = module.weight
    return {
        "kohya": _factors(kohya, rank, ("lora_up.weight", "lora_down.weight"), alpha=True),
        "PEFT": _factors(peft, rank, ("lora_B.weight", "lora_A.weight")),
        "LyCORIS": _products(lycoris),
    }


def _factors(
    weights: Mapping[str, Tensor], rank: int, names: tuple[str, str], alpha: bool = False
) -> dict[str, Tensor]:
    generator, tensors = torch.Generator().manual_seed(1), dict[str, Tensor]()
    for name, weight in weights.items():
        out, into = weight.shape[0], weight[0].numel()
        up = 0.1 * torch.randn(out, rank, generator=generator) * into**-0.5
        tensors[f"{name}.{names[0]}"] = up.half()
        tensors[f"{name}.{names[1]}"] = torch.randn(rank, into, generator=generator).half()
        if alpha:
            tensors[f"{name}.alpha"] = torch.tensor(float(rank))
    return tensors


def _products(weights: Mapping[str, Tensor], side: int = 8) -> dict[str, Tensor]:
    """LoKr: a matrix of 8x8 and one of an eighth of the layer's sides."""
    generator, tensors = torch.Generator().manual_seed(2), dict[str, Tensor]()
    for name, weight in weights.items():
        rows, columns = weight.shape[0] // side, weight[0].numel() // side
        tensors[f"{name}.lokr_w1"] = 0.1 * torch.randn(side, side, generator=generator).half()
        right = torch.randn(rows, columns, generator=generator) * columns**-0.5
        tensors[f"{name}.lokr_w2"] = (side**-0.5 * right).half()
    return tensors


@torch.no_grad()
def run(options: Options) -> Result:
    """Build, load three files, draw."""
    host = full_size(options.preset)
    rows, loras = [], []
    for layout, tensors in files(host, options.rank).items():
        file = lora_for(host, tensors, layout)
        size = sum(t.numel() * t.element_size() for t in tensors.values())
        rows.append({
            "layout": layout, "keys": len(tensors), "lost": len(file.unmatched),
            "unet": len(file.unet), "text": len(file.text), "megabytes": size / 2**20,
        })  # fmt: skip
        words = WORDS[layout]
        loras.append(LocalLora(file=file, name=layout, words=words, tokens=host.tokenize(words)))
    timings, masks = drawn(host, loras, options)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GB
    steps = [{"what": what, "seconds": seconds} for what, seconds in timings.items()]
    numbers = sum(p.numel() for p in host.unet.parameters()) / 1e9
    return Result(
        **stamp("cpu", "bfloat16", "one run"),
        about=(
            f"UNet of {numbers:.2f} billion random numbers, {options.size} px, {options.steps} "
            f"steps with guidance; LoRAs of rank {options.rank} (LoRA, kohya and PEFT) and LoKr "
            "(LyCORIS) on every linear layer. Seconds are of one run on a shared machine and only "
            f"say that it runs. Peak memory of the process: {peak:.1f} GiB.",
        ),
        sections=[
            Section(heading="Files", table=Table(name="files", columns=FILES, rows=rows)),
            Section(heading="A step", table=Table(name="steps", columns=STEPS, rows=steps)),
        ],
        claims=[
            bound("every key of three layouts is found", sum(float(row["lost"]) for row in rows),
                  at_most=0, measure="keys that fit nothing"),
            bound("three LoRAs are drawn at full size", float(masks), at_least=3,
                  measure="regions that were found"),
        ],
    )  # fmt: skip


def drawn(
    host: DiffusersHost, loras: list[LocalLora], options: Options
) -> tuple[dict[str, float], int]:
    """Seconds of a step without and with the LoRAs, and how many regions were found."""
    setup = local_setup(host, loras)
    found: list[Tensor] = []
    plain = [host.encode_prompt(text) for text in (PROMPT, "")]
    local = [setup.encode(text) for text in (PROMPT, "")]
    edit = setup.edit(options.steps, {PROMPT: plain[0].tokens}, found.append)
    seconds = {
        "plain": last_step(host, plain, [], options),
        "three localised": last_step(host, local, [edit], options),
    }
    return seconds, int((found[0].amax((0, 2, 3)) > 0.5).sum()) if found else 0


def last_step(
    host: DiffusersHost, prompts: list[Prompt], edits: list[UNetEdit], options: Options
) -> float:
    """Seconds of the last step of a run: all LoRAs work, and what is kept is full."""
    times = [perf_counter()]
    noise = seeded_noise(host, 0, 1, (options.size, options.size))
    latent = sample_ddim(
        host, prompts[:1], prompts[1], noise, steps=options.steps, cfg=5.0, edits=edits,
        progress=lambda *_: times.append(perf_counter()),
    )  # fmt: skip
    assert bool(latent.isfinite().all())
    return times[-1] - times[-2]


FILES = [
    Column(key="layout", title="layout", is_text=True),
    Column(key="keys", title="keys", digits=0),
    Column(key="lost", title="not found", digits=0),
    Column(key="unet", title="weights of the UNet", digits=0),
    Column(key="text", title="of the text encoders", digits=0),
    Column(key="megabytes", title="MB", digits=0),
]
STEPS = [
    Column(key="what", title="a step", is_text=True),
    Column(key="seconds", title="seconds", digits=1),
]


def arguments(parser: argparse.ArgumentParser) -> None:
    add_common_options(parser)
    parser.add_argument("--preset", default="sdxl", choices=["sdxl", "tiny"])
    parser.add_argument("--size", type=int, default=256, help="side of the picture in pixels")
    parser.add_argument("--steps", type=int, default=3, help="DDIM steps")
    parser.add_argument("--rank", type=int, default=8, help="of the LoRAs")


def is_usual(options: Options) -> bool:
    """Whether it is the full size."""
    return options.preset == "sdxl"
