"""Excludes the start token, which all prompts share, from training."""

from __future__ import annotations

import torch
from torch import Tensor

from ..host.ports import ForwardInfo, LayerSite, Role, TextLayout, UNetEdit, UNetSites


class StartDetached(UNetEdit):
    """No gradient through key and value of start tokens; the values do not change.

    Source: Custom Diffusion, and CLiC after it (src/att_processor.py:102-106). The start token is
    the same in every prompt, and most of the attention goes to it, so weights trained on it
    change every picture.
    """

    def __init__(self) -> None:
        self._text = TextLayout()

    def wanted_layers(self, sites: UNetSites) -> list[LayerSite]:
        self._text = sites.text
        return [site for site in sites.layers if Role.CROSS_KV in site.roles]

    def layer(self, site: LayerSite, inputs: Tensor, output: Tensor, info: ForwardInfo) -> Tensor:
        is_start = self._text.is_before(output.shape[1], output.device)
        return torch.where(is_start[:, None], output.detach(), output)
