"""Noise paths: every conversion between picture, noise and what a network predicts."""

from __future__ import annotations

import pytest
import torch

from conceptloom.errors import ConfigError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.noise import EpsPath, FlowPath, NoisePath, VelocityPath

from ..tiny_models import diffusers, noise, tiny_host

# alpha 0.8, 0.6 and 0; sigma 0.6, 0.8 and 1
ALPHA_BAR = torch.tensor([0.64, 0.36, 0.0], dtype=torch.float64)
AT = torch.tensor([0, 1])
CLEAN, NOISE = torch.full((2, 1, 1, 1), 10.0), torch.full((2, 1, 1, 1), 5.0)
PATHS: dict[str, NoisePath] = {
    "eps": EpsPath(ALPHA_BAR),
    "v": VelocityPath(ALPHA_BAR),
    "flow": FlowPath(shift=3.0),
}
EVERY_T = {"eps": [0, 1, 2], "v": [0, 1, 2], "flow": [0.25, 0.9, 1.0]}


def numbers(tensor: torch.Tensor) -> list[float]:
    return tensor.flatten().tolist()


@pytest.mark.parametrize("kind", ["eps", "v"])
def test_preserved_variance_by_hand(kind: str) -> None:
    path = PATHS[kind]
    alpha, sigma = path.coefficients(AT)
    assert numbers(alpha) == pytest.approx([0.8, 0.6])
    assert numbers(sigma) == pytest.approx([0.6, 0.8])
    assert numbers(path.level_at(AT)) == pytest.approx([0.75, 4 / 3])
    assert numbers(path.add_noise(CLEAN, NOISE, AT)) == pytest.approx([11.0, 10.0])
    assert path.last_t == 2


def test_eps_by_hand() -> None:
    path, noisy = PATHS["eps"], torch.tensor([11.0, 10.0]).view(2, 1, 1, 1)
    assert numbers(path.target(CLEAN, NOISE, AT)) == [5, 5]
    assert numbers(path.noise(noisy, NOISE, AT)) == [5, 5]
    assert numbers(path.denoised(noisy, NOISE, AT)) == pytest.approx([10, 10])


def test_v_by_hand() -> None:
    path, noisy = PATHS["v"], torch.tensor([11.0, 10.0]).view(2, 1, 1, 1)
    velocity = path.target(CLEAN, NOISE, AT)
    assert numbers(velocity) == pytest.approx([0.8 * 5 - 0.6 * 10, 0.6 * 5 - 0.8 * 10])
    assert numbers(path.noise(noisy, velocity, AT)) == pytest.approx([5, 5])
    assert numbers(path.denoised(noisy, velocity, AT)) == pytest.approx([10, 10])


def test_flow_with_shift_3_by_hand() -> None:
    path, at = FlowPath(shift=3.0), torch.tensor([0.25, 0.9])
    noisy = path.add_noise(CLEAN, NOISE, at)
    assert numbers(noisy) == pytest.approx([0.75 * 10 + 0.25 * 5, 0.1 * 10 + 0.9 * 5])
    velocity = path.target(CLEAN, NOISE, at)
    assert numbers(velocity) == [-5, -5]
    assert numbers(path.denoised(noisy, velocity, at)) == pytest.approx([10, 10])
    assert numbers(path.noise(noisy, velocity, at)) == pytest.approx([5, 5])
    # u = 1, 3/4, 1/2, 1/4 -> 3u / (1 + 2u)
    assert path.timesteps(4) == pytest.approx([1, 0.9, 0.75, 0.5])
    assert numbers(path.levels(4)) == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    assert FlowPath().timesteps(4) == pytest.approx([1, 0.75, 0.5, 0.25])


def test_pure_noise_by_hand() -> None:
    """At alpha_bar = 0 a v model says -x_0, and its picture does not pass through 1 / alpha."""
    path, at = PATHS["v"], torch.tensor([2])
    noisy = path.add_noise(CLEAN[:1], NOISE[:1], at)
    assert numbers(noisy) == pytest.approx([5], abs=3e-3)
    assert numbers(path.target(CLEAN[:1], NOISE[:1], at)) == pytest.approx([-10], abs=2e-3)
    told = torch.full((1, 1, 1, 1), -7.0)
    assert numbers(path.denoised(noisy, told, at)) == pytest.approx([7], abs=2e-3)
    assert numbers(path.noise(noisy, told, at)) == pytest.approx([5], abs=5e-3)
    assert float(path.level_at(at)) == pytest.approx(4518.8, rel=1e-3)  # of ComfyUI's ZSNR


@pytest.mark.parametrize("kind", list(PATHS))
def test_a_right_prediction_gives_picture_and_noise_back(kind: str) -> None:
    path = PATHS[kind]
    for t in EVERY_T[kind]:
        at = torch.tensor([t, t])
        clean, eps = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
        noisy = path.add_noise(clean, eps, at)
        told = path.target(clean, eps, at)
        found = path.denoised(noisy, told, at), path.noise(noisy, told, at)
        # an eps model divides by alpha: at pure noise 1e-7 becomes 5e-4
        loose = 2e-3 if kind == "eps" and t == 2 else 1e-5
        torch.testing.assert_close(found[0], clean, rtol=loose, atol=loose)
        torch.testing.assert_close(found[1], eps, rtol=1e-5, atol=1e-5)
        assert all(bool(tensor.isfinite().all()) for tensor in (noisy, told, *found))


