"""Objects of the vocabulary that carry an unseen ornament on one of their parts.

What CLiC is about: the ornament is no object of its own, it belongs to a part of another one. The
same part can be left bare: a picture to carry the ornament over to, with its true place.
"""

from __future__ import annotations

import numpy as np

from .concepts import CONCEPTS, item
from .shapes import SHAPES, Array, Mask
from .world import SIZE, Item, Scene, article, render

# part of an object -> its centre, in radii of the object; x to the right, y down
PARTS: dict[str, tuple[float, float]] = {
    "middle": (0.0, 0.0),
    "top": (0.0, -0.28),
    "bottom": (0.0, 0.28),
    "left": (-0.28, 0.0),
    "right": (0.28, 0.0),
}
# A latent of the bundled model covers 4 px: an ornament needs eight of them across to be one.
REACH = 0.75  # radius of an ornament, in radii of its object
LEAST_LEFT = 0.4  # of the square around an ornament, of which a disc fills 0.71
RADIUS = (0.33, 0.35)  # of an object with an ornament, picture units


def ornament_scene(
    whole: str,
    ornament: str,
    seed: int = 0,
    background: str = "white",
    *,
    part: str = "middle",
    size: int = SIZE,
) -> Scene:
    """One object with a concept on one of its parts: masks are [object, ornament].

    The mask of the object includes the ornament's place. What of an ornament would lie outside of
    its object is cut off.

    Args:
        whole: colour and shape, "yellow square" or "red striped circle".
        ornament: a name of `CONCEPTS`; "" leaves the part bare, and the second mask says where an
            ornament would go. The same seed puts the object in the same place with and without.
        seed: of the object's place, size and turn, and of the background.
        part: a name of `PARTS`.

    Raises:
        KeyError: the object, the ornament or the part is not known, or the object lacks that part.
    """
    if ornament and ornament not in CONCEPTS:
        raise KeyError(f"unknown ornament {ornament!r}; known are {', '.join(CONCEPTS)}")
    if not whole.split():
        raise KeyError("no object was named")
    if part not in PARTS:
        raise KeyError(f"unknown part {part!r}; known are {', '.join(PARTS)}")
    rng = np.random.default_rng(seed)
    radius = float(rng.uniform(*RADIUS))
    x, y = rng.uniform(radius + 0.01, 0.99 - radius, 2)
    base = item(whole, (float(x), float(y), radius), rng)
    if base.shape is None:
        raise KeyError(f"{whole!r} is no object of the vocabulary; give a colour and a shape")
    mark = _on_part(base, ornament, part)
    image, _ = render([base, mark] if ornament else [base], background, rng, size)
    # The place alone is drawn over nothing, with dice of its own: backgrounds differ, masks do not.
    _, bare = render([base, mark], "white", np.random.default_rng(0), size)
    if bare[1].sum() < LEAST_LEFT * (2 * mark.radius * size) ** 2:
        raise KeyError(f"{article(whole)} has no {part}, so nothing can be put there")
    caption = f"a photo of {article(whole)}"
    if ornament:
        caption += f" with {article(ornament)}"
    return Scene(
        image=image,
        masks=np.stack([bare.sum(0), bare[1]]),
        caption=caption,
        items=(base, mark) if ornament else (base,),
        background=background,
    )


def _on_part(base: Item, ornament: str, part: str) -> Item:
    """The ornament on a part of an object, turned with it and cut off where the object ends."""
    u, v = PARTS[part]
    cos, sin = float(np.cos(base.angle)), float(np.sin(base.angle))
    silhouette = SHAPES[str(base.shape)]

    def paint(a: Array, b: Array) -> tuple[Mask, Array]:
        where, colour = CONCEPTS[ornament](a, b) if ornament else _bare(a, b)
        return where & silhouette(u + REACH * a, v + REACH * b), colour

    return Item(
        words=ornament,
        paint=paint,
        x=base.x + base.radius * (cos * u - sin * v),
        y=base.y + base.radius * (sin * u + cos * v),
        radius=REACH * base.radius,
        angle=base.angle,
    )


def _bare(u: Array, v: Array) -> tuple[Mask, Array]:
    """Where an ornament would go: a disc without a colour of its own."""
    return np.hypot(u, v) < 0.95, np.zeros((*u.shape, 3), np.float32)
