"""Selects the blocks for attention maps."""

from __future__ import annotations

from ..errors import ConfigError
from ..host.ports import Place, TransformerSite, UNetSites

PAPER_LEVEL = 4  # 16x16 maps at 512 px: where Hertz et al. 2022 found words to be localised best
SMALLEST_GRID = 12  # a coarser map cannot outline an object


def grid_at(level: int, latent_size: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the maps at a level, for latents of (h, w)."""
    height, width = latent_size
    return -(-height // level), -(-width // level)


def sites_to_read(
    sites: UNetSites, latent_size: tuple[int, ...], level: int = 0
) -> list[TransformerSite]:
    """Blocks for the attention loss: those of the down and up arms of a UNet, or the ones of a
    transformer that locate words best.

    Args:
        latent_size: (h, w).
        level: downsampling against the latent. 0 picks it: 4 as in the papers, less for pictures
            so small that the maps would have fewer than 12 rows or columns.

    Raises:
        ConfigError: the model has no cross-attention at that level.
    """
    if sites.finders:  # one grid, so the depth in the network decides
        if level not in (0, known := sites.finders[0].level):
            raise ConfigError("attention_level", level, f"0 or {known} for this model")
        return list(sites.finders)
    there = sorted({s.level for s in sites.transformers if s.place is not Place.MID}, reverse=True)
    if level == 0:
        fine = [
            n for n in there if n <= PAPER_LEVEL and min(grid_at(n, latent_size)) >= SMALLEST_GRID
        ]
        level = fine[0] if fine else there[-1]
    if level not in there:
        allowed = ", ".join(str(n) for n in sorted(there))
        raise ConfigError("attention_level", level, f"one of {allowed} for this model, or 0")
    return sites.at_level(level, (Place.DOWN, Place.UP))
