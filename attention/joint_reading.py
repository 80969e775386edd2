"""What some tokens of a joint attention read: all but the text, and one text or another."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..host.ports import AttentionCall


def read_tokens(
    call: AttentionCall, places: Tensor, text: slice, readable: Tensor | None = None,
    rows: list[int] | None = None,
) -> Tensor:  # fmt: skip
    """Attention [B, n, C] of some tokens to all but the pass's text, and to one text.

    Args:
        places: [n] the tokens.
        text: where the text stands: in the sequence, or in a stream behind it.
        readable: [B, 1, 1, words] False where a row of the context is hidden.
        rows: of the batch; None for all.
    """
    spans = call.tokens
    assert spans is not None
    query, key, value = (t if rows is None else t[rows] for t in (call.query, call.key, call.value))
    keys, values = (
        torch.cat([spans.without_text(t, 2), t[:, :, text]], dim=2) for t in (key, value)
    )
    mask = None
    if readable is not None:
        before = spans.total - spans.n_text
        behind = spans.n_text - spans.words
        mask = F.pad(F.pad(readable, (before, 0), value=True), (0, behind), value=True)
    read = F.scaled_dot_product_attention(
        query.index_select(2, places), keys, values, attn_mask=mask
    )
    return read.transpose(1, 2).flatten(2)


def token_range(tokens: slice, device: torch.device) -> Tensor:
    """[n] the numbers of these tokens."""
    return torch.arange(tokens.start, tokens.stop, device=device)
