"""Takes an entry of a LoRA file apart that changes several weights of a base model at once.

A file made for ComfyUI's layer may hold q, k and v in one: their rows lie below each other, so
that a change of the whole is a change of each by its own rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from .concept import Diff
from .lora_forms import Computed, Form, Kronecker, Parts
from .low_rank import LowRank


def apart(form: Form, rows: Sequence[int]) -> list[Form] | None:
    """The change of each weight; None where it cannot be told without the others.

    Args:
        rows: outputs of each weight, in their order.
    """
    if isinstance(form, LowRank):
        return [replace(form, up=up) for up in form.up.split(list(rows))]
    if isinstance(form, Diff):
        return [Diff(part) for part in form.tensor.split(list(rows))]
    if isinstance(form, Kronecker):
        return _kronecker(form, rows)
    return _computed(form, rows)


def _kronecker(form: Kronecker, rows: Sequence[int]) -> list[Form]:
    inner = form.right.shape[0]
    if all(count % inner == 0 for count in rows):
        lefts = form.left.split([count // inner for count in rows])
        return [replace(form, left=left) for left in lefts]
    whole = form.delta((sum(rows), form.left.shape[1] * form.right.shape[1], *form.right.shape[2:]))
    return [Diff(part) for part in whole.split(list(rows))]


# Parts of an entry that have a row for each output; all others serve all of them.
_BY_OUTPUT = {
    "DoRA": ("up", "dora_scale", "hada_w1_a", "hada_w2_a", "diff"),
    "set": ("set_weight",),
}


def _computed(form: Computed, rows: Sequence[int]) -> list[Form] | None:
    by_output = _BY_OUTPUT.get(form.kind)
    scale = form.parts.get("dora_scale")
    is_by_input = scale is not None and scale.shape[0] != sum(rows)  # norms over all outputs
    has_other_form = any(name.startswith("lokr") or name == "hada_t1" for name in form.parts)
    if by_output is None or is_by_input or has_other_form:
        return None
    split: dict[str, Sequence[Tensor]] = {
        name: part.split(list(rows)) if name in by_output else [part] * len(rows)
        for name, part in form.parts.items()
    }
    return [replace(form, parts=_nth(split, number)) for number in range(len(rows))]


def _nth(split: dict[str, Sequence[Tensor]], number: int) -> Parts:
    return {name: torch.as_tensor(parts[number]) for name, parts in split.items()}
