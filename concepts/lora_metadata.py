"""Trigger words and picture of a LoRA: in the metadata of its file, or in a picture beside it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import logging
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from .concept_file import THUMBNAIL_PX

MOST_TAGS = 12
LONGEST = 400  # characters of a phrase; a trigger is far shorter


@dataclass(frozen=True, slots=True)
class LoraWords:
    """Words in a file's metadata.

    Attributes:
        trigger: the trigger phrase; "" if there is none.
        tags: tags of its training captions, the most frequent first.
        title: its title; "" if there is none.
    """

    trigger: str = ""
    tags: tuple[str, ...] = ()
    title: str = ""

    @property
    def proposal(self) -> str:
        """The trigger phrase and behind it the most frequent tags, each once, with commas."""
        said = [part.strip() for part in self.trigger.split(",")]
        return ", ".join(dict.fromkeys(word for word in (*said, *self.tags) if word))


def words_of(metadata: Mapping[str, str]) -> LoraWords:
    """Trigger phrase, tags and title, each at most 400 characters that can be shown in one line.

    Damaged metadata is ignored.
    """
    trigger = _first(
        metadata, "modelspec.trigger_phrase", "trigger_words", "ss_trigger_words", "activation text"
    )
    title = _first(metadata, "modelspec.title", "ss_output_name", "name")
    return LoraWords(trigger, _tags(metadata.get("ss_tag_frequency", "")), title)


def _first(metadata: Mapping[str, str], *keys: str) -> str:
    for key in keys:
        value = metadata.get(key)
        phrase = _phrase(value) if isinstance(value, str) else ""
        if phrase and phrase.lower() != "none":
            return phrase
    return ""


def _phrase(text: str) -> str:
    """One line of printable characters: files are written by anybody."""
    start = text[: 4 * LONGEST]
    shown = "".join(letter if letter.isprintable() else " " for letter in start)
    return " ".join(shown.split())[:LONGEST].strip()


def _tags(text: str) -> tuple[str, ...]:
    """Of kohya's count: folder of pictures -> tag -> number."""
    try:
        folders: Any = json.loads(text) if text else {}
    except (ValueError, RecursionError):
        return ()
    counted: Counter[str] = Counter()
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, number in tags.items() if isinstance(tags, dict) else ():
            is_count = isinstance(number, int) or (
                isinstance(number, float) and math.isfinite(number)
            )
            if is_count and (said := _phrase(tag)):
                counted[said] += int(number)
    return tuple(tag for tag, _ in counted.most_common(MOST_TAGS))


log = logging.getLogger("conceptloom")

ENDINGS = (".preview.png", ".preview.jpeg", ".preview.jpg", ".png", ".jpeg", ".jpg", ".webp")
_BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
LARGEST = 64 * 1024**2  # bytes of a picture that is looked at


def picture_of(path: Path, metadata: Mapping[str, str]) -> Tensor | None:
    """[H, W, 3], 0..1, at most 256 px; None where there is none that can be read."""
    _, comma, text = metadata.get("modelspec.thumbnail", "").partition("base64,")
    if comma and len(text) < LARGEST:
        try:
            return from_picture(base64.b64decode(text, validate=True))
        except (ValueError, binascii.Error) as error:
            log.warning("The picture in the metadata of %s is left out: %s.", path.name, error)
    for beside in (path.with_name(path.stem + ending) for ending in ENDINGS):
        try:
            if beside.is_file() and beside.stat().st_size < LARGEST:
                return from_picture(beside.read_bytes())
        except (OSError, ValueError) as error:
            log.warning("%s is left out: %s.", beside.name, error)
    return None


def from_picture(data: bytes) -> Tensor:
    """[H, W, 3], 0..1, at most 256 px, from a PNG, JPEG or WebP file.

    Raises:
        ValueError: it is no such picture.
    """
    try:
        with Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"]) as picture:
            small = picture.convert("RGB")
            small.thumbnail((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
            pixels, (width, height) = bytearray(small.tobytes()), small.size
    except (OSError, SyntaxError, ValueError, *_BOMBS) as error:
        raise ValueError("it is no picture that can be read") from error
    return torch.frombuffer(pixels, dtype=torch.uint8).reshape(height, width, 3).float() / 255
