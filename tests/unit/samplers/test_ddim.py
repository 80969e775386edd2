"""DDIM by hand and against diffusers."""

from __future__ import annotations

import pytest
import torch

from conceptloom.errors import ConfigError, ImageError, PromptError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.noise import EpsPath
from conceptloom.host.ports import ForwardInfo, UNetEdit
from conceptloom.samplers.class_images import class_latents_of, encoded_class_latents
from conceptloom.samplers.ddim import (
    ddim_step,
    guided_output,
    sample_ddim,
    seeded_noise,
)

from ..tiny_models import assert_unchanged, diffusers, noise, snapshot, tiny_host


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def test_a_step_by_hand() -> None:
    path = EpsPath(torch.tensor([0.64, 0.36], dtype=torch.float64))
    noisy, predicted = torch.tensor([[[[10.0]]]]), torch.tensor([[[[5.0]]]])
    # x_0 = (10 - 0.8 * 5) / 0.6 = 10; then 0.8 * 10 + 0.6 * 5
    assert ddim_step(path, noisy, predicted, 1, 0).item() == pytest.approx(11.0)
    assert ddim_step(path, noisy, predicted, 1, -1).item() == pytest.approx(11.0)
    assert ddim_step(path, noisy, predicted, 1, 1).item() == pytest.approx(10.0)


@pytest.mark.parametrize("steps", [1, 7, 500, 501, 600, 999, 1000])
@pytest.mark.parametrize("trailing", [False, True])
def test_every_step_is_a_level_of_its_own(host: DiffusersHost, steps: int, trailing: bool) -> None:
    timesteps = EpsPath(host.noise_path.alpha_bar, trailing).timesteps(steps)
    assert len(set(timesteps)) == steps
    assert timesteps == sorted(timesteps, reverse=True)
    assert 0 <= timesteps[-1] <= timesteps[0] <= 999


def test_a_model_that_knows_pure_noise_is_given_it_as_such() -> None:
    host = tiny_host(velocity=True, zero_snr=True)
    assert host.noise_path.timesteps(10) == list(range(999, 0, -100))
    prompt = host.encode_prompt("a cat")
    drawn = sample_ddim(host, [prompt], prompt, noise(1, 4, 8, 8), steps=10, cfg=2.0)
    assert bool(drawn.isfinite().all())
    assert float(drawn.abs().max()) < 20


def test_a_scheduler_may_ask_for_trailing_steps() -> None:
    plain = tiny_host()
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    parts = {"unet": plain.unet, "vae": plain.vae, "encoders": plain._encoders}
    trailing = DiffusersHost(**parts, scheduler=scheduler).noise_path
    assert trailing.timesteps(4) == [999, 749, 499, 249]
    assert plain.noise_path.timesteps(4) == [751, 501, 251, 1]


@pytest.mark.parametrize("steps", [1, 4, 7, 30, 50])
@pytest.mark.parametrize(("velocity", "zero_snr"), [(False, False), (True, False), (True, True)])
def test_steps_are_those_of_diffusers(steps: int, velocity: bool, zero_snr: bool) -> None:
    host = tiny_host(velocity=velocity, zero_snr=zero_snr)
    scheduler = diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type="v_prediction" if velocity else "epsilon",
        rescale_betas_zero_snr=zero_snr,
        timestep_spacing="trailing" if zero_snr else "leading",
    )
    scheduler.set_timesteps(steps)
    timesteps = host.noise_path.timesteps(steps)
    assert timesteps == scheduler.timesteps.tolist()
    if zero_snr and 1000 % steps:
        return  # there diffusers steps to a level that is not the one it asks at next
    ours = theirs = noise(1, 4, 4, 4)
    for i, timestep in enumerate(timesteps):
        output = noise(1, 4, 4, 4, seed=timestep)
        theirs = scheduler.step(output, timestep, theirs).prev_sample
        following = timesteps[i + 1] if i + 1 < steps else -1
        ours = ddim_step(host.noise_path, ours, output, timestep, following)
        assert torch.allclose(
            ours,
            theirs,
            rtol=1e-6 * (i + 1),
            atol=(3e-4 if zero_snr else 2e-6) * float(ours.abs().max()),  # our trace of the picture
        )


@pytest.mark.parametrize("steps", [0, -1, 1001])
def test_impossible_numbers_of_steps_are_reported(host: DiffusersHost, steps: int) -> None:
    with pytest.raises(ConfigError, match=f"steps is {steps}; it must be between 1 and 1000"):
        host.noise_path.timesteps(steps)


