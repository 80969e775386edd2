"""Names of any script under pictures: their letters, or their codes, and never boxes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from PIL import ImageFont

from conceptloom.viz import fonts
from conceptloom.viz.drawing import Canvas, text_width

NAMES = {
    "Korean": "\ub0b4\ucef5",
    "Chinese": "\u676f\u5b50",
    "Japanese": "\u30ab\u30c3\u30d7",
    "Hindi": "\u0915\u093f\u0924\u093e\u092c",
    "Russian": "\u0447\u0430\u0448\u043a\u0430",
    "French": "tass\u00e9",
    "private": "\ue000\U000f0000",
}


@pytest.fixture
def no_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A system without any font but Pillow's."""
    for cached in (fonts.font_name_for, fonts._probe, fonts._picture, fonts._has):
        cached.cache_clear()
    real = ImageFont.truetype

    def absent(font: object = None, *args: object, **more: object) -> object:
        if isinstance(font, str):
            raise OSError("cannot open resource")
        return real(font, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(ImageFont, "truetype", absent)
    yield
    for cached in (fonts.font_name_for, fonts._probe, fonts._picture, fonts._has):
        cached.cache_clear()


def drawn(text: str) -> torch.Tensor:
    canvas = Canvas(200, 20)
    canvas.text((2, 10), text, 12)
    return canvas.tensor()


def box_of(font: fonts.Font) -> bytes:
    return bytes(font.getmask(fonts.NOWHERE))  # type: ignore[call-overload]


@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_no_letter_is_a_box(name: str) -> None:
    for piece, font in fonts.runs(f"a <{name}>", 24):
        for letter in piece.replace(" ", ""):
            assert bytes(font.getmask(letter)) != box_of(font)  # type: ignore[call-overload]


@pytest.mark.usefixtures("no_fonts")
@pytest.mark.parametrize("name", NAMES.values(), ids=list(NAMES))
def test_without_a_font_letters_are_written_as_codes(name: str) -> None:
    text = f"a <{name}>"
    assert "".join(piece for piece, _ in fonts.runs(text, 24)) == fonts.escaped(text)
    assert fonts.escaped(name).isascii()
    assert torch.equal(drawn(text), drawn(fonts.escaped(text)))


def test_plain_text_is_one_piece_in_pillows_own_font() -> None:
    text = "a photo of <my-mug>, 20 steps"
    ((piece, font),) = fonts.runs(text, 24)
    assert piece == text
    own = ImageFont.load_default(size=24)
    assert font.getname() == own.getname()  # type: ignore[union-attr]
    assert text_width(text, 12) == own.getlength(text) / 2


def test_wide_spaces_are_spaces_and_marks_stay_with_their_letters() -> None:
    assert [piece for piece, _ in fonts.runs("a\u3000b", 24)] == ["a b"]
    pieces = [piece for piece, _ in fonts.runs("e\u0301a", 24)]
    assert pieces in (["e\u0301a"], ["e\\u0301a"])
