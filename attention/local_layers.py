"""What an entry of a LoRA adds to the output of its layer, without making the changed weight.

    y = W x + M (W' - W) x

The mask M belongs on the grid of the output. Where a change has a narrow middle (low rank) M is
applied there: it is the same number at every channel, so up(M down(x)) = M up(down(x)).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..concepts.changes import Change as Applied
from ..concepts.changes import Diff, Kronecker, LowRank
from ..host.inference import usable

Masked = Callable[[Tensor], Tensor]  # of a tensor on the grid of the layer's output


def unmasked(tensor: Tensor) -> Tensor:
    """A mask of ones."""
    return tensor


def added(form: Applied, module: Any, inputs: Tensor, masked: Masked = unmasked) -> Tensor:
    """What a change of a layer's weight adds to its output.

    Args:
        form: of the layer's weight; on the device of the inputs, or copied there.
        module: a linear layer, a convolution, a norm or an embedding.
        inputs: of the layer, [B, C, h, w] or [B, ..., C]; token ids for an embedding.
        masked: multiplies by the mask; it gets a tensor with as many positions as the output has.
    """
    if isinstance(module, nn.Embedding):
        return masked(F.embedding(inputs, _fit(form.delta(module.weight.shape), module.weight)))
    if isinstance(module, nn.GroupNorm | nn.LayerNorm):
        return masked(_normalised(module, inputs) * _planes(_delta(form, inputs), inputs, module))
    if is_convolution(module):
        return _convolved(form, module, inputs, masked)
    return added_linear(form, inputs, masked)


def added_linear(form: Applied, inputs: Tensor, masked: Masked = unmasked) -> Tensor:
    """The same for the weight of a linear layer, or of a 1x1 convolution whose positions are rows.

    Args:
        inputs: [..., C]
    """
    if isinstance(form, LowRank):
        return form.apply(inputs, masked)
    if isinstance(form, Kronecker):
        left, right = _fit(form.left, inputs), _fit(form.right, inputs)
        return masked(Kronecker(left, right, form.scale).apply(inputs))
    return masked(F.linear(inputs, _fit(form.tensor.flatten(1), inputs)))


def added_bias(form: Diff, module: Any, output: Tensor, masked: Masked = unmasked) -> Tensor:
    """What a change of a layer's bias adds to its output."""
    bias = _fit(form.tensor.flatten(), output)
    return masked(_planes(bias, output, module).expand_as(output))


def is_convolution(module: Any) -> bool:
    """Whether a layer works on [B, C, h, w]; some of ComfyUI's layers are of no class of torch."""
    return hasattr(module, "kernel_size")


def down_of(form: LowRank, module: Any) -> Tensor:
    """The first factor in the shape that its layer takes."""
    if is_convolution(module):
        return form.down.reshape(form.down.shape[0], -1, *module.kernel_size)
    return form.down.flatten(1)


def convolved(module: Any, inputs: Tensor, kernel: Tensor) -> Tensor:
    """A convolution with another kernel than its own, and no bias."""
    return F.conv2d(inputs, kernel, None, module.stride, module.padding, module.dilation)


def _convolved(form: Applied, module: Any, inputs: Tensor, masked: Masked) -> Tensor:
    if isinstance(form, LowRank):
        narrow = masked(convolved(module, inputs, _fit(down_of(form, module), inputs)))
        return form.scale * F.conv2d(narrow, _fit(form.up, inputs)[:, :, None, None])
    if isinstance(form, Kronecker):
        left, right = _fit(form.left, inputs), _fit(form.right, inputs)
        kernel = right.reshape(right.shape[0], -1, *module.kernel_size)
        parts = inputs.unflatten(1, (left.shape[1], kernel.shape[1]))
        mixed = convolved(module, parts.flatten(0, 1), kernel).unflatten(0, parts.shape[:2])
        return masked(form.scale * torch.einsum("nbchw,ab->nachw", mixed, left).flatten(1, 2))
    kernel = _fit(form.tensor, inputs)
    return masked(
        convolved(module, inputs, kernel.reshape(kernel.shape[0], -1, *module.kernel_size))
    )


def _normalised(module: Any, inputs: Tensor) -> Tensor:
    """What a norm gives before its own weight and bias."""
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(inputs, module.num_groups, eps=module.eps)
    return F.layer_norm(inputs, module.normalized_shape, eps=module.eps)


def _delta(form: Applied, like: Tensor) -> Tensor:
    return _fit(form.tensor.flatten() if isinstance(form, Diff) else form.delta((-1,)), like)


def _planes(channels: Tensor, like: Tensor, module: Any) -> Tensor:
    """One number for each channel, ready to be spread over the positions."""
    on_planes = is_convolution(module) or isinstance(module, nn.GroupNorm)
    return channels.view(-1, *[1] * (like.ndim - 2)) if on_planes else channels


def _fit(tensor: Tensor, like: Tensor) -> Tensor:
    return usable(tensor.to(like))
