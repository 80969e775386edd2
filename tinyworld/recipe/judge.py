"""Trains the judge: `python -m conceptloom.tinyworld.recipe.judge`.

It renders scenes into the working folder, trains the finder, cuts the objects out as the finder
sees them, draws many more objects, trains the describer, calibrates the similarity from which two
objects count as the same, and writes the bundled file. An interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..judge.judge import WEIGHTS, Judge
from ..judge.networks import (
    CROP,
    PICTURE,
    SIDE,
    VOTE_UNIT,
    Describer,
    VotingFinder,
)
from ..judge.words import HEADS
from ..planes import iou
from .degrade import bend, roughen, tint
from .fast import ready_for_training
from .judge_check import calibrate
from .judge_objects import PARTS, JudgeObjects, load_objects
from .judge_scenes import FAMILY, IGNORE, SHARDS, JudgeSamples, at_finder_side, cut, load_samples
from .loop import Team, TrainingBudget, train

log = logging.getLogger("conceptloom")

ROOMY = 56  # px of a kept crop, so that it can be turned and shifted before it has CROP
ROOMY_MARGIN = 0.08 * CROP / ROOMY + (ROOMY / CROP - 1) / 2
PICTURES, OBJECTS = 32, 128  # of a step
ALONE = 0.5  # share of a step's objects that come from no scene
TEMPERATURE = 0.1  # of the similarities between members
KINDS_AT_ONCE = 4  # classes of a describer's batch: members are told from their like


def train_finder(samples: JudgeSamples, workdir: Path, minutes: float, seed: int) -> VotingFinder:
    """Cross entropy of mask and background, and how far the votes are off."""
    torch.manual_seed(seed)
    finder, team = VotingFinder(), Team()
    ready_for_training(finder, team.bfloat16)
    images = at_finder_side(samples.images)
    ways = torch.from_numpy(ways_to_middles(samples))
    covers, grounds = torch.from_numpy(samples.covers), torch.from_numpy(samples.backgrounds)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((34, seed, step))
        picked = torch.from_numpy(rng.integers(len(images), size=PICTURES))
        x, cover = images[picked].float() / 255, covers[picked].float() / 255
        way = ways[picked].float()
        if rng.random() < 0.5:
            x, cover = x.flip(3), cover.flip(2)
            way = way.flip(3) * torch.tensor([-1.0, 1.0]).view(1, 2, 1, 1)
        x = roughen(tint(x, rng, 0.6), rng, 0.03).clamp(0, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=team.bfloat16):
            mask, votes, background = finder.see(x.contiguous(memory_format=torch.channels_last))
        loss = functional.binary_cross_entropy_with_logits(mask.float(), cover)
        off = (votes.float() - way).abs().sum(1) * (cover > 0.5)
        loss = loss + 0.3 * off.sum() / (cover > 0.5).sum().clamp(min=1)
        return loss + 0.2 * functional.cross_entropy(background.float(), grounds[picked])

    budget = TrainingBudget(minutes=minutes, learning_rate=4e-3, falling=0.6 * minutes, muon=True)
    modules, state = nn.ModuleDict({"finder": finder}), workdir / "finder_state.pt"
    train(modules, loss_of, budget, team, state, _keep(workdir / "finder.pt", finder))
    finder = VotingFinder().eval()
    finder.load_state_dict(torch.load(workdir / "finder.pt", weights_only=True))
    fit_background(finder, images, grounds)
    return finder


def ways_to_middles(samples: JudgeSamples) -> NDArray[np.float16]:
    """[N, 2, 64, 64] way (x, y) from each pixel of an object to its middle, in VOTE_UNIT.

    The middle is that of the box around its visible part.
    """
    ways = np.zeros((len(samples.images), 2, SIDE, SIDE), np.float16)
    at = (np.arange(SIDE) + 0.5) / SIDE
    for index, mask in zip(samples.scene, samples.masks > 127, strict=True):
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        if not len(rows):
            continue
        x, y = ((c[0] + c[-1] + 1) / 2 / SIDE for c in (columns, rows))
        ways[index, 0] = np.where(mask, VOTE_UNIT * (x - at)[None], ways[index, 0])
        ways[index, 1] = np.where(mask, VOTE_UNIT * (y - at)[:, None], ways[index, 1])
    return ways


def fit_background(finder: VotingFinder, images: Tensor, grounds: Tensor, steps: int = 200) -> None:
    """Fit the background's last layer alone: trained beside the masks it stays behind."""
    with torch.no_grad():
        looks = [finder.look(part.float() / 255)[1] for part in images[:2048].split(64)]
    features, grounds = torch.cat(looks), grounds[:2048]
    optimizer = torch.optim.Adam(finder.background.parameters(), lr=0.02, weight_decay=1e-4)
    for _ in range(steps):
        loss = functional.cross_entropy(finder.background(features), grounds)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    log.info("background loss %.4f", loss.item())


