"""The figures behind the gates: pictures from fixed seeds, read by the oracle.

The oracle's own ceiling on rendered pictures stands beside each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoint import TinyWorldModules
from .concepts import CONCEPTS, concept_scene
from .measures import Localisation, localisation
from .oracle import Oracle, load_oracle
from .recipe.gate_figures import Gate, drawn, last_token, reconstructed
from .sampling import encode_prompts, word_maps
from .shapes import BACKGROUNDS, COLOURS, SHAPES
from .world import article, place, render, vocabulary_item

Objects = list[tuple[str, str]]  # (colour, shape)


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Shares of pictures that the oracle reads as they were asked for, 0..1."""

    colour: float
    shape: float
    both: float  # every object has its colour and its shape
    background: float


def prompts_of(count: int, objects: int, seed: int) -> list[tuple[str, Objects, str]]:
    """Random prompts with what they ask for: (prompt, objects, background)."""
    rng = np.random.default_rng((21, objects, seed))
    made = []
    for _ in range(count):
        colours = [str(c) for c in rng.permutation(list(COLOURS))[:objects]]
        pairs = [(c, str(rng.choice(list(SHAPES)))) for c in colours]
        background = str(rng.choice(list(BACKGROUNDS)))
        things = " and ".join(article(f"{c} {s}") for c, s in pairs)
        made.append((f"a photo of {things} {BACKGROUNDS[background]}", pairs, background))
    return made


def read(oracle: Oracle, images: list[Tensor], prompts: list[tuple[str, Objects, str]]) -> Reading:
    """What the oracle reads in the pictures, against what was asked."""
    verdicts = [
        oracle.reads(i, objects) for i, (_, objects, _) in zip(images, prompts, strict=True)
    ]
    grounds = [oracle.background(i) == b for i, (_, _, b) in zip(images, prompts, strict=True)]
    single = [v for verdict in verdicts for v in verdict]
    return Reading(
        colour=float(np.mean([c for c, _ in single])),
        shape=float(np.mean([s for _, s in single])),
        both=float(np.mean([all(c and s for c, s in verdict) for verdict in verdicts])),
        background=float(np.mean(grounds)),
    )


def rendered(prompts: list[tuple[str, Objects, str]], size: int) -> list[Tensor]:
    """True pictures of the same prompts: what the oracle could reach at best."""
    rng = np.random.default_rng(22)
    images = []
    for _, objects, background in prompts:
        spots = place(len(objects), rng)
        items = [
            vocabulary_item(c, s, "plain", p, rng) for (c, s), p in zip(objects, spots, strict=True)
        ]
        images.append(torch.from_numpy(render(items, background, rng, size)[0]).float() / 255)
    return images


def reconstruction(world: TinyWorldModules, count: int) -> float:
    """PSNR in dB over all pixels of held-out scenes."""
    from .world import random_scene

    rng = np.random.default_rng((23, 0))
    scenes = [random_scene(rng, world.config.resolution_px).image for _ in range(count)]
    images = torch.from_numpy(np.stack(scenes)).float() / 255
    error = (reconstructed(world, images) - images).square().mean()
    return float(-10 * torch.log10(error))


def word_attention(
    world: TinyWorldModules, count: int, timestep: int = 400
) -> dict[str, Localisation]:
    """How well the maps of "colour" and "shape" words point at their object, on average."""
    rng = np.random.default_rng((24, timestep))
    size = world.config.resolution_px
    scores: dict[str, list[Localisation]] = {"colour": [], "shape": []}
    for index in range(count):
        (prompt, objects, background), *_ = prompts_of(1, 1 + index % 2, 1000 + index)
        spots = place(len(objects), rng)
        items = [
            vocabulary_item(c, s, "plain", p, rng) for (c, s), p in zip(objects, spots, strict=True)
        ]
        image, masks = render(items, background, rng, size)
        x = torch.from_numpy(image)[None].permute(0, 3, 1, 2).float() / 127.5 - 1
        with torch.no_grad():
            latent = world.vae.encode(x).latent_dist.mean * world.config.scaling_factor
        ids, context = encode_prompts(world, [prompt])
        noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
        maps = word_maps(world, latent, context, noise, timestep)[0]
        shapes = [shape for _, shape in objects]
        for (colour, shape), mask in zip(objects, masks, strict=True):
            words = {"colour": colour, "shape": shape}
            if shapes.count(shape) > 1:
                del words["shape"]  # the same word twice: its places are not told apart here
            for kind, word in words.items():
                tokens = world.tokenizer(word, add_special_tokens=False).input_ids
                position = last_token(ids[0].tolist(), tokens)
                scores[kind].append(localisation(maps[position], mask))
    return {
        kind: Localisation(
            iou=float(np.mean([s.iou for s in values])),
            iou_area=float(np.mean([s.iou_area for s in values])),
            auc=float(np.mean([s.auc for s in values])),
        )
        for kind, values in scores.items()
    }


