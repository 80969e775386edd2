"""Patterns and emblems on the surface of an object."""

from __future__ import annotations

import numpy as np

from ..shapes import Array, Mask
from .kinds import Member
from .sheet import Sheet

PATTERN, EMBLEM, BADGE = "pattern", "emblem", "badge"  # parts; a badge lies below an emblem


def decorate(
    sheet: Sheet,
    member: Member,
    on: str,
    x: float,
    y: float,
    room: float,
    *,
    woven: bool = True,
) -> None:
    """Put a member's pattern and emblem on a part.

    Args:
        on:   the part.
        x, y: centre of the emblem, radii.
        room: radius of the disc that an emblem may fill, radii.
        woven: whether the part bears the pattern too.
    """
    numbers, colours = member.numbers, member.colours
    if woven:
        weave(sheet, member, on)
    if not member.emblem:
        return
    r = room * numbers["emblem_size"]
    u, v = (sheet.u - np.float32(x)) / np.float32(r), (sheet.v - np.float32(y)) / np.float32(r)
    style, form = member.options["style"], numbers["emblem_form"]
    if style == "badge":
        sheet.mark(u * u + v * v < 1, colours["second"], BADGE, on)
        u, v = u / np.float32(0.72), v / np.float32(0.72)
    shape = emblem(member.emblem, u, v, form)
    sheet.mark(shape, colours["mark"], EMBLEM, on)
    if style == "double":
        inner = emblem(member.emblem, u / np.float32(0.5), v / np.float32(0.5), form)
        sheet.mark(shape & inner, colours["second"], EMBLEM, on)


def weave(sheet: Sheet, member: Member, on: str) -> None:
    """Put a member's pattern alone on a part."""
    if member.pattern != "plain":
        where = pattern(sheet, member)
        sheet.mark(where, member.colours["second"], PATTERN, on)


def pattern(sheet: Sheet, member: Member) -> Mask:
    """Where the second colour of the member's pattern goes; [h, w]."""
    name, n = member.pattern, member.numbers
    period = np.float32(n["period"])
    angle = {"striped": np.pi, "zigzag": 0.0}.get(name, np.pi / 2) * n["turn"]
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    a = (cos * sheet.u + sin * sheet.v) / period + np.float32(n["phase"])
    b = (cos * sheet.v - sin * sheet.u) / period + np.float32(n["phase"])
    if name == "striped":
        return np.mod(a, 1) < 0.5
    if name == "zigzag":
        return np.mod(b + abs(np.mod(a * 0.7, 1) - 0.5) * 1.2, 1) < 0.5
    if name == "dotted":
        row = np.floor(b)
        return (np.mod(a + 0.5 * row, 1) - 0.5) ** 2 + (np.mod(b, 1) - 0.5) ** 2 < 0.32**2
    if name == "checkered":
        return (np.mod(a / 1.5, 1) < 0.5) ^ (np.mod(b / 1.5, 1) < 0.5)
    raise KeyError(f"unknown pattern {name!r}")


def emblem(name: str, u: Array, v: Array, form: float) -> Mask:
    """An emblem in the unit disc; `form`, 0..1, varies it within its name."""
    away = np.sqrt(u * u + v * v)
    if name == "star":
        return _star(u, v, 4 + int(form * 2.999), 0.42 + 0.1 * form)
    if name == "heart":
        w = v + np.float32(0.18)
        lobes = (abs(u) - 0.42) ** 2 + (w + 0.22) ** 2 < 0.46**2
        tip = (w > -0.1) & (abs(u) * np.float32(1.0 + 0.2 * form) + w * 0.9 < 0.88)
        return lobes | (tip & (abs(u) < 0.86))
    if name == "moon":
        return (away < 0.95) & ((u - 0.42) ** 2 + (v + 0.12) ** 2 > (0.62 + 0.16 * form) ** 2)
    if name == "cross":
        near, far = np.minimum(abs(u), abs(v)), np.maximum(abs(u), abs(v))
        return (near < 0.22 + 0.14 * form) & (far < 0.92)
    if name == "ring":
        return (away < 0.92) & (away > 0.42 + 0.22 * form)
    if name == "diamond":
        return abs(u) * np.float32(1.2 + 0.4 * form) + abs(v) < 0.98
    return _unnamed(name, u, v, away, form)


def _unnamed(name: str, u: Array, v: Array, away: Array, form: float) -> Mask:
    angle = np.arctan2(v, u)
    if name == "spiral":
        turns = 1.3 + 0.5 * form
        return (away < 0.95) & (np.mod(angle / np.float32(2 * np.pi) + away * turns, 1) < 0.5)
    if name == "sun":
        rays = np.cos(angle * (7 + int(3 * form))) > 0
        return (away < 0.55) | (rays & (away > 0.66) & (away < 0.97))
    if name == "clover":
        return away < 0.52 + 0.44 * np.cos(angle * (3 + int(form * 1.999)) - np.pi / 2)
    if name == "bolt":
        upper = (abs(u - 0.1 + 0.45 * v) < 0.3) & (v < 0.12) & (v > -0.95)
        lower = (abs(u + 0.1 + 0.45 * v) < 0.3 - 0.28 * v) & (v > -0.12) & (v < 0.95)
        return upper | lower
    raise KeyError(f"unknown emblem {name!r}")


def _star(u: Array, v: Array, points: int, inner: float) -> Mask:
    fold = np.pi / points
    angle = abs(np.mod(np.arctan2(u, -v) + fold, 2 * fold) - fold)
    away = np.sqrt(u * u + v * v)
    px, py = away * np.cos(angle), away * np.sin(angle)
    ex, ey = inner * np.cos(fold), inner * np.sin(fold)
    return (ex - 1.05) * py - ey * (px - 1.05) > 0
