"""Entries of LoRA files whose difference depends on the weight: GLoRA, DoRA, OFT, BOFT.

They follow core ComfyUI, for which users tune files, also where it differs from the
papers: OFT's strength counts twice, and DoRA along outputs takes the norm of the original weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConceptFileError
from .concept import Diff
from .lora_forms import Computed, Difference, Kronecker, Parts, form_of
from .low_rank import LowRank

BARE = ("dora_scale",)  # what makes an entry a DoRA


def resolved(
    form: Computed, weight: Tensor, strength: float, difference: Difference | None = None,
    name: str = "one weight",
) -> LowRank | Kronecker | Diff:  # fmt: skip
    """The entry for one weight at one strength, which is in it already.

    Args:
        weight: original, float32.
        difference: the host's own way; by default the one of this module.
        name: of the weight, for messages.

    Raises:
        ConceptFileError: the numbers of the entry are so large that the difference overflows.
    """
    if form.kind == "GLoRA" and isinstance(own := _glora(form.parts, weight.float()), LowRank):
        change: LowRank | Diff = LowRank(own.up, own.down, strength * own.scale)
    else:
        change = Diff((difference or difference_of)(form.parts, weight, strength))
    if not all(bool(tensor.isfinite().all()) for tensor in change.tensors):
        raise ConceptFileError(
            f"The {form.kind} of the LoRA gives NaN or infinite numbers at {name}; the file is "
            "damaged, download it again, or load the base model that it was trained on."
        )
    return change


def difference_of(parts: Parts, weight: Tensor, strength: float) -> Tensor:
    """W' - W of one entry at a strength, float32, in the shape of the weight."""
    weight = weight.float()
    if "set_weight" in parts:
        return parts["set_weight"].float().reshape(weight.shape) - weight
    bare = {name: part for name, part in parts.items() if name not in BARE}
    if "oft_blocks" in parts:
        rotate = _oft if parts["oft_blocks"].ndim == 3 else _boft
        delta = rotate(parts, weight, strength)
        scale = float(parts["alpha"]) if "alpha" in parts else 0.0
    elif "a1.weight" in parts:
        delta, scale = _glora(bare, weight).delta(weight.shape), 1.0
    else:
        form = form_of(bare)
        if form is None or isinstance(form[1], Computed):
            raise ConceptFileError(f"An entry of the LoRA holds only {', '.join(sorted(parts))}.")
        delta, scale = form[1].delta(weight.shape), 1.0
    if "dora_scale" in parts:
        return strength * _dora(parts["dora_scale"].float(), weight, scale * delta)
    return strength * delta


def _dora(magnitude: Tensor, weight: Tensor, delta: Tensor) -> Tensor:
    """m (W + D) / |W| - W along outputs, m (W + D) / |W + D| - W along inputs."""
    changed = weight + delta
    ones = [1] * (weight.ndim - 2)
    if magnitude.shape[0] == weight.shape[0]:
        norm = weight.flatten(1).norm(dim=1).view(-1, 1, *ones)
    else:
        norm = changed.transpose(0, 1).flatten(1).norm(dim=1).view(1, -1, *ones)
    return changed * (magnitude / (norm + torch.finfo(weight.dtype).eps)) - weight


def _glora(parts: Parts, weight: Tensor) -> LowRank | Diff:
    """W A + B, of low rank where the weight is a matrix; both orders of the factors occur."""
    a1, a2, b1, b2 = (
        parts[f"{name}.weight"].float().flatten(1) for name in ("a1", "a2", "b1", "b2")
    )
    is_old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    is_new = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    square = a2.shape[0] == weight.shape[0] == weight.shape[1]
    if is_new and not (is_old and square):
        is_old = False
    rank = a1.shape[0] if is_old else a2.shape[0]
    scale = float(parts["alpha"]) / rank if "alpha" in parts else 1.0
    if is_old:
        up, down = torch.cat([b2, weight.flatten(1) @ a2], 1), torch.cat([b1, a1])
        return LowRank(up, down, scale)
    if weight.ndim == 2:
        return LowRank(torch.cat([b1, weight @ a1], 1), torch.cat([b2, a2]), scale)
    inner = torch.einsum("oi...,ij->oj...", torch.einsum("oi...,ij->oj...", weight, a1), a2)
    return Diff(scale * (inner + (b1 @ b2).reshape(weight.shape)))


def _rotations(parts: Parts) -> Tensor:
    """Cayley transforms (I + Q)(I - Q)^-1 of skew-symmetric blocks, bounded by alpha."""
    blocks = parts["oft_blocks"].float()
    skew = blocks - blocks.transpose(-1, -2)
    bound = float(parts["alpha"]) if "alpha" in parts else 0.0
    if bound > 0 and bound < (size := float(skew.norm()) + 1e-8):
        skew = skew * (bound / size)
    identity = torch.eye(blocks.shape[-1], device=blocks.device)
    # Singular only where numbers overflow, which `resolved` notices.
    inverse, _ = torch.linalg.inv_ex(identity - skew)
    return (identity + skew) @ inverse


def _oft(parts: Parts, weight: Tensor, strength: float) -> Tensor:
    rotations = _rotations(parts)  # [blocks, n, n]
    identity = torch.eye(rotations.shape[-1], device=weight.device)
    rows = weight.reshape(*rotations.shape[:2], -1)
    turned = torch.einsum("knm,knx->kmx", strength * (rotations - identity), rows)
    return turned.reshape(weight.shape)


def _boft(parts: Parts, weight: Tensor, strength: float) -> Tensor:
    """A product of butterfly factors: each pairs outputs that lie further and further apart."""
    rotations = _rotations(parts)  # [factors, blocks, n, n]
    size = rotations.shape[-1]
    identity = torch.eye(size, device=weight.device)
    turned = weight.flatten(1)  # [o, x]
    for level, factor in enumerate(rotations):
        apart = 2**level * size // 2
        mixed = strength * factor + (1 - strength) * identity
        grouped = turned.unflatten(0, (-1, 2, apart)).transpose(1, 2).flatten(0, 2)
        grouped = torch.einsum("bij,bjx->bix", mixed, grouped.unflatten(0, (-1, size)))
        turned = grouped.flatten(0, 1).unflatten(0, (-1, apart, 2)).transpose(1, 2).flatten(0, 2)
    turned = turned.reshape(weight.shape)
    if "rescale" in parts:
        turned = turned * parts["rescale"].float()
    return turned - weight
