"""How much memory there is, before something large is kept."""

from __future__ import annotations

import os

import torch

GIB = 2**30


def free_memory(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, or available in the machine; None where nobody says.

    Without psutil, which ComfyUI and accelerate bring, the machine's whole memory counts.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type != "cpu":
        return None
    try:
        import psutil
    except ImportError:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):  # Windows
            return None
    return psutil.virtual_memory().available
