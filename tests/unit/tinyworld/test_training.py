"""The recipe: the loss by hand, an exact resume, and optimizers that do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")

from conceptloom.tinyworld import data, loop
from conceptloom.tinyworld.diffusion_training import drop_words, velocity_loss
from conceptloom.tinyworld.fast import ready_for_training
from conceptloom.tinyworld.loop import Budget, Team, averaged, train
from conceptloom.tinyworld.model import ModelConfig, build_unet, build_vae
from conceptloom.tinyworld.muon import Muon, is_matrix, orthogonal
from conceptloom.tinyworld.train import parser
from conceptloom.tinyworld.vae_start import start_near_linear
from conceptloom.tinyworld.vae_training import psnr, to_tensor
from conceptloom.tinyworld.world import random_scene


def test_velocity_by_hand() -> None:
    # alpha_bar 0.36: alpha 0.6, sigma 0.8; v = 0.6 * 2 - 0.8 * 1 = 0.4
    latent, noise = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    alpha_bar = torch.full((1, 1, 1, 1), 0.36)
    velocity = torch.full((1, 1, 1, 1), 0.4)
    assert velocity_loss(velocity, latent, noise, alpha_bar) == pytest.approx(0, abs=1e-12)
    assert velocity_loss(velocity + 3, latent, noise, alpha_bar) == pytest.approx(9.0)


def test_words_are_dropped_and_strange_ones_put_in() -> None:
    rows = torch.tensor([[0, 5, 6, 7, *[1] * 73]]).repeat(2000, 1)
    changed = drop_words(rows, 50, np.random.default_rng(0))
    empty = (changed[:, 1:] == 1).all(1).float().mean()
    strange = (changed >= 50).any(1)
    assert empty == pytest.approx(0.10, abs=0.02)
    assert strange.float().mean() == pytest.approx(0.04, abs=0.015)
    kept = changed[strange][0]
    assert kept[kept < 50].tolist()[:4] == [0, 5, 6, 7]
    assert (changed[:, 0] == 0).all()


def test_orthogonal_brings_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((2, 16, 24), (2, 24, 16), (1, 8, 72), (1, 72, 8)):
        values = torch.linalg.svdvals(orthogonal(torch.randn(shape) * 50))
        assert values.min() > 0.3
        assert values.max() < 1.3


def test_muon_step_has_the_size_of_an_adam_step() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(16, 64))
    weight.grad = torch.randn(16, 64)
    Muon([weight], lr=0.1).step()
    assert float(weight.detach().square().mean().sqrt()) == pytest.approx(0.1 * 0.2, rel=0.3)


def test_tables_and_outer_layers_are_no_matrices_for_muon() -> None:
    weight = nn.Parameter(torch.zeros(4, 4))
    assert is_matrix("unet.mid_block.attentions.0.proj_in.weight", weight)
    assert not is_matrix("text.embeddings.token_embedding.weight", weight)
    assert not is_matrix("unet.conv_in.weight", weight)
    assert not is_matrix("unet.conv_norm_out.bias", nn.Parameter(torch.zeros(4)))


def test_learning_rate_rises_holds_and_falls() -> None:
    budget = Budget(minutes=1, learning_rate=1.0, warmup_steps=10, flat=0.5)
    assert budget.rate(0, 0.0) == pytest.approx(0.1)
    assert budget.rate(100, 0.4) == 1.0
    assert budget.rate(100, 0.75) == pytest.approx(0.5)
    assert budget.rate(100, 1.0) == pytest.approx(0.01)


class _Clock:
    """One second per look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def _run(path: Path, seconds: list[float], monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """Train a small net in as many runs as there are budgets; its weights afterwards."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"net": nn.Linear(3, 2)})
    for seconds_so_far in seconds:
        monkeypatch.setattr(loop, "time", _Clock())
        torch.manual_seed(0)

        def loss_of(step: int) -> Tensor:
            x = torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3))).float()
            return (net["net"](x) - x[:, :2]).square().mean()

        # the rate must not depend on the budget here: one budget is split in two
        budget = Budget(minutes=seconds_so_far / 60, learning_rate=0.1, flat=1.0 - 1e-9, muon=True)
        train(net, loss_of, budget, Team(), path)
    return [p.detach().clone() for p in net.parameters()]


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the look at the clock that ends a run takes a second without a step
    whole = _run(tmp_path / "whole.pt", [20], monkeypatch)
    pieces = _run(tmp_path / "pieces.pt", [8, 21], monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_averages_are_worn_for_a_moment_only() -> None:
    parameter = nn.Parameter(torch.ones(3))
    with averaged([parameter], [torch.zeros(3)]):
        assert (parameter == 0).all()
    assert (parameter == 1).all()


def test_fast_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    config = ModelConfig(unet_channels=(32, 64), context_dim=32)
    unet = build_unet(config).eval()
    latent, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 32)
    with torch.no_grad():
        plain = unet(latent, 10, context).sample
        fast = ready_for_training(unet, bfloat16=True)(latent, 10, context).sample
    assert torch.allclose(plain, fast, atol=1e-4)


def test_autoencoder_starts_at_smooth_block_averages() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures = np.stack([random_scene(rng).image for _ in range(24)])
    vae = build_vae(ModelConfig(vae_channels=(32, 32, 64), vae_norm_groups=2)).eval()
    before = psnr(vae, pictures)
    start_near_linear(vae, to_tensor(pictures).contiguous())
    assert psnr(vae, pictures) > max(16.0, before + 4)


def test_rendering_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data, "SHARD", 3)
    data.render_shard(tmp_path, 0, 32, 0)
    first = np.load(tmp_path / "images0000.npy")
    data.render_shard(tmp_path, 1, 32, 0)
    assert [len(s) for s in data.open_images(tmp_path)] == [3, 3]
    assert len(data.read_captions(tmp_path)) == 6
    data.render_shard(tmp_path, 0, 32, 0)
    assert np.array_equal(first, np.load(tmp_path / "images0000.npy"))


def test_the_command_says_what_made_the_bundled_file() -> None:
    args = parser().parse_args([])
    assert (args.size, args.unet_channels, args.vae_channels) == (64, [64, 128], [32, 32, 64])