def _keep(path: Path, module: nn.Module):
    def on_save(_: nn.ModuleDict, figures: dict) -> None:
        torch.save({k: v.float() for k, v in module.state_dict().items()}, path)
        log.info("%s at minute %.1f", path.name, figures["minutes"])

    return on_save


@torch.no_grad()
def cut_objects(samples: JudgeSamples, finder: VotingFinder, seed: int) -> Tensor:
    """[M, 4, ROOMY, ROOMY] uint8: three quarters of the objects as the finder sees them.

    A found mask lacks what looks like the background, and the describer has to live with it.
    """
    rng = np.random.default_rng((35, seed))
    crops = torch.zeros(len(samples.scene), 4, ROOMY, ROOMY, dtype=torch.uint8)
    for at, index in enumerate(samples.scene):
        mask = torch.from_numpy(samples.masks[at]).float()[None] / 255
        x = torch.from_numpy(samples.images[index]).permute(2, 0, 1).float() / 255
        if rng.random() < 0.75:
            around = functional.max_pool2d(mask, 7, 1, 3) > 0.5
            found = (finder(functional.avg_pool2d(x[None], 2))[0] > 0) & around
            if iou(found, mask > 0.5) > 0.5:
                mask = found.float()
        crops[at] = cut(x, mask[0], ROOMY, ROOMY_MARGIN)
    return crops


