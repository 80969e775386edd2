"""Checks the inputs of every node before its `execute`.

ComfyUI validates only values typed into widgets. Values through links (a number from a
calculator, a picture of NaN, a missing CLIP of a checkpoint without one) arrive unchecked; this
module checks them for all nodes, so that none reaches torch.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import ConfigError, ImageError, InputError, MaskError, ModelError

LOADED = {"MODEL", "CLIP", "VAE"}
LARGEST_SEED = 2**64 - 1  # of the host's own samplers: one seed may serve them and us
# Lists of files change while ComfyUI runs: these nodes look at the folders themselves.
FILES = {"concept_name", "prior", "decoder", "model_folder", "detector", "segmenter"}


def with_checked_inputs(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node with the checks before its `execute`; idempotent."""
    original = cast(Any, node.execute).__func__
    if getattr(original, "checks_inputs", False):
        return node

    @functools.wraps(original)
    def execute(cls: Any, *args: Any, **values: Any) -> Any:
        check_inputs(node.define_schema().inputs, values)
        return original(cls, *args, **values)

    cast(Any, execute).checks_inputs = True
    cast(Any, node).execute = classmethod(execute)
    return node


def check_inputs(inputs: Iterable[io.Input], values: Mapping[str, Any]) -> None:
    """Check every input value.

    Raises:
        ConfigError: a number is out of range, or a word is not one of the choices.
        ImageError, MaskError, InputError: a picture, mask or latent is unusable.
        ModelError: a connected MODEL, CLIP or VAE is missing.
    """
    for one in inputs:
        if one.id not in values:
            continue
        value = values[one.id]
        if isinstance(one, io.Autogrow.Input):
            grown = cast(Any, one).template.input
            for name, part in value.items():
                _check(name, grown, part)
        elif isinstance(one, io.DynamicCombo.Input):
            for option in one.options:
                if option.key == value[one.id]:
                    check_inputs(option.inputs, value)
        else:
            _check(one.id, one, value)


def _check(name: str, one: Any, value: Any) -> None:
    if value is None and one.optional:
        return
    kind = one.get_io_type()
    if isinstance(one, io.Combo.Input):
        _check_choice(name, one, value)
    elif isinstance(one, (io.Int.Input, io.Float.Input)):
        _check_number(name, one, value)
    elif isinstance(one, io.String.Input):
        _check_text(name, value)
    elif value is None:
        _raise_missing(name, kind)
    elif kind == "IMAGE":
        _check_tensor(name, value, ImageError, "an IMAGE is pictures x height x width x 3")
    elif kind == "MASK":
        _check_tensor(name, value, MaskError, "a MASK is masks x height x width")
        if value.ndim not in (2, 3):
            raise MaskError(
                f"{name} has the shape {list(value.shape)}; a MASK is masks x height x width. "
                "Connect a node that makes masks."
            )
    elif kind == "CONDITIONING":
        _check_conditioning(name, value)
    elif kind == "LATENT":
        _check_tensor(name, value["samples"], InputError, "a LATENT holds batch x channels x h x w")


def _check_conditioning(name: str, value: Any) -> None:
    if not value:
        raise InputError(f"{name} contains no prompt; connect a node that encodes one.")
    for context, *_ in value:
        _check_tensor(name, context, InputError, "a prompt is batch x tokens x width")


def _check_choice(name: str, one: Any, value: Any) -> None:
    if name not in FILES and value not in one.options:
        raise ConfigError(name, value, f"one of {', '.join(map(str, one.options))}")


def _check_number(name: str, one: Any, value: Any) -> None:
    least, most = one.min, LARGEST_SEED if name.endswith("seed") else one.max
    is_whole = isinstance(one, io.Int.Input)
    if (is_whole and isinstance(value, float)) or not math.isfinite(value):
        raise ConfigError(name, value, "a whole number" if is_whole else "a number")
    if (least is not None and value < least) or (most is not None and value > most):
        raise ConfigError(name, value, f"from {least} to {most}")


def _check_text(name: str, value: Any) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ConfigError(name, value, "text; this contains half of a character") from None


def _raise_missing(name: str, kind: str) -> None:
    if kind in LOADED:
        raise ModelError(
            f"The input {name} received no {kind}: the connected loader's file contains none. "
            f"Connect the {kind} of a checkpoint that has one."
        )
    raise InputError(f"The input {name} is empty; connect a node that outputs a {kind}.")


def _check_tensor(name: str, value: Tensor, error: type[InputError], layout: str) -> None:
    if not value.numel():
        raise error(
            f"{name} is empty: its shape is {list(value.shape)}, and {layout}. Check the node "
            "that made it."
        )
    if value.is_floating_point() and not torch.isfinite(value).all():
        raise error(f"{name} contains NaN or infinite values; check the node that made it.")
