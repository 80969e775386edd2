"""The edits that draw regions, by the kind of a model's attention to the text."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..host.ports import UNetEdit, UNetSites
from .fusion import RegionFusion, RegionSource
from .joint_regions import JointRegions
from .region_layers import RegionLayers


def region_edits(
    sites: UNetSites, sources: Sequence[RegionSource], masks: Tensor, suppression: float = 0.0,
    injection: UNetEdit | None = None,
) -> list[UNetEdit]:  # fmt: skip
    """All edits that draw regions in one pass; the template's features apply last.

    Args:
        sites: of the model.
        sources, masks, suppression: see `RegionFusion`.
    """
    inner = [injection] if injection is not None else []
    if sites.joint is not None:
        return [JointRegions(sources, masks, suppression), *inner]
    layers = RegionLayers([source.changes for source in sources], masks)
    before = [layers] if any(source.changes for source in sources) else []
    return [*before, RegionFusion(sources, masks, suppression), *inner]
