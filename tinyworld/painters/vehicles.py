"""Toys that travel: boat, car."""

from __future__ import annotations

import numpy as np

from .kinds import ANY, MAIN, Kind, Member
from .marks import decorate
from .sheet import Sheet, both, without


def _boat(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    deck, mast, x = n["deck"], n["mast"], n["mast_place"]
    top = -0.95 + mast
    s.fill(s.bar(x, top, x, deck + 0.1, 0.04), c["mast"], "mast")
    reach = n["sail"]
    if o["sails"] == "square":
        sail = s.taper(x, top + 0.08, deck - 0.12, reach * 0.5, reach * 0.62, 0.04)
        s.fill(sail, c["sail"], "sail")
        spot = (x, (top + deck) / 2)
    else:
        base = deck - 0.12
        s.fill(
            s.polygon((x + 0.06, top + 0.06), (x + 0.06 + reach, base), (x + 0.06, base)),
            c["sail"],
            "sail",
        )
        spot = (x + 0.08 + reach * 0.34, base - (base - top) * 0.3)
        if o["sails"] == "two":
            s.fill(
                s.polygon((x - 0.06, top + 0.22), (x - 0.06, base), (x - 0.06 - reach * 0.7, base)),
                c["jib"],
                "jib",
            )
    decorate(s, m, "sail", *spot, 0.24)
    if o["flag"] == "pennant":
        s.fill(
            s.polygon((x, top - 0.02), (x + 0.26, top + 0.06), (x, top + 0.14)), c["stripe"], "flag"
        )
    bottom = n["bottom"]
    if o["hull"] == "round":
        hull = both(s.oval(0, deck, 0.94, bottom - deck), np.float32(deck) - s.v)
    elif o["hull"] == "bath":
        hull = s.taper(0, deck, bottom, 0.88, 0.8, 0.2)
    else:
        hull = s.taper(0, deck, bottom, 0.95, 0.58, 0.02)
    s.fill(hull, c["hull"], "hull")
    if o["stripe"] == "line":
        s.fill(
            both(hull, abs(s.v - np.float32(deck + 0.12)) - np.float32(0.07)), c["stripe"], "stripe"
        )
    if o["portholes"] == "three":
        for k in (-0.4, 0.0, 0.4):
            s.fill(s.disc(k, deck + 0.24, 0.075), c["jib"], "portholes")


def _car(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    roof, sill, belt = n["roof"], 0.42, n["belt"]
    left, right = n["back"], n["front"]
    if o["load"] == "rack":
        s.fill(s.box((left + right) / 2 - 0.05, roof - 0.1, 0.26, 0.1, 0.04), c["trim"], "rack")
    if o["cabin"] == "box":
        cabin = s.box(
            (left + right) / 2,
            (roof + belt) / 2 + 0.05,
            (right - left) / 2,
            (belt - roof) / 2 + 0.08,
            0.08,
        )
    elif o["cabin"] == "round":
        cabin = both(
            s.oval((left + right) / 2, belt + 0.05, (right - left) / 2 + 0.05, belt - roof + 0.05),
            s.v - np.float32(belt + 0.1),
        )
    else:
        cabin = s.polygon(
            (left + 0.14, roof), (right - 0.26, roof), (right, belt + 0.08), (left, belt + 0.08)
        )
    s.fill(cabin, c["roof"], "roof")
    glass = both(cabin + np.float32(0.085), s.v - np.float32(belt - 0.04))
    post = abs(s.u - np.float32((left + right) / 2 - 0.04)) - np.float32(0.04)
    s.fill(without(glass, post), c["glass"], "windows", outline=False)
    corner = 0.2 if o["nose"] == "round" else 0.08
    body = s.box(
        0, (belt + sill) / 2, 0.93, (sill - belt) / 2, min(corner, (sill - belt) / 2 - 0.01)
    )
    s.fill(body, c["body"], "body")
    decorate(s, m, "body", -0.02, (belt + sill) / 2 - 0.02, (sill - belt) * 0.46)
    s.fill(s.disc(0.84, belt + 0.16, 0.08), "yellow", "lamp")
    if o["bumper"] == "bar":
        s.fill(s.box(0, sill - 0.03, 0.97, 0.055, 0.04), c["trim"], "bumper")
    r = n["wheel"]
    for x in (-0.52, 0.52):
        s.fill(s.disc(x, sill + 0.02, r), "black", "wheels")
        s.fill(s.disc(x, sill + 0.02, r * 0.55), c["hub"], "wheels", outline=False)


VEHICLES = (
    Kind(
        name="boat",
        category="toy",
        numbers={
            "deck": (0.22, 0.36),
            "mast": (0.0, 0.16),
            "mast_place": (-0.14, 0.14),
            "sail": (0.58, 0.8),
            "bottom": (0.76, 0.92),
        },
        options={
            "sails": ("one", "two", "square"),
            "hull": ("round", "sharp"),
            "flag": ("none", "pennant"),
            "stripe": ("none", "line"),
            "portholes": ("none", "three"),
        },
        rare={"hull": "bath"},
        colours={
            "hull": MAIN,
            "sail": ANY,
            "jib": ANY,
            "stripe": ANY,
            "mast": ("brown", "black", "gray"),
            "second": ANY,
            "mark": ANY,
        },
        surface="sail",
        ground="sail",
        spoken={"sail": "sail"},
        paint=_boat,
    ),
    Kind(
        name="car",
        category="toy",
        numbers={
            "roof": (-0.66, -0.42),
            "belt": (-0.16, -0.02),
            "back": (-0.85, -0.55),
            "front": (0.35, 0.66),
            "wheel": (0.22, 0.32),
        },
        options={
            "cabin": ("coupe", "box"),
            "nose": ("round", "square"),
            "bumper": ("none", "bar"),
            "load": ("none", "rack"),
        },
        rare={"cabin": "round"},
        colours={
            "body": MAIN,
            "roof": ANY,
            "glass": ("cyan", "white", "black", "blue"),
            "hub": ANY,
            "trim": ANY,
            "second": ANY,
            "mark": ANY,
        },
        surface="body",
        spoken={"roof": "roof"},
        paint=_car,
    ),
)
