"""Plants: flower, mushroom, tree."""

from __future__ import annotations

import numpy as np

from .kinds import ANY, MAIN, Kind, Member
from .marks import decorate, weave
from .sheet import Sheet, both, union

LEAVES = ("green", "green", "yellow", "cyan", "brown")


def _flower(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    y, r, heart = -0.3, n["reach"], n["heart"]
    bend = n["bend"]
    s.fill(
        union(s.bar(0, y, bend, 0.3, 0.055), s.bar(bend, 0.3, bend * 0.4, 0.94, 0.055)),
        c["stem"],
        "stem",
    )
    for sign in {"two": (-1, 1), "left": (-1,), "right": (1,)}[o["leaves"]]:
        s.fill(s.oval(bend * 0.8 + sign * 0.26, 0.55, 0.27, 0.11, -0.5 * sign), c["stem"], "leaves")
    count = int(n["petals"])
    long = (r - heart * 0.6) / 2
    start = n["twist"] * np.pi / count
    petals = []
    for k in range(count):
        a = start + 2 * np.pi * k / count
        x, at = (r - long) * np.cos(a), y + (r - long) * np.sin(a)
        if o["petals"] == "pointed":
            petals.append(s.oval(x, at, long, min(0.17, 1.0 / count), a))
        else:
            petals.append(s.oval(x, at, long, min(0.26, 1.55 / count), a))
    if o["petals"] == "tulip":
        points = y - 0.02 - 0.8 * abs(np.mod(s.u * 2.6 + 0.5, 1) - 0.5)
        s.fill(both(s.oval(0, y + 0.05, r * 0.72, r), points - s.v), c["petals"], "petals")
        weave(s, m, "petals")
        s.fill(s.disc(0, y + 0.22, heart), c["heart"], "heart")
        decorate(s, m, "heart", 0, y + 0.22, heart * 0.86, woven=False)
        return
    for petal in petals:
        s.fill(petal, c["petals"], "petals")
    weave(s, m, "petals")
    if o["ring"] == "inner":
        s.fill(s.disc(0, y, heart * 1.35), c["ring"], "ring")
    s.fill(s.disc(0, y, heart), c["heart"], "heart")
    decorate(s, m, "heart", 0, y, heart * 0.86, woven=False)


def _mushroom(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, h, y, stem = n["width"], n["cap"], 0.08, n["stem"]
    s.fill(s.taper(0, y - 0.1, 0.9, stem * 0.8, stem * (1 + n["foot"]), 0.1), c["stem"], "stem")
    if o["skirt"] == "ring":
        s.fill(s.box(0, y + 0.24, stem * 1.35, 0.07, 0.05), c["accent"], "skirt")
    if o["cap"] == "round":
        cap = both(s.oval(0, y, w, h), s.v - np.float32(y + 0.04))
    elif o["cap"] == "pointed":
        cap = s.polygon((-0.08, y - h), (0.08, y - h), (w, y + 0.04), (-w, y + 0.04))
    else:  # flat
        cap = s.box(0, y - h * 0.3, w, h * 0.36, h * 0.33)
    s.fill(cap, c["cap"], "cap")
    decorate(s, m, "cap", 0, y - h * (0.34 if o["cap"] == "pointed" else 0.42), h * 0.42)
    if o["gills"] == "seen":
        gills = s.box(0, y + 0.03, w * 0.86, 0.055, 0.05)
        s.fill(gills, c["accent"], "gills")
    if o["grass"] == "tufts":
        for x in (-0.42, -0.3, 0.32, 0.44):
            s.fill(s.bar(x, 0.92, x * 1.2, 0.68, 0.05), "green", "grass")


def _tree(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, low, trunk = n["width"], n["low"], n["trunk"]
    s.fill(s.taper(0, low - 0.35, 0.94, trunk * 0.8, trunk * 1.2), c["trunk"], "trunk")
    top = -0.95
    mid, half = (top + low) / 2, (low - top) / 2
    if o["crown"] == "round":
        form = s.oval(0, mid, w, half)
    elif o["crown"] == "cloud":
        r = half * 0.62
        form = union(
            s.disc(-w * 0.5, mid + half * 0.34, r * 0.86),
            s.disc(w * 0.5, mid + half * 0.34, r * 0.86),
            s.disc(0, mid - half * 0.36, r),
            s.disc(0, mid + half * 0.3, r * 0.9),
        )
    elif o["crown"] == "fir":
        form = union(
            s.polygon((0, top), (w * 0.62, mid - 0.05), (-w * 0.62, mid - 0.05)),
            s.polygon(
                (0, top + 0.28), (w * 0.82, mid + half * 0.52), (-w * 0.82, mid + half * 0.52)
            ),
            s.polygon((0, top + 0.6), (w, low), (-w, low)),
        )
    else:  # a cone
        form = s.polygon((0, top), (w, low), (-w, low))
    s.fill(form, c["crown"], "crown")
    low_down = o["crown"] in ("fir", "cone")
    decorate(
        s, m, "crown", 0, mid + (half * 0.36 if low_down else 0), half * (0.42 if low_down else 0.5)
    )
    if o["fruit"] == "many":
        spots = ((-0.5, 0.42), (0.5, 0.5), (-0.1, -0.62), (0.44, -0.22), (0.0, 0.8))
        for x, y in spots:
            s.fill(s.disc(x * w, mid + y * half, n["fruit_size"]), c["fruit"], "fruit")
    if o["top"] == "ball":
        s.fill(s.disc(0, top + 0.04, 0.11), c["fruit"], "top")


PLANTS = (
    Kind(
        name="flower",
        category="plant",
        numbers={
            "reach": (0.56, 0.66),
            "heart": (0.25, 0.34),
            "petals": (5.0, 9.0),
            "twist": (0.0, 1.0),
            "bend": (-0.14, 0.14),
        },
        options={
            "petals": ("round", "pointed"),
            "leaves": ("two", "left", "right"),
            "ring": ("none", "inner"),
        },
        rare={"petals": "tulip"},
        colours={
            "petals": MAIN,
            "heart": ANY,
            "ring": ANY,
            "stem": LEAVES,
            "second": ANY,
            "mark": ANY,
        },
        surface="heart",
        ground="heart",
        spoken={"stem": "stem"},
        paint=_flower,
    ),
    Kind(
        name="mushroom",
        category="plant",
        numbers={
            "width": (0.62, 0.92),
            "cap": (0.7, 0.98),
            "stem": (0.18, 0.34),
            "foot": (0.0, 0.5),
        },
        options={
            "cap": ("round", "pointed"),
            "skirt": ("none", "ring"),
            "gills": ("none", "seen"),
            "grass": ("none", "tufts"),
        },
        rare={"cap": "flat"},
        colours={
            "cap": MAIN,
            "stem": ("white", "cream", "yellow", "gray", "brown"),
            "accent": ANY,
            "second": ANY,
            "mark": ANY,
        },
        surface="cap",
        spoken={"stem": "stem"},
        paint=_mushroom,
    ),
    Kind(
        name="tree",
        category="plant",
        numbers={
            "width": (0.56, 0.84),
            "low": (0.3, 0.52),
            "trunk": (0.09, 0.18),
            "fruit_size": (0.07, 0.12),
        },
        options={
            "crown": ("round", "cloud", "fir"),
            "fruit": ("none", "many"),
            "top": ("none", "ball"),
        },
        rare={"crown": "cone"},
        colours={
            "crown": MAIN,
            "trunk": ("brown", "gray", "black", "white"),
            "fruit": ANY,
            "second": ANY,
            "mark": ANY,
        },
        surface="crown",
        spoken={"trunk": "trunk"},
        paint=_tree,
    ),
)
