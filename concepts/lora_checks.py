"""Checks of an entry of a LoRA file before any arithmetic: files come from anywhere.

Shapes are checked by the arithmetic itself, on tensors without data, so that a file of some
kilobytes cannot ask for terabytes: two long and thin factors have a huge product.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import BaseMismatchError, ConceptFileError, ModelError
from .concept import Diff
from .lora_dense import difference_of
from .lora_forms import Computed, Form, Kronecker, Parts, form_of

Shape = tuple[int, ...]

_WIDEST = 1024  # rank that the core of a Tucker or CP decomposition may have on any weight
_CORES = ("mid", "hada_t1", "hada_t2", "lokr_t2")


def check_entry(name: str, parts: Parts, shape: Shape, what: str) -> None:
    """Check that the parts of an entry make up a change of a weight.

    Args:
        name: of the weight.
        parts: by their names in `lora_forms`.
        shape: of the weight in the base model.
        what: the file, for messages.

    Raises:
        BaseMismatchError: the change belongs to a weight of another shape.
        ConceptFileError: the parts do not fit each other, or hold NaN or infinite numbers.
    """
    if shape == () or any(not _is_sound(part) for part in parts.values()):
        raise ConceptFileError(
            f"{what} holds NaN, infinite or complex numbers, or none at all, at {name}; the file "
            "is damaged, download it again."
        )
    bare = {n: torch.empty(p.shape, device="meta") for n, p in parts.items() if n != "alpha"}
    try:
        if "alpha" in parts and parts["alpha"].numel() != 1:
            raise ValueError("alpha is one number")
        if any(max(bare[core].shape[:2]) > max(_WIDEST, *shape) for core in _CORES if core in bare):
            raise ValueError("a core is wider than the weight")
        _compute(name, bare, shape, what)
    except BaseMismatchError:
        raise
    except (RuntimeError, LookupError, ValueError, TypeError, ModelError) as error:
        raise ConceptFileError(
            f"{what} holds tensors at {name} that make up no change of a weight of "
            f"{_shown(shape)}: {shortened(_listed(parts), 300)}. The file is damaged, or was made "
            "for another kind of base model; download it again, or load that base model."
        ) from error


def _compute(name: str, bare: Parts, shape: Shape, what: str) -> None:
    """The arithmetic of an entry on tensors without data."""
    known = form_of(bare)
    if known is None:
        raise ValueError("no known kind")
    form = known[1]
    if isinstance(form, Computed):
        difference_of(bare, torch.empty(shape, device="meta"), 1.0).view(shape)
    else:
        check_fits(name, form, shape, what)
        form.delta(shape)


def check_fits(name: str, form: Form, shape: Shape, what: str) -> None:
    """Check that a change has as many rows and numbers as its weight.

    Raises:
        BaseMismatchError: it does not.
    """
    if isinstance(form, Kronecker):
        (a, b), (c, d, *kernel) = form.left.shape, form.right.shape
        size, rows = a * b * c * d * math.prod(kernel), a * c
    elif isinstance(form, Diff):
        size, rows = form.tensor.numel(), form.tensor.shape[0] if form.tensor.ndim else 1
    elif isinstance(form, Computed):
        return
    else:
        size, rows = form.up.shape[0] * form.down[0].numel(), form.up.shape[0]
    if rows != shape[0] or size != math.prod(shape):
        raise BaseMismatchError(
            f"{what} changes {name} in {rows} outputs and {size} values, and this base model has "
            f"{_shown(shape)} there; it was made for another kind of base model."
        )


def shortened(text: str, most: int = 80) -> str:
    """A text of a file for a message: one line, printable, not long."""
    start = text[: most + 1]
    shown = "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in start
    )
    return shown if len(start) <= most else f"{shown[:most]}..."


def _is_sound(tensor: Tensor) -> bool:
    """Whether it holds numbers, all of them finite."""
    if tensor.is_complex() or not tensor.numel():
        return False
    return not tensor.is_floating_point() or bool(tensor.float().isfinite().all())


def _listed(parts: Parts) -> str:
    return ", ".join(f"{name} {_shown(tuple(part.shape))}" for name, part in sorted(parts.items()))


def _shown(shape: Shape) -> str:
    return "x".join(map(str, shape)) or "one number"
