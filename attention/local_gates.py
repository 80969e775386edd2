"""Stacked changes of one layer as a pass multiplies them; kept while nothing about them moves.

    y = W x + b + up (w * (down x))      w: what every position takes of every factor

A small network spends more time on looking things up than on these products, so they are looked up
once for each layer, and every later pass of the same kind only multiplies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host.inference import usable
from .local_layers import convolved, is_convolution
from .local_stacks import FactorStack


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """What a layer adds, for inputs of one shape."""

    down: Tensor
    up: Tensor
    weights: Tensor  # [B, R, N] of a convolution, [B, N or n, R] of other layers
    cells: Tensor | None  # n positions where some LoRA works; None for all
    module: Any
    shapes: tuple[torch.Size, torch.Size]  # of inputs and output
    is_inference: bool  # made in inference mode: of no use to autograd
    lasts: bool  # its factors are the stack's own, so to keep it costs no memory
    on_planes: bool
    is_pointwise: bool  # a convolution that is a product at every position

    def fits(self, inputs: Tensor, output: Tensor) -> bool:
        """Whether it serves another pass; the host may have moved the factors since."""
        return (
            (inputs.shape, output.shape) == self.shapes
            and inputs.dtype is self.down.dtype
            and inputs.device == self.down.device
            and self.is_inference == torch.is_inference_mode_enabled()
        )

    def add(self, inputs: Tensor, output: Tensor) -> Tensor:
        """The layer's output with the changes."""
        rows = len(inputs)
        if self.cells is not None:
            narrow = F.linear(inputs.index_select(1, self.cells), self.down).mul_(self.weights)
            return output.index_add(1, self.cells, F.linear(narrow, self.up))
        if not self.on_planes:
            narrow = F.linear(inputs, self.down).mul_(self.weights)
            return torch.baddbmm(output, narrow, self.up.T.expand(rows, -1, -1))
        if self.is_pointwise:
            narrow = torch.bmm(self.down.flatten(1).expand(rows, -1, -1), inputs.flatten(2))
        else:
            narrow = convolved(self.module, inputs, self.down).flatten(2)
        up = self.up.expand(rows, -1, -1)
        return torch.baddbmm(output.flatten(2), up, narrow.mul_(self.weights)).view_as(output)


def gate_of(
    module: Any, stack: FactorStack, weights: Tensor, cells: Tensor | None, inputs: Tensor,
    output: Tensor,
) -> Gate:  # fmt: skip
    """A gate for inputs like these.

    Args:
        weights: [B, R, N] or [B, N, R], as the layer has its positions; of `cells` alone.
    """
    up, down = usable(stack.up.to(inputs)), usable(stack.down.to(inputs))
    on_planes = is_convolution(module)
    return Gate(
        down, up, weights, cells, module, (inputs.shape, output.shape),
        torch.is_inference_mode_enabled(),
        lasts=up is stack.up and down is stack.down, on_planes=on_planes,
        is_pointwise=on_planes and _is_pointwise(module),
    )  # fmt: skip


def _is_pointwise(module: Any) -> bool:
    sizes = (module.kernel_size, module.stride, module.dilation)
    return all(set(size) == {1} for size in sizes) and set(module.padding) <= {0}
