"""Trainable weights: which ones a scope covers, and how each of them learns.

Masters are float32 whatever precision the model computes in. An adapter never touches the model:
it offers an edit, original weight -> weight to compute with, and the host puts that in place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from ..concepts.concept import Change, Diff
from ..concepts.handles import generator_for
from ..concepts.low_rank import LowRank
from ..errors import ConfigError, ModelError
from ..host.ports import Host, Role, WeightEdit
from ..host.roles import is_matrix, roles_of


class Scope(str, Enum):
    """What learns besides the handles."""

    HANDLES = "handles"  # nothing
    CROSS_ATTENTION_KV = "cross-attention K/V"  # Custom Diffusion, Concept Weaver
    CROSS_ATTENTION = "cross-attention"  # q, k, v and output of the same layers (CLiC)
    PROJ_OUT = "proj_out"  # low-rank residuals on every output projection
    LOW_RANK = "low-rank"  # low-rank on all linear layers of transformers and text encoders
    FULL = "full"  # every weight of UNet and text encoders (Break-A-Scene)


_ROLES = {
    Scope.CROSS_ATTENTION_KV: Role.CROSS_KV,
    Scope.CROSS_ATTENTION: Role.ATTENTION,
    Scope.PROJ_OUT: Role.PROJ_OUT,
    Scope.LOW_RANK: Role.LINEAR,
}
LOW_RANK_SCOPES = (Scope.LOW_RANK, Scope.PROJ_OUT)


def scope_weight_names(weight_names: Iterable[str], scope: Scope) -> list[str]:
    """Canonical names that a scope covers, in the given order."""
    if scope is Scope.HANDLES:
        return []
    role = _ROLES.get(scope)
    names = [n for n in weight_names if role is None or role in roles_of(n)]
    return [n for n in names if is_matrix(n)] if scope in LOW_RANK_SCOPES else names


class Start(str, Enum):
    """How low-rank factors begin. All but the last leave the model exactly as it was."""

    KAIMING = "kaiming"  # down uniform in +-1/sqrt(in), up zero: LoRA's reference code
    GAUSSIAN = "gaussian"  # down normal with standard deviation 1/r, up zero: diffusers
    BOTH_RANDOM = "both random"  # up normal too, 1e-3 (Personalized Residuals: "randomly")


class FullWeight:
    """A whole weight that learns, started from its original.

    Args:
        original: any shape and precision; it is copied.
        device: where the master copy lives.
    """

    def __init__(self, original: Tensor, device: torch.device | None = None) -> None:
        device = device or original.device
        copy = original.detach().to(device, torch.float32, copy=True)
        self.parameter = nn.Parameter(copy)

    def as_edit(self) -> WeightEdit:
        """The learned weight, in the precision of the one that it stands in for."""
        return lambda original: self.parameter.to(original)

    def named(self) -> dict[str, nn.Parameter]:
        return {"full": self.parameter}

    def change(self, original: Tensor) -> Change | None:
        """Difference to the original, on the CPU; None when nothing was learned."""
        difference = self.parameter.detach().cpu() - original.detach().float().cpu()
        return Diff(difference) if bool(difference.any()) else None


class LowRankWeight:
    """scale * up @ down, added to a weight of a linear layer or a convolution.

    Args:
        shape: of the weight, [out, in] or [out, in, height, width].
        rank: r; more than the weight's own rank adds nothing and is cut to it.
        generator: on the CPU, draws the factors.
        alpha: scale = alpha / r; None for a scale of 1.
    """

    def __init__(
        self,
        shape: Sequence[int],
        rank: int,
        generator: torch.Generator,
        alpha: float | None = None,
        start: Start = Start.KAIMING,
        device: torch.device | None = None,
    ) -> None:
        out, inner = shape[0], math.prod(shape[1:])
        rank = min(rank, out, inner)
        scale = 1.0 if alpha is None else alpha / rank
        up, down = torch.zeros(out, rank), torch.empty(rank, *shape[1:])
        if start is Start.KAIMING:
            bound = inner**-0.5
            down.uniform_(-bound, bound, generator=generator)
        else:
            down.normal_(std=1 / rank, generator=generator)
        if start is Start.BOTH_RANDOM:
            up.normal_(std=1e-3, generator=generator)
        self.up, self.down = nn.Parameter(up.to(device)), nn.Parameter(down.to(device))
        self.low_rank = LowRank(self.up, self.down, scale)

    def as_edit(self) -> WeightEdit:
        return self.low_rank.as_edit()

    def named(self) -> dict[str, nn.Parameter]:
        return {"up": self.up, "down": self.down}

    def change(self, original: Tensor) -> Change | None:
        """The factors, on the CPU; None when nothing was learned."""
        if not bool(self.up.detach().any()):
            return None
        scale = self.low_rank.scale
        return LowRank(self.up.detach().cpu().clone(), self.down.detach().cpu().clone(), scale)


class Adapters:
    """Everything that learns besides the handles."""

    def __init__(self, host: Host, parts: Mapping[str, FullWeight | LowRankWeight]) -> None:
        self._host, self._parts = host, dict(parts)

    def __len__(self) -> int:
        return len(self._parts)

    def edits(self) -> dict[str, WeightEdit]:
        """Canonical weight name -> edit, for `Host.edited(..., trainable=True)`."""
        return {name: part.as_edit() for name, part in self._parts.items()}

    def parameters(self) -> Iterator[nn.Parameter]:
        return iter(self.named().values())

    def named(self) -> dict[str, nn.Parameter]:
        """Parameters by stable names, `adapter.<canonical weight name>.<full|up|down>`."""
        return {
            f"adapter.{name}.{key}": parameter
            for name, part in self._parts.items()
            for key, parameter in part.named().items()
        }

    def count(self) -> int:
        """Number of trained numbers."""
        return sum(parameter.numel() for parameter in self.parameters())

    def state(self) -> dict[str, Tensor]:
        """Copies on the CPU, by the names of `named`."""
        return {name: p.detach().cpu().clone() for name, p in self.named().items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Restore values; all parameters must be present."""
        for name, parameter in self.named().items():
            parameter.copy_(state[name])

    def to_concept_weights(self) -> dict[str, Change]:
        """What a `Concept` stores: differences to the originals, float32 on the CPU.

        Weights that did not change are left out.
        """
        changes = {name: p.change(self._host.weight(name)) for name, p in self._parts.items()}
        return {name: change for name, change in changes.items() if change is not None}


