"""Masks with unusual values: faint masks, label pictures, empty masks.

Some files store masks as 0 and 1 of 255, as class numbers, or in a dark colour. Without
conversion, the masked loss would shrink with their square, and an edit would change almost nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import MaskError

FAINT = 0.6  # largest value below which a mask to learn from is stretched: 128 of 255 is below
BARELY = 0.1  # the same for edits and regions, where grey mixes on purpose
NOTHING = 0.5 / 255  # largest value of what is black in a file of 8 bits
UNPAINTED_PX = 64  # side of the black mask that Load Image gives where none was painted
MOST_CLASSES = 160  # of a label picture; more values are a picture of something
CLASS_SHARE = 0.01  # of what is not black; smaller flecks are no class
FLAT_SHARE = 0.5  # of a class's pixels with equal neighbours to the right and below
JUMP_SHARE = 1 / 3  # of all borders; soft masks climb from value to value instead


def full_strength(mask: Tensor, name: str, faint: float = FAINT) -> tuple[Tensor, str]:
    """The mask scaled to a maximum of 1, and a note about it ("" if unchanged).

    Args:
        mask: [H, W], 0..1.
        name: of the mask in messages, such as "the mask of <my-mug>".
        faint: maximum below which a mask is scaled.

    Raises:
        MaskError: it is a label picture of several classes.
    """
    largest = float(mask.max())
    if largest >= faint or largest < NOTHING:
        return (mask if largest >= NOTHING else torch.zeros_like(mask)), ""
    shares = class_shares(mask)
    if len(shares) > 1:
        raise MaskError(classes_message(name, shares))
    remark = f"reaches only {largest:.3f} ({round(255 * largest)} of 255); it is stretched to 1"
    return mask / largest, remark


def class_shares(mask: Tensor) -> dict[int, float]:
    """Class of a label picture -> its share of the picture; empty if it is none.

    A label picture has multiples of 1/255 in flat areas with sharp borders.

    Args:
        mask: [H, W], 0..1.
    """
    steps = mask.detach().float().cpu() * 255
    if float((steps - steps.round()).abs().max()) > 0.01:
        return {}
    return label_shares(steps.round().long())


def label_shares(labels: Tensor) -> dict[int, float]:
    """Class -> its share of the picture, 0 left out; empty if the numbers are not classes.

    Args:
        labels: [H, W], whole numbers.
    """
    values, counts = labels[labels > 0].unique(return_counts=True)
    if not 0 < len(values) <= MOST_CLASSES:
        return {}
    across, down = labels.diff(dim=1).abs(), labels.diff(dim=0).abs()
    borders = int((across > 0).sum() + (down > 0).sum())
    jumps = int((across > 1).sum() + (down > 1).sum())
    if len(values) > 2 and jumps < JUMP_SHARE * borders:
        return {}
    is_flat = (across[:-1] == 0) & (down[:, :-1] == 0)
    shares = {}
    for value, n in zip(values.tolist(), counts.tolist(), strict=True):
        flat = int((is_flat & (labels[:-1, :-1] == value)).sum())
        if n >= CLASS_SHARE * int(counts.sum()) and flat >= FLAT_SHARE * n:
            shares[value] = n / labels.numel()
    return shares


def classes_message(name: str, shares: Mapping[int, float]) -> str:
    """Error message: which class of a label picture to use."""
    most = sorted(shares, key=lambda value: -shares[value])[:6]
    named = ", ".join(f"{value} ({100 * shares[value]:.1f} %)" for value in sorted(most))
    more = f" and {len(shares) - 6} more" if len(shares) > 6 else ""
    first = most[0]
    return (
        f"{name} is a label picture with {len(shares)} classes: {named}{more}. Select one: on the "
        f"command line write FILE#{first}, in ComfyUI set Convert Image Color to Mask to the "
        f"color {first * 65793} (class {first})."
    )


def emptiness(mask: Tensor) -> str:
    """Why a mask of zeros is empty, and what to do: the end of a sentence.

    Args:
        mask: [..., H, W] as it came in.
    """
    if tuple(mask.shape[-2:]) == (UNPAINTED_PX, UNPAINTED_PX):
        return (
            "nothing is painted. Load Image outputs an empty mask of 64x64 px until you paint "
            "one: right-click its picture, choose Open in MaskEditor, paint, and save."
        )
    return "nothing is painted. Paint the concept white."
