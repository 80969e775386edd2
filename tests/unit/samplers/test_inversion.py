"""Inversion at the sampler's own noise levels: by hand, against diffusers, and there and back."""

from __future__ import annotations

import math

import pytest
import torch

from conceptloom.errors import ConfigError, ImageError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.noise import EpsPath
from conceptloom.samplers.ddim import ddim_step, sample_ddim
from conceptloom.samplers.inversion import invert, psnr, reconstruct
from conceptloom.samplers.sigmas import (
    checked_sigmas,
    euler_step,
    guided_output_at,
    output_at,
)
from conceptloom.tinyworld.concepts import concept_scene

from ..tiny_models import diffusers, noise, tiny_host

PICTURE, SENTENCE = ["red circle", "blue square"], "a photo of a red circle and a blue square"


@pytest.fixture(scope="module", params=[False, True], ids=["eps", "v"])
def host(request: pytest.FixtureRequest) -> DiffusersHost:
    return tiny_host(velocity=request.param)


def test_a_step_by_hand() -> None:
    noisy, predicted = torch.tensor([[[[10.0]]]]), torch.tensor([[[[2.0]]]])
    assert euler_step(noisy, predicted, 3.0, 1.0).item() == 6.0
    assert euler_step(noisy, predicted, 3.0, 0.0).item() == 4.0  # x_0 = x - sigma noise


def test_a_step_is_the_one_of_ddim() -> None:
    path = EpsPath(torch.tensor([0.9, 0.64, 0.36]))
    point, predicted = noise(1, 1, 3, 3), noise(1, 1, 3, 3, seed=1)
    sigmas = path.level_at(torch.tensor([2, 1])).tolist()
    ours = euler_step(point / 0.36**0.5, predicted, *sigmas) * 0.64**0.5
    torch.testing.assert_close(ours, ddim_step(path, point, predicted, 2, 1))


def test_sigmas_fall_to_zero_and_name_their_timesteps(host: DiffusersHost) -> None:
    sigmas = host.noise_path.levels(10)
    assert len(sigmas) == 11
    assert sigmas[-1] == 0
    found = [host.noise_path.timestep_at(s) for s in sigmas[:-1].tolist()]
    assert found == host.noise_path.timesteps(10)
    assert host.noise_path.timestep_at(1e6) == 999
    assert host.noise_path.timestep_at(0) == 0


@pytest.mark.parametrize(
    "bad", [[1.0], [1.0, 2.0, 0.0], [2.0, 1.0], [2.0, 2.0, 0.0], [math.nan, 0]]
)
def test_sigmas_that_are_none_are_refused(bad: list[float]) -> None:
    with pytest.raises(ConfigError, match="sigmas"):
        checked_sigmas(torch.tensor(bad))


def test_noise_between_two_timesteps_takes_the_samplers_level_for_v() -> None:
    """x_0 from noise and from v agree with k-diffusion's formulas at the sampler's own sigma."""
    host = tiny_host(velocity=True)
    prompt, point = host.encode_prompt("a cat"), noise(1, 4, 16, 16)
    sigma = 1.2345
    timestep = host.noise_path.timestep_at(sigma)
    scaled = point / (sigma**2 + 1) ** 0.5
    with torch.no_grad():
        output = host.unet(scaled, torch.tensor([timestep]), prompt.context).sample
        told = output_at(host, point, sigma, [prompt])
        found = host.noise_path.denoised_at(point, told, sigma)
        torch.testing.assert_close(told, output, rtol=1e-4, atol=1e-5)
        slope = host.noise_path.slope(point, told, sigma)
    expected = point / (sigma**2 + 1) - output * sigma / (sigma**2 + 1) ** 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(euler_step(point, slope, sigma, 0.0), expected, rtol=1e-4, atol=1e-5)


def test_guidance_of_one_is_one_row_and_more_is_the_formula(host: DiffusersHost) -> None:
    prompt, negative = host.encode_prompt("a cat"), host.encode_prompt("")
    point = noise(1, 4, 16, 16)
    with torch.no_grad():
        plain = [output_at(host, point, 2.0, [p]) for p in (prompt, negative)]
        assert torch.equal(guided_output_at(host, point, 2.0, prompt, negative, 1.0), plain[0])
        guided = guided_output_at(host, point, 2.0, prompt, negative, 3.0)
    torch.testing.assert_close(guided, 3 * plain[0] - 2 * plain[1], rtol=1e-4, atol=1e-4)


