"""TinyWorld's image encoder and diffusion prior: `python -m conceptloom.tinyworld.recipe.prior`.

Scenes are drawn; then the image encoder and a projection of the text encoder are trained against
each other with CLIP's loss; then the prior, from text to picture embedding, with its own (x0 in
standardised embeddings, Ramesh et al. 2022, Sec. 2.2). The text encoder stays as it is.
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from ..checkpoint import CHECKPOINT
from ..prior import WEIGHTS, PriorSizes, TinyPrior, build_prior, load_tiny_prior, write_prior
from .prior_material import NO_LABEL, Material
from .prior_scenes import LABELS

log = logging.getLogger("conceptloom")

DROPPED = 0.1  # share of rows whose text is the empty prompt, for guidance
HELD_OUT = 256  # scenes that no step sees
SHARPNESS = 12.0  # of the softmax over the words of a group


def at_end(hidden: Tensor, ends: Tensor) -> Tensor:
    return hidden[torch.arange(len(hidden)), ends]


def masked(ends: Tensor) -> Tensor:
    return torch.arange(PriorSizes().tokens)[None] <= ends[:, None]


def contrast(made: TinyPrior, material: Material, steps: int, batch: int, seed: int) -> Tensor:
    """CLIP's symmetric loss; returns the projection of the text side."""
    generator = torch.Generator().manual_seed(seed)
    projection = torch.eye(material.hidden.shape[-1]).requires_grad_()
    scale = torch.tensor(2.3).requires_grad_()  # log of 1/temperature
    parameters = [*made.vision.parameters(), projection, scale]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    train, began = len(material.pixels) - HELD_OUT, time.monotonic()
    made.vision.train()
    for step in range(steps):
        rows = torch.randint(train, (batch,), generator=generator)
        images = functional.normalize(made.vision(material.pictures(rows)).image_embeds, dim=-1)
        texts = functional.normalize(at_end(*material.texts(rows)) @ projection, dim=-1)
        logits = images @ texts.T * scale.clamp(max=4.6).exp()
        target = torch.arange(batch)
        both = functional.cross_entropy(logits, target), functional.cross_entropy(logits.T, target)
        loss = sum(both) / 2 + naming_loss(images, projection, material, rows)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info(
                f"contrast {step}/{steps} loss {loss.item():.3f} {time.monotonic() - began:.0f} s"
            )
    made.vision.eval()
    return projection.detach()


def naming_loss(images: Tensor, projection: Tensor, material: Material, rows: Tensor) -> Tensor:
    """Cross entropy between a picture and the words of each group, the true one being the target.

    CLIP's loss alone learns colours and backgrounds first and forms hardly at all in so short a
    run; and the constraints of ConceptLab are sentences about single words.
    """
    named = at_end(material.words.float(), material.word_ends) @ projection
    scores = SHARPNESS * images @ functional.normalize(named, dim=-1).T
    loss, first = images.new_zeros(()), 0
    for column, words in enumerate(LABELS.values()):
        true = material.labels[rows, column]
        if (true != NO_LABEL).any():
            group = scores[:, first : first + len(words)]
            loss = loss + functional.cross_entropy(group, true, ignore_index=NO_LABEL)
        first += len(words)
    return loss


@torch.no_grad()
def embedded(made: TinyPrior, material: Material) -> Tensor:
    """[n, D] unit embeddings of all pictures."""
    embeddings = [
        made.vision(material.pictures(rows)).image_embeds
        for rows in torch.arange(len(material.pixels)).split(256)
    ]
    return functional.normalize(torch.cat(embeddings), dim=-1)