def identity_ceiling(world: TinyWorldModules, oracle: Oracle, per_concept: int) -> float:
    """How often the oracle names a concept it has one reference of, through the autoencoder.

    The references come from one picture each; the tests are other places, sizes and backgrounds,
    alone and beside another concept, all through the autoencoder.
    """
    names, size = list(CONCEPTS), world.config.resolution_px
    references = concept_references(oracle, names, size)
    kinds, right = list(BACKGROUNDS), []
    for number, name in enumerate(names):
        for repeat in range(per_concept):
            other = names[(number + 3 + repeat) % len(names)]
            drawn_names = [name] if repeat % 2 else [name, other]
            scene = concept_scene(drawn_names, 5000 + 97 * number + repeat, kinds[repeat % 8], size)
            image = reconstructed(world, torch.from_numpy(scene.image)[None].float() / 255)[0]
            right.append(oracle.identity(image, references, name).right)
    return float(np.mean(right))


def concept_references(oracle: Oracle, names: list[str], size: int) -> dict[str, Tensor]:
    """What each concept looks like, from one rendered picture of it."""
    scenes = {name: concept_scene([name], 1, "gray", size) for name in names}
    return {n: oracle.reference(s.image, s.masks[0]) for n, s in scenes.items()}


def measure(world: TinyWorldModules, path: Path, count: int) -> tuple[list[Gate], list[Reading]]:
    """All gates of a checkpoint; `count` pictures per kind of prompt."""
    oracle, size = load_oracle(), world.config.resolution_px
    readings = []
    for objects in (1, 2):
        prompts = prompts_of(count, objects, 0)
        readings.append(read(oracle, drawn(world, [p for p, _, _ in prompts], 100), prompts))
        readings.append(read(oracle, rendered(prompts, size), prompts))
    one, one_true, two, two_true = readings
    grounds = (one.background + two.background) / 2
    grounds_true = (one_true.background + two_true.background) / 2
    pointing = word_attention(world, count)
    percent: Callable[[float], float] = lambda x: round(100 * x, 1)  # noqa: E731
    gates = [
        Gate(name="one object: colour", reached=percent(one.colour), asked=95,
             ceiling=percent(one_true.colour)),
        Gate(name="one object: shape", reached=percent(one.shape), asked=85,
             ceiling=percent(one_true.shape)),
        Gate(name="two objects: both right", reached=percent(two.both), asked=60,
             ceiling=percent(two_true.both)),
        Gate(name="background", reached=percent(grounds), asked=90, ceiling=percent(grounds_true)),
        *(
            Gate(name=f"attention of the {kind} word, IoU at t = 400",
                 reached=round(values.iou, 3), asked=0.65, unit="")
            for kind, values in pointing.items()
        ),
        Gate(name="reconstruction", reached=round(reconstruction(world, 256), 2), asked=28,
             unit="dB"),
        Gate(name="identity metric, held-out concepts",
             reached=percent(identity_ceiling(world, oracle, 16)), asked=90),
        Gate(name="file", reached=round(path.stat().st_size / 1e6, 2), asked=12, unit="MB",
             at_most=True),
    ]  # fmt: skip
    return gates, readings