def test_without_refinement_the_steps_are_those_of_diffusers() -> None:
    """DDIMInverseScheduler makes Plug-and-Play's steps; its first is its own, as is its v."""
    host = tiny_host()
    steps = 4
    scheduler = diffusers.DDIMInverseScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,
    )
    scheduler.set_timesteps(steps)
    prompt, clean = host.encode_prompt("a cat"), noise(1, 4, 16, 16)
    sigmas = host.noise_path.levels(steps)
    trajectory = invert(host, clean, prompt, sigmas, refinements=0)
    ours = trajectory / (1 + sigmas**2).sqrt()[:, None, None, None]
    stride = 1000 // steps
    for k in reversed(range(steps - 1)):
        before, timestep = ours[k + 1 : k + 2], host.noise_path.timestep_at(float(sigmas[k]))
        with torch.no_grad():
            output = host.unet(before, torch.tensor([timestep]), prompt.context).sample
        assert timestep - stride == host.noise_path.timestep_at(float(sigmas[k + 1]))
        theirs = scheduler.step(output, timestep, before).prev_sample
        torch.testing.assert_close(ours[k : k + 1], theirs, rtol=1e-3, atol=1e-3)


def test_refined_inversion_and_sampling_cancel_each_other(host: DiffusersHost) -> None:
    """At small steps: a random network is too wild for large ones."""
    prompt, clean = host.encode_prompt("a cat"), noise(1, 4, 16, 16)
    sigmas = torch.linspace(0.6, 0, 7)
    trajectory = invert(host, clean, prompt, sigmas, refinements=10)
    assert trajectory.shape == (7, 4, 16, 16)
    assert torch.equal(trajectory[-1:], clean)
    found = reconstruct(host, trajectory[:1], prompt, sigmas)
    torch.testing.assert_close(found, clean, rtol=1e-3, atol=1e-3)


def test_a_template_comes_back_on_tinyworld() -> None:
    host = DiffusersHost.tinyworld()
    image = torch.from_numpy(concept_scene(PICTURE, 3, "grass").image)[None].float() / 255
    prompt = host.encode_prompt(f"{SENTENCE} on the grass")
    sigmas = host.noise_path.levels(15)
    trajectory = invert(host, host.encode_image(image), prompt, sigmas)
    back = reconstruct(host, trajectory[:1], prompt, sigmas)
    assert psnr(host.decode_latent(back), image) > 30


def test_reconstruction_is_plain_sampling(host: DiffusersHost) -> None:
    prompt, start = host.encode_prompt("a cat"), noise(1, 4, 16, 16)
    sigmas = host.noise_path.levels(5)
    ours = reconstruct(host, start * (1 + sigmas[0] ** 2).sqrt(), prompt, sigmas)
    theirs = sample_ddim(host, [prompt], prompt, start, steps=5, cfg=1.0)
    # theirs ends at alpha_bar[0] and not at 1, a hair of noise before the end
    torch.testing.assert_close(ours, theirs, rtol=0.02, atol=0.03 * float(theirs.abs().max()))


def test_cancelling_stops_between_two_passes_of_the_model(host: DiffusersHost) -> None:
    """A step lasts three, one and its two refinements."""
    told: list[int] = []

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append(step)
        if step == 2:
            raise KeyboardInterrupt

    sigmas = host.noise_path.levels(6)
    with pytest.raises(KeyboardInterrupt):
        invert(host, noise(1, 4, 16, 16), host.encode_prompt(""), sigmas, progress=progress)
    assert told == [0, 0, 1, 1, 1, 2]


def test_a_batch_is_refused(host: DiffusersHost) -> None:
    sigmas = host.noise_path.levels(2)
    with pytest.raises(ImageError, match="one at a time"):
        invert(host, noise(2, 4, 16, 16), host.encode_prompt(""), sigmas)


def test_psnr_by_hand() -> None:
    assert psnr(torch.zeros(2), torch.zeros(2)) == math.inf
    assert psnr(torch.zeros(4), torch.full((4,), 0.1)) == pytest.approx(20.0, abs=1e-4)