@pytest.mark.parametrize("kind", list(PATHS))
def test_levels_and_timesteps_tell_the_same(kind: str) -> None:
    path = PATHS[kind]
    for t in EVERY_T[kind]:
        clean, eps = noise(2, 4, 3, 3), noise(2, 4, 3, 3, seed=1)
        noisy, told = path.add_noise(clean, eps, t), path.target(clean, eps, t)
        level = float(path.level_at(torch.tensor([t])))
        assert path.timestep_at(level) == pytest.approx(t)
        in_frame = noisy / path.input_scale(level)
        loose = 3e-3 if kind == "eps" and t == 2 else 1e-5
        denoised = path.denoised_at(in_frame, told, level)
        torch.testing.assert_close(denoised, clean, rtol=loose, atol=loose)
        slope = path.slope(in_frame, told, level)
        # one Euler step to the clean end
        torch.testing.assert_close(in_frame - level * slope, clean, rtol=3e-3, atol=3e-3)


def test_a_number_for_all_rows_is_the_same_as_one_for_each() -> None:
    for kind, path in PATHS.items():
        at = torch.tensor([EVERY_T[kind][1]] * 2)
        one, each = (path.add_noise(CLEAN, NOISE, t) for t in (EVERY_T[kind][1], at))
        torch.testing.assert_close(one, each)
        assert one.dtype == torch.float32


def test_latents_may_have_an_axis_of_time() -> None:
    clean, eps = noise(2, 4, 1, 3, 3), noise(2, 4, 1, 3, 3, seed=1)
    for kind, path in PATHS.items():
        at = torch.tensor(EVERY_T[kind][:2])
        noisy = path.add_noise(clean, eps, at)
        flat = path.add_noise(clean[:, :, 0], eps[:, :, 0], at)
        assert torch.equal(noisy[:, :, 0], flat)


def test_training_draws_every_level_alike_and_a_flow_its_middle() -> None:
    drawn = PATHS["v"].sample_t(3000, torch.Generator().manual_seed(0))
    assert torch.bincount(drawn).tolist() == pytest.approx([1000] * 3, rel=0.1)
    u = FlowPath().sample_t(4000, torch.Generator().manual_seed(0))
    assert 0 < float(u.min()) < float(u.max()) < 1
    assert float(u.median()) == pytest.approx(0.5, abs=0.02)
    assert float((u < 0.25).float().mean()) == pytest.approx(0.136, abs=0.02)  # P(N < -1.0986)
    bent = FlowPath(shift=3.0).sample_t(4000, torch.Generator().manual_seed(0))
    torch.testing.assert_close(bent, 3 * u / (1 + 2 * u))


@pytest.mark.parametrize("steps", [0, -1, 4])
def test_impossible_numbers_of_steps_are_reported(steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}; it must be between 1 and 3"):
        PATHS["eps"].timesteps(steps)
    if steps < 1:
        with pytest.raises(ConfigError, match=f"steps is {steps}; it must be 1 or more"):
            PATHS["flow"].timesteps(steps)


def test_noise_levels_are_those_of_the_scheduler() -> None:
    host = tiny_host()
    scheduler = diffusers.DDPMScheduler(beta_start=0.00085, beta_end=0.012)
    other = diffusers.DDPMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    at, latent, eps = torch.tensor([3, 998]), noise(2, 4, 4, 4), noise(2, 4, 4, 4, seed=1)
    ours = host.noise_path.add_noise(latent, eps, at)
    assert torch.allclose(ours, other.add_noise(latent, eps, at), atol=1e-6)
    assert not torch.allclose(ours, scheduler.add_noise(latent, eps, at), atol=1e-3)
    assert host.noise_path.last_t == 999


def test_targets_are_those_of_diffusers() -> None:
    scheduler = diffusers.DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    path, at = VelocityPath(scheduler.alphas_cumprod), torch.tensor([0, 500, 999])
    clean, eps = noise(3, 4, 2, 2), noise(3, 4, 2, 2, seed=1)
    theirs = scheduler.get_velocity(clean, eps, at)
    torch.testing.assert_close(path.target(clean, eps, at), theirs, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_a_host_gives_what_its_network_says(family: str) -> None:
    plain, velocity = tiny_host(family), tiny_host(family, velocity=True)
    assert (plain.noise_path.name, velocity.noise_path.name) == ("eps", "v")
    latent, at = noise(2, 4, 8, 8), torch.tensor([10, 900])
    prompt = plain.encode_prompt("cat")
    with torch.no_grad():
        outputs = [host.predict(latent, at, [prompt]) for host in (plain, velocity)]
    assert torch.equal(*outputs)  # one network, two readings


def test_a_scheduler_that_ends_in_pure_noise_keeps_a_trace_of_the_picture() -> None:
    """Otherwise its level would be infinite; ComfyUI keeps the same trace."""
    whole, scheduler = tiny_host(velocity=True), diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, prediction_type="v_prediction"
    )  # fmt: skip
    assert float(scheduler.alphas_cumprod[-1]) == 0
    path = DiffusersHost(
        unet=whole.unet, vae=whole.vae, encoders=whole._encoders, scheduler=scheduler
    ).noise_path
    assert float(path.levels(10)[0]) == pytest.approx(4518.8, rel=1e-3)
