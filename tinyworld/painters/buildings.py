"""Buildings: house, castle."""

from __future__ import annotations

import numpy as np

from .kinds import ANY, MAIN, Kind, Member
from .marks import decorate
from .sheet import Sheet, both, union

GLASS = ("cyan", "yellow", "white", "blue", "black")


def _house(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, top, eave = n["width"], n["wall_top"], n["eave"]
    peak = -0.95
    if o["chimney"] != "none":
        x = (-0.5 if o["chimney"] == "left" else 0.5) * w
        s.fill(s.box(x, (peak + top) / 2 - 0.02, 0.1, abs(top - peak) / 2), c["door"], "chimney")
    s.fill(s.box(0, (top + 0.92) / 2, w, (0.92 - top) / 2), c["walls"], "walls")
    out = w + eave
    if o["roof"] == "gable":
        roof = s.polygon((0, peak), (out, top), (-out, top))
    elif o["roof"] == "hip":
        roof = s.polygon((-w * 0.55, peak + 0.2), (w * 0.55, peak + 0.2), (out, top), (-out, top))
    else:  # a dome
        roof = both(s.oval(0, top, out, top - peak - 0.12), s.v - np.float32(top))
    s.fill(roof, c["roof"], "roof")
    side = {"left": -0.48, "middle": 0.0, "right": 0.48}[o["door"]] * w
    high = n["door"]
    decorate(s, m, "walls", 0, top + 0.27, 0.23)
    door = s.box(side, 0.92 - high / 2, 0.15, high / 2, 0.03)
    s.fill(door, c["door"], "door")
    s.fill(s.disc(side + 0.07, 0.92 - high * 0.45, 0.03), "yellow", "door", outline=False)
    size, y = n["window"], 0.64
    for x in (-0.6, 0.6) if not side else (-side,):
        if o["windows"] == "round":
            s.fill(s.disc(x * w if not side else x, y, size), c["glass"], "windows")
        else:
            s.fill(s.box(x * w if not side else x, y, size, size), c["glass"], "windows")
    if o["attic"] == "window":
        s.fill(s.disc(0, top - 0.22, 0.1), c["glass"], "windows")


def _castle(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, tower, high = n["width"], n["tower"], n["tower_top"]
    top = n["wall_top"]
    for sign in (-1, 1) if o["towers"] != "one" else (1,):
        x = sign * (w - tower * 0.4)
        if o["tops"] == "pointed":
            roof = s.polygon(
                (x, high - n["roof"]), (x + tower * 1.25, high), (x - tower * 1.25, high)
            )
            s.fill(roof, c["roof"], "roofs")
        else:
            for k in (-1, 0, 1):
                s.fill(
                    s.box(x + k * tower * 0.72, high - 0.06, tower * 0.24, 0.1), c["roof"], "roofs"
                )
    teeth = round(n["teeth"])
    for k in range(teeth):
        x = -w * 0.62 + 1.24 * w * k / (teeth - 1)
        s.fill(s.box(x, top - 0.05, 0.3 * w / teeth, 0.1), c["walls"], "walls")
    s.fill(s.box(0, (top + 0.92) / 2, w * 0.75, (0.92 - top) / 2), c["walls"], "walls")
    for sign in (-1, 1) if o["towers"] != "one" else (1,):
        x = sign * (w - tower * 0.4)
        s.fill(s.box(x, (high + 0.92) / 2, tower, (0.92 - high) / 2), c["walls"], "walls")
    decorate(s, m, "walls", 0 if o["towers"] != "one" else -0.1, top + 0.27, 0.23)
    for sign in (-1, 1) if o["towers"] != "one" else (1,):
        x = sign * (w - tower * 0.4)
        s.fill(s.box(x, high + 0.32, 0.07, 0.11, 0.06), c["glass"], "windows")
    gate_high = n["gate"]
    arch = union(
        s.disc(0, 0.92 - gate_high, 0.16), s.box(0, 0.92 - gate_high / 2, 0.16, gate_high / 2)
    )
    s.fill(arch, c["gate"], "gate")
    if o["flag"] != "none":
        x = (w - tower * 0.4) * (1 if o["flag"] == "right" or o["towers"] == "one" else -1)
        base = high - (n["roof"] if o["tops"] == "pointed" else 0.1)
        s.fill(s.bar(x, base + 0.08, x, base - 0.14, 0.025), "black", "flag", outline=False)
        flag = s.polygon((x, base - 0.16), (x + 0.24, base - 0.07), (x, base + 0.02))
        s.fill(flag, c["gate"], "flag")


BUILDINGS = (
    Kind(
        name="house",
        category="building",
        numbers={
            "width": (0.55, 0.8),
            "wall_top": (-0.3, -0.08),
            "eave": (0.04, 0.2),
            "door": (0.32, 0.48),
            "window": (0.1, 0.15),
        },
        options={
            "roof": ("gable", "hip"),
            "door": ("left", "middle", "right"),
            "chimney": ("none", "left", "right"),
            "windows": ("square", "round"),
            "attic": ("none", "window"),
        },
        rare={"roof": "dome"},
        colours={
            "walls": MAIN,
            "roof": ANY,
            "door": ANY,
            "glass": GLASS,
            "second": ANY,
            "mark": ANY,
        },
        surface="walls",
        spoken={"roof": "roof", "door": "door"},
        paint=_house,
    ),
    Kind(
        name="castle",
        category="building",
        numbers={
            "width": (0.64, 0.76),
            "tower": (0.19, 0.28),
            "tower_top": (-0.44, -0.3),
            "wall_top": (-0.16, 0.02),
            "roof": (0.28, 0.4),
            "teeth": (3, 5),
            "gate": (0.14, 0.24),
        },
        options={
            "tops": ("pointed", "flat"),
            "flag": ("none", "left", "right"),
            "towers": ("two",),
        },
        rare={"towers": "one"},
        colours={
            "walls": MAIN,
            "roof": ANY,
            "gate": ANY,
            "glass": GLASS,
            "second": ANY,
            "mark": ANY,
        },
        surface="walls",
        spoken={"gate": "gate"},
        paint=_castle,
    ),
)
