"""What makes TinyWorld's training three quarters faster on a CPU with bfloat16.

Measured on one Zen 5 core, 4.3M UNet, batch 16: 40 samples/s in float32, 36 under plain bfloat16
autocast (the fused attention's backward and GroupNorm are slow there), 73 with what is here.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def ready_for_training(module: nn.Module, bfloat16: bool) -> nn.Module:
    """channels_last, and float32 GroupNorm plus plain attention when under bfloat16 autocast.

    Changes how this instance computes, not what; its weights and their names stay.
    """
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if bfloat16:
        for child in module.modules():
            if isinstance(child, nn.GroupNorm):
                child.forward = _float_group_norm(child)
        if hasattr(module, "set_attn_processor"):
            module.set_attn_processor(PlainAttention())
    return module


def record_cross_attention(unet: nn.Module) -> list[Tensor]:
    """A list that every forward pass fills with cross-attention, [B, Q, tokens] per layer.

    Averaged over heads, in call order, with gradients. Whoever reads it empties it.
    """
    maps: list[Tensor] = []
    unet.set_attn_processor(PlainAttention(maps))  # type: ignore[operator]
    return maps


def _float_group_norm(norm: nn.GroupNorm):
    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.group_norm(
                x.float(), norm.num_groups, norm.weight, norm.bias, norm.eps
            )

    return forward


class PlainAttention:
    """diffusers attention processor: two matrix products with a softmax between them."""

    def __init__(self, maps: list[Tensor] | None = None) -> None:
        self.maps = maps  # where cross-attention is recorded

    def __call__(
        self,
        attn: nn.Module,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        """[B, Q, C] or [B, C, h, w] (the VAE's form, with its norm and residual)."""
        residual, spatial = hidden_states, hidden_states.ndim == 4
        if spatial:
            hidden_states = hidden_states.flatten(2).transpose(1, 2)  # [B, Q, C]
        if attn.group_norm is not None:
            hidden_states = attn.group_norm(hidden_states.transpose(1, 2)).transpose(1, 2)
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        q, k, v = (
            x.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # [B, heads, tokens, d]
            for x in (attn.to_q(hidden_states), attn.to_k(context), attn.to_v(context))
        )
        scores = (q * attn.scale) @ k.transpose(-1, -2)
        with torch.autocast(scores.device.type, enabled=False):
            probs = scores.softmax(-1)  # in bfloat16: enough for training, half the time
        if self.maps is not None and encoder_hidden_states is not None:
            self.maps.append(probs.mean(1))
        out = attn.to_out[0]((probs @ v).transpose(1, 2).flatten(2))
        if spatial:
            out = out.transpose(1, 2).reshape(residual.shape)
        return (out + residual) / attn.rescale_output_factor if attn.residual_connection else out
