"""Calls of diffusers' single-stream transformers, whose inputs and signs differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..families.family import Family
from ..families.single_stream import KREA_2, Z_IMAGE
from ..families.transformer import sites_of
from ..ports import UNetSites
from .joint import dispatching, tap


def joint_sites(family: Family, network: Any) -> UNetSites:
    """Every hook place of a network."""
    around = dispatching(type(network))
    return sites_of(family, network, in_diffusers=True, tap=tap, around=lambda: around)


def velocity(family: Family, network: Any, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """Noise minus picture at x_t, [B, C, h, w].

    Args:
        family: of the network.
        latent: [B, C, h, w] x_t.
        t: [B] from 0 (picture) to 1 (noise).
        context: [B, K, width], a row for each token of prompts of one length.
    """
    return _CALLS[family.name](network, latent, t, context)


def _z_image(network: Any, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """It takes the share of the picture for a time, and points from noise to picture."""
    pictures = list(_even(latent).unsqueeze(2).unbind(0))
    output = network(pictures, 1 - t, list(context.unbind(0)), return_dict=False)[0]
    return -torch.stack(output).squeeze(2)[..., : latent.shape[-2], : latent.shape[-1]]


def _krea_2(network: Any, latent: Tensor, t: Tensor, context: Tensor) -> Tensor:
    """It takes patches of 2x2 cells in one axis, and a context by layers of the text encoder."""
    whole = _even(latent)
    rows, columns = whole.shape[-2] // 2, whole.shape[-1] // 2
    cells = whole.unflatten(3, (columns, 2)).unflatten(2, (rows, 2))  # [B, C, h, 2, w, 2]
    patches = cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
    layers = network.text_fusion.projector.in_features
    text = context.unflatten(2, (layers, -1))
    positions = torch.zeros(text.shape[1] + rows * columns, 3, device=latent.device)
    positions[text.shape[1] :, 1] = torch.arange(rows).repeat_interleave(columns).to(positions)
    positions[text.shape[1] :, 2] = torch.arange(columns).repeat(rows).to(positions)
    output = network(patches, text, t, positions, return_dict=False)[0]
    cells = output.unflatten(1, (rows, columns)).unflatten(3, (-1, 2, 2))
    planes = cells.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)
    return planes[..., : latent.shape[-2], : latent.shape[-1]]


def _even(latent: Tensor) -> Tensor:
    """Filled up to whole patches, as ComfyUI does: what lies beyond an edge repeats from the other
    side."""
    height, width = latent.shape[-2:]
    if height % 2 == width % 2 == 0:
        return latent
    return torch.nn.functional.pad(latent, (0, width % 2, 0, height % 2), mode="circular")


_CALLS: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    Z_IMAGE.name: _z_image,
    KREA_2.name: _krea_2,
}
