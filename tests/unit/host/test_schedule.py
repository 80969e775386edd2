"""Noise levels: every conversion between t, sigma and alpha-bar."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import ForwardInfo, Prompt, Schedule, find_run
from conceptloom.samplers.ddim import ddim_step

from ..tiny_models import diffusers, noise, tiny_host

SCHEDULE = Schedule(torch.tensor([0.64, 0.36, 0.0], dtype=torch.float64), predicts_velocity=True)


def test_equations_by_hand() -> None:
    at = torch.tensor([0, 1])
    assert SCHEDULE.at(at).tolist() == pytest.approx([0.64, 0.36])
    assert SCHEDULE.sigma(at).tolist() == pytest.approx([0.75, 4 / 3])
    latent, eps = torch.full((2, 1, 1, 1), 10.0), torch.full((2, 1, 1, 1), 5.0)
    noisy = SCHEDULE.add_noise(latent, eps, at)
    assert noisy.flatten().tolist() == pytest.approx([0.8 * 10 + 0.6 * 5, 0.6 * 10 + 0.8 * 5])
    # v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0
    velocity = torch.tensor([0.8 * 5 - 0.6 * 10, 0.6 * 5 - 0.8 * 10]).view(2, 1, 1, 1)
    back = SCHEDULE.noise_from_velocity(noisy, velocity, at)
    assert back.flatten().tolist() == pytest.approx([5, 5], rel=1e-6)


def test_the_native_weight_makes_a_noise_error_one_of_the_models_own_target() -> None:
    at = torch.tensor([0, 1])
    latent, eps = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
    wrong = noise(2, 4, 3, 3, seed=2)
    noisy = SCHEDULE.add_noise(latent, eps, at)
    alpha_bar = SCHEDULE.at(at)[:, None, None, None]
    velocity = alpha_bar.sqrt() * eps - (1 - alpha_bar).sqrt() * latent
    in_noise = (SCHEDULE.noise_from_velocity(noisy, wrong, at) - eps).square().mean((1, 2, 3))
    in_velocity = (wrong - velocity).square().mean((1, 2, 3))
    assert torch.allclose(in_noise * SCHEDULE.native_weight(at), in_velocity, rtol=1e-5)
    assert Schedule(SCHEDULE.alpha_bar).native_weight(at).tolist() == [1, 1]


def test_pure_noise_at_the_end_of_a_schedule_gives_no_nan() -> None:
    at = torch.tensor([2])
    eps = noise(1, 4, 2, 2)
    noisy = SCHEDULE.add_noise(noise(1, 4, 2, 2, seed=1), eps, at)
    predicted = SCHEDULE.noise_from_velocity(noisy, noise(1, 4, 2, 2, seed=2), at)
    error = (predicted - eps).square().mean() * SCHEDULE.native_weight(at)
    assert float(error) == 0


def test_a_scheduler_that_ends_in_pure_noise_keeps_a_trace_of_the_picture() -> None:
    """Otherwise its first step divides by zero; ComfyUI keeps the same trace."""
    whole, scheduler = tiny_host(velocity=True), diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )  # fmt: skip
    assert float(scheduler.alphas_cumprod[-1]) == 0
    schedule = DiffusersHost(
        unet=whole.unet, vae=whole.vae, encoders=whole._encoders, scheduler=scheduler
    ).schedule
    at, latent, eps = torch.tensor([999]), noise(1, 4, 2, 2), noise(1, 4, 2, 2, seed=1)
    velocity = (schedule.at(at).sqrt() * eps - (1 - schedule.at(at)).sqrt() * latent).float()
    noisy = schedule.add_noise(latent, eps, at)
    predicted = schedule.noise_from_velocity(noisy, velocity, at)
    clean = ddim_step(schedule, noisy, predicted, 999, 0)
    assert torch.allclose(clean, latent, atol=0.05)
    assert float(schedule.sigma(at)) == pytest.approx(4518.8, rel=1e-3)  # of ComfyUI's ZSNR


def test_noise_levels_are_those_of_the_scheduler() -> None:
    host = tiny_host()
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012)
    other = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    at, latent, eps = torch.tensor([3, 998]), noise(2, 4, 4, 4), noise(2, 4, 4, 4, seed=1)
    ours = host.schedule.add_noise(latent, eps, at)
    assert torch.allclose(ours, other.add_noise(latent, eps, at), atol=1e-6)
    assert not torch.allclose(ours, scheduler.add_noise(latent, eps, at), atol=1e-3)
    assert len(host.schedule) == 1000


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_velocity_models_predict_noise_too(family: str) -> None:
    plain, velocity = tiny_host(family), tiny_host(family, velocity=True)
    latent, at = noise(2, 4, 8, 8), torch.tensor([10, 900])
    prompt = plain.encode_prompt("cat")
    with torch.no_grad():
        v = plain.predict(latent, at, [prompt])  # the same network: its raw output
        eps = velocity.predict(latent, at, [prompt])
    for row in range(2):
        alpha_bar = float(plain.schedule.alpha_bar[int(at[row])])
        by_hand = math.sqrt(alpha_bar) * v[row] + math.sqrt(1 - alpha_bar) * latent[row]
        assert torch.allclose(eps[row], by_hand, atol=1e-6)


@pytest.mark.parametrize(("level", "grid"), [(1, (13, 18)), (2, (7, 9)), (4, (4, 5)), (8, (2, 3))])
def test_grids_round_up(level: int, grid: tuple[int, int]) -> None:
    class Site:
        pass

    site = Site()
    site.level = level  # type: ignore[attr-defined]
    assert ForwardInfo((1, 4, 13, 18), torch.zeros(1), (True,), 77).grid(site) == grid


def test_pieces_are_found_wherever_they_stand() -> None:
    prompt = Prompt("", torch.zeros(1, 8, 2), (1, 7, 8, "mug", "mug", 7, 8, 7))
    assert prompt.find((7, 8)) == (1, 2, 5, 6)
    assert prompt.find((7,)) == (1, 5, 7)
    assert prompt.find((8, 9)) == prompt.find(()) == ()
    assert find_run((9, 7, 7, 7), (7, 7)) == (1, 2, 3)  # a position that two share counts once
    assert prompt.find_handle("mug") == (3, 4)
    assert prompt.find_handle("7") == ()  # the handle <7> is not the token 7
