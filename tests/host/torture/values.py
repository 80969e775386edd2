"""Bad and odd values for every kind of socket and widget, each under a name that tells it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import strategies as st
from materials import (
    SIDE,
    another_vae,
    concept,
    conditioning,
    image,
    inpainting,
    latent,
    mask,
    pack,
    prior,
    scene,
    template,
    transformer,
    with_regions,
)
from tiny_models import graph_of

Makers = dict[str, Callable[[], Any]]
LEFT_OUT = object()  # in place of a value: the socket stays unconnected

IMAGES: Makers = {
    "one pixel": lambda: image(1, 1),
    "four channels": lambda: image(channels=4),
    "two channels": lambda: image(channels=2),
    "one channel": lambda: image(channels=1),
    "NaN": lambda: image().fill_(math.nan),
    "one NaN": lambda: _with_one(image(), math.nan),
    "one infinity": lambda: _with_one(image(), math.inf),
    "far out of range": lambda: image() * 1e4 - 5e3,
    "float16": lambda: image().half(),
    "bfloat16": lambda: image().bfloat16(),
    "float64": lambda: image().double(),
    "bytes": lambda: (image() * 255).byte(),
    "no picture": lambda: image(count=0),
    "three pictures": lambda: image(count=3),
    "no rows": lambda: image(0, SIDE),
    "a thin strip": lambda: image(8, 1024),
    "odd sides": lambda: image(33, 47),
    "no batch": lambda: image()[0],
    "five axes": lambda: image()[None],
    "turned": lambda: image().transpose(1, 2),
    "black": lambda: torch.zeros(1, SIDE, SIDE, 3),
    "one picture shared": lambda: image().expand(2, -1, -1, -1),
}
MASKS: Makers = {
    "empty": lambda: torch.zeros(1, SIDE, SIDE),
    "full": lambda: torch.ones(1, SIDE, SIDE),
    "other size": lambda: mask(24, 40),
    "one pixel": lambda: torch.ones(1, 1, 1),
    "NaN": lambda: torch.full((1, SIDE, SIDE), math.nan),
    "one NaN": lambda: _with_one(mask(), math.nan),
    "one infinity": lambda: _with_one(mask(), math.inf),
    "negative": lambda: -mask(),
    "above one": lambda: 7 * mask(),
    "nearly nothing": lambda: 1e-30 * mask(),
    "three rows": lambda: mask(count=3),
    "no rows": lambda: torch.zeros(0, SIDE, SIDE),
    "no pixels": lambda: torch.zeros(1, 0, 0),
    "no batch": lambda: mask()[0],
    "four axes": lambda: mask()[:, None],
    "with channels": lambda: mask()[..., None].expand(-1, -1, -1, 3),
    "float16": lambda: mask().half(),
    "float64": lambda: mask().double(),
    "booleans": lambda: mask() > 0.5,
    "whole numbers": lambda: (mask() > 0.5).long(),
    "a single pixel set": lambda: _with_one(torch.zeros(1, SIDE, SIDE), 1.0),
}
LATENTS: Makers = {
    "none": lambda: {"samples": latent(count=0)},
    "sixteen channels": lambda: {"samples": latent(channels=16)},
    "NaN": lambda: {"samples": latent() * math.nan},
    "one cell": lambda: {"samples": latent(1, 1)},
    "odd sides": lambda: {"samples": latent(5, 7)},
    "a film": lambda: {"samples": latent()[:, :, None]},
    "float16": lambda: {"samples": latent().half()},
    "two": lambda: {"samples": latent(count=2)},
    "another noise mask": lambda: {"samples": latent(), "noise_mask": mask(24, 40)},
    "an empty noise mask": lambda: {"samples": latent(), "noise_mask": 0 * mask()},
    "zeros": lambda: {"samples": 0 * latent()},
}
MODELS: Makers = {
    "SDXL": lambda: graph_of("sdxl").model,
    "SD 2 with velocity": lambda: graph_of("sd2").model,
    "inpainting": lambda: inpainting(),
    "a transformer": lambda: transformer(),
    "nothing": lambda: None,
}
CLIPS: Makers = {
    "SDXL": lambda: graph_of("sdxl").clip,
    "SD 2": lambda: graph_of("sd2").clip,
    "T5": lambda: SimpleNamespace(cond_stage_model=torch.nn.Identity(), tokenizer=object()),
    "nothing": lambda: None,
}
VAES: Makers = {
    "sixteen channels": lambda: another_vae(16),
    "SDXL": lambda: graph_of("sdxl").vae,
    "nothing": lambda: None,
}
CONDITIONINGS: Makers = {
    "none": lambda: [],
    "another width": lambda: conditioning(width=96),
    "NaN": lambda: [[conditioning()[0][0] * math.nan, {}]],
    "two": lambda: conditioning() * 2,
    "one token": lambda: [[conditioning()[0][0][:, :1], {}]],
    "of SDXL": lambda: conditioning("sdxl"),
}
SIGMAS: Makers = {
    "none": lambda: torch.zeros(0),
    "one": lambda: torch.ones(1),
    "rising": lambda: torch.tensor([0.0, 1.0, 10.0]),
    "NaN": lambda: torch.tensor([14.0, math.nan, 0.0]),
    "all zero": lambda: torch.zeros(3),
    "not down to zero": lambda: torch.tensor([14.0, 5.0, 1.0]),
    "far too high": lambda: torch.tensor([1e6, 1.0, 0.0]),
    "two axes": lambda: torch.tensor([[14.0, 1.0, 0.0]]),
    "twice the same": lambda: torch.tensor([14.0, 14.0, 0.0]),
    "two steps": lambda: torch.tensor([14.0, 1.0, 0.0]),
}
CONCEPTS: Makers = {
    "of SDXL": lambda: concept("sdxl"),
    "of SD 2": lambda: concept("sd2"),
    "handles alone": lambda: replace(concept(), weights={}),
    "nothing in it": lambda: replace(concept(), handles={}, weights={}, words={}, prompts=()),
    "no handle": lambda: replace(concept(), handles={}, words={}),
    "keys and values": lambda: concept(parts=".attn2.to_k.weight"),
    "vectors of another width": lambda: replace(
        concept(), handles={"my-cat": {"clip_l": torch.zeros(1, 7)}}
    ),
    "vectors of another encoder": lambda: replace(
        concept(), handles={"my-cat": {"clip_g": torch.zeros(1, 64)}}
    ),
    "weights of another width": lambda: _concept_with_narrow_weights(),
    "no base": lambda: replace(concept(), base=""),
}
SCENES: Makers = {
    "as small as can be": lambda: scene(16),
    "odd sides": lambda: scene(33),
    "one concept": lambda: scene(count=1),
    "pictures of two sizes": lambda: replace(scene(), images=scene().images + scene(48).images),
    "words that are long": lambda: replace(scene(), words=dict.fromkeys(scene().words, "w " * 99)),
}
TEMPLATES: Makers = {
    "of SD 2": lambda: template("sd2"),
    "of another size": lambda: template("sd1", 40),
}
REGIONS: Makers = {
    "of another size": lambda: with_regions(40),
    "of SD 2": lambda: with_regions(SIDE, "sd2"),
}
PRIORS: Makers = {"in the space of texts": lambda: prior("none (text space)")}
VQAS: Makers = {}
BAD: dict[str, Makers] = {
    "IMAGE": IMAGES,
    "MASK": MASKS,
    "LATENT": LATENTS,
    "MODEL": MODELS,
    "CLIP": CLIPS,
    "VAE": VAES,
    "CONDITIONING": CONDITIONINGS,
    "SIGMAS": SIGMAS,
    "CONCEPT": CONCEPTS,
    "CONCEPT_SCENE": SCENES,
    "TEMPLATE": TEMPLATES,
    "REGIONS": REGIONS,
    "PRIOR": PRIORS,
    "VQA": VQAS,
}

TEXTS = [
    "",
    " \n\t ",
    "\x00\x07\x1b[31m\x7f",
    "../../outside",
    "/etc/passwd",
    "C:\\outside",
    "con",
    "a" * 10_000,
    "word " * 2_000,
    "my-cat: cat\nmy-cat: cat",
    "<my-cat> <my-cat>",
    "<my-cat",
    "<nobody> and <nothing>",
    "{object} {concept} {} {0.__class__}",
    "%s %d %(x)s",
    "(((((cup:1e9)))))",
    "embedding:nothing",
    "\u732b \u0438 \u043a\u043e\u0442 \U0001f408\u200d\u2b1b",  # a cat, in several scripts
    "\ud800",
    "- 1, nan, 1e400, 0x10",
    "200,, ,400",
    "99999999999999999999",
    ":::",
    "a\r\nb\u2028c",
]


def texts() -> st.SearchStrategy[str]:
    return st.sampled_from(TEXTS) | st.text(max_size=40)


def whole_numbers(least: int, most: int) -> st.SearchStrategy[int]:
    edges = [least, most, least - 1, most + 1, 0, -1, 1, 7, 2**31, 2**63 - 1, 2**64, -(2**63)]
    return st.sampled_from(edges) | st.integers(least, most)


def numbers(least: float, most: float) -> st.SearchStrategy[float]:
    edges = [least, most, least - 1, most + 1, math.nan, math.inf, -math.inf, 0.0, -0.0]
    edges += [1e-45, 1e300, math.nextafter(least, -math.inf), math.nextafter(most, math.inf)]
    return st.sampled_from(edges) | st.floats(least, most)


def _with_one(tensor: torch.Tensor, value: float) -> torch.Tensor:
    tensor = tensor.clone()
    tensor.view(-1)[tensor.numel() // 2] = value
    return tensor


def _concept_with_narrow_weights() -> Any:
    good, diff = concept(parts=".attn2.to_k.weight"), pack("concepts.concept").Diff
    return replace(
        good, weights={name: diff(change.tensor[:, :3]) for name, change in good.weights.items()}
    )
