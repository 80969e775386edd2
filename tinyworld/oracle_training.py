"""Trains the oracle's networks on the renderer: `python -m conceptloom.tinyworld.oracle_training`.

The identities it learns from are random composites and vocabulary objects. The named concepts
of `concepts` are never seen, so that what it says about them is held out.
"""

from __future__ import annotations

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from .checkpoint import load_tinyworld
from .oracle_nets import (
    BACKGROUND_NAMES,
    COLOUR_NAMES,
    SHAPE_NAMES,
    TEXTURE_NAMES,
    WEIGHTS,
    Describer,
    Finder,
    crop_object,
)
from .planes import components, iou
from .shapes import BACKGROUNDS, COLOURS, OUTLINES, SHAPES, TEXTURES, Array, Mask, blob, pattern
from .world import Item, Paint, place, render, vocabulary_item

log = logging.getLogger("conceptloom")

IDENTITIES = 1500  # random composites
IGNORE = -100  # cross entropy's word for "no label"


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Training material of both networks."""

    images: Tensor  # [N, 3, 64, 64], 0..1
    masks: Tensor  # [N, 64, 64], all objects together
    backgrounds: Tensor  # [N]
    objects: list[tuple[int, Tensor]]  # M times scene and mask [64, 64]
    identity: Tensor  # [M]
    words: Tensor  # [M, 3] colour, shape, texture


def composite(seed: int) -> Paint:
    """A random two- to five-coloured object, the same for the same seed."""
    rng = np.random.default_rng((7, seed))
    outline, marks = str(rng.choice([*OUTLINES, *["blob"] * 8])), int(rng.integers(0, 4))
    colours = np.float32(rng.uniform(5, 252, (5, 3)))
    stretch = rng.uniform(0.75, 1.25)
    name = str(rng.choice(["half", "rings", "striped", "plain", "plain", "dotted", "checkered"]))
    turn, period, phase = rng.uniform(0, 3.14), rng.uniform(0.5, 1.2), rng.uniform()
    spots = [
        (str(rng.choice([*OUTLINES])), *rng.uniform(-0.5, 0.5, 2), rng.uniform(0.2, 0.5))
        for _ in range(marks)
    ]
    mirrored = rng.random(marks) < 0.5

    def paint(u: Array, v: Array) -> tuple[Mask, Array]:
        a, b = np.float32(u * stretch), np.float32(v / stretch)
        shape_rng = np.random.default_rng((8, seed))
        where = blob(a, b, shape_rng) if outline == "blob" else OUTLINES[outline](a, b)
        cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
        second = pattern(name, cos * u + sin * v, cos * v - sin * u, period, phase)
        canvas = np.where(second[..., None], colours[1], colours[0])
        for (kind, x, y, r), both, colour in zip(spots, mirrored, colours[2:], strict=False):
            mark = OUTLINES[kind]((u - x) / r, (v - y) / r)
            if both:
                mark = mark | OUTLINES[kind]((u + x) / r, (v - y) / r)
            canvas = np.where(mark[..., None], colour, canvas)
        return where, canvas

    return paint


def labelled_item(
    spot: tuple[float, float, float], colour: str, rng: np.random.Generator
) -> tuple[Item, int, tuple[int, int, int]]:
    """A random item, its identity, and its labels (colour, shape, texture)."""
    dice = rng.random()
    if dice < 0.5:
        seed = int(rng.integers(IDENTITIES))
        x, y, radius = spot
        item = Item(words="object", paint=composite(seed), x=x, y=y, radius=radius)
        return item, seed, (COLOUR_NAMES.index("other"), IGNORE, IGNORE)
    shape = str(rng.choice(list(SHAPES)))
    texture = str(rng.choice(TEXTURES, p=[0.4, 0.2, 0.2, 0.2]))
    item = vocabulary_item(colour, shape, texture, spot, rng)
    code = [COLOUR_NAMES.index(colour), SHAPE_NAMES.index(shape), TEXTURE_NAMES.index(texture)]
    if dice < 0.62:  # a vocabulary colour on an outline that is none of the vocabulary's shapes
        inner, outline = item.paint, str(rng.choice(["blob", "blob", "hexagon", "pill"]))
        shape_seed = int(rng.integers(2**31))

        def paint(u: Array, v: Array) -> tuple[Mask, Array]:
            shape_rng = np.random.default_rng(shape_seed)
            where = blob(u, v, shape_rng) if outline == "blob" else OUTLINES[outline](u, v)
            return where, inner(u, v)[1]

        x, y, radius = spot
        odd = Item(words="object", paint=paint, x=x, y=y, radius=radius, angle=item.angle)
        return odd, IGNORE, (code[0], SHAPE_NAMES.index("other"), code[2])
    identity = IDENTITIES + (code[0] * len(SHAPES) + code[1]) * len(TEXTURES) + code[2]
    return item, identity, (code[0], code[1], code[2])


@torch.no_grad()
def through_autoencoder(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Two thirds of the pictures [N,3,64,64] as the model would draw them: blurred, distorted."""
    vae = load_tinyworld().vae
    out = images.clone()
    for start in range(0, len(images), 32):
        if rng.random() < 0.33:
            continue
        part = images[start : start + 32] * 2 - 1
        latent = vae.encode(part).latent_dist.mean
        strength = torch.from_numpy(rng.uniform(0, 0.45, (len(part), 1, 1, 1))).float()
        noise = torch.from_numpy(rng.standard_normal(latent.shape, np.float32))
        distorted = latent + latent.std() * strength * noise
        out[start : start + 32] = (vae.decode(distorted).sample / 2 + 0.5).clamp(0, 1)
    return out


