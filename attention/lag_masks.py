"""The masks of LAG sampling: where a concept is, from the cross-attention of one block.

    summed_attention  A_{i,C}   sum over the tokens of the concept, heads averaged
    binarised         M_i       A_{i,C} above its own median (Ham et al. 2024, Sec. 3.2)

Masks are flat, [pictures P, concepts G, positions N], N = h * w of the block.
"""

from __future__ import annotations

import functools
import math
from fractions import Fraction

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..scenes.masks import blur

# Float32 numbers at a time: on a CPU what its caches hold (three times as fast as all at once for
# 64x64 positions), elsewhere 256 MiB.
MOST_LOGITS = {"cpu": 2**18}
MOST_LOGITS_ELSEWHERE = 2**26


def summed_attention(
    query: Tensor, key: Tensor, heads: int, chosen: Tensor, content: Tensor | None = None
) -> Tensor:
    """Attention probability of each concept's tokens, mean over heads.

    Source: A_{i,C} = sum of A_j over j in C, arXiv 2405.12978, Sec. 3.2. The paper does
    not specify the reduction over heads; here it is the mean, before the median.

    Memory: logits of some positions to all keys at a time, `MOST_LOGITS_ELSEWHERE` float32 numbers
    (256 MiB) or one position's, and never the whole map: of 4096 positions and 4160 keys with 30
    heads that is 2 GiB. Under autograd each part is computed again in the backward pass, so
    that only query and key are kept until then.

    Args:
        query: [R, N, C] projected, heads not split.
        key: [R, K, C].
        chosen: [R, L, G] 1 where the position belongs to the concept in that row, else 0. Keys
            from L on belong to none: other packs append their own.
        content: [R, K] bool: keys among which shares are told; None counts all.

    Returns:
        [R, G, N] probabilities 0..1, float32.
    """
    n_rows, n_keys, width = key.shape
    scale = (width // heads) ** -0.5
    most = MOST_LOGITS.get(query.device.type, MOST_LOGITS_ELSEWHERE)
    at_once = max(1, most // (n_rows * heads * n_keys))
    # [R * heads, d, K]; views and bmm: einops and matmul cost more than the work in small models
    keys = (key.float() * scale).view(n_rows, n_keys, heads, -1).permute(0, 2, 3, 1).flatten(0, 1)
    bias = None if content is None else _ignoring(content, heads)
    parts: list[Tensor] = []
    is_learning = torch.is_grad_enabled() and (query.requires_grad or key.requires_grad)
    for part in query.split(at_once, dim=1) if query.shape[1] > at_once else (query,):
        arguments = part, keys, heads, chosen, bias
        parts.append(
            checkpoint(_of_part, *arguments, use_reentrant=False, preserve_rng_state=False)
            if is_learning
            else _of_part(*arguments)
        )
    return (parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)).transpose(1, 2)


def _of_part(
    query: Tensor, keys: Tensor, heads: int, chosen: Tensor, bias: Tensor | None
) -> Tensor:
    """[R, n, G] of some positions; keys are [R * heads, d, K]."""
    n_rows, n = query.shape[:2]
    queries = query.float().view(n_rows, n, heads, -1).transpose(1, 2).flatten(0, 1)
    logits = torch.bmm(queries, keys)
    probs = (logits if bias is None else logits + bias).softmax(dim=-1)
    word_probs = probs.view(n_rows, heads * n, -1)[..., : chosen.shape[1]]
    summed = torch.bmm(word_probs, chosen)
    return summed.view(n_rows, heads, n, -1).mean(dim=1)


def _ignoring(content: Tensor, heads: int) -> Tensor:
    """[R * heads, 1, K] what takes a key out of a softmax, added to its logits."""
    bias = torch.zeros(content.shape, device=content.device)
    bias = bias.masked_fill(~content, float("-inf"))
    return bias.repeat_interleave(heads, dim=0)[:, None]


def binarised(attention: Tensor, quantile: float = 0.5, softness: float = 0.0) -> Tensor:
    """1 where the attention lies above a quantile of its own values, else 0.

    Source: M_i = binarize(A_{i,C}) at the median, arXiv 2405.12978, Sec. 3.2.

    Args:
        attention: [..., N].
        quantile: share of excluded positions; 0.5 is the median, 0 excludes none and 1
            all. Without equal values exactly N - ceil(quantile N) positions are 1.
        softness: width of the edge in standard deviations of the attention; 0 is the paper's step.

    Returns:
        [..., N] 0..1.
    """
    left_out = _share_of(float(quantile), attention.shape[-1])
    if left_out == 0:
        return torch.ones_like(attention)
    threshold = attention.kthvalue(left_out, dim=-1, keepdim=True).values
    if softness == 0 or left_out == attention.shape[-1]:
        return (attention > threshold).to(attention)
    width = softness * attention.std(dim=-1, keepdim=True)
    return ((attention - threshold) / width.clamp_min(1e-12)).sigmoid()


@functools.cache
def _share_of(quantile: float, count: int) -> int:
    """A share of a number, rounded up, of the share as written: 0.07 * 100 is above 7 in binary."""
    return math.ceil(Fraction(repr(quantile)) * count)


def smoothed(attention: Tensor, grid: tuple[int, int], sigma: float) -> Tensor:
    """Attention [P, G, N] blurred by a Gaussian of `sigma` cells of its grid (h, w)."""
    planes = attention.reshape(-1, *grid)
    return blur(planes, sigma, math.ceil(2 * sigma)).reshape(attention.shape)


def exclusive(masks: Tensor, attention: Tensor) -> Tensor:
    """Where masks of several concepts overlap, only that of the stronger attention stays.

    Args:
        masks: [P, G, N] 0..1.
        attention: [P, G, N].
    """
    if masks.shape[1] == 1:
        return masks
    strongest = (masks * attention).argmax(dim=1, keepdim=True)  # [P, 1, N]
    return torch.zeros_like(masks).scatter_(1, strongest, masks.gather(1, strongest))
