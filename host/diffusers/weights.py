"""Computes with edited weights without modifying the model.

torch's own parametrizations do it: a weight is computed from its original on every use, so
gradients reach whatever the edit depends on, also when checkpointing recomputes a block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from ..hooks import checkpoint_contexts, residuals_installed
from ..ports import FactoredEdit, WeightEdit


class _Edited(nn.Module):
    def __init__(self, edit: WeightEdit) -> None:
        super().__init__()
        self._edit = edit

    def forward(self, original: Tensor) -> Tensor:
        return self._edit(original)


@contextmanager
def edited_weights(
    modules: Mapping[str, tuple[nn.Module, str]],
    weights: Mapping[str, WeightEdit],
    *,
    trainable: bool,
) -> Iterator[None]:
    """Parametrize `modules[name]`, a module and "weight" or "bias", for every edit; undo it.

    May be entered again on the same weights: the later edit gets what the earlier one gives. While
    they learn, factored edits are added to what their layers give.
    """
    factored = {n: e for n, e in weights.items() if trainable and isinstance(e, FactoredEdit)}
    installed: list[tuple[nn.Module, str, list[str]]] = []
    with ExitStack() as stack:
        stack.enter_context(
            residuals_installed(
                (modules[name][0], edit.residual) for name, edit in factored.items()
            )
        )
        stack.callback(_take_all_off, installed)
        for name, edit in weights.items():
            if name in factored:
                continue
            module, attribute = modules[name]
            if not trainable:
                with torch.no_grad():
                    edit = _constant(edit(getattr(module, attribute).detach()))
            order = [name for name, _ in module.named_parameters(recurse=False)]
            parametrize.register_parametrization(module, attribute, _Edited(edit), unsafe=True)
            installed.append((module, attribute, order))
        yield


def _take_all_off(installed: Sequence[tuple[nn.Module, str, list[str]]]) -> None:
    for module, attribute, order in reversed(installed):
        _take_off(module, attribute, order)


def _take_off(module: Any, attribute: str, order: Sequence[str]) -> None:
    """Remove the newest edit of a weight, and leave the module's parameters in their order."""
    edits = module.parametrizations[attribute]
    if len(edits) > 1:
        del edits[len(edits) - 1]
        return
    parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
    for name in order:  # torch puts the original back, but behind all others
        if name in module._parameters:
            module._parameters[name] = module._parameters.pop(name)


def _constant(value: Tensor) -> WeightEdit:
    return lambda original: value.to(original)  # which may have been offloaded, or cast


@contextmanager
def frozen(*modules: nn.Module) -> Iterator[None]:
    """No parameter of these modules asks for gradients; afterwards each flag is as before."""
    flags = [(p, p.requires_grad) for module in modules for p in module.parameters()]
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


@contextmanager
def checkpointed(unet: Any) -> Iterator[None]:
    """Recompute the UNet's blocks in the backward pass instead of keeping their activations."""
    blocks = [block for block in unet.modules() if hasattr(block, "gradient_checkpointing")]
    before = [
        (block.gradient_checkpointing, getattr(block, "_gradient_checkpointing_func", None))
        for block in blocks
    ]
    recomputing = partial(checkpoint, use_reentrant=False, context_fn=checkpoint_contexts)
    try:
        unet.enable_gradient_checkpointing(recomputing)
        yield
    finally:
        for block, (flag, function) in zip(blocks, before, strict=True):
            block.gradient_checkpointing = flag
            block._gradient_checkpointing_func = function
