"""Frees GPU memory for networks that ComfyUI does not manage."""

from __future__ import annotations

import comfy.model_management as management
import torch


def free_vram(needed: int, device: torch.device) -> None:
    """Send models of the host away until so many bytes, and what a pass takes, are free.

    Args:
        needed: bytes of the weights that are about to come.
    """
    with torch.inference_mode():  # the host's weights were made in it, and only there may they move
        management.free_memory(needed + management.minimum_inference_memory(), device)
