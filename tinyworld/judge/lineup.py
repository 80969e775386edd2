"""Line-ups: a member among others of its class that it must be told from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..members import KINDS, far_distractor, held_out, near_distractor, training_member
from ..painters.kinds import Member

if TYPE_CHECKING:
    from .judge import Judge

LINEUP = 16
NEAR = 6  # distractors of a line-up that differ in one or two things
BANK = 24  # training members of each class, see `training_members`
TARGET = "0"  # the name that a line-up's own member has


@dataclass(frozen=True, kw_only=True)
class Lineup:
    """References of sixteen members of one class.

    Attributes:
        references: name -> [96]. "0" is the member, "held1".. are other held-out ones,
                    "near1".. and "far1".. distractors.
    """

    references: dict[str, Tensor]

    def without(self, *prefixes: str) -> Lineup:
        """Without the distractors whose names begin so, to look at one sort alone."""
        kept = {n: r for n, r in self.references.items() if not n.startswith(prefixes)}
        return Lineup(references=kept)


def lineup_members(member: Member, seed: int = 0) -> dict[str, Member]:
    """A member and fifteen others of its class: held-out ones, near and far distractors."""
    rng = np.random.default_rng((41, seed))
    members = {TARGET: member}
    others = [one for one in held_out(member.kind) if one != member][:3]
    members |= {f"held{i}": one for i, one in enumerate(others, 1)}
    near: list[Member] = []
    while len(near) < NEAR:
        one = near_distractor(member, rng, 1 + len(near) % 2)
        if one not in near:
            near.append(one)
    members |= {f"near{i}": one for i, one in enumerate(near, 1)}
    far = LINEUP - len(members)
    return members | {f"far{i + 1}": far_distractor(member, rng) for i in range(far)}


def lineup(judge: Judge, member: Member, seed: int = 0) -> Lineup:
    """The line-up of a member as the judge sees it."""
    members = lineup_members(member, seed)
    return Lineup(references={n: judge.member_reference(m) for n, m in members.items()})


@cache
def training_members() -> tuple[Member, ...]:
    """Some members of every class, as training shows them."""
    rng = np.random.default_rng(42)
    return tuple(training_member(kind, rng) for kind in KINDS for _ in range(BANK))
