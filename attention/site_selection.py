"""Selects the blocks for attention maps."""

from __future__ import annotations

from torch import Tensor

from ..errors import ConfigError, ModelError
from ..host.ports import Host, Place, TransformerSite, UNetSites

PAPER_FACTOR = 4  # 16x16 maps at 512 px: where Hertz et al. 2022 found words to be localised best
SMALLEST_GRID = 12  # a coarser map cannot outline an object


def grid_at(downsample: int, latent_size: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of the maps with a downsampling factor, for latents of (h, w)."""
    height, width = latent_size
    return -(-height // downsample), -(-width // downsample)


def rising_sites(sites: UNetSites) -> list[TransformerSite]:
    """Blocks of a UNet's up arm (the "cross_up" layers of CLiC's official code), or those of a
    transformer that locate words best.

    Raises:
        ModelError: there is none.
    """
    rising = [site for site in sites.transformers if site.place is Place.UP]
    chosen = list(sites.finders) or rising
    if not chosen:
        raise ModelError("The model has no cross-attention in its up blocks to read maps from.")
    return chosen


def located_rows(host: Host, timesteps: Tensor) -> list[int]:
    """Rows of a batch whose noise level shows where words are: all of a UNet's.

    Args:
        timesteps: [B].
    """
    first, last = (share * host.noise_path.last_t for share in host.sites.located_at)
    return [row for row, t in enumerate(timesteps.tolist()) if first <= t <= last]


def sites_to_read(
    sites: UNetSites, latent_size: tuple[int, ...], downsample: int = 0
) -> list[TransformerSite]:
    """Blocks for the attention loss: those of the down and up arms of a UNet, or the ones of a
    transformer that locate words best.

    Args:
        latent_size: (h, w).
        downsample: factor of the maps, relative to the latent. 0 picks it: 4 as in the papers,
            less for pictures so small that the maps would have fewer than 12 rows or columns.

    Raises:
        ConfigError: the model has no cross-attention with that factor.
    """
    if sites.finders:  # one grid, so the depth in the network decides
        if downsample not in (0, known := sites.finders[0].downsample):
            raise ConfigError("attention_level", downsample, f"0 or {known} for this model")
        return list(sites.finders)
    there = sorted(
        {s.downsample for s in sites.transformers if s.place is not Place.MID}, reverse=True
    )
    if downsample == 0:
        fine = [
            n for n in there if n <= PAPER_FACTOR and min(grid_at(n, latent_size)) >= SMALLEST_GRID
        ]
        downsample = fine[0] if fine else there[-1]
    if downsample not in there:
        allowed = ", ".join(str(n) for n in sorted(there))
        raise ConfigError("attention_level", downsample, f"one of {allowed} for this model, or 0")
    return sites.at_downsample(downsample, (Place.DOWN, Place.UP))
