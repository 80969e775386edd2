"""What a class of the world is, and what one member of it is: plain data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from .sheet import Sheet

MAIN = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
ANY = (*MAIN, "white", "white", "brown", "gray", "black")
PATTERNS = ("plain", "striped", "dotted", "checkered", "zigzag")
EMBLEMS = ("star", "heart", "moon", "cross", "ring", "diamond")
UNNAMED_EMBLEMS = ("spiral", "sun", "clover", "bolt")  # never in a training picture
STYLES = ("flat", "badge", "double")  # of an emblem: alone, on a disc, with a smaller one inside
# every member has these beside the numbers of its class
COMMON_NUMBERS: dict[str, tuple[float, float]] = {
    "tone": (-1.0, 1.0),  # brightness of all colours
    "period": (0.26, 0.42),  # of the pattern, radii
    "turn": (0.0, 1.0),  # of the pattern, share of its symmetry
    "phase": (0.0, 1.0),
    "emblem_size": (0.85, 1.1),  # share of the room that the surface offers
    "emblem_form": (0.0, 1.0),  # points of a star, opening of a moon, ...
}


@dataclass(frozen=True, kw_only=True)
class Member:
    """One individual of a class; the same parameters make the same picture.

    Attributes:
        kind:    name of its class.
        seed:    what it was drawn from; members with changed parameters keep it.
        numbers: lengths in radii and shares.
        options: words: the pattern, the emblem ("" for none), its style, parts that vary.
        colours: slot -> word of the palette; the class's first slot is the colour it is called by.
    """

    kind: str
    seed: int
    numbers: dict[str, float] = field(default_factory=dict)
    options: dict[str, str] = field(default_factory=dict)
    colours: dict[str, str] = field(default_factory=dict)

    @property
    def colour(self) -> str:
        """The colour that a caption calls it by."""
        return next(iter(self.colours.values()))

    @property
    def pattern(self) -> str:
        return self.options["pattern"]

    @property
    def emblem(self) -> str:
        """Name of the emblem on its surface; "" where it has none."""
        return self.options["emblem"]

    def changed(
        self,
        *,
        numbers: Mapping[str, float] | None = None,
        options: Mapping[str, str] | None = None,
        colours: Mapping[str, str] | None = None,
    ) -> Member:
        """The same member with some parameters set; KeyError for one that its class lacks."""
        changes = {"numbers": numbers or {}, "options": options or {}, "colours": colours or {}}
        for group, values in changes.items():
            held = getattr(self, group)
            for name in values:
                if name not in held:
                    known = ", ".join(held)
                    raise KeyError(f"a {self.kind} has no {name!r} among its {group}: {known}")
        return replace(
            self, **{group: {**getattr(self, group), **changes[group]} for group in changes}
        )


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A class: what varies between its members, and how one is painted.

    Attributes:
        name:     the word of captions.
        category: container, animal, building, plant, toy; "object" where none fits.
        numbers:  name -> (least, most).
        options:  name -> words, equally likely.
        rare:     option -> a further word that one member in 25 has.
        colours:  slot -> words of the palette; the first slot is the main one.
        surface:  the part that bears pattern and emblem.
        ground:   slot of the surface's colour; "" for the first.
        spoken:   part a caption may name -> slot of its colour.
        paint:    draws a member on a sheet.
    """

    name: str
    category: str
    numbers: dict[str, tuple[float, float]]
    options: dict[str, tuple[str, ...]]
    colours: dict[str, tuple[str, ...]]
    surface: str
    paint: Callable[[Sheet, Member], None]
    ground: str = ""
    rare: dict[str, str] = field(default_factory=dict)
    spoken: dict[str, str] = field(default_factory=dict)
