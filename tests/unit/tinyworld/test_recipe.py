"""The recipe: the loss by hand, an exact resume, and optimizers that do what they say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("diffusers")

from conceptloom.tinyworld.checkpoint import CHECKPOINT, read_checkpoint
from conceptloom.tinyworld.model import ModelConfig, build_unet, build_vae
from conceptloom.tinyworld.recipe import loop
from conceptloom.tinyworld.recipe.diffusion_training import drop_words, velocity_loss
from conceptloom.tinyworld.recipe.fast import ready_for_training
from conceptloom.tinyworld.recipe.loop import Team, TrainingBudget, averaged, train
from conceptloom.tinyworld.recipe.muon import Muon, is_matrix, orthogonal
from conceptloom.tinyworld.recipe.shards import world_token_ids
from conceptloom.tinyworld.recipe.train import parser
from conceptloom.tinyworld.recipe.vae_start import start_near_linear
from conceptloom.tinyworld.recipe.vae_training import busy_crop, even_out, psnr, to_tensor
from conceptloom.tinyworld.scenes import random_scene


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
    budget = TrainingBudget(minutes=10, learning_rate=1.0, warmup_steps=10, falling=4)
    assert budget.rate(0, 0.0) == pytest.approx(0.1)
    assert budget.rate(100, 5.9) == 1.0
    assert budget.rate(100, 8) == pytest.approx(0.5)
    assert budget.rate(100, 10) == pytest.approx(0.01)
    assert TrainingBudget(minutes=10, learning_rate=1.0).rate(100, 9.9) == 1.0


RATE = TrainingBudget.rate


class _Clock:
    """One second per look."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        self.now += 1.0
        return self.now


def _run(
    path: Path, budgets: list[TrainingBudget], monkeypatch: pytest.MonkeyPatch
) -> tuple[list[Tensor], list[float]]:
    """Train a small net in as many runs as there are budgets; its weights and learning rates."""
    torch.manual_seed(0)
    net = nn.ModuleDict({"net": nn.Linear(3, 2)})
    rates: list[float] = []
    for budget in budgets:
        monkeypatch.setattr(loop, "time", _Clock())
        torch.manual_seed(0)

        def loss_of(step: int) -> Tensor:
            x = torch.from_numpy(np.random.default_rng(step).normal(size=(4, 3))).float()
            return (net["net"](x) - x[:, :2]).square().mean()

        def heard(self: TrainingBudget, steps: int, minute: float) -> float:
            rates.append(RATE(self, steps, minute))
            return rates[-1]

        with monkeypatch.context() as patched:
            patched.setattr(TrainingBudget, "rate", heard)
            train(net, loss_of, budget, Team(), path)
    return [p.detach().clone() for p in net.parameters()], rates[::2]  # there are two optimizers


def _seconds(seconds: float, falling: float = 0.0) -> TrainingBudget:
    return TrainingBudget(
        minutes=seconds / 60, falling=falling / 60, learning_rate=0.1, warmup_steps=1, muon=True
    )


def test_a_resumed_run_ends_where_an_unbroken_one_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the look at the clock that ends a run takes a second without a step
    whole, _ = _run(tmp_path / "whole.pt", [_seconds(20)], monkeypatch)
    pieces, _ = _run(tmp_path / "pieces.pt", [_seconds(8), _seconds(21)], monkeypatch)
    assert all(torch.equal(a, b) for a, b in zip(whole, pieces, strict=True))


def test_a_run_that_goes_on_forgets_that_its_rate_fell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, fallen = _run(tmp_path / "a.pt", [_seconds(20, 8)], monkeypatch)
    steady = sum(rate == 0.1 for rate in fallen) - 1  # the first step of the fall has it too
    assert fallen[-1] < 0.02
    assert len(fallen) > steady + 5
    path = tmp_path / "b.pt"
    _, both = _run(path, [_seconds(20, 8), _seconds(30)], monkeypatch)
    assert all(rate == 0.1 for rate in both[len(fallen) :])
    # it goes on from the step before the fall, not from the last one
    done = torch.load(path, weights_only=True)["figures"]["steps"]
    assert done == steady + len(both) - len(fallen)


def test_averages_are_worn_for_a_moment_only() -> None:
    parameter = nn.Parameter(torch.ones(3))
    with averaged([parameter], [torch.zeros(3)]):
        assert (parameter == 0).all()
    assert (parameter == 1).all()


def test_fast_attention_computes_the_same() -> None:
    torch.manual_seed(0)
    config = ModelConfig(unet_channels=(32, 64), latent_channels=4, context_dim=32)
    unet = build_unet(config).eval()
    latent, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, 32)
    with torch.no_grad():
        plain = unet(latent, 10, context).sample
        fast = ready_for_training(unet, bfloat16=True)(latent, 10, context).sample
    assert torch.allclose(plain, fast, atol=1e-4)


def test_autoencoder_starts_at_smooth_block_averages() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures = np.stack([random_scene(rng, 64).image for _ in range(24)])
    vae = build_vae(ModelConfig()).eval()
    before = psnr(vae, pictures)
    start_near_linear(vae, to_tensor(pictures).contiguous())
    assert psnr(vae, pictures) > max(15.0, before + 6)  # means of 8 x 8 pixels of a 64 px picture


def test_evened_out_latents_decode_alike() -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    pictures = np.stack([random_scene(rng, 64).image for _ in range(24)])
    vae = build_vae(ModelConfig()).eval()
    start_near_linear(vae, to_tensor(pictures).contiguous())
    x = to_tensor(pictures)
    with torch.no_grad():
        before = vae.encode(x).latent_dist
        seen = vae.decode(before.mean).sample
        even_out(vae, pictures)
        after = vae.encode(x).latent_dist
        again = vae.decode(after.mean).sample
    torch.testing.assert_close(seen, again, rtol=1e-3, atol=1e-4)
    spread = before.mean.std((0, 2, 3))
    torch.testing.assert_close(after.mean.std((0, 2, 3)), spread.sqrt(), rtol=1e-3, atol=1e-3)
    assert after.mean.mean((0, 2, 3)).abs().max() < 1e-3
    noise = (after.std / before.std)[0, :, 0, 0]  # noise keeps its size beside the signal
    torch.testing.assert_close(noise, spread**-0.5, rtol=1e-3, atol=1e-3)


def test_crops_lie_where_most_happens() -> None:
    picture = np.zeros((128, 128, 3), np.uint8)
    picture[70:120, 70:120] = np.random.default_rng(0).integers(0, 255, (50, 50, 3))
    rng = np.random.default_rng(1)
    crops = [busy_crop(picture, 64, rng) for _ in range(40)]
    assert all(crop.shape == (64, 64, 3) for crop in crops)
    share = np.mean([(crop > 0).mean() for crop in crops])
    assert share > 1.4 * (picture > 0).mean()


def test_training_goes_on_from_the_weights_of_the_repository() -> None:
    assert parser().parse_args(["--start"]).start == CHECKPOINT
    assert parser().parse_args([]).start is None
    file = read_checkpoint(CHECKPOINT)
    assert list(file.token_ids) == world_token_ids()
    assert (file.config.resolution_px, file.config.latent_channels) == (128, 16)
    assert CHECKPOINT.stat().st_size <= 16e6
