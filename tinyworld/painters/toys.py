"""Toys: robot, ball; and an umbrella, which is nothing but an object."""

from __future__ import annotations

import numpy as np

from .kinds import ANY, MAIN, Kind, Member
from .marks import decorate
from .sheet import Sheet, both, union


def _robot(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    head_w, head_h, w = n["head_width"], n["head_height"], n["width"]
    neck = -0.14
    top = neck - 2 * head_h
    for sign in (-1, 1):
        s.fill(s.box(sign * w * 0.5, 0.8, n["leg"], 0.16, 0.03), c["limbs"], "legs")
        end = {"up": -0.16, "down": 0.5, "out": 0.1}[o["arms"]]
        s.fill(s.bar(sign * w, 0.1, sign * (w + 0.26), end, 0.085), c["limbs"], "arms")
    for x in {"one": (0.0,), "two": (-0.2, 0.2), "none": ()}[o["antenna"]]:
        s.fill(s.bar(x, top, x * 1.3, top - 0.14, 0.03), "black", "antenna", outline=False)
        s.fill(s.disc(x * 1.3, top - 0.16, 0.075), c["light"], "antenna")
    s.fill(s.box(0, neck, 0.12, 0.1), c["limbs"], "neck")
    corner = 0.22 if o["head"] == "round" else 0.04
    if o["head"] == "bell":
        head = s.taper(0, top, neck - 0.02, head_w * 0.6, head_w, 0.1)
    else:
        head = s.box(0, neck - head_h, head_w, head_h, min(corner, head_h - 0.01))
    s.fill(head, c["head"], "head")
    eye_y = neck - head_h * 1.2
    if o["eyes"] == "visor":
        s.fill(s.box(0, eye_y, head_w * 0.7, 0.09, 0.08), c["light"], "eyes")
    else:
        for sign in (-1, 1):
            s.fill(s.disc(sign * head_w * 0.45, eye_y, n["eye"]), c["light"], "eyes")
            s.fill(
                s.disc(sign * head_w * 0.45, eye_y, n["eye"] * 0.45), "black", "eyes", outline=False
            )
    if o["mouth"] == "grille":
        s.fill(s.box(0, neck - head_h * 0.42, head_w * 0.45, 0.05), "black", "mouth", outline=False)
    s.fill(
        s.taper(0, -0.04, 0.7, w * (1 + n["taper"]), w * (1 - n["taper"]), 0.08), c["body"], "body"
    )
    decorate(s, m, "body", 0, 0.32, min(0.3, w * 0.62))


def _ball(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    r = n["size"]
    ball = s.disc(0, 0, r)
    s.fill(ball, c["body"], "body")
    turn = n["seam_turn"] * np.pi
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    a, b = (cos * s.u + sin * s.v) / np.float32(r), (cos * s.v - sin * s.u) / np.float32(r)
    if o["panels"] == "beach":
        angle = np.arctan2(b, a + np.float32(0.3))
        s.mark(
            np.mod(angle * np.float32(n["count"] / (2 * np.pi)), 1) < 0.5,
            c["panel"],
            "panel",
            "body",
        )
    elif o["panels"] == "belt":
        s.mark(abs(b) < n["belt"], c["panel"], "panel", "body")
    elif o["panels"] == "poles":
        s.mark(abs(b) > 1.02 - n["belt"] * 1.6, c["panel"], "panel", "body")
    elif o["panels"] == "half":
        s.mark(b > 0, c["panel"], "panel", "body")
    else:  # tennis: two bent seams
        s.mark(abs(a * a * 0.9 - abs(b) + 0.32) < 0.1, c["panel"], "panel", "body")
    decorate(s, m, "body", 0, 0, 0.5)
    shine = s.oval(-r * 0.42, -r * 0.48, 0.16, 0.09, -0.7)
    if o["shine"] == "spot":
        s.fill(both(shine, ball), "white", "shine", outline=False)


def _umbrella(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, h, y = n["width"], n["height"], n["hem"]
    s.fill(s.bar(0, y - h, 0, 0.72, n["stick"]), c["stick"], "stick")
    r = 0.17
    if o["handle"] == "hook":
        hook = both(abs(s.disc(r, 0.74, r)) - np.float32(0.055), np.float32(0.74) - s.v)
        s.fill(union(hook, s.bar(0, 0.6, 0, 0.74, 0.055)), c["grip"], "handle")
    elif o["handle"] == "ball":
        s.fill(s.disc(0, 0.8, 0.13), c["grip"], "handle")
    else:
        s.fill(s.bar(0, 0.6, 0, 0.9, 0.075), c["grip"], "handle")
    s.fill(s.bar(0, y - h - 0.08, 0, y - h + 0.1, 0.045), c["grip"], "tip")
    ribs = int(n["ribs"])
    dome = s.oval(0, y, w, h)
    hem = s.v - np.float32(y)
    if o["hem"] == "scalloped":
        hem = (
            hem
            + np.float32(0.16)
            * abs(np.sin(s.u * np.float32(np.pi * ribs / (2 * w)) + (np.pi / 2 if ribs % 2 else 0)))
            - np.float32(0.02)
        )
    canopy = both(dome, hem)
    if o["canopy"] == "pointed":
        canopy = both(
            canopy, abs(s.u) * np.float32(h / w) - (s.v - np.float32(y - h)) - np.float32(0.0)
        )
    s.fill(canopy, c["canopy"], "canopy")
    if o["panels"] == "two":
        across = s.u / np.maximum(np.sqrt(np.maximum(1 - ((s.v - y) / h) ** 2, 0.02)), 0.1) / w
        s.mark(
            np.mod(np.arcsin(np.clip(across, -1, 1)) / np.pi * ribs + 0.5 * (ribs % 2), 2) < 1,
            c["panel"],
            "panel",
            "canopy",
        )
    decorate(s, m, "canopy", 0, y - h * 0.5, h * 0.4)
    if o["trim"] == "band":
        s.mark(canopy > -0.11, c["grip"], "trim", "canopy")


TOYS = (
    Kind(
        name="robot",
        category="toy",
        numbers={
            "head_width": (0.3, 0.48),
            "head_height": (0.2, 0.29),
            "width": (0.36, 0.52),
            "taper": (-0.18, 0.18),
            "leg": (0.1, 0.17),
            "eye": (0.09, 0.13),
        },
        options={
            "head": ("square", "round"),
            "arms": ("up", "down", "out"),
            "antenna": ("none", "one", "two"),
            "eyes": ("round", "visor"),
            "mouth": ("none", "grille"),
        },
        rare={"head": "bell"},
        colours={
            "body": MAIN,
            "head": ANY,
            "limbs": ANY,
            "light": ("yellow", "red", "cyan", "green", "white"),
            "second": ANY,
            "mark": ANY,
        },
        surface="body",
        spoken={"head": "head", "eyes": "light"},
        paint=_robot,
    ),
    Kind(
        name="ball",
        category="toy",
        numbers={
            "size": (0.82, 0.97),
            "seam_turn": (0.0, 1.0),
            "count": (3.0, 5.99),
            "belt": (0.16, 0.34),
        },
        options={
            "panels": ("beach", "belt", "poles", "half"),
            "shine": ("none", "spot"),
        },
        rare={"panels": "tennis"},
        colours={"body": MAIN, "panel": ANY, "second": ANY, "mark": ANY},
        surface="body",
        spoken={},
        paint=_ball,
    ),
    Kind(
        name="umbrella",
        category="object",
        numbers={
            "width": (0.82, 0.97),
            "height": (0.6, 0.85),
            "hem": (-0.05, 0.12),
            "stick": (0.03, 0.055),
            "ribs": (4.0, 6.99),
        },
        options={
            "handle": ("hook", "straight"),
            "hem": ("straight", "scalloped"),
            "canopy": ("round", "pointed"),
            "panels": ("one", "two"),
            "trim": ("none", "band"),
        },
        rare={"handle": "ball"},
        colours={
            "canopy": MAIN,
            "panel": ANY,
            "grip": ANY,
            "stick": ("gray", "black", "brown"),
            "second": ANY,
            "mark": ANY,
        },
        surface="canopy",
        spoken={"handle": "grip"},
        paint=_umbrella,
    ),
)
