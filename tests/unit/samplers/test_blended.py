"""Blended sampling by hand, against diffusers, and against what it promises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conceptloom.errors import ConfigError, ImageError
from conceptloom.host.noise import EpsPath, FlowPath
from conceptloom.samplers.blended import (
    BlendConfig,
    Inside,
    SourceLevel,
    blended,
    noised_source,
    sample_blended,
    stochastic_step,
)
from conceptloom.samplers.ddim import ddim_step

from ..tiny_models import diffusers, noise

SIGMAS = [8.0, 4.0, 2.0, 1.0, 0.5, 0.0]
SOURCE = noise(1, 4, 4, 4, seed=1)
MASK = torch.zeros(1, 1, 4, 4)
MASK[..., :2] = 1
MASK[..., 1] = 0.5
FRAME = EpsPath(torch.tensor([0.9, 0.5]))


class Draws:
    """Unit noise from a seed; keeps what it gave."""

    def __init__(self) -> None:
        self.generator, self.given = torch.Generator().manual_seed(0), []

    def __call__(self) -> torch.Tensor:
        self.given.append(torch.randn(SOURCE.shape, generator=self.generator))
        return self.given[-1]


def run(config: BlendConfig, **more):
    """Result, what the model saw at each step, and the draws."""
    seen: list[tuple[torch.Tensor, float, int]] = []
    draws = Draws()

    def denoise(latent: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        seen.append((latent.clone(), sigma, step))
        return 0.5 * latent / (1 + sigma**2)

    mask = more.pop("mask", MASK)
    more["frame"] = FRAME
    return sample_blended(denoise, SOURCE, mask, SIGMAS, draws, config, **more), seen, draws


def test_a_step_by_hand():
    noisy, denoised = torch.tensor([10.0]), torch.tensor([2.0])
    # half way down: 2 + 2/4 * (10 - 2)
    assert (
        stochastic_step(noisy, denoised, 4.0, 2.0, 0.0, lambda: torch.ones(1), FRAME).item() == 6.0
    )
    # eta 1: fresh = 2 * sqrt(1 - 1/4) = sqrt(3), kept = sqrt(4 - 3) = 1; 2 + 1/4 * 8 + sqrt(3)
    found = stochastic_step(noisy, denoised, 4.0, 2.0, 1.0, lambda: torch.ones(1), FRAME).item()
    assert found == pytest.approx(4 + 3**0.5)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_steps_are_those_of_diffusers_for_any_eta(eta: float):
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(10)
    path = EpsPath(scheduler.alphas_cumprod)
    now, then = scheduler.timesteps[3:5]
    sigma, following = (float(path.level_at(t[None])) for t in (now, then))
    latent, predicted, fresh = (noise(1, 4, 4, 4, seed=i) for i in range(3))
    theirs = scheduler.step(predicted, now, latent, eta=eta, variance_noise=fresh).prev_sample
    noisy = latent * (1 + sigma**2) ** 0.5
    ours = stochastic_step(
        noisy, noisy - sigma * predicted, sigma, following, eta, lambda: fresh, path
    )
    assert torch.allclose(ours / (1 + following**2) ** 0.5, theirs, atol=1e-5)
    if eta == 0:
        ours = ddim_step(path, latent, predicted, int(now), int(then))
        assert torch.allclose(ours, theirs, atol=1e-5)


@pytest.mark.parametrize("eta", [0.0, 0.4, 1.0])
def test_a_flow_makes_the_steps_of_its_ratio_of_noise_to_picture(eta: float):
    """x_s / (1 - s) = x_0 + r noise, r = s / (1 - s): there the step is Stable Diffusion's."""
    path, (s, after) = FlowPath(3.0), (0.8, 0.5)
    noisy, denoised, fresh = (noise(1, 4, 4, 4, seed=i) for i in range(3))
    ours = stochastic_step(noisy, denoised, s, after, eta, lambda: fresh, path)
    ratios, scaled = (s / (1 - s), after / (1 - after)), noisy / (1 - s)
    theirs = stochastic_step(scaled, denoised, *ratios, eta, lambda: fresh, FRAME)
    torch.testing.assert_close(ours, theirs * (1 - after))