class Picker:
    """Which objects a describer's batch holds: families of a few classes, two views of each."""

    def __init__(self, samples: JudgeSamples) -> None:
        views: dict[int, list[int]] = {}
        for at, number in enumerate(samples.identity):
            views.setdefault(int(number), []).append(at)
        self.others = np.array(views.pop(IGNORE))
        families: dict[int, dict[int, list[list[int]]]] = {}
        for number, seen in views.items():
            kind = int(samples.words[seen[0], 0])
            families.setdefault(kind, {}).setdefault(number // FAMILY, []).append(seen)
        self.families = [list(of_kind.values()) for of_kind in families.values()]

    def pick(self, rng: np.random.Generator, size: int) -> NDArray[np.int64]:
        """Numbers of objects; an eighth are plain shapes and the nameless."""
        picked: list[int] = list(rng.choice(self.others, size // 8))
        each = (size - len(picked)) // (KINDS_AT_ONCE * FAMILY * 2)
        for kind in rng.choice(len(self.families), KINDS_AT_ONCE, replace=False):
            groups = self.families[kind]
            for group in rng.choice(len(groups), each + 1, replace=False):
                for seen in groups[group]:
                    picked += [int(a) for a in rng.choice(seen, 2, replace=len(seen) < 2)]
        return np.array(picked[:size])


def member_loss(embedding: Tensor, identity: Tensor) -> Tensor:
    """Supervised contrastive loss over members (arXiv 2004.11362, eq. 2), self left out.

    Args:
        embedding: [B, D]  unit length.
        identity:  [B]  number of the member, IGNORE for none: such rows are only told from.
    """
    similarity = embedding @ embedding.T / TEMPERATURE
    alone = torch.eye(len(identity), dtype=torch.bool)
    log_share = similarity - similarity.masked_fill(alone, -torch.inf).logsumexp(1, keepdim=True)
    same = (identity[:, None] == identity[None]) & ~alone & (identity != IGNORE)[:, None]
    rows = same.any(1)
    return -((log_share * same).sum(1)[rows] / same.sum(1)[rows]).mean()


def train_describer(
    samples: JudgeSamples,
    crops: Tensor,
    alone: JudgeObjects,
    workdir: Path,
    minutes: float,
    seed: int,
) -> Describer:
    """Members apart from each other, and the right words and forms.

    Args:
        crops: the objects of `samples`, see `cut_objects`.
        alone: objects of no scene; each is a member of its own.
    """
    torch.manual_seed(seed)
    describer, team, picker = Describer(), Team(), Picker(samples)
    ready_for_training(describer, team.bfloat16)
    identity, words = torch.from_numpy(samples.identity), torch.from_numpy(samples.words)
    forms = torch.from_numpy(samples.forms)
    n_alone = round(ALONE * OBJECTS)
    nobody = torch.full((n_alone,), IGNORE)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((36, seed, step))
        picked = torch.from_numpy(picker.pick(rng, OBJECTS - n_alone))
        more = torch.from_numpy(rng.integers(len(alone.crops), size=n_alone))
        x = degraded(torch.cat([crops[picked], alone.crops[more]]).float() / 255, rng)
        said = torch.cat([words[picked], alone.words[more]])
        known = torch.cat([forms[picked], alone.forms[more]]).float()
        with torch.autocast("cpu", torch.bfloat16, enabled=team.bfloat16):
            embedding, told, shaped = describer(x.contiguous(memory_format=torch.channels_last))
        loss = 0.5 * member_loss(embedding, torch.cat([identity[picked], nobody]))
        for number, head in enumerate(HEADS):
            right = said[:, number]
            if (right != IGNORE).any():
                wrong = functional.cross_entropy(told[head].float(), right, ignore_index=IGNORE)
                loss = loss + (1.0 if number < 4 else 0.25) * wrong
        wrong = functional.binary_cross_entropy_with_logits(
            shaped.float(), known.clamp(min=0), reduction="none"
        )
        return loss + (wrong * (known >= 0)).sum() / (known >= 0).sum().clamp(min=1)

    budget = TrainingBudget(
        minutes=minutes, learning_rate=3e-3, falling=0.6 * minutes, weight_decay=1e-3, muon=True
    )
    modules, state = nn.ModuleDict({"describer": describer}), workdir / "describer_state.pt"
    train(modules, loss_of, budget, team, state, _keep(workdir / "describer.pt", describer))
    describer = Describer().eval()
    describer.load_state_dict(torch.load(workdir / "describer.pt", weights_only=True))
    return describer


def degraded(crops: Tensor, rng: np.random.Generator) -> Tensor:
    """Crops [B, 4, ROOMY, ROOMY] as [B, 4, CROP, CROP], mirrored in half of the cases."""
    x = bend(crops, CROP, rng, CROP / ROOMY)
    colours, mask = x[:, :3], x[:, 3:]
    colours = roughen(tint(colours, rng), rng)
    colours = colours * mask + 0.5 * (1 - mask)  # what surrounds an object stays gray
    x = torch.cat([colours, mask], 1).clamp(0, 1)
    flip = torch.from_numpy(rng.random(len(x)) < 0.5)
    return torch.where(flip[:, None, None, None], x.flip(3), x)


def load_vae(path: Path | None) -> nn.Module | None:
    """The autoencoder that training pictures go through, from a training run's `vae.pt`."""
    if path is None:
        return None
    from ..model import ModelConfig, build_vae

    weights = torch.load(path, weights_only=True)["vae"]
    widths = [weights[k].shape[0] for k in weights if _is_width(k)]
    config = ModelConfig(
        resolution_px=PICTURE,
        latent_channels=weights["quant_conv.weight"].shape[0] // 2,
        vae_channels=tuple(widths),
        vae_norm_groups=2,
    )
    vae = build_vae(config)
    vae.load_state_dict(weights)
    return vae.eval().requires_grad_(False)


def _is_width(name: str) -> bool:
    return name.startswith("encoder.down_blocks.") and name.endswith("resnets.0.conv1.weight")


def main(arguments: list[str] | None = None) -> None:
    """Run every stage that is not finished yet."""
    p = argparse.ArgumentParser(
        prog="python -m conceptloom.tinyworld.recipe.judge",
        description=(__doc__ or "").split("\n")[0],
    )
    p.add_argument("--workdir", type=Path, default=Path("runs/judge"), help="resumable folder")
    p.add_argument(
        "--shards", type=int, default=SHARDS, help=f"of training pictures, at most {SHARDS}"
    )
    p.add_argument(
        "--parts", type=int, default=PARTS, help="of further objects, each without a scene"
    )
    p.add_argument("--finder-minutes", type=float, default=3.0)
    p.add_argument("--describer-minutes", type=float, default=40.0)
    p.add_argument("--vae", type=Path, help="vae.pt of a training run, to soften pictures with")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--output", type=Path, default=WEIGHTS)
    args = p.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(1)
    args.workdir.mkdir(parents=True, exist_ok=True)
    vae = load_vae(args.vae)
    samples = load_samples(args.workdir, vae, args.seed, args.shards)
    log.info("%d pictures, %d objects", len(samples.images), len(samples.scene))
    finder = train_finder(samples, args.workdir, args.finder_minutes, args.seed)
    kept = args.workdir / "crops.pt"
    if not kept.exists():
        torch.save(cut_objects(samples, finder, args.seed), kept)
    crops = torch.load(kept, weights_only=True)
    alone = load_objects(args.workdir, args.seed, ROOMY, ROOMY_MARGIN, args.parts)
    describer = train_describer(
        samples, crops, alone, args.workdir, args.describer_minutes, args.seed
    )
    judge = Judge(finder, describer)
    calibrate(judge).save(args.output)
    log.info("finished: %s", args.output)


if __name__ == "__main__":
    main()
