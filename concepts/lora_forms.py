"""The change of a LoRA entry to one weight, in the cheapest exact form.

    LowRank     scale * up @ down           LoRA, LoCon (its middle folded into down), narrow LoHa
    Kronecker   scale * kron(left, right)   LoKr
    Diff        the whole difference        full differences, wide LoHa
    Computed    depends on the weight that it changes: GLoRA, DoRA, OFT, BOFT, set weights

LyCORIS: Yeh et al. 2023, arXiv 2309.14859. DoRA: Liu et al. 2024, arXiv 2402.09353. OFT: Qiu et al.
2023, arXiv 2306.07280. BOFT: Liu et al. 2023, arXiv 2311.06243. GLoRA: Chavan et al. 2023,
arXiv 2306.07967. Alphabet: o output, i input channels, r rank, k positions of a kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .changes import Change, Diff, LowRank
from .changes import Kronecker as Kronecker

WIDEST_LOHA = 256  # rank of the exact factors above which the whole difference is smaller

Parts = Mapping[str, Tensor]  # parts of one entry by their names in LyCORIS files, "hada_w1_a"
# parts, original weight, strength -> what is added to the weight at that strength
Difference = Callable[[Parts, Tensor, float], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Computed:
    """An entry whose difference depends on the original weight; not always linear in strength."""

    kind: str  # "GLoRA", "DoRA", "OFT", "BOFT", "set"
    parts: Parts


Form = Change | Computed


# Parts of each kind; any kind may have some of the last line as well.
_OF_KIND = {
    "LoRA": ("up", "down", "mid"),
    "LoHa": ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"),
    "LoKr": ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"),
    "GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    "OFT": ("oft_blocks",),
    "BOFT": ("oft_blocks", "rescale"),
    "difference": ("diff", "w_norm"),
    "set": ("set_weight",),
}
_OF_ANY = ("alpha", "dora_scale")


def parts_used(parts: Parts) -> dict[str, Tensor]:
    """The parts that make up an entry of a known kind; none where they make up no known kind."""
    base = _kind_of(parts)
    if base is None or "reshape_weight" in parts:
        return {}
    used = (*_OF_KIND[base], *_OF_ANY)
    return {name: part for name, part in parts.items() if name in used}


def form_of(parts: Parts) -> tuple[str, Form] | None:
    """Kind and form of the entry of a weight; None where its parts make up no known kind.

    Args:
        parts: tensors by name, those of LoRA named "up", "down" and "mid".
    """
    base, parts = _kind_of(parts), parts_used(parts)
    if base is None or not parts:
        return None
    if "dora_scale" in parts:
        return "DoRA", Computed("DoRA", parts)
    if base in ("GLoRA", "OFT", "BOFT", "set"):
        return base, Computed(base, parts)
    if base == "LoRA":
        return ("LoCon" if parts["down"].ndim == 4 else base), low_rank(parts)
    if base == "LoHa":
        return base, loha(parts)
    if base == "LoKr":
        return base, lokr(parts)
    return base, Diff(parts.get("diff", parts.get("w_norm", torch.empty(0))).float())


def low_rank(parts: Parts) -> LowRank:
    """A LoRA's factors; the middle of a Tucker decomposition goes into `down`."""
    up, down = parts["up"].float().flatten(1), parts["down"].float()
    scale = _scale(parts, down.shape[0])
    if "mid" in parts:
        down = torch.einsum("abhw,bi->aihw", parts["mid"].float(), down.flatten(1))
    return LowRank(up, down, scale)


def loha(parts: Parts) -> LowRank | Diff:
    """A Hadamard product of two low-rank matrices: one of rank r squared, or dense if it is wide.

    (A B) * (C D) = khatri_rao(A, C) @ face_splitting(B, D): row-wise and column-wise products.
    """
    a, b, c, d = (parts[f"hada_{name}"].float() for name in ("w1_a", "w1_b", "w2_a", "w2_b"))
    scale = _scale(parts, b.shape[0])
    if "hada_t1" in parts:
        return Diff(scale * _cp(parts["hada_t1"], a, b) * _cp(parts["hada_t2"], c, d))
    if b.shape[0] * d.shape[0] > WIDEST_LOHA:
        return Diff(scale * (a @ b) * (c @ d))
    up = (a[:, :, None] * c[:, None, :]).flatten(1)
    down = (b[:, None, :] * d[None, :, :]).flatten(0, 1)
    return LowRank(up, down, scale)


def lokr(parts: Parts) -> Kronecker:
    """The two matrices of a Kronecker product, each made of its factors where it has some."""
    rank: int | None = None
    if "lokr_w1" in parts:
        left = parts["lokr_w1"].float()
    else:
        rank = parts["lokr_w1_b"].shape[0]
        left = parts["lokr_w1_a"].float() @ parts["lokr_w1_b"].float()
    if "lokr_w2" in parts:
        right = parts["lokr_w2"].float()
    else:
        a, b = parts["lokr_w2_a"].float(), parts["lokr_w2_b"].float()
        rank = b.shape[0]
        right = _cp(parts["lokr_t2"], a, b) if "lokr_t2" in parts else a @ b
    return Kronecker(left, right, _scale(parts, rank) if rank is not None else 1.0)


def _kind_of(parts: Parts) -> str | None:
    if {"up", "down"} <= parts.keys():
        return "LoRA"
    if {"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b"} <= parts.keys():
        return "LoHa"
    has_left = "lokr_w1" in parts or {"lokr_w1_a", "lokr_w1_b"} <= parts.keys()
    if has_left and ("lokr_w2" in parts or {"lokr_w2_a", "lokr_w2_b"} <= parts.keys()):
        return "LoKr"
    if {"a1.weight", "a2.weight", "b1.weight", "b2.weight"} <= parts.keys():
        return "GLoRA"
    if "oft_blocks" in parts and parts["oft_blocks"].ndim in (3, 4):
        return "OFT" if parts["oft_blocks"].ndim == 3 else "BOFT"
    if "diff" in parts or "w_norm" in parts:
        return "difference"
    return "set" if "set_weight" in parts else None


def _scale(parts: Parts, rank: int) -> float:
    return float(parts["alpha"]) / rank if "alpha" in parts else 1.0


def _cp(core: Tensor, outer: Tensor, inner: Tensor) -> Tensor:
    """A kernel of a CP decomposition: core [r, s, h, w], outer [r, o], inner [s, i]."""
    return torch.einsum("rshw,si,ro->oihw", core.float(), inner, outer).contiguous()