def test_a_flow_starts_from_pure_noise_and_ends_at_its_picture():
    path, (drawn, denoised) = FlowPath(3.0), (noise(1, 4, 4, 4, seed=i) for i in range(2))
    for eta in (0.0, 1.0):
        first = stochastic_step(drawn, denoised, 1.0, 0.6, eta, lambda: SOURCE, path)
        kept = drawn if eta == 0 else SOURCE
        torch.testing.assert_close(first, 0.4 * denoised + 0.6 * kept)
        last = stochastic_step(first, denoised, 0.6, 0.0, eta, lambda: SOURCE, path)
        assert torch.equal(last, denoised)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_around_the_mask_of_a_flow_the_source_comes_back_exactly(eta: float):
    path, seen, draws = FlowPath(3.0), [], Draws()

    def denoise(latent: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        seen.append((latent, sigma))
        return 0.5 * latent

    levels = path.levels(5).tolist()
    config = BlendConfig(start=1, eta=eta)
    found = sample_blended(denoise, SOURCE, MASK, levels, draws, config, frame=path)
    outside = MASK.expand_as(SOURCE) == 0
    assert torch.equal(found[outside], SOURCE[outside])
    latent, sigma = seen[0]
    torch.testing.assert_close(latent, (1 - sigma) * SOURCE + sigma * draws.given[0])


def test_steps_are_skipped_and_the_model_sees_the_rest():
    _, seen, _ = run(BlendConfig(start=2))
    assert [(sigma, step) for _, sigma, step in seen] == [(2.0, 2), (1.0, 3), (0.5, 4)]


def test_around_the_mask_the_model_sees_the_noised_source_at_every_step():
    _, seen, draws = run(BlendConfig(start=1, eta=0.0))
    outside = MASK.expand_as(SOURCE) == 0
    for (latent, sigma, _), drawn in zip(seen, draws.given, strict=True):
        assert torch.equal(latent[outside], (SOURCE + sigma * drawn)[outside])


def test_the_same_noise_may_stay_on_the_source():
    _, seen, draws = run(BlendConfig(start=1, eta=0.0, fresh_noise=False))
    outside = MASK.expand_as(SOURCE) == 0
    assert len(draws.given) == 1
    for latent, sigma, _ in seen:
        assert torch.equal(latent[outside], (SOURCE + sigma * draws.given[0])[outside])


def test_the_source_may_come_one_step_noisier():
    config = BlendConfig(start=1, eta=0.0, source_level=SourceLevel.ONE_BEFORE)
    _, seen, draws = run(config)
    outside = MASK.expand_as(SOURCE) == 0
    for (latent, sigma, step), drawn in zip(seen, draws.given, strict=True):
        level = SIGMAS[step - 1] if step > 1 else sigma
        # variance-preserving latents at the noisier level, scaled to the step's own sigma
        expected = (SOURCE + level * drawn) * ((1 + sigma**2) / (1 + level**2)) ** 0.5
        assert torch.allclose(latent[outside], expected[outside])
    assert torch.equal(noised_source(SOURCE, SOURCE, 2.0, 2.0, FRAME), 3 * SOURCE)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_around_the_mask_the_source_comes_back_exactly(eta: float):
    found, *_ = run(BlendConfig(start=0, eta=eta))
    outside = MASK.expand_as(SOURCE) == 0
    assert torch.equal(found[outside], SOURCE[outside])
    assert not torch.allclose(found[~outside], SOURCE[~outside], atol=1e-2)


def test_free_steps_are_not_held_to_the_source():
    held, seen, _ = run(BlendConfig(start=0, eta=0.0))
    free, freely, draws = run(BlendConfig(start=0, eta=0.0, free_steps=2))
    outside = MASK.expand_as(SOURCE) == 0
    assert torch.equal(seen[2][0], freely[2][0])
    assert len(draws.given) == 3
    assert not torch.allclose(free[outside], SOURCE[outside], atol=1e-2)
    assert torch.equal(held[outside], SOURCE[outside])


def test_a_full_mask_blends_nothing():
    full = torch.ones(1, 1, 4, 4)
    found, seen, draws = run(BlendConfig(start=0, eta=0.0), mask=full)
    latent = SOURCE + 8.0 * draws.given[0]
    for step in range(5):
        assert torch.equal(seen[step][0], latent)
        denoised = 0.5 * latent / (1 + SIGMAS[step] ** 2)
        latent = stochastic_step(
            latent, denoised, SIGMAS[step], SIGMAS[step + 1], 0.0, draws, FRAME
        )
    assert torch.equal(found, latent)


def test_sampling_may_start_from_pure_noise_under_the_mask():
    _, seen, draws = run(BlendConfig(start=1, inside=Inside.NOISE, eta=0.0))
    assert torch.allclose(seen[0][0], draws.given[0] * 17**0.5)
    outside = MASK.expand_as(SOURCE) == 0  # the source is there from the second step on
    assert torch.equal(seen[1][0][outside], (SOURCE + 2 * draws.given[1])[outside])


def test_pure_noise_one_step_noisier_is_the_official_loop_of_blended_latent_diffusion():
    """Its scripts/text_editing_SD2.py: noise everywhere, then step and put the source around."""
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(8)
    timesteps, mask = scheduler.timesteps.tolist(), (MASK > 0).float()

    def model(latent: torch.Tensor) -> torch.Tensor:
        return 0.9 * latent + 0.3 * latent.mean()  # what is around the mask reaches what is in it

    draws = Draws()
    theirs = draws()
    for timestep in timesteps[2:]:
        theirs = scheduler.step(model(theirs), timestep, theirs).prev_sample
        source = scheduler.add_noise(SOURCE, draws(), torch.tensor([timestep]))
        theirs = theirs * mask + source * (1 - mask)

    path, seen = EpsPath(scheduler.alphas_cumprod), []
    sigmas = [*path.level_at(torch.tensor([*timesteps, 0])).tolist()]

    def denoise(latent: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        seen.append(latent)
        return latent - sigma * model(latent / (1 + sigma**2) ** 0.5)

    settings = {"source_level": SourceLevel.ONE_BEFORE, "inside": Inside.NOISE, "eta": 0.0}
    ours = sample_blended(
        denoise,
        SOURCE,
        mask,
        sigmas,
        Draws(),
        BlendConfig(start=2, **settings),
        frame=FRAME,
        ends_held=False,
    )
    scaled = ours / (1 + sigmas[-1] ** 2) ** 0.5
    inside = mask.expand_as(SOURCE) == 1
    assert torch.allclose(scaled[inside], theirs[inside], atol=1e-5)  # outside it ends noisier


def test_pure_noise_has_the_scale_that_the_path_gives_it():
    for frame, levels, factor in (
        (FRAME, [4.0, 2.0, 1.0, 0.0], 5**0.5),
        (FlowPath(1.0), [1.0, 0.8, 0.5, 0.0], (0.2**2 + 0.8**2) ** 0.5),
    ):
        seen, draws = [], Draws()

        def denoise(latent: torch.Tensor, sigma: float, step: int, seen=seen) -> torch.Tensor:
            seen.append(latent)
            return latent

        config = BlendConfig(start=1, inside=Inside.NOISE, eta=0.0)
        sample_blended(denoise, SOURCE, MASK, levels, draws, config, frame=frame)
        torch.testing.assert_close(seen[0], draws.given[0] * factor)


def test_soft_masks_mix():
    mask = torch.full((1, 1, 4, 4), 0.25)
    assert torch.allclose(blended(torch.ones(4, 4), torch.zeros(4, 4), mask), mask)


def test_guidance_moves_what_the_model_sees():
    found = []

    def push(latent: torch.Tensor, sigma: float, step: int) -> torch.Tensor:
        found.append((sigma, step))
        return latent + 1

    _, plain, _ = run(BlendConfig(start=3))
    _, pushed, _ = run(BlendConfig(start=3), before_step=push)
    assert found == [(1.0, 3), (0.5, 4)]
    assert torch.equal(pushed[0][0], plain[0][0] + 1)


def test_noise_levels_may_end_above_zero():
    found, draws = [], Draws()
    result = sample_blended(
        lambda latent, sigma, step: latent * 0, SOURCE, MASK, SIGMAS[:3], draws,
        BlendConfig(start=0, eta=0.0), frame=FRAME,
        progress=lambda step, total, *_: found.append((step, total)),
    )  # fmt: skip
    outside = MASK.expand_as(SOURCE) == 0
    assert torch.equal(result[outside], (SOURCE + 2.0 * draws.given[-1])[outside])
    assert found == [(1, 2), (2, 2)]


@pytest.mark.parametrize("start", [5, 40])
def test_skipping_every_step_is_reported(start: int):
    with pytest.raises(ConfigError, match=f"start is {start}; it must be .*4 at most"):
        run(BlendConfig(start=start))


@pytest.mark.parametrize("wrong", [{"start": -1}, {"free_steps": -1}, {"eta": 1.5}])
def test_impossible_settings_are_reported(wrong: dict):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        replace(BlendConfig(), **wrong)


def test_a_mask_of_another_size_is_reported():
    with pytest.raises(ImageError, match="8x8 cells and the latents 4x4"):
        run(BlendConfig(start=0), mask=torch.ones(1, 1, 8, 8))
