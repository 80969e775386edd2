"""Animals: fish, cat (its face), bird."""

from __future__ import annotations

import numpy as np

from .kinds import ANY, MAIN, Kind, Member
from .marks import decorate
from .sheet import Sheet, both, union


def _eye(s: Sheet, x: float, y: float, r: float, iris: str) -> None:
    s.fill(s.disc(x, y, r), "white", "eye")
    s.fill(s.disc(x, y, r * 0.62), iris, "eye", outline=False)
    s.fill(s.disc(x, y, r * 0.36), "black", "eye", outline=False)


def _fish(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    a, b, x = n["length"], n["height"], -0.18
    back, root = 0.95, x + a * 0.82
    spread = n["tail"]
    if o["tail"] == "fork":
        tail = union(
            s.oval((root + back) / 2, -spread * 0.5, 0.34, 0.16, -0.7),
            s.oval((root + back) / 2, spread * 0.5, 0.34, 0.16, 0.7),
        )
    elif o["tail"] == "fan":
        tail = both(s.disc(root, 0, back - root), abs(s.v) * 0.8 - (s.u - root + 0.1) * 0.7)
    else:
        tail = s.polygon((root, -0.05), (back, -spread), (back, spread), (root, 0.05))
    s.fill(tail, c["fin"], "tail")
    fin = n["fin"]
    if o["fins"] in ("top", "both", "sail"):
        tall = 1.7 if o["fins"] == "sail" else 1.0
        s.fill(s.oval(x + 0.06, -b, 0.36, fin * tall, 0.2), c["fin"], "fin")
    if o["fins"] in ("bottom", "both"):
        s.fill(s.oval(x + 0.04, b, 0.28, fin, -0.3), c["fin"], "fin")
    body = s.oval(x, 0, a, b)
    s.fill(body, c["body"], "body")
    decorate(s, m, "body", x + 0.16, 0.02, min(b * 0.7, 0.36))
    if o["face"] == "mask":
        s.fill(both(body, s.u - np.float32(x - a * 0.48)), c["fin"], "face", outline=False)
    s.fill(s.oval(x + 0.1, 0.1 + b * 0.35, 0.17, 0.08, 0.5), c["fin"], "fin")
    _eye(s, x - a * 0.6, -b * 0.2, n["eye"], "black")


def _cat(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    w, h, y = n["width"], n["height"], 0.16
    lean, tall = n["ear_lean"], n["ear_height"]
    for sign in (-1, 1):
        tip, root = sign * (w * 0.62 + lean), -h * 0.5 + y
        high = -tall + (0.3 if o["ears"] == "folded" and sign > 0 else 0.0)
        left, right = _ear_base(sign, w, 0.36 if o["ears"] == "wide" else 0.27)
        s.fill(s.polygon((tip, high), (right, root), (left, root)), c["fur"], "ears")
        mid = (left + right) / 2
        s.fill(
            s.polygon((tip, high + 0.16), (mid + 0.13, root), (mid - 0.13, root)),
            c["inner"],
            "ears",
            outline=False,
        )
    head = s.oval(0, y, w, h)
    s.fill(head, c["fur"], "head")
    decorate(s, m, "head", 0, y - h * 0.55, 0.26)
    if o["muzzle"] == "patch":
        s.fill(s.oval(0, y + h * 0.45, w * 0.48, h * 0.36), c["inner"], "muzzle", outline=False)
    gap, r = n["eye_gap"], n["eye"]
    for sign in (-1, 1):
        x = sign * gap
        s.fill(s.oval(x, y - 0.02, r, r * 1.15), c["eyes"], "eyes")
        s.fill(s.oval(x, y - 0.02, r * 0.3, r * 0.85), "black", "eyes", outline=False)
    s.fill(s.oval(0, y + h * 0.32, 0.1, 0.07), c["nose"], "nose")
    if o["mouth"] == "smile":
        smile = abs(s.disc(0, y + h * 0.4, 0.17)) - np.float32(0.03)
        s.fill(both(smile, y + h * 0.5 - s.v), "black", "mouth", outline=False)
    else:
        s.fill(s.oval(0, y + h * 0.62, 0.1, 0.12), "black", "mouth", outline=False)
    if o["whiskers"] == "long":
        for sign in (-1, 1):
            for fall in (-0.08, 0.08):
                line = s.bar(
                    sign * 0.34,
                    y + h * 0.4 + fall * 0.6,
                    sign * 0.72,
                    y + h * 0.4 + fall * 2,
                    0.022,
                )
                s.fill(line, "black", "whiskers", outline=False)


def _ear_base(sign: int, w: float, base: float) -> tuple[float, float]:
    """Left and right end of an ear's base."""
    inner, outer = sign * (w * 0.95 - 2 * base * 0.95), sign * w * 0.97
    return min(inner, outer), max(inner, outer)


def _bird(s: Sheet, m: Member) -> None:
    n, o, c = m.numbers, m.options, m.colours
    a, b, y, head = n["length"], n["height"], 0.18, n["head"]
    hx, hy = -a * 0.62, y - b * 0.95
    for foot in (-0.12, 0.14):
        s.fill(s.bar(foot, y + b * 0.7, foot - 0.04, 0.92, 0.04), c["beak"], "legs")
    tail = {"up": -0.42, "down": 0.22}.get(o["tail"], -0.1)
    s.fill(
        s.bar(a * 0.7, y, 0.86, y + tail, n["tail"]),
        c["wing"],
        "tail",
    )
    if o["beak"] == "long":
        beak = s.polygon((hx - head - 0.24, hy + 0.07), (hx, hy - 0.1), (hx, hy + 0.13))
    else:
        beak = s.polygon((hx - head - 0.1, hy + 0.05), (hx, hy - 0.17), (hx, hy + 0.2))
    s.fill(beak, c["beak"], "beak")
    if o["crest"] in ("tuft", "crown"):
        for k in (-1, 0, 1):
            lean = 0.12 * k + (0.0 if o["crest"] == "crown" else 0.14)
            s.fill(
                s.bar(hx, hy - head * 0.7, hx + lean, hy - head - 0.16, 0.05), c["wing"], "crest"
            )
    body = union(s.oval(0, y, a, b, 0.15), s.disc(hx, hy, head))
    s.fill(body, c["body"], "body")
    if o["belly"] == "patch":
        s.fill(
            s.oval(-a * 0.25, y + b * 0.4, a * 0.55, b * 0.5), c["belly"], "belly", outline=False
        )
    s.fill(s.oval(a * 0.22, y - 0.03, n["wing"], n["wing"] * 0.66, 0.35), c["wing"], "wing")
    decorate(s, m, "wing", a * 0.22, y - 0.03, n["wing"] * 0.66)
    _eye(s, hx - 0.04, hy - 0.04, n["eye"], "black")


ANIMALS = (
    Kind(
        name="fish",
        category="animal",
        numbers={
            "length": (0.55, 0.72),
            "height": (0.34, 0.62),
            "tail": (0.3, 0.55),
            "fin": (0.14, 0.24),
            "eye": (0.1, 0.16),
        },
        options={
            "tail": ("fork", "fan", "wedge"),
            "fins": ("top", "bottom", "both"),
            "face": ("plain", "mask"),
        },
        rare={"fins": "sail"},
        colours={"body": MAIN, "fin": ANY, "second": ANY, "mark": ANY},
        surface="body",
        spoken={"tail": "fin"},
        paint=_fish,
    ),
    Kind(
        name="cat",
        category="animal",
        numbers={
            "width": (0.66, 0.86),
            "height": (0.58, 0.72),
            "ear_lean": (-0.12, 0.14),
            "ear_height": (0.75, 0.96),
            "eye_gap": (0.28, 0.4),
            "eye": (0.12, 0.19),
        },
        options={
            "ears": ("narrow", "wide"),
            "muzzle": ("plain", "patch"),
            "mouth": ("smile", "open"),
            "whiskers": ("none", "long"),
        },
        rare={"ears": "folded"},
        colours={
            "fur": MAIN,
            "inner": ANY,
            "eyes": ("green", "yellow", "cyan", "white", "orange"),
            "nose": ("pink", "black", "red"),
            "second": ANY,
            "mark": ANY,
        },
        surface="head",
        spoken={"eyes": "eyes"},
        paint=_cat,
    ),
    Kind(
        name="bird",
        category="animal",
        numbers={
            "length": (0.52, 0.68),
            "height": (0.38, 0.5),
            "head": (0.26, 0.36),
            "tail": (0.08, 0.15),
            "wing": (0.32, 0.46),
            "eye": (0.08, 0.12),
        },
        options={
            "tail": ("up", "down", "level"),
            "beak": ("short", "long"),
            "crest": ("none", "tuft"),
            "belly": ("plain", "patch"),
        },
        rare={"crest": "crown"},
        colours={
            "body": MAIN,
            "wing": ANY,
            "belly": ANY,
            "beak": ("orange", "yellow", "red", "black"),
            "second": ANY,
            "mark": ANY,
        },
        surface="wing",
        ground="wing",
        spoken={"wing": "wing", "beak": "beak"},
        paint=_bird,
    ),
)