def make_samples(count: int, seed: int) -> Samples:
    """Render `count` scenes with their labels."""
    rng = np.random.default_rng((9, seed))
    images, masks, backgrounds, objects, identity, words = [], [], [], [], [], []
    for index in range(count):
        number = int(rng.choice([0, 1, 2, 3], p=[0.04, 0.4, 0.46, 0.1]))
        colours = rng.permutation(list(COLOURS))
        spots = place(number, rng) if number else []
        made = [labelled_item(s, str(c), rng) for s, c in zip(spots, colours, strict=False)]
        background = str(rng.choice(list(BACKGROUNDS)))
        image, cover = render([m[0] for m in made], background, rng)
        images.append(image)
        masks.append(cover.sum(0) if number else np.zeros(image.shape[:2], np.float32))
        backgrounds.append(BACKGROUND_NAMES.index(background))
        for (_, who, labels), mask in zip(made, cover, strict=True):
            objects.append((index, torch.from_numpy(mask)))
            identity.append(who)
            words.append(labels)
    pictures = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    pictures = through_autoencoder(pictures, rng)
    return Samples(
        images=pictures,
        masks=torch.from_numpy(np.stack(masks)),
        backgrounds=torch.tensor(backgrounds),
        objects=objects,
        identity=torch.tensor(identity),
        words=torch.tensor(words),
    )


def fit_background(finder: Finder, samples: Samples, steps: int = 600) -> None:
    """Fit the background's last layer alone: trained beside the masks it stays behind."""
    with torch.no_grad():
        parts = samples.images.split(64)
        features = torch.cat([finder.look(part)[1] for part in parts])
    optimizer = torch.optim.Adam(finder.background.parameters(), lr=0.02, weight_decay=1e-4)
    for _ in range(steps):
        loss = functional.cross_entropy(finder.background(features), samples.backgrounds)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    log.info("background loss %.4f", loss.item())