def test_guidance_by_hand(host: DiffusersHost) -> None:
    latent, at = noise(2, 4, 8, 8), torch.tensor([300, 300])
    cat, dog, none = (host.encode_prompt(text) for text in ("a cat", "a dog", ""))
    with torch.no_grad():
        guided = guided_output(host, latent, 300, [cat, dog], none, 3.0)
        plain, empty = host.predict(latent, at, [cat, dog]), host.predict(latent, at, [none])
        unguided = guided_output(host, latent, 300, [cat, dog], none, 1.0)
        off = guided_output(host, latent, 300, [cat, dog], none, 0.0)
    assert torch.allclose(guided, empty + 3 * (plain - empty), atol=1e-5)
    assert torch.equal(unguided, plain)
    assert torch.allclose(off, empty, atol=1e-5)


def test_edits_are_reported_which_rows_are_conditional(host: DiffusersHost) -> None:
    seen = []

    class Look(UNetEdit):
        def begin(self, info: ForwardInfo) -> None:
            seen.append(info.conditional)

    cat, none = host.encode_prompt("a cat"), host.encode_prompt("")
    for cfg in (2.0, 1.0):
        sample_ddim(host, [cat], none, noise(2, 4, 8, 8), steps=2, cfg=cfg, edits=[Look()])
    assert seen == [(False, False, True, True)] * 2 + [(True, True)] * 2


@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_a_row_does_not_depend_on_its_batch(host: DiffusersHost, cfg: float) -> None:
    prompts = [host.encode_prompt(text) for text in ("a cat", "a dog", "two cows")]
    none, start = host.encode_prompt(""), seeded_noise(host, 5, 3, (16, 24))
    assert start.shape == (3, 4, 8, 12)
    together = sample_ddim(host, prompts, none, start, steps=3, cfg=cfg)
    for row, prompt in enumerate(prompts):
        alone = sample_ddim(host, [prompt], none, start[row : row + 1], steps=3, cfg=cfg)
        assert torch.allclose(together[row], alone[0], atol=1e-4)


def test_noise_of_a_row_does_not_depend_on_the_others(host: DiffusersHost) -> None:
    assert torch.equal(seeded_noise(host, 5, 2, (16, 16)), seeded_noise(host, 5, 4, (16, 16))[:2])
    assert not torch.equal(seeded_noise(host, 5, 1, (16, 16)), seeded_noise(host, 6, 1, (16, 16)))


def test_sampling_leaves_the_model_alone_and_tells_its_progress(host: DiffusersHost) -> None:
    before, told = snapshot(host), []
    cat, none = host.encode_prompt("a cat"), host.encode_prompt("")
    drawn = sample_ddim(
        host,
        [cat],
        none,
        noise(1, 4, 8, 8),
        steps=3,
        progress=lambda step, total, *_: told.append((step, total)),
    )
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert not drawn.requires_grad
    assert_unchanged(before, host)


def test_prompts_that_do_not_match_the_rows_are_reported(host: DiffusersHost) -> None:
    cat, none = host.encode_prompt("a cat"), host.encode_prompt("")
    with pytest.raises(PromptError, match="2 prompts came for 3 latents"):
        sample_ddim(host, [cat, cat], none, noise(3, 4, 8, 8), steps=1)


def test_class_images_do_not_depend_on_how_many_are_drawn_at_once(host: DiffusersHost) -> None:
    told = []

    def draw(rows: int) -> torch.Tensor:
        return class_latents_of(
            host,
            "a beach",
            5,
            (16, 16),
            steps=2,
            rows=rows,
            progress=lambda step, total, *_: told.append((step, total)),
        )

    assert torch.allclose(draw(4), draw(2), atol=1e-4)
    # every pass of the model, in pictures times steps
    done = [4, 8, 9, 10, *(2, 4, 6, 8, 9, 10)]
    assert told == [(step, 10) for step in done]


def test_given_class_images_need_the_size_of_the_scene(host: DiffusersHost) -> None:
    images = torch.rand(2, 16, 24, 3)
    latents = encoded_class_latents(host, images, (16, 24))
    assert torch.allclose(latents, host.encode_image(images), atol=1e-5)
    with pytest.raises(ImageError, match="are 24x16 px but the scene trains at 16x16 px"):
        encoded_class_latents(host, images, (16, 16))
