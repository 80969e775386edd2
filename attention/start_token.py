"""Keeping what every prompt begins with out of the learning."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host.ports import ForwardInfo, LayerSite, Role, UNetEdit, UNetSites

CHUNK = 77  # tokens; every chunk of a long prompt begins with a start token of its own


class StartDetached(UNetEdit):
    """No gradient through the key and value of start tokens; no number of the pass changes.

    Source: Custom Diffusion, and CLiC after it (src/att_processor.py:102-106). The start token is
    the same in every prompt, and most of the attention goes to it, so weights that learn from it
    change every picture.
    """

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        return [site for site in sites.layers if Role.CROSS_KV in site.roles]

    def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> Tensor:
        return _start_detached(output)


def _start_detached(projected: Tensor) -> Tensor:
    """[B, K, C] whose rows 0, 77, 154, ... carry no gradient."""
    is_start = torch.arange(projected.shape[1], device=projected.device) % CHUNK == 0
    return torch.where(is_start[:, None], projected.detach(), projected)