@torch.no_grad()
def cut_objects(samples: Samples, finder: Finder, seed: int) -> Tensor:
    """[M, 4, 32, 32] crops by the true mask, or, for every second one, by what the finder sees.

    A found mask lacks what looks like the background, and the describer has to live with it.
    """
    rng = np.random.default_rng((12, seed))
    crops = []
    last, parts = -1, []
    for index, mask in samples.objects:
        if index != last:
            last, parts = index, components(finder(samples.images[index][None])[0][0] > 0)
        cover, dice = mask, rng.random()
        if dice < 0.2:
            cover = functional.max_pool2d(mask[None, None], 3, 1, 1)[0, 0]
        elif dice < 0.7:
            best = max(parts, key=lambda part: iou(part, mask > 0.5), default=mask > 0.5)
            cover = best.float() if iou(best, mask > 0.5) > 0.25 else mask
        if cover.max() <= 0.5:
            cover = torch.ones_like(mask)
        crops.append(crop_object(samples.images[index], cover))
    return torch.stack(crops)


def train_finder(samples: Samples, steps: int, seed: int) -> Finder:
    """Cross entropy of mask and background."""
    torch.manual_seed(seed)
    finder = Finder().to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(finder.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    rng = np.random.default_rng((10, seed))
    for step in range(steps):
        picked = torch.from_numpy(rng.integers(len(samples.images), size=32))
        x = samples.images[picked].contiguous(memory_format=torch.channels_last)
        mask, background = finder(x)
        loss = functional.binary_cross_entropy_with_logits(mask, samples.masks[picked])
        loss = loss + 0.2 * functional.cross_entropy(background, samples.backgrounds[picked])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            log.info("finder step %d loss %.4f", step + 1, loss.item())
    return finder.eval()


def train_describer(samples: Samples, crops: Tensor, steps: int, seed: int) -> Describer:
    """Cross entropy of the words, and of the identity with a cosine margin (arXiv 1801.09414)."""
    torch.manual_seed(seed)
    describer = Describer().to(memory_format=torch.channels_last)
    classes = IDENTITIES + len(COLOURS) * len(SHAPES) * len(TEXTURES)
    centres = torch.nn.Parameter(torch.randn(classes, 64))
    parameters = [*describer.parameters(), centres]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, steps)
    rng = np.random.default_rng((11, seed))
    for step in range(steps):
        picked = torch.from_numpy(rng.integers(len(crops), size=128))
        x, who, words = crops[picked], samples.identity[picked], samples.words[picked]
        x = x + 0.02 * torch.from_numpy(rng.standard_normal(x.shape, np.float32))
        out = describer(x.contiguous(memory_format=torch.channels_last))
        loss = sum(
            functional.cross_entropy(out[name], words[:, i], ignore_index=IGNORE)
            for i, name in enumerate(("colour", "shape", "texture"))
        )
        cosine = out["embedding"] @ functional.normalize(centres, dim=1).T
        known = who.clamp(min=0)
        margin = 0.15 * functional.one_hot(known, classes)
        loss = loss + functional.cross_entropy(16 * (cosine - margin), who, ignore_index=IGNORE)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            log.info("describer step %d loss %.4f", step + 1, loss.item())
    return describer.eval()


def main(arguments: list[str] | None = None) -> None:
    """Train both networks and write them."""
    p = argparse.ArgumentParser(prog="python -m conceptloom.tinyworld.oracle_training")
    p.add_argument("--scenes", type=int, default=9000)
    p.add_argument("--finder-steps", type=int, default=1300)
    p.add_argument("--describer-steps", type=int, default=2600)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--output", type=Path, default=WEIGHTS)
    args = p.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    samples = make_samples(args.scenes, args.seed)
    log.info("%d scenes, %d objects", len(samples.images), len(samples.objects))
    finder = train_finder(samples, args.finder_steps, args.seed)
    fit_background(finder, samples)
    crops = cut_objects(samples, finder, args.seed)
    describer = train_describer(samples, crops, args.describer_steps, args.seed)
    from safetensors.torch import save_file

    weights = {f"finder.{k}": v for k, v in finder.state_dict().items()}
    weights |= {f"describer.{k}": v for k, v in describer.state_dict().items()}
    save_file({k: v.half().contiguous() for k, v in weights.items()}, str(args.output))


if __name__ == "__main__":
    main()
