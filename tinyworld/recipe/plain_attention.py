"""Attention of the transformers as matrix products that training on a CPU is fast with.

The same values as diffusers' own processors, and a record of the words' columns for the grounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ..dit.tokens import ZERO_ROWS


def record_words(network: Any, image_tokens: int) -> list[Tensor]:
    """A list that every forward pass fills: attention of image tokens to words, per block.

    Each entry is [B, image tokens, text tokens], averaged over heads, with gradients. Whoever
    reads it empties it.
    """
    maps: list[Tensor] = []
    if hasattr(network, "transformer_blocks"):
        for block in network.transformer_blocks:
            block.attn1.set_processor(AnimaAttention())
            block.attn2.set_processor(AnimaAttention(maps))
        return maps
    for block in (*network.noise_refiner, *network.context_refiner):
        block.attention.set_processor(JointAttention())
    for block in network.layers:
        block.attention.set_processor(JointAttention(maps, image_tokens))
    return maps


def plain_adapter(adapter: Any) -> None:
    """Give Anima's adapter plain attention too, and norms in float32 under autocast."""
    for block in adapter.blocks:
        block.self_attn.set_processor(AdapterAttention())
        block.cross_attn.set_processor(AdapterAttention())
    for module in adapter.modules():
        if isinstance(module, nn.RMSNorm):
            module.forward = _float_norm(module)


def _float_norm(norm: nn.RMSNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x.float(), norm.normalized_shape, norm.weight, norm.eps)

    return forward


def _heads(x: Tensor, count: int) -> Tensor:
    return x.unflatten(-1, (count, -1)).transpose(1, 2)  # [B, heads, tokens, d]


def _softmax(scores: Tensor) -> Tensor:
    with torch.autocast(scores.device.type, enabled=False):
        return scores.softmax(-1)  # in bfloat16: enough for training, half the time


class AnimaAttention:
    """Self- and cross-attention of CosmosTransformer3DModel.

    The context's rows beyond the longest prompt are zeros, so their keys and values are too: one
    column with the logarithm of their number stands for them all.
    """

    def __init__(self, maps: list[Tensor] | None = None) -> None:
        self.maps = maps

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q = attn.norm_q(_heads(attn.to_q(hidden_states), attn.heads))
        k = attn.norm_k(_heads(attn.to_k(context), attn.heads))
        v = _heads(attn.to_v(context), attn.heads)
        if image_rotary_emb is not None:
            q, k = turned_halves(q, image_rotary_emb), turned_halves(k, image_rotary_emb)
        v = v.to(q.dtype)
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        left = 0 if encoder_hidden_states is None else ZERO_ROWS - context.shape[1]
        if left > 0:
            rest = scores.new_full((*scores.shape[:-1], 1), math.log(left))
            probs = _softmax(torch.cat([scores, rest], -1))[..., :-1]
        else:
            probs = _softmax(scores)
        if self.maps is not None:
            self.maps.append(probs.mean(1))
        return attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2))


def turned_halves(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary embedding of split halves; x [B, heads, tokens, d], cosines and sines [tokens, d]."""
    cos, sin = (part.to(x.dtype) for part in angles)
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class AdapterAttention:
    """Attention of AnimaTextConditioner."""

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        encoder_position_embeddings: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        count = attn.num_attention_heads
        q = attn.q_norm(_heads(attn.q_proj(hidden_states), count))
        k = attn.k_norm(_heads(attn.k_proj(context), count))
        v = _heads(attn.v_proj(context), count)
        if position_embeddings is not None and encoder_position_embeddings is not None:
            q = turned_halves(q, (position_embeddings[0], position_embeddings[1]))
            k = turned_halves(k, (encoder_position_embeddings[0], encoder_position_embeddings[1]))
        scores = (q @ k.transpose(-1, -2)).float() * q.shape[-1] ** -0.5
        if attention_mask is not None:
            scores = scores.masked_fill(~attention_mask, float("-inf"))
        probs = _softmax(scores).to(v.dtype)
        return attn.o_proj((probs @ v).transpose(1, 2).flatten(2))


class JointAttention:
    """Attention of ZImageTransformer2DModel, whose tokens are first the picture, then the text.

    Args:
        maps:         where the picture's attention to the text is recorded; None for the refiners.
        image_tokens: of one picture.
    """

    def __init__(self, maps: list[Tensor] | None = None, image_tokens: int = 0) -> None:
        self.maps, self.image_tokens = maps, image_tokens

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        freqs_cis: Tensor | None = None,
    ) -> Tensor:
        if attention_mask is not None:
            raise ValueError("items of one pass must have equally many tokens")
        q = attn.norm_q(_heads(attn.to_q(hidden_states), attn.heads))
        k = attn.norm_k(_heads(attn.to_k(hidden_states), attn.heads))
        v = _heads(attn.to_v(hidden_states), attn.heads)
        if freqs_cis is not None:
            q, k = turned_pairs(q, freqs_cis), turned_pairs(k, freqs_cis)
        v = v.to(q.dtype)
        probs = _softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5)
        if self.maps is not None:
            n = self.image_tokens
            self.maps.append(probs[:, :, :n, n:].mean(1))
        return attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2))


def turned_pairs(x: Tensor, turns: Tensor) -> Tensor:
    """Rotary embedding of neighbours; x [B, heads, tokens, d], turns [B, tokens, d/2] complex."""
    with torch.autocast(x.device.type, enabled=False):
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        return torch.view_as_real(pairs * turns[:, None]).flatten(-2).to(x.dtype)
