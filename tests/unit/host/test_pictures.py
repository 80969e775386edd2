"""Pictures on their way into a VAE."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("diffusers")

from conceptloom.host.diffusers import DiffusersHost


def test_flat_ground_costs_no_digits() -> None:
    """A region on grey, as CLiC's l_RoI looks at it, against the same VAE in float64."""
    host = DiffusersHost.tinyworld()
    picture = torch.full((1, 64, 64, 3), 0.5)
    generator = torch.Generator().manual_seed(1)
    picture[:, 8:32, 8:32] = torch.rand(24, 24, 3, generator=generator)
    latent = host.encode_image(picture)
    host.vae.double()
    exact = host.encode_image(picture.double())
    assert float((latent - exact).abs().max()) < 4e-6  # 9e-6 where channels lie together
