"""Makes external tensors usable in a pass with autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def usable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy if autograd could not save it for the backward pass.

    Nodes and loaders of ComfyUI make theirs in inference mode, which guidance leaves for the UNet
    alone and training altogether.
    """
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return tensor.clone()
    return tensor
