"""A change of low rank to the weight of a layer, the common form of low-rank changes.

    W' = W + scale * up @ down         [o, i] or [o, i, kernel height, kernel width]
    W' x = W x + scale * up (down x)   for layers without spatial extent

Training makes them, LAG and the region fuser apply them to outputs, concept files and LoRA files
hold them. Alphabet: o output, i input channels, r rank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ModelError
from ..host.inference import usable
from ..host.ports import FactoredEdit, WeightEdit


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """scale * up @ down. The factors may be parameters that learn."""

    up: Tensor  # [o, r] float32
    down: Tensor  # [r, i], for convolutions [r, i, kernel height, kernel width]
    scale: float = 1.0  # alpha / r of LoRA files

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What it is made of."""
        return self.up, self.down

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight that it changes."""
        return (self.up.shape[0], *self.down.shape[1:])

    @property
    def is_pointwise(self) -> bool:
        """Whether it changes a linear layer or a 1x1 convolution."""
        return math.prod(self.down.shape[2:]) == 1

    @property
    def factors(self) -> tuple[Tensor, Tensor]:
        """[o, r] with the scale in it, and [r, i]: their product is the change."""
        return self.scale * self.up, self.down.flatten(1)

    def delta(self, shape: Sequence[int]) -> Tensor:
        """The change to a weight of this shape."""
        return shaped(self.scale * (self.up @ self.down.flatten(1)), shape)

    def apply(self, inputs: Tensor, masked: Callable[[Tensor], Tensor] = lambda x: x) -> Tensor:
        """What is added to the output of a pointwise layer for inputs [..., i]: [..., o].

        Args:
            masked: changes the narrow middle [..., r]; a factor of a position does there what it
                does to the result.
        """
        narrow = masked(F.linear(inputs, usable(self.down.flatten(1).to(inputs))))
        return self.scale * F.linear(narrow, usable(self.up.to(inputs)))

    def added_to(self, weight: Tensor) -> Tensor:
        """The weight with the change; the sum is made in float32."""
        delta = self.scale * (self.up @ self.down.flatten(1))
        return (weight + delta.to(weight.device).view_as(weight)).to(weight.dtype)

    def added_to_output(self, inputs: Tensor, output: Tensor) -> Tensor:
        """output + scale * up (down x): x [..., i], or [B, i, h, w] of a 1x1 convolution."""
        inputs = inputs.to(output)
        down, up = self.down.to(inputs), self.up.to(inputs)
        if down.ndim == 4:
            hidden = F.conv2d(inputs, down)
            return output + F.conv2d(hidden, self.scale * up[:, :, None, None])
        hidden = F.linear(inputs, down).flatten(0, -2)
        # Copied: autograd forms a gradient in the order of the factor's memory, and in that
        # in which up is kept the multiplication takes a CPU two to three times as long.
        up = up.t().contiguous()
        merged = torch.addmm(output.flatten(0, -2), hidden, up, alpha=self.scale)
        return merged.view_as(output)

    def as_edit(self) -> WeightEdit:
        """The weight with the change, or, for a pointwise layer, its output."""
        if self.is_pointwise:
            return FactoredEdit(self.added_to, self.added_to_output)
        return self.added_to


def closest_low_rank(delta: Tensor, rank: int) -> tuple[LowRank, float]:
    """The closest change of a rank (Eckart-Young), and its squared Frobenius distance.

    By the eigenvectors of the smaller Gram matrix in float64, which no random number enters. The
    distance is measured on the float32 factors, as they are stored.
    """
    delta = delta.detach()
    matrix = delta.flatten(1).double()  # [o, i]
    tall = matrix.shape[0] > matrix.shape[1]
    small = matrix.T if tall else matrix  # [m, n], m <= n
    rank = min(rank, small.shape[0])
    _, vectors = torch.linalg.eigh(small @ small.T)  # ascending
    basis = vectors[:, -rank:].flip(1)  # [m, r]
    coordinates = basis.T @ small  # [r, n], rows orthogonal, singular values as norms
    balance = coordinates.norm(dim=1).clamp_min(1e-30).sqrt()  # share them out on both factors
    basis, coordinates = basis * balance, coordinates / balance[:, None]
    up, down = (coordinates.T, basis.T) if tall else (basis, coordinates)
    cut = LowRank(
        up.float().contiguous(),
        down.float().reshape(rank, *delta.shape[1:]).contiguous(),
    )
    residue = (cut.delta(delta.shape).double() - delta.double()).square().sum()
    return cut, float(residue)


def shaped(delta: Tensor, shape: Sequence[int]) -> Tensor:
    """A change in the shape of its weight: a 1x1 convolution (SD1) or a linear layer (SD2).

    Raises:
        ModelError: it belongs to another weight.
    """
    expected = tuple(shape)
    if delta.shape[0] != expected[0] or delta[0].numel() != math.prod(expected[1:]):
        raise ModelError(
            f"The concept changes a weight of shape {list(delta.shape)} but the model has "
            f"{list(expected)} there; the concept was trained on another base model."
        )
    return delta.reshape(expected)
