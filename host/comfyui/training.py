"""Settings of ComfyUI during training, restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import comfy.quant_ops
import torch
from comfy.clip_model import CLIPLayer
from comfy.ldm.common_dit import rms_norm
from comfy.ldm.cosmos.predict2 import Block as CosmosBlock
from comfy.ldm.lumina.model import JointTransformerBlock
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from comfy.text_encoders import llama, t5
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..hooks import checkpoint_contexts
from ..inference import usable


def _krea_2_blocks() -> tuple[type[nn.Module], ...]:
    try:
        from comfy.ldm.krea2.model import SingleStreamBlock
    except ImportError:  # an older host, which does not know Krea 2
        return ()
    return (SingleStreamBlock,)


# Computed again as a whole.
BLOCKS = (BasicTransformerBlock, ResBlock, CosmosBlock, JointTransformerBlock, *_krea_2_blocks())


@contextmanager
def autograd_possible() -> Iterator[None]:
    """Leave the inference mode in which nodes run; the host's training flag is set."""
    before = getattr(comfy.model_management, "in_training", None)
    # Buffers for offloaded weights were made in inference mode; outside nobody may write to them.
    getattr(comfy.model_management, "reset_cast_buffers", lambda: None)()
    with torch.inference_mode(False), torch.enable_grad(), _position_embedding_in_torch():
        try:
            if before is not None:
                comfy.model_management.in_training = True
            yield
        finally:
            if before is not None:
                comfy.model_management.in_training = before


@contextmanager
def _position_embedding_in_torch() -> Iterator[None]:
    """The host's fused norm and position embedding has no backward pass; torch's operations have.

    Other families ask `in_training`, and do without it by themselves.
    """
    kitchen, name = getattr(comfy.quant_ops, "ck", None), "rms_rope_split_half"
    fused = getattr(kitchen, name, None)
    if fused is None:  # an older host, which never fused them
        yield
        return
    from comfy_kitchen.backends.eager import rope

    setattr(kitchen, name, getattr(rope, name))
    try:
        yield
    finally:
        setattr(kitchen, name, fused)


@contextmanager
def text_layers_keep_inputs(cond_stage_model: nn.Module) -> Iterator[None]:
    """The host's CLIP layers add in place to what their layer norms saved; give those a copy.

    Language models write into their layers' inputs, which autograd refuses; their layers compute
    the same without it. Their norms hold weights of inference mode, which it cannot keep.
    """
    with ExitStack() as stack:
        for module in cond_stage_model.modules():
            forward = _plain_forward(module)
            if forward is not None:
                stack.callback(_restore_forward, module, module.__dict__.get("forward"))
                module.forward = forward
        layers: list[Any] = [m for m in cond_stage_model.modules() if isinstance(m, CLIPLayer)]
        for layer in layers:
            for norm in (layer.layer_norm1, layer.layer_norm2):
                hook = norm.register_forward_pre_hook(lambda module, args: args[0].clone())
                stack.callback(hook.remove)
        yield


def _plain_forward(module: Any) -> Callable[..., Any] | None:
    """A forward pass of a language model's part that autograd can follow; None for other parts."""
    if type(module) is llama.TransformerBlock:

        def layer(x: Tensor, **arguments: Any) -> tuple[Tensor, Any]:
            attended, kept = module.self_attn(hidden_states=module.input_layernorm(x), **arguments)
            x = x + attended
            return x + module.mlp(module.post_attention_layernorm(x)), kept

        return layer
    if type(module) is llama.RMSNorm:

        def norm(x: Tensor) -> Tensor:
            weight = usable(module.weight.detach())
            return rms_norm(x, weight + 1.0 if module.add else weight, module.eps)

        return norm
    return _plain_t5(module)


def _plain_t5(module: Any) -> Callable[..., Any] | None:
    """The same for the parts of a T5."""
    if type(module) is t5.T5LayerFF:
        return lambda x: x + module.DenseReluDense(module.layer_norm(x))
    if type(module) is t5.T5LayerSelfAttention:

        def attention(x: Tensor, *args: Any, **arguments: Any) -> tuple[Tensor, Any]:
            attended, bias = module.SelfAttention(module.layer_norm(x), *args, **arguments)
            return x + attended, bias

        return attention
    if type(module) is t5.T5LayerNorm:

        def norm(x: Tensor) -> Tensor:
            x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + module.variance_epsilon)
            return usable(module.weight.detach()).to(x) * x

        return norm
    return None


@contextmanager
def checkpointed(network: nn.Module) -> Iterator[None]:
    """Recompute a network's blocks in the backward pass instead of keeping their activations."""
    with ExitStack() as stack:
        for block in network.modules():
            if isinstance(block, BLOCKS):
                stack.callback(_restore_forward, block, block.__dict__.get("forward"))
                block.forward = _recomputing(block.forward)
        yield


def _restore_forward(block: Any, own: Callable[..., Any] | None) -> None:
    if own is None:
        del block.forward
    else:
        block.forward = own


def _recomputing(forward: Callable[..., Any]) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        if (options := kwargs.get("transformer_options")) is not None:
            # The UNet goes on writing into its options; a second run must see them as they are now.
            kwargs["transformer_options"] = dict(options)
        return checkpoint(
            forward,
            *args,
            use_reentrant=False,
            preserve_rng_state=False,
            context_fn=checkpoint_contexts,
            **kwargs,
        )

    return run


def exact_attention(options: dict[str, Any]) -> None:
    """Use torch's own attention in one forward pass, also where another pack has put its own.

    The host's default may split its work by the memory that is free, which is another graph when a
    block is recomputed. Quantised kernels, which other packs put here, have no backward pass.

    Args:
        options: of this pass alone; the options of the MODEL keep what another pack has put there.
    """

    def torch_attention(_: Any, *args: Any, **kwargs: Any) -> Any:
        return attention_pytorch(*args, **kwargs)

    options["optimized_attention_override"] = torch_attention


def let_go(network: Any) -> None:
    """Drop what a network keeps of its latest pass; with learned vectors it is a whole graph."""
    for name in ("affline_emb", "crossattn_emb", "affline_scale_log_info"):
        if name in network.__dict__:
            setattr(network, name, None)