def make_adapters(
    host: Host,
    scope: Scope,
    rank: int | float = 16,
    seed: int = 0,
    *,
    alpha: float | None = None,
    start: Start = Start.KAIMING,
) -> Adapters:
    """Adapters for every weight of a scope, on the host's device.

    What is drawn depends on the seed and the weight's name, not on the order of weights.

    Args:
        rank: of low-rank scopes; a fraction below 1 is a ratio of each weight's output width
            (0.05 makes 16, 32 and 64 of the widths 320, 640 and 1280).
        alpha: see `LowRankWeight`.

    Raises:
        ConfigError: the rank is not positive.
        ModelError: the model has no weight in this scope.
    """
    names = scope_weight_names(host.weight_names(), scope)
    if scope is not Scope.HANDLES and not names:
        lacking = (
            "cross-attention (text and picture are one sequence)"
            if scope in (Scope.CROSS_ATTENTION_KV, Scope.CROSS_ATTENTION)
            else "weight"
        )
        raise ModelError(
            f"This model has no {lacking} for the scope {scope.value!r}; choose the scope "
            f"{Scope.LOW_RANK.value!r} or {Scope.HANDLES.value!r}."
        )
    parts: dict[str, FullWeight | LowRankWeight] = {}
    for name in names:
        original = host.weight(name)
        if scope in LOW_RANK_SCOPES:
            shape, generator = tuple(original.shape), generator_for(seed, name)
            r = rank_for(rank, shape[0])
            parts[name] = LowRankWeight(shape, r, generator, alpha, start, host.device)
        else:
            parts[name] = FullWeight(original, host.device)
    return Adapters(host, parts)


def rank_for(rank: int | float, width: int) -> int:
    """Rank of a weight with `width` outputs: a whole number, or a ratio below 1 of the width.

    Raises:
        ConfigError: neither.
    """
    if not math.isfinite(rank) or rank <= 0 or (rank >= 1 and rank != int(rank)):
        raise ConfigError("rank", rank, "a whole number, 1 or more, or a ratio between 0 and 1")
    return int(rank) if rank >= 1 else max(1, round(rank * width))
