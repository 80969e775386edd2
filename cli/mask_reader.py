"""Masks from files: grey or coloured pictures, and label pictures with a class in every pixel.

`FILE#3` names a class of a label picture, `FILE#ff0000` a colour of a painted one.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import MaskError
from ..scenes.mask_strength import FAINT, classes_message, label_shares
from .picture_reader import opened, planes_of, refused_as

log = logging.getLogger("conceptloom")

VOID = 255  # of palette pictures as Pascal VOC has them: the border between objects
MOST_COLOURS = 32  # of a painted label picture
_CHOICE = re.compile(r"(.+)#([0-9]{1,5}|[0-9a-fA-F]{6})")


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask: [H, W], 0..1, and how its values were converted, "" if they were not."""

    mask: Tensor
    remark: str = ""


def read_mask(path: Path) -> Tensor:
    """[H, W], 0..1: white belongs to the concept; in a picture with transparency, the opaque part.

    Raises:
        MaskError: the file does not exist, is not a picture, or contains several classes.
    """
    read = mask_of(path)
    if read.remark:
        log.warning("%s %s.", path, read.remark)
    return read.mask


def mask_of(path: Path) -> MaskFile:
    """The same, but returns the remark instead of logging it."""
    file, choice = mask_file(path)
    picture = opened(file, MaskError, "mask")
    with refused_as(MaskError, file, "mask"):
        colour, opacity = planes_of(picture)
    if choice:
        return MaskFile(_of_class(file, picture, colour, choice))
    if opacity.min() < 1:
        return _grey(opacity)
    if picture.mode.startswith("I"):
        return _of_numbers(file, picture, colour)
    if (colour == colour[..., :1]).all():
        return _grey(colour)
    return _of_palette(file, picture) if _is_labels(picture) else _of_colours(file, colour)


def mask_file(path: Path) -> tuple[Path, str]:
    """The file of a mask, and the class or colour after its #."""
    chosen = None if path.is_file() else _CHOICE.fullmatch(path.name)
    return (path.with_name(chosen[1]), chosen[2].lower()) if chosen else (path, "")


def _of_numbers(file: Path, picture: Image.Image, colour: np.ndarray) -> MaskFile:
    """16 or 32 bits: shades of grey, or numbers of classes or instances."""
    labels = torch.from_numpy(np.asarray(picture).astype(np.int64))
    is_dark = float(labels.max()) < FAINT * 65535
    return _only_class(file, labels) if is_dark and label_shares(labels) else _grey(colour)


def _is_labels(picture: Image.Image) -> bool:
    """Whether its palette names classes: their first entry is the background, black."""
    return picture.mode == "P" and (picture.getpalette() or [255])[:3] == [0, 0, 0]


def _of_palette(file: Path, picture: Image.Image) -> MaskFile:
    labels = torch.from_numpy(np.asarray(picture).astype(np.int64))
    labels = torch.where(labels == VOID, 0, labels)
    if not label_shares(labels):
        raise MaskError(
            f"{file} has many colours and is not a mask; paint a mask in white on black."
        )
    return _only_class(file, labels)


def _only_class(file: Path, labels: Tensor) -> MaskFile:
    shares = label_shares(labels)
    if len(shares) > 1:
        raise MaskError(classes_message(str(file), shares))
    (label,) = shares
    return MaskFile(
        (labels == label).float(), f"is a label picture; its class {label} becomes the mask"
    )


def _grey(colour: np.ndarray) -> MaskFile:
    return MaskFile(torch.from_numpy(np.ascontiguousarray(colour[..., 0])))


def _of_colours(file: Path, colour: np.ndarray) -> MaskFile:
    codes = _codes(colour)
    values, places = np.unique(codes, return_inverse=True)
    brightest = MaskFile(
        torch.from_numpy(colour.max(axis=-1) / colour.max()),
        "is painted in colour; the brightest of red, green and blue becomes the mask",
    )
    if len(values) > MOST_COLOURS:
        return brightest
    # numbered with gaps, so that every border of two colours jumps; black is 0
    numbers = np.where(values == 0, 0, 2 * np.arange(len(values)) + 2)
    labels = torch.from_numpy(numbers[places.reshape(codes.shape)])
    shares = label_shares(labels)
    if len(shares) < 2:
        return brightest
    hexes = [f"{values[number // 2 - 1]:06x} ({100 * s:.1f} %)" for number, s in shares.items()]
    raise MaskError(
        f"{file} is a label picture with {len(shares)} colours: {', '.join(hexes[:6])}. Select "
        f"one: write {file.name}#{hexes[0][:6]}."
    )


def _of_class(file: Path, picture: Image.Image, colour: np.ndarray, choice: str) -> Tensor:
    """1 where a picture has this class, or this colour."""
    values = np.asarray(picture)
    if values.ndim == 2 and len(choice) < 6:
        mask = values == int(choice)
    else:
        label = int(choice, 16) if len(choice) == 6 else int(choice) * 0x010101
        mask = _codes(colour) == label
    if not mask.any():
        raise MaskError(
            f"{file} has no pixel of {choice}; without #{choice} the error lists its classes."
        )
    return torch.from_numpy(mask).float()


def _codes(colour: np.ndarray) -> np.ndarray:
    """0xRRGGBB of colours [H, W, 3], 0..1."""
    red, green, blue = (colour * 255).round().astype(np.int64).transpose(2, 0, 1)
    return (red << 16) + (green << 8) + blue
