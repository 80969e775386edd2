"""Finds a font for every letter: Pillow's own, a system font, or an escape.

Pillow's own font has the English letters. Handles may use any script, so other letters come from
system fonts, found by their usual file names; Pillow knows the folders. Letters without a font are
written as their code (`\\ub0b4`), because boxes would all look the same.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import Any

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

OWN = ""  # Pillow's font
PROBE_PX = 24
JOINING = ("Mn", "Mc", "Me", "Cf")  # categories of marks, and of what has no picture
NOWHERE = "\U0010ffff"  # no font has it: its picture is that of every missing letter
# In the order in which they are tried: wide ones first, then those of single scripts.
NAMES = (
    # Linux
    "DejaVuSans.ttf", "NotoSans-Regular.ttf", "LiberationSans-Regular.ttf", "FreeSans.ttf",
    "NotoSansCJK-Regular.ttc", "NotoSansCJK-VF.ttf.ttc", "NotoSansCJKkr-Regular.otf",
    "NotoSansCJKsc-Regular.otf", "NotoSansCJKjp-Regular.otf", "NotoSansKR-Regular.otf",
    "NotoSerifCJK-Regular.ttc", "SourceHanSans-Regular.ttc", "wqy-zenhei.ttc", "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf", "DroidSansFallback.ttf", "NanumGothic.ttf", "UnBatang.ttf",
    "TakaoGothic.ttf", "ipag.ttf", "ipagp.ttf", "uming.ttc", "ukai.ttc",
    "NotoSansDevanagari-Regular.ttf", "Lohit-Devanagari.ttf", "NotoSansArabic-Regular.ttf",
    "NotoSansHebrew-Regular.ttf", "NotoSansThai-Regular.ttf", "NotoSansBengali-Regular.ttf",
    "NotoSansTamil-Regular.ttf", "NotoSansArmenian-Regular.ttf", "NotoSansGeorgian-Regular.ttf",
    # Windows
    "segoeui.ttf", "arial.ttf", "malgun.ttf", "msyh.ttc", "msjh.ttc", "YuGothM.ttc", "meiryo.ttc",
    "msgothic.ttc", "simsun.ttc", "gulim.ttc", "Nirmala.ttc", "Nirmala.ttf", "LeelawUI.ttf",
    "tahoma.ttf", "ebrima.ttf", "ARIALUNI.TTF",
    # macOS
    "Arial Unicode.ttf", "AppleSDGothicNeo.ttc", "AppleGothic.ttf", "PingFang.ttc",
    "Hiragino Sans GB.ttc", "STHeiti Medium.ttc", "STHeiti Light.ttc", "Kohinoor.ttc",
    "GeezaPro.ttc", "Thonburi.ttc", "ArialHB.ttc",
    # last: complete, and coarse
    "unifont.ttf", "unifont.otf",
)  # fmt: skip


def runs(text: str, size: int) -> Iterator[tuple[str, Font]]:
    """A line in pieces, each with a font that has all its letters.

    Args:
        size: px.
    """
    piece, name = "", OWN
    for letter in text:
        shown, font_name = _shown(letter, name if piece else None)
        if piece and font_name != name:
            yield piece, font_named(name, size)
            piece = ""
        piece, name = piece + shown, font_name
    if piece:
        yield piece, font_named(name, size)


def _shown(letter: str, before: str | None) -> tuple[str, str]:
    """The text for a letter and its font; `before` is the font of the previous one."""
    if letter.isspace():  # the wide ones of other scripts are boxes, too
        return " ", before or OWN
    if before is not None and unicodedata.category(letter) in JOINING:
        # It is drawn with the letter before it, so by the same font.
        return (letter if _has(before, letter) else _code_of_mark(letter)), before
    name = font_name_for(letter)
    return (letter, name) if name is not None else (escaped(letter), OWN)


def _code_of_mark(letter: str) -> str:
    return "" if unicodedata.category(letter) == "Cf" else escaped(letter)  # Cf: nothing to see


def escaped(letter: str) -> str:
    """The code of a letter as Python writes it."""
    return letter.encode("ascii", "backslashreplace").decode("ascii")


@cache
def font_name_for(letter: str) -> str | None:
    """The first font with a letter; None if there is none."""
    return next((name for name in (OWN, *NAMES) if _has(name, letter)), None)


@cache
def font_named(name: str, size: int) -> Font:
    """One of the installed fonts."""
    return ImageFont.truetype(name, size) if name else ImageFont.load_default(size=size)


@cache
def _probe(name: str) -> Font | None:
    """A font, loaded without fallback; None if it is not installed."""
    try:
        if name:
            return ImageFont.truetype(name, PROBE_PX, layout_engine=ImageFont.Layout.BASIC)
        return ImageFont.load_default(size=PROBE_PX)
    except OSError:
        return None


@cache
def _has(name: str, letter: str) -> bool:
    """Whether a font has a letter, instead of drawing its replacement glyph."""
    picture = _picture(name, letter)
    return picture is not None and picture != _picture(name, NOWHERE)


@cache
def _picture(name: str, letter: str) -> tuple[tuple[int, int], bytes] | None:
    """Size and pixels of a letter; None if the font cannot draw it."""
    font = _probe(name)
    if font is None:
        return None
    try:
        mask: Any = font.getmask(letter)
    except (UnicodeError, OSError):
        return None
    return mask.size, bytes(mask)
