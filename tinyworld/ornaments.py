"""Members that carry an ornament which no training picture shows on the part made for emblems.

What CLiC is about: the ornament is no object of its own, it belongs to a part of another one. The
same part can be left bare: a picture to carry the ornament over to, with its true place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .concepts import CONCEPTS, concept, known_member
from .members import ground_colour
from .painters.kinds import Member
from .scenes import SIZE, Scene, posed, render
from .shapes import Array

# ornament -> colours of its disc and of the emblem on it
ORNAMENTS: dict[str, tuple[str, str]] = {
    "spiral": ("cream", "purple"),
    "sun": ("black", "yellow"),
    "clover": ("white", "green"),
    "bolt": ("blue", "cream"),
}
DRAWS = 50  # of a member, until its surface has another colour than the ornament
RADIUS = (0.38, 0.42)  # of an object with an ornament, picture units


@dataclass(frozen=True, kw_only=True)
class OrnamentScene:
    """A picture of one object, and where its ornament is or would be.

    Attributes:
        image:  [S, S, 3]
        masks:  [2, S, S]  the object with the ornament's place, and that place.
        bearer: the object with the ornament on it.
    """

    image: NDArray[np.uint8]
    masks: Array
    bearer: Member


def ornament_scene(
    whole: str, ornament: str, seed: int = 0, background: str = "white", size: int = SIZE
) -> OrnamentScene:
    """One object with an ornament, or with that place left bare.

    Args:
        whole: a class, with a colour or without, "red mug"; or a held-out member, "mug1".
        ornament: a name of `ORNAMENTS`; "" leaves the part bare, and the second mask says where an
            ornament would go. The same seed gives the same object in the same place with and
            without.
        seed: of the object, its place, size and pose, and of the background.

    Raises:
        KeyError: the object or the ornament is not known.
    """
    if ornament and ornament not in ORNAMENTS:
        raise KeyError(f"unknown ornament {ornament!r}; known are {', '.join(ORNAMENTS)}")
    member = _member(whole, ornament or next(iter(ORNAMENTS)), np.random.default_rng((seed, 3)))
    adorned = _rendered(member, seed, background, size)
    bare = _rendered(member.changed(options={"emblem": ""}), seed, background, size)
    shown = adorned if ornament else bare
    return OrnamentScene(
        image=shown.image, masks=np.stack([adorned.masks[0], adorned.emblem(0)]), bearer=member
    )


def _member(whole: str, ornament: str, rng: np.random.Generator) -> Member:
    """The object in plain, with the ornament; its surface differs from the ornament's disc."""
    disc, mark = ORNAMENTS[ornament]
    for _ in range(DRAWS):
        base = concept(whole) if whole in CONCEPTS else known_member(whole, rng)
        if ground_colour(base) != disc:
            return base.changed(
                options={"pattern": "plain", "emblem": ornament, "style": "badge"},
                colours={"second": disc, "mark": mark},
                numbers={"emblem_size": 1.1, "emblem_form": 0.5},
            )
    raise KeyError(f"{whole!r} is {disc} like the {ornament}'s disc; choose another colour")


def _rendered(member: Member, seed: int, background: str, size: int) -> Scene:
    rng = np.random.default_rng(seed)
    radius = float(rng.uniform(*RADIUS))
    x, y = (float(at) for at in rng.uniform(radius + 0.01, 0.99 - radius, 2))
    return render([posed(member, (x, y, radius), rng)], background, rng, size)
