"""The networks of a tiny transformer in diffusers' and transformers' classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...host.families.anima import QWEN_CONFIG
from .sizes import HEAD, DitConfig
from .tokens import ZERO_ROWS

if TYPE_CHECKING:
    from transformers import Qwen3Model

# What ComfyUI's classes add to a mean square before its root, in the norms of queries and keys.
ANIMA_EPS = 1e-6
ZIMAGE_EPS = torch.finfo(torch.float32).eps
ZIMAGE_TIME = 256  # width of Z-Image's embedding of time


def build_transformer(config: DitConfig) -> Any:
    """A freshly initialised transformer of these sizes.

    Its query and key norms add what ComfyUI's do: diffusers adds more, and the difference would
    be seen in pictures of a small model.
    """
    import diffusers

    if config.family == "anima":
        network: Any = diffusers.CosmosTransformer3DModel(**config.diffusers_dict())
        return _with_eps(with_own_padding_mask(network), ANIMA_EPS)
    from diffusers.models.transformers.transformer_z_image import TimestepEmbedder

    network = diffusers.ZImageTransformer2DModel(**config.diffusers_dict())
    # diffusers fixes its middle at 1024, ComfyUI at no more than the transformer's width
    middle = min(config.width, 1024)
    network.t_embedder = TimestepEmbedder(min(config.width, ZIMAGE_TIME), mid_size=middle)
    return _with_eps(network, ZIMAGE_EPS)


def with_own_padding_mask(network: Any) -> Any:
    """A CosmosTransformer3DModel, which belongs to the caller, that does without torchvision."""
    if network.config.concat_padding_mask:
        network.register_to_config(concat_padding_mask=False)
        network.register_forward_pre_hook(_with_padding_mask, with_kwargs=True)
    return network


def _with_padding_mask(
    network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Hand the padding mask on as the channel behind the latents that it becomes.

    diffusers resizes it with torchvision, which need not be there.
    """
    latents = args[0] if args else kwargs["hidden_states"]
    mask = kwargs.pop("padding_mask", None)
    if mask is None:
        channel = latents.new_zeros(1)
    else:
        channel = nn.functional.interpolate(mask.to(latents), latents.shape[-2:])[:, :, None]
    shape = (latents.shape[0], 1, *latents.shape[2:])
    return args, {**kwargs, "condition_mask": channel.expand(shape)}


def _with_eps(network: nn.Module, eps: float) -> nn.Module:
    for name, module in network.named_modules():
        if name.endswith(("norm_q", "norm_k")):
            module.eps = eps
    return network


def build_adapter(config: DitConfig, rows: int, filled: int = ZERO_ROWS) -> Any:
    """Anima's adapter with a table of `rows` T5 tokens; `filled`: least rows of what it gives."""
    import diffusers

    return diffusers.AnimaTextConditioner(
        **config.adapter_dict(),
        num_attention_heads=config.adapter_heads,
        target_vocab_size=rows,
        min_sequence_length=filled,
    )


def build_text_encoder(config: DitConfig, rows: int) -> Qwen3Model:
    """A Qwen3 encoder with a table of `rows` tokens."""
    from transformers import Qwen3Config, Qwen3Model

    sizes = Qwen3Config(
        **config.text_dict(),
        vocab_size=rows,
        **QWEN_CONFIG,
        head_dim=HEAD,
        attn_implementation="eager",
    )
    return Qwen3Model(sizes)