def learn_prior(
    made: TinyPrior, material: Material, seen: Tensor, steps: int, batch: int, seed: int
) -> None:
    """The prior predicts the standardised embedding from its noisy form and the text."""
    generator, prior = torch.Generator().manual_seed(seed + 1), made.prior
    train, began = len(seen) - HELD_OUT, time.monotonic()
    with torch.no_grad():
        prior.clip_mean.copy_(seen[:train].mean(dim=0, keepdim=True))
        prior.clip_std.copy_(seen[:train].std(dim=0, keepdim=True))
    clean = (seen - prior.clip_mean.detach()) / prior.clip_std.detach()
    learning = [p for n, p in prior.named_parameters() if n not in ("clip_mean", "clip_std")]
    optimizer = torch.optim.AdamW(learning, lr=2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(train, (batch,), generator=generator)
        hidden, ends = material.texts(rows)
        empty = torch.rand(batch, generator=generator) < DROPPED
        hidden = torch.where(empty[:, None, None], material.empty, hidden)
        ends = torch.where(empty, material.empty_end, ends)
        noise = torch.randn(clean[rows].shape, generator=generator)
        timesteps = torch.randint(1000, (batch,), generator=generator)
        noisy = made.scheduler.add_noise(clean[rows], noise, timesteps)
        predicted = prior(
            noisy,
            timestep=timesteps,
            proj_embedding=at_end(hidden, ends) @ made.projection,
            encoder_hidden_states=hidden,
            attention_mask=masked(ends),
        ).predicted_image_embedding
        loss = functional.mse_loss(predicted, clean[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            log.info(
                f"prior {step}/{steps} loss {loss.item():.3f} {time.monotonic() - began:.0f} s"
            )
    prior.eval()


@torch.no_grad()
def measured(made: TinyPrior, material: Material, seen: Tensor) -> dict[str, float]:
    """Figures on scenes that no step saw: how near captions and pictures are, with and without
    the prior, and how often a caption finds its picture among all of them."""
    rows = torch.arange(len(seen) - HELD_OUT, len(seen))
    hidden, ends = material.texts(rows)
    pooled = at_end(hidden, ends) @ made.projection
    texts = functional.normalize(pooled, dim=-1)
    near = texts @ seen[rows].T
    scheduler, generator = made.scheduler, torch.Generator().manual_seed(0)
    scheduler.set_timesteps(5)
    noisy = torch.randn(seen[rows].shape, generator=generator)
    timesteps = [int(t) for t in scheduler.timesteps]
    for i, timestep in enumerate(timesteps):
        guess = made.prior(
            noisy,
            timestep=timestep,
            proj_embedding=pooled,
            encoder_hidden_states=hidden,
            attention_mask=masked(ends),
        ).predicted_image_embedding
        following = timesteps[i + 1] if i + 1 < len(timesteps) else None
        noisy = scheduler.step(
            guess, timestep, noisy, prev_timestep=following, generator=generator
        ).prev_sample
    imagined = functional.normalize(made.prior.post_process_latents(noisy), dim=-1)
    among = imagined @ seen[rows].T
    count = len(rows)
    others = ~torch.eye(count, dtype=torch.bool)
    return {
        "matched": round(float(near.diagonal().mean()), 3),
        "unmatched": round(float(near[others].mean()), 3),
        "retrieval": round(float((near.argmax(dim=1) == torch.arange(count)).float().mean()), 3),
        "prior_matched": round(float(among.diagonal().mean()), 3),
        "prior_unmatched": round(float(among[others].mean()), 3),
        "prior_retrieval": round(
            float((among.argmax(dim=1) == torch.arange(count)).float().mean()), 3
        ),
    }


def train(arguments: argparse.Namespace) -> TinyPrior:
    """The whole recipe; writes the file."""
    torch.manual_seed(arguments.seed)
    sizes = PriorSizes()
    began = time.monotonic()
    count = arguments.scenes + HELD_OUT
    material = Material(count, sizes, arguments.seed, arguments.checkpoint)
    log.info(f"{arguments.scenes} scenes after {time.monotonic() - began:.0f} s")
    out = WEIGHTS if arguments.install else arguments.out
    made = build_prior(sizes)
    if arguments.start:
        known = load_tiny_prior(arguments.start)
        made = replace(made, vision=known.vision, projection=known.projection)
    else:
        projection = contrast(
            made, material, arguments.contrast_steps, arguments.batch, arguments.seed
        )
        made = replace(made, projection=projection)
        write_prior(made, sizes, arguments.out)  # half of the work, to go on from with --start
    seen = embedded(made, material)
    learn_prior(made, material, seen, arguments.prior_steps, arguments.prior_batch, arguments.seed)
    made = replace(made, figures=measured(made, material, seen))
    log.info("%s", made.figures)
    write_prior(made, sizes, out)
    return made


def parsed(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=40_000)
    parser.add_argument("--contrast-steps", type=int, default=3_000)
    parser.add_argument("--prior-steps", type=int, default=6_000)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--prior-batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, default=CHECKPOINT)
    parser.add_argument("--out", type=Path, default=Path("prior.safetensors"))
    parser.add_argument("--start", type=Path, help="take the image encoder of this file")
    parser.add_argument("--install", action="store_true", help="put it beside the checkpoint")
    arguments = parser.parse_args(words)
    if arguments.scenes + HELD_OUT <= arguments.batch:
        parser.error("fewer scenes than a batch")
    return arguments


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(parsed())
