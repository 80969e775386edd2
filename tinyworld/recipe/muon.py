"""Muon: momentum whose update is made orthogonal, for the matrices of a network.

Source: K. Jordan et al., "Muon: an optimizer for hidden layers" (2024); the step size follows
Liu et al., arXiv 2502.16982, section 2.2: an update's root mean square is 0.2, that of AdamW,
so both share one learning rate. A convolution counts as a matrix [out, in * k * k].
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

QUINTIC = (3.4445, -4.7750, 2.0315)  # coefficients of the Newton-Schulz iteration
ITERATIONS = 5
UPDATE_RMS = 0.2
# Pieces of the names of input and output layers, of tables and of learned tokens.
OUTER = (
    *("conv_in.", "conv_out.", "embedding"),
    *("patch_embed.", "transformer.proj_out.", "x_embedder.", "final_layer."),
    *("embed_tokens.", "adapter.embed.", "pad_token"),
)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon should move it: hidden weights, but no table, input or output layer."""
    return parameter.ndim >= 2 and not any(part in name for part in OUTER)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrices with singular values near 1; [N, rows, columns], any scale."""
    a, b, c = QUINTIC
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    if x.shape[2] < 4 * x.shape[1]:
        x = x.bfloat16()
        for _ in range(ITERATIONS):
            gram = x @ x.mT
            x = torch.baddbmm(x, b * gram + c * gram @ gram, x, beta=a)
    else:  # long: iterate on G = X X^T alone; X' = P X, so G' = P G P. Squares need float32
        gram = x @ x.mT
        eye = torch.eye(gram.shape[-1], device=gram.device)
        total = eye
        for _ in range(ITERATIONS):
            step = a * eye + b * gram + c * (gram @ gram)
            total = step @ total
            gram = step @ gram @ step
        x = total @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum with orthogonal updates and decoupled weight decay."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[tuple[nn.Parameter, Tensor]]] = defaultdict(list)
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["momentum"] = torch.zeros_like(p)
                velocity = state["momentum"].mul_(group["momentum"]).add_(p.grad)
                ahead = p.grad.add(velocity, alpha=group["momentum"]).flatten(1)
                by_shape[(ahead.shape[0], ahead.shape[1])].append((p, ahead))
            for (rows, columns), members in by_shape.items():
                updates = orthogonal(torch.stack([ahead for _, ahead in members]))
                size = group["lr"] * UPDATE_RMS * max(rows, columns) ** 0.5
                for (p, _), update in zip(members, updates, strict=True):
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    p.add_(update.view_as(p), alpha=-size)
