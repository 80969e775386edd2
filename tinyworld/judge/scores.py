"""What a picture is worth: identity, leak, mixing, layout, novelty.

All take what the judge found (`Judge.find`), so that a picture is looked at once. The background is
`Judge.background(image) == kind`; pointing and change outside a mask are in `measures`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike
from torch import Tensor

from ..members import CATEGORIES
from ..painters.kinds import Member
from ..planes import at_side, iou
from .judge import Found, Judge
from .lineup import TARGET, Lineup
from .words import KIND_NAMES, OTHER, words_of

CLEAR = 0.9  # probability at which one class is named without doubt


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Whether a picture shows one member rather than another."""

    similarity: float  # likeness of the most alike object, cosine
    nearest: str  # the line-up's name that this object is nearest to; "" where nothing is found
    right: bool  # nearest is the member, and similar enough
    found: Found | None


def likeness(found: Found, reference: Tensor) -> float:
    """Cosine of an object with a reference [96]."""
    return float(reference @ found.embedding)


def identity(judge: Judge, objects: Sequence[Found], lineup: Lineup) -> Identity:
    """Whether one of the objects is the line-up's own member: nearest to it of all sixteen, and
    at least as similar as true pictures are."""
    if not objects:
        return Identity(similarity=0.0, nearest="", right=False, found=None)
    references = lineup.references
    best = max(objects, key=lambda f: likeness(f, references[TARGET]))
    similarity = likeness(best, references[TARGET])
    nearest = max(references, key=lambda name: likeness(best, references[name]))
    right = nearest == TARGET and similarity >= judge.calibration.same
    return Identity(similarity=similarity, nearest=nearest, right=right, found=best)


def leaked(
    objects: Sequence[Found], learned: Mapping[str, str], asked: Collection[str]
) -> list[str]:
    """Learned names whose class shows more often than a prompt asks for: a leak.

    The class counts, not the likeness: a distorted object that nobody asked for is a leak too, and
    so is a second copy.

    Args:
        learned: name of all that was learned -> its class.
        asked: names in the prompt.
    """
    shown = Counter(one.kind for one in objects)
    room = Counter(learned[name] for name in asked)
    return [name for name, kind in learned.items() if shown[kind] > room[kind]]


def mixing(found: Found, own: Member, other: Member) -> float:
    """Share of what tells two members apart that the object of one has from the other, 0..1.

    Colours, parts' colours, pattern and emblem count where both members have such a word and the
    words differ; the class does not. 0 where nothing tells them apart.
    """
    mine, theirs = words_of(own), words_of(other)
    heads = [h for h in mine if h != "kind" and h in theirs and mine[h] != theirs[h]]
    taken = [h for h in heads if found.words.get(h) == theirs[h]]
    return len(taken) / len(heads) if heads else 0.0


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Whether objects are where they were asked."""

    overlap: float  # mean IoU of the asked masks with the objects in them, 0..1
    objects: list[Found | None]  # of each mask, the object in it


def layout(objects: Sequence[Found], masks: Sequence[ArrayLike | Tensor]) -> Layout:
    """Place of the objects against masks [h, w] of any size; each object serves one mask."""
    truths = [at_side(mask) > 0.5 for mask in masks]
    pairs = [(iou(f.mask, t), i, j) for i, t in enumerate(truths) for j, f in enumerate(objects)]
    chosen: dict[int, tuple[float, int]] = {}
    for overlap, i, j in sorted(pairs, reverse=True):
        if overlap > 0 and i not in chosen and all(j != taken for _, taken in chosen.values()):
            chosen[i] = (overlap, j)
    overlaps = [chosen[i][0] if i in chosen else 0.0 for i in range(len(truths))]
    return Layout(
        overlap=sum(overlaps) / max(1, len(truths)),
        objects=[objects[chosen[i][1]] if i in chosen else None for i in range(len(truths))],
    )


@dataclass(frozen=True, kw_only=True)
class Novelty:
    """How an object stands to everything that training showed."""

    category: float  # probability of the asked category, 0..1
    surest: float  # probability of the surest class of that category, 0..1
    clearest: float  # probability of the surest of all classes and shapes, 0..1
    nearest: float  # cosine with the nearest of the bank's training members
    novel: bool  # neither a known class without doubt nor a known member


def novelty(judge: Judge, found: Found, category: str) -> Novelty:
    """Whether an object is something new: of no known class without doubt, and no known member.

    The class decides: of true pictures, 2 % of held-out members are of no class without doubt, and
    43 % of objects put together from halves of two classes; of the model's own drawings of its
    class words it is 6 %. Likeness to the nearest member does not tell them apart: those halves
    reach 0.50 in the middle, members 0.56.
    """
    chances = found.chances[[KIND_NAMES.index(kind) for kind in CATEGORIES[category]]]
    clearest = float(found.chances[[name != OTHER for name in KIND_NAMES]].max())
    nearest = float((judge.bank @ found.embedding).max())
    return Novelty(
        category=float(chances.sum()),
        surest=float(chances.max()),
        clearest=clearest,
        nearest=nearest,
        novel=clearest < CLEAR and nearest < judge.calibration.same,
    )
