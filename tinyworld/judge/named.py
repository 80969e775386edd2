"""Verdicts on pictures that ask for held-out members by their names, or for ornaments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from numpy.typing import ArrayLike
from torch import Tensor

from ..concepts import CONCEPTS, concept
from ..members import ground_colour
from ..ornaments import ORNAMENTS
from ..painters.kinds import EMBLEMS, Member
from . import scores
from .judge import Found, load_judge
from .lineup import TARGET, Lineup, lineup
from .scores import Identity

BARE = "bare"  # what a line-up of ornaments calls the object without one


@cache
def lineup_of(name: str) -> Lineup:
    """A held-out member and fifteen others of its class, as the bundled judge sees them."""
    return lineup(load_judge(), concept(name))


def identity_of(objects: Sequence[Found], name: str) -> Identity:
    """Whether one of the objects is a held-out member, told from fifteen others of its class.

    `nearest` is the member's name where the object is nearest to it, else that of a distractor.
    """
    return _identity(objects, lineup_of(name), name)


def _identity(objects: Sequence[Found], others: Lineup, name: str) -> Identity:
    """With a name for the line-up's own member."""
    one = scores.identity(load_judge(), objects, others)
    return replace(one, nearest=name) if one.nearest == TARGET else one


def ornament_lineup(bearer: Member) -> Lineup:
    """An object with an ornament among fifteen that differ in the ornament alone.

    It may be missing (`BARE`), be another one, have the mark of another one or of a common emblem
    in its own colours, or its own mark in others' colours.
    """
    ornament = bearer.emblem
    others = {name: colours for name, colours in ORNAMENTS.items() if name != ornament}
    clear = [name for name, (disc, _) in others.items() if disc != ground_colour(bearer)]
    members = {
        TARGET: bearer,
        BARE: bearer.changed(options={"emblem": ""}),
        **{name: _adorned(bearer, name, *colours) for name, colours in others.items()},
        **{f"{name}, same colours": _marked(bearer, name) for name in (*others, *EMBLEMS)},
        **{f"colours of the {n}": _adorned(bearer, ornament, *others[n]) for n in clear[:2]},
    }
    judge = load_judge()
    return Lineup(references={n: judge.member_reference(one) for n, one in members.items()})


def _marked(bearer: Member, emblem: str) -> Member:
    return bearer.changed(options={"emblem": emblem})


def _adorned(bearer: Member, emblem: str, disc: str, mark: str) -> Member:
    return _marked(bearer, emblem).changed(colours={"second": disc, "mark": mark})


def ornament_identity(objects: Sequence[Found], bearer: Member, others: Lineup) -> Identity:
    """Whether one of the objects bears the ornament; `nearest` is its name where it does."""
    return _identity(objects, others, bearer.emblem)


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What the judge sees in a picture.

    Attributes:
        identities: handle -> of every member that the prompt asks for.
        leaked: handles of learned members that are too much, see `scores.leaked`.
        background: a key of `tinyworld.shapes.BACKGROUNDS`.
    """

    identities: Mapping[str, Identity]
    leaked: Sequence[str]
    background: str

    def is_right(self, background: str) -> bool:
        """Everything is there that was asked for, nothing else that was learned, and the place."""
        there = all(identity.right for identity in self.identities.values())
        return there and not self.leaked and self.background == background

    def summary(self, background: str) -> str:
        """What is there, what is missing and what is too much."""
        names = self.identities.items()
        present = [f"<{name}>" for name, identity in names if identity.right]
        unclear = [
            f"<{name}> unclear (likeness {identity.similarity:.2f})"
            for name, identity in names
            if identity.nearest == name and not identity.right
        ]
        absent = [f"<{name}>" for name, identity in names if identity.nearest != name]
        parts = [f"{', '.join(present)} found"] if present else []
        parts += [*unclear, *([f"{', '.join(absent)} not found"] if absent else [])]
        parts += [f"<{name}> too much" for name in self.leaked]
        parts += [f"background {self.background}"] * (self.background != background)
        return "; ".join(parts)


class SceneJudge:
    """Judges pictures of learned members by their handles.

    Args:
        members: handle -> name of the held-out member that it was learned from.
    """

    def __init__(self, members: Mapping[str, str]) -> None:
        self._members = dict(members)
        self._kinds = {handle: CONCEPTS[name] for handle, name in members.items()}

    def look(self, image: ArrayLike | Tensor, asked: Sequence[str]) -> Verdict:
        """Verdict on a picture [H, W, 3] of a prompt that names the handles `asked`."""
        judge = load_judge()
        objects = judge.find(image)
        identities = {
            handle: _identity(objects, lineup_of(self._members[handle]), handle) for handle in asked
        }
        return Verdict(
            identities=identities,
            leaked=scores.leaked(objects, self._kinds, asked),
            background=judge.background(image),
        )
