"""Settings of ComfyUI during training, restored afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.clip_model import CLIPLayer
from comfy.ldm.modules.attention import BasicTransformerBlock, attention_pytorch
from comfy.ldm.modules.diffusionmodules.openaimodel import ResBlock
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..hooks import checkpoint_contexts


@contextmanager
def autograd_possible() -> Iterator[None]:
    """Leave the inference mode in which nodes run; the host's training flag is set."""
    before = getattr(comfy.model_management, "in_training", None)
    # Buffers for offloaded weights were made in inference mode; outside nobody may write to them.
    getattr(comfy.model_management, "reset_cast_buffers", lambda: None)()
    with torch.inference_mode(False), torch.enable_grad():
        try:
            if before is not None:
                comfy.model_management.in_training = True
            yield
        finally:
            if before is not None:
                comfy.model_management.in_training = before


@contextmanager
def text_layers_keep_inputs(cond_stage_model: nn.Module) -> Iterator[None]:
    """The host's CLIP layers add in place to what their layer norms saved; give those a copy."""
    with ExitStack() as stack:
        layers: list[Any] = [m for m in cond_stage_model.modules() if isinstance(m, CLIPLayer)]
        for layer in layers:
            for norm in (layer.layer_norm1, layer.layer_norm2):
                hook = norm.register_forward_pre_hook(lambda module, args: args[0].clone())
                stack.callback(hook.remove)
        yield


@contextmanager
def checkpointed(unet: nn.Module) -> Iterator[None]:
    """Recompute a UNet's blocks in the backward pass instead of keeping their activations."""
    with ExitStack() as stack:
        for block in unet.modules():
            if isinstance(block, (BasicTransformerBlock, ResBlock)):
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
