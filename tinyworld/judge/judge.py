"""Judge: reads a picture's objects, and compares them with members of the world.

Pictures are [H, W, 3], 0..1 float or uint8, numpy or torch; masks are [h, w]. What it reaches on
true pictures stands in the file's metadata (`Judge.figures`). Deterministic, CPU, no gradients.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn import functional

from ..members import KINDS
from ..painters.kinds import Member
from ..planes import at_side, iou, picture
from ..scenes import member_scene
from .networks import PICTURE, SIDE, VOTE_UNIT, Describer, VotingFinder, crop_object
from .words import BACKGROUND_NAMES, FORMS, HEADS, OTHER

WEIGHTS = Path(__file__).parent / "judge.safetensors"
LEAST_SHARE = 0.008  # an object covers at least this share of the picture
APART = 11  # cells of 64: middles of objects are farther from each other than half of that
REFERENCE_VIEWS = 8  # pictures that a member's reference is the mean of


@dataclass(frozen=True, kw_only=True)
class Found:
    """One object that the judge sees in a picture.

    Attributes:
        mask:      [64, 64] bool
        embedding: [96]  unit length.
        words:     head of `HEADS` -> word. Heads that say nothing of this object are left out:
                   colours of parts that its class lacks, the style where there is no emblem.
        chances:   [classes]  probability of each of `HEADS["kind"]`.
        forms:     option of its class -> word, e.g. {"handle": "two"}.
    """

    mask: Tensor
    embedding: Tensor
    words: dict[str, str]
    chances: Tensor
    forms: dict[str, str]

    @property
    def kind(self) -> str:
        """Its class, a plain shape, or "other"."""
        return self.words["kind"]

    @property
    def colour(self) -> str:
        return self.words["colour"]

    @property
    def share(self) -> float:
        """Of the picture's area, 0..1."""
        return float(self.mask.float().mean())

    @property
    def centre(self) -> tuple[float, float]:
        """x, y of its middle, 0..1."""
        rows, columns = torch.where(self.mask)
        x, y = (columns.float().mean() + 0.5) / SIDE, (rows.float().mean() + 0.5) / SIDE
        return float(x), float(y)


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What was measured on true pictures after training.

    Attributes:
        same:    least cosine with a reference at which an object counts as that member.
        known:   cosine with the nearest of many members that 95 % of held-out members reach.
        figures: accuracies, 0..1.
    """

    same: float
    known: float
    figures: dict[str, float]


class Judge:
    """The two networks with what can be asked of them."""

    def __init__(
        self, finder: VotingFinder, describer: Describer, calibration: Calibration | None = None
    ) -> None:
        self.finder, self.describer = finder.eval(), describer.eval()
        for net in (finder, describer):
            net.requires_grad_(False)
        self.calibration = calibration or Calibration(same=0.0, known=0.0, figures={})

    def find(self, image: ArrayLike | Tensor) -> list[Found]:
        """All objects of a picture, the largest first."""
        x = picture(image, PICTURE)
        mask, votes, _ = self.finder.see(picture(x)[None])
        masks = masks_of(mask[0], votes[0])
        return self._describe(x, [m.float() for m in masks]) if masks else []

    def describe(self, image: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> Found:
        """The object under a mask of the picture."""
        cover = at_side(mask)
        if cover.max() <= 0.5:
            raise ValueError("the mask is empty; give one that covers at least a few pixels")
        return self._describe(picture(image, PICTURE), [cover])[0]

    def background(self, image: ArrayLike | Tensor) -> str:
        """The kind of background, a key of BACKGROUNDS."""
        return BACKGROUND_NAMES[int(self.finder(picture(image)[None])[1].argmax())]

    def reference(self, image: ArrayLike | Tensor, mask: ArrayLike | Tensor) -> Tensor:
        """[96] what the object under the mask looks like, to compare others with.

        From one picture; where the member is known, `member_reference` is steadier.
        """
        return self._mean_look([(picture(image, PICTURE), at_side(mask))])

    def member_reference(self, member: Member) -> Tensor:
        """[96] what a member looks like, from a picture of it before every background."""
        scenes = [
            member_scene([member], 7000 + i, BACKGROUND_NAMES[i % len(BACKGROUND_NAMES)], PICTURE)
            for i in range(REFERENCE_VIEWS)
        ]
        return self._mean_look([(picture(s.image, PICTURE), at_side(s.masks[0])) for s in scenes])

    def _mean_look(self, views: list[tuple[Tensor, Tensor]]) -> Tensor:
        """Mean embedding of an object by its masks [64, 64] and by what the finder sees of it."""
        logits, votes, _ = self.finder.see(torch.stack([picture(x) for x, _ in views]))
        crops = []
        for (x, cover), mask, vote in zip(views, logits, votes, strict=True):
            crops.append(_crop(x, cover))
            best = max(masks_of(mask, vote), key=lambda m: iou(m, cover > 0.5), default=None)
            if best is not None and iou(best, cover > 0.5) > 0.5:
                crops.append(_crop(x, best.float()))
        return functional.normalize(self.describer(torch.stack(crops))[0].mean(0), dim=0)

    def _describe(self, x: Tensor, covers: list[Tensor]) -> list[Found]:
        embedding, words, forms = self.describer(torch.stack([_crop(x, c) for c in covers]))
        chances = words["kind"].softmax(1)
        made = []
        for i, cover in enumerate(covers):
            said = {head: HEADS[head][int(logits[i].argmax())] for head, logits in words.items()}
            made.append(
                Found(
                    mask=cover > 0.5,
                    embedding=embedding[i],
                    words=_sensible(said),
                    chances=chances[i],
                    forms=_forms(said["kind"], forms[i]),
                )
            )
        return made

    @cached_property
    def bank(self) -> Tensor:
        """[classes * 24, 96] embeddings of training members, what novelty is measured from."""
        from .lineup import training_members

        scenes = [member_scene([one], 100 + i) for i, one in enumerate(training_members())]
        return torch.stack([self.describe(s.image, s.masks[0]).embedding for s in scenes])

    def save(self, path: Path) -> None:
        """Write both networks in float16, with the calibration."""
        from safetensors.torch import save_file

        parts = {"finder.": self.finder, "describer.": self.describer}
        weights = {p + k: v for p, net in parts.items() for k, v in net.state_dict().items()}
        c = self.calibration
        text = json.dumps({"same": c.same, "known": c.known, "figures": c.figures})
        half = {k: v.half().contiguous() for k, v in weights.items()}
        save_file(half, str(path), metadata={"format": "conceptloom.judge", "calibration": text})


def _crop(x: Tensor, cover: Tensor) -> Tensor:
    """The object under a mask [64, 64] of a picture [3, 128, 128]."""
    wide = functional.interpolate(cover[None, None], (PICTURE, PICTURE), mode="bilinear")[0, 0]
    return crop_object(x, wide)


def masks_of(logits: Tensor, votes: Tensor) -> list[Tensor]:
    """Objects [64, 64] bool, the largest first.

    Args:
        logits: [64, 64]  of the mask.
        votes:  [2, 64, 64]  see `VotingFinder.see`.
    """
    covered = logits > 0
    if not covered.any():
        return []
    at = torch.arange(SIDE) + 0.5
    places = torch.stack(torch.meshgrid(at, at, indexing="xy")) + votes * SIDE / VOTE_UNIT
    ends = places[:, covered].clamp(0, SIDE - 0.01)  # [2, P]
    ballot = torch.zeros(1, 1, SIDE, SIDE)
    cells = ends.long()
    ballot.index_put_((cells[0] * 0, cells[0] * 0, cells[1], cells[0]), torch.ones(1), True)
    for _ in range(2):
        ballot = functional.avg_pool2d(ballot, 5, 1, 2)
    top = functional.max_pool2d(ballot, APART, 1, APART // 2)
    rows, columns = torch.where(((ballot == top) & (ballot > 0))[0, 0])
    middles = torch.stack([columns, rows], 1) + 0.5  # [K, 2]
    chosen = torch.cdist(ends.T, middles).argmin(1)
    parts = []
    for number in range(len(middles)):
        mask = torch.zeros_like(covered)
        mask[covered] = chosen == number
        parts.append(mask)
    large = [mask for mask in parts if mask.float().mean() >= LEAST_SHARE]
    return sorted(large, key=lambda mask: -int(mask.sum()))


def _sensible(said: dict[str, str]) -> dict[str, str]:
    """Without the words of heads that say nothing of such an object."""
    kind = KINDS.get(said["kind"])
    parts = set(kind.spoken) if kind else set()
    if kind and said["emblem"]:
        parts.add("emblem")
    if kind and said["pattern"] != "plain":
        parts.add("pattern")
    kept = {h: w for h, w in said.items() if not h.endswith(" colour")}
    kept |= {f"{p} colour": said[f"{p} colour"] for p in sorted(parts)}
    if not kind or not said["emblem"]:
        kept.pop("style")
    if said["kind"] == OTHER:
        kept.pop("pattern")
    return kept


def _forms(kind: str, logits: Tensor) -> dict[str, str]:
    best: dict[str, tuple[float, str]] = {}
    for number, (owner, option, word) in enumerate(FORMS):
        if owner == kind:
            here = (float(logits[number]), word)
            best[option] = max(best.get(option, here), here)
    return {option: word for option, (_, word) in best.items()}


def read_judge(path: Path = WEIGHTS) -> Judge:
    """The judge of a file; ValueError when the file is another kind."""
    from safetensors import safe_open

    with safe_open(str(path), framework="pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != "conceptloom.judge":
            raise ValueError(f"{path.name} is not a judge; train one, or restore it")
        weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    finder, describer = VotingFinder(), Describer()
    for prefix, net in (("finder.", finder), ("describer.", describer)):
        part = {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
        net.load_state_dict(part)
    return Judge(finder, describer, Calibration(**json.loads(metadata["calibration"])))


@lru_cache(maxsize=1)
def load_judge() -> Judge:
    """The bundled judge.

    Raises:
        FileNotFoundError: it has not been trained yet.
    """
    if not WEIGHTS.is_file():
        raise FileNotFoundError(
            f"{WEIGHTS.name} is missing; train the judge with "
            "python -m conceptloom.tinyworld.recipe.judge"
        )
    return read_judge()
