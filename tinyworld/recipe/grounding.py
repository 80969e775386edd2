"""A pull of every word's attention towards the object that it speaks of.

The renderer knows where each object lies, so the model need not find out from pictures alone which
word means which. Source: TokenCompose (Wang et al., arXiv 2312.03626), whose token term asks for
attention inside the word's mask. We ask for attention spread evenly over the mask instead: a
cross-entropy, which also keeps it from gathering in one point.
"""

from __future__ import annotations

import torch
from torch import Tensor

WEIGHT = 0.02  # beside the velocity loss
EPSILON = 1e-6


def grounding_loss(
    maps: list[Tensor], masks: Tensor, item_of_token: Tensor, weight: Tensor
) -> Tensor:
    """Mean divergence of the words' attention from the evenly covered masks.

    Args:
        maps:          per layer [B, Q, 77], attention averaged over heads.
        masks:         [B, I, s, s]  where the items are, 0..1; empty for items that are not there.
        item_of_token: [B, 77]  0 = of no item, i + 1 = of item i.
        weight:        [B]  how much a sample counts, 0..1.

    Layers of one resolution are averaged before they are compared, as a reader of maps does.
    """
    losses = []
    for queries in sorted({m.shape[1] for m in maps}):
        side = round(queries**0.5)
        attention = torch.stack([m for m in maps if m.shape[1] == queries]).float().mean(0)
        small = torch.nn.functional.adaptive_avg_pool2d(masks, side).flatten(2)  # [B, I, Q]
        wanted = small / small.sum(-1, keepdim=True).clamp_min(EPSILON)
        batch, token = item_of_token.nonzero(as_tuple=True)  # the T words that speak of items
        target = wanted[batch, item_of_token[batch, token].long() - 1]  # [T, Q]
        found = attention[batch, :, token]  # [T, Q]
        found = found / found.sum(-1, keepdim=True).clamp_min(EPSILON)
        excess = target * (target.clamp_min(EPSILON).log() - found.clamp_min(EPSILON).log())
        losses.append((weight[batch] * excess.sum(-1)).sum() / max(1, len(batch)))
    return torch.stack(losses).mean()
