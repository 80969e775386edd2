"""What a concept or a LoRA adds to one weight, in the cheapest exact form.

    LowRank     scale * up @ down           most LoRAs, and what is trained here
    Kronecker   scale * kron(left, right)   LoKr
    Diff        the whole difference        everything else, and biases

Each has `tensors`, which it is made of, and `delta(shape)`, the change itself.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .low_rank import LowRank as LowRank
from .low_rank import shaped


@dataclass(frozen=True, slots=True, eq=False)
class Diff:
    """The whole difference to a weight or bias."""

    tensor: Tensor  # shape of the weight, float32

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it is made of."""
        return (self.tensor,)

    def delta(self, shape: Sequence[int]) -> Tensor:
        """The change to a weight of this shape."""
        return shaped(self.tensor, shape)


@dataclass(frozen=True, slots=True, eq=False)
class Kronecker:
    """scale * kron(left, right): an [a c, b d, ...] change of an [a, b] and a [c, d, ...] one."""

    left: Tensor  # [a, b]
    right: Tensor  # [c, d], for convolutions [c, d, kernel height, kernel width]
    scale: float = 1.0

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it is made of."""
        return (self.left, self.right)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        (a, b), (c, d, *kernel) = self.left.shape, self.right.shape
        return (a * c, b * d, *kernel)

    def delta(self, shape: Sequence[int]) -> Tensor:
        """The change to a weight of this shape."""
        left = self.left[(...,) + (None,) * (self.right.ndim - 2)]
        return shaped(self.scale * torch.kron(left, self.right), shape)

    def apply(self, inputs: Tensor) -> Tensor:
        """What is added to the output of a linear layer for inputs [..., b d]: [..., a c]."""
        right = self.right.flatten(1)
        parts = inputs.unflatten(-1, (self.left.shape[1], right.shape[1]))
        mixed = torch.einsum("...bd,cd->...bc", parts, right)
        return self.scale * torch.einsum("...bc,ab->...ac", mixed, self.left).flatten(-2)


Change = Diff | LowRank | Kronecker


def scale_of(change: Change) -> float:
    """The number that a change is multiplied with."""
    return 1.0 if isinstance(change, Diff) else change.scale


def count_of(change: Change) -> int:
    """Numbers that a change holds."""
    return sum(math.prod(tensor.shape) for tensor in change.tensors)
