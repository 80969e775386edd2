"""Containers: mug, vase, teapot."""

from __future__ import annotations

import numpy as np

from .kinds import ANY, MAIN, Kind, Member
from .marks import decorate
from .sheet import Sheet, band, both, rounded, union, without


def _mug(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    x, h, w = -0.2, n["height"], n["width"]
    if o["handle"] == "two":
        x, w = 0.0, 0.78 * w
    size, thick = n["handle"], n["thickness"]
    body = s.taper(x, -h, h, w * (1 + n["taper"]), w * (1 - n["taper"]), 0.12)
    side = x + w * 0.95
    for sign in (1, -1) if o["handle"] == "two" else (1,):
        at = side if sign > 0 else 2 * x - side
        if o["handle"] == "square":
            ring = band(s.box(at + 0.1, 0, size * 0.75, size, 0.1), thick)
        else:
            ring = band(s.oval(at + 0.04, 0, size * 0.9, size), thick)
        s.fill(without(ring, body), c["accent"], "handle")
    s.fill(body, c["body"], "body")
    decorate(s, m, "body", x, 0.08, min(w * 0.78, h * 0.66))
    if o["rim"] == "band":
        s.fill(both(body, s.v + np.float32(h - 0.17)), c["accent"], "rim")
    if o["foot"] == "band":
        s.fill(both(body, np.float32(h - 0.14) - s.v), c["accent"], "foot")


def _vase(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    belly, neck, h = n["belly"], n["neck"], n["height"]
    low = n["low"]  # where it is widest
    bulge = np.exp(-(((s.v - np.float32(low)) / np.float32(n["spread"])) ** 2))
    flare = np.exp(-(((s.v + np.float32(h)) / np.float32(0.2)) ** 2)) * np.float32(n["flare"])
    half = np.float32(neck) + np.float32(belly - neck) * bulge + flare
    body = rounded((abs(s.u) - half) * np.float32(0.85), abs(s.v) - np.float32(h), 0.06)
    if o["ears"] in ("two", "one"):
        for sign in (1, -1) if o["ears"] == "two" else (1,):
            ear = band(s.oval(sign * (neck + 0.12), -h + 0.42, 0.22, 0.26), 0.07)
            s.fill(without(ear, body), c["accent"], "handle")
    s.fill(body, c["body"], "body")
    decorate(s, m, "body", 0, low, min(belly * 0.82, n["spread"] * 0.8))
    if o["rim"] == "band":
        s.fill(both(body, s.v + np.float32(h - 0.15)), c["accent"], "rim")
    if o["foot"] == "stand":
        s.fill(s.box(0, h - 0.05, 0.8 * belly, 0.09, 0.04), c["accent"], "foot")


def _teapot(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, h, y = n["width"], n["height"], 0.2
    if o["body"] == "round":
        body = s.oval(0, y, w, h)
    elif o["body"] == "tall":
        body = s.taper(0, y - h, y + h, w * 0.72, w, 0.2)
    else:
        body = s.taper(0, y - h, y + h, w, w * 0.72, 0.2)
    tip = y - n["spout"]
    spout = union(
        s.bar(-w * 0.6, y + 0.16, -w - 0.12, y - 0.02, n["thickness"]),
        s.bar(-w - 0.12, y - 0.02, -w - 0.24, tip, n["thickness"] * 0.8),
    )
    s.fill(spout, c["body"], "spout")
    handle = band(s.oval(w + 0.02, y - 0.02, 0.28, n["handle"]), 0.075)
    s.fill(without(handle, body), c["accent"], "handle")
    s.fill(body, c["body"], "body")
    decorate(s, m, "body", 0, y + 0.06, min(w * 0.7, h * 0.72))
    top = y - h
    if o["lid"] == "flat":
        lid = s.box(0, top + 0.03, w * 0.58, 0.09, 0.05)
    else:
        lid = both(s.oval(0, top + 0.1, w * 0.6, 0.26), s.v - np.float32(top + 0.1))
    s.fill(lid, c["lid"], "lid")
    knob = s.disc(0, top - (0.16 if o["lid"] == "dome" else 0.12), n["knob"])
    s.fill(knob, c["accent"], "knob")


CONTAINERS = (
    Kind(
        name="mug",
        category="container",
        numbers={
            "height": (0.55, 0.85),
            "width": (0.45, 0.66),
            "taper": (-0.14, 0.16),
            "handle": (0.3, 0.46),
            "thickness": (0.06, 0.11),
        },
        options={
            "handle": ("round", "square"),
            "rim": ("none", "band"),
            "foot": ("none", "band"),
        },
        rare={"handle": "two"},
        colours={"body": MAIN, "accent": ANY, "second": ANY, "mark": ANY},
        surface="body",
        spoken={"handle": "accent"},
        paint=_mug,
    ),
    Kind(
        name="vase",
        category="container",
        numbers={
            "height": (0.78, 0.95),
            "belly": (0.45, 0.75),
            "neck": (0.16, 0.28),
            "low": (0.05, 0.42),
            "spread": (0.42, 0.62),
            "flare": (0.0, 0.2),
        },
        options={
            "ears": ("none", "two"),
            "rim": ("none", "band"),
            "foot": ("none", "stand"),
        },
        rare={"ears": "one"},
        colours={"body": MAIN, "accent": ANY, "second": ANY, "mark": ANY},
        surface="body",
        spoken={},
        paint=_vase,
    ),
    Kind(
        name="teapot",
        category="container",
        numbers={
            "width": (0.48, 0.6),
            "height": (0.44, 0.6),
            "spout": (0.2, 0.5),
            "thickness": (0.1, 0.15),
            "handle": (0.26, 0.4),
            "knob": (0.08, 0.14),
        },
        options={"body": ("round", "tall", "wide"), "lid": ("flat", "dome")},
        rare={},
        colours={"body": MAIN, "lid": ANY, "accent": ANY, "second": ANY, "mark": ANY},
        surface="body",
        spoken={"lid": "lid", "handle": "accent"},
        paint=_teapot,
    ),
)
