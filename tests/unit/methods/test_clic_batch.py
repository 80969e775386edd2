"""The terms of one batch of CLiC, in the paper's form and in the official one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import (
    OFFICIAL,
    CLiC,
    as_break_a_scene_loss,
    as_custom_diffusion,
    recipe,
)
from conceptloom.methods.clic.config import Form
from conceptloom.methods.clic.dataset import SceneViews
from conceptloom.scenes.scene import make_scene
from conceptloom.scenes.soft_masks import soft_mask
from conceptloom.training.loop import step_generator

from ..tiny_models import noise, tiny_host
from .clic_cases import STILL, config, plane, scene, terms_of


def test_the_terms_by_hand(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), config(**STILL))
    generator = step_generator(0, 0)
    material = SceneViews(host, learner.scene, learner.config)
    sample = material.draw(generator)
    eps = torch.randn(1, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (1,), generator=generator)
    vectors, mask = learner.handles.vectors(), material.masks([sample])
    noisy = host.noise_path.add_noise(material.latents([sample]), eps, at)
    with torch.no_grad():
        whole = host.predict(noisy, at, [host.encode_prompt("a chair with <mark> style", vectors)])
        region = host.predict(noisy * mask, at, [host.encode_prompt("A photo of <mark>", vectors)])
    terms = terms_of(learner)
    soft = 0.5 + 0.5 * mask
    assert terms["context"] == pytest.approx(float(((whole - eps) * soft).square().mean()), 1e-5)
    assert terms["roi"] == pytest.approx(0.5 * float((region - eps).square().mean()), 1e-5)
    assert 0 < terms["attention"] < 0.5
    assert set(terms) == {"context", "attention", "roi"}


def test_the_official_form_by_hand(host: DiffusersHost) -> None:
    settings = replace(OFFICIAL, **STILL, views=1, roi_prompts=("<{concept}>".strip("<>"),))
    learner = CLiC(host, scene(), settings)
    generator = step_generator(0, 0)
    material = SceneViews(host, learner.scene, settings)
    sample = material.draw(generator)
    eps = torch.randn(1, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (1,), generator=generator)
    vectors, mask = learner.handles.vectors(), material.masks([sample])
    whole = host.noise_path.add_noise(material.latents([sample]), eps, at)
    region = host.noise_path.add_noise(material.regions([sample]), eps, at)
    prompts = [
        host.encode_prompt(text, vectors) for text in ("an object with <mark> style", "<mark>")
    ]
    with torch.no_grad():
        wholly, apart = (
            (host.predict(x, at, [p]) - eps).square().sum(1)
            for x, p in zip((whole, region), prompts, strict=True)
        )
    around = torch.zeros(16, 16)
    around[1:-1, 1:-1] = torch.where(mask[0, 0] == 0, 0.25, 1.0)[1:-1, 1:-1]
    terms = terms_of(learner)
    context = float((wholly[0] * around).sum() / around.sum())
    roi = float((apart[0] * mask[0, 0]).sum() / mask.sum())
    assert terms["context"] == pytest.approx(0.5 * context, rel=1e-5)
    assert terms["roi"] == pytest.approx(0.25 * roi, rel=1e-5)


def test_weights_scale_their_terms_and_zero_leaves_them_out(host: DiffusersHost) -> None:
    base = terms_of(CLiC(host, scene(), config()))
    scaled = terms_of(
        CLiC(host, scene(), config(context_weight=2.0, attention_weight=1.5, roi_weight=2.5))
    )
    for name, factor in {"context": 2, "attention": 3, "roi": 5}.items():
        assert scaled[name] == pytest.approx(factor * base[name], rel=1e-5)
    for gone in ("context", "attention", "roi"):
        left = terms_of(CLiC(host, scene(), config(**{f"{gone}_weight": 0.0})))
        assert set(left) == set(base) - {gone}
        assert all(left[name] == pytest.approx(base[name], rel=1e-5) for name in left)


def test_custom_diffusion_is_the_plain_loss(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), as_custom_diffusion(config(**STILL)))
    generator = step_generator(0, 0)
    sample = learner._views.draw(generator)
    eps = torch.randn(1, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (1,), generator=generator)
    noisy = host.noise_path.add_noise(learner._views.latents([sample]), eps, at)
    prompt = host.encode_prompt(sample.prompt, learner.handles.vectors())
    with torch.no_grad():
        plain = float((host.predict(noisy, at, [prompt]) - eps).square().mean())
    terms = terms_of(learner)
    assert terms == {"context": pytest.approx(plain, rel=1e-6)}


def test_break_a_scenes_loss_has_a_hard_mask_and_no_region(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), as_break_a_scene_loss(config(**STILL)))
    terms = terms_of(learner)
    assert set(terms) == {"context", "attention"}
    whole = terms_of(CLiC(host, scene(), config(**STILL)))
    assert terms["attention"] == pytest.approx(whole["attention"], rel=1e-6)
    assert terms["context"] < whole["context"]


def test_a_batch_is_the_mean_of_its_rows(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(2), config(batch_size=3, attention_weight=0.0))
    generator = step_generator(0, 0)
    material = learner._views
    drawn = [material.draw(generator) for _ in range(3)]
    eps = torch.randn(3, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (3,), generator=generator)
    total = 0.0
    for row, sample in enumerate(drawn):
        noisy = host.noise_path.add_noise(material.latents([sample]), eps[[row]], at[[row]])
        prompt = host.encode_prompt(sample.prompt, learner.handles.vectors())
        with torch.no_grad():
            predicted = host.predict(noisy, at[[row]], [prompt])
        soft = soft_mask(material.masks([sample]), 0.5)
        total += float(((predicted - eps[[row]]) * soft).square().mean()) / 3
    assert terms_of(learner)["context"] == pytest.approx(total, rel=1e-5)


def test_velocity_models_learn_on_their_own_target() -> None:
    host = tiny_host("sd2", velocity=True)
    learner = CLiC(host, scene(), config(**STILL, attention_weight=0.0))
    generator = step_generator(0, 0)
    sample = learner._views.draw(generator)
    eps = torch.randn(1, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (1,), generator=generator)
    latent, path = learner._views.latents([sample]), host.noise_path
    prompt = host.encode_prompt(sample.prompt, learner.handles.vectors())
    with torch.no_grad():
        output = host.predict(path.add_noise(latent, eps, at), at, [prompt])
    alpha, sigma = (float(number) for number in path.coefficients(at))
    soft = soft_mask(learner._views.masks([sample]), 0.5)
    error = (output - (alpha * eps - sigma * latent)) * soft
    assert terms_of(learner)["context"] == pytest.approx(float(error.square().mean()), rel=1e-5)


def test_a_velocity_model_is_not_taught_what_lies_around_the_region() -> None:
    """The target of the region alone is v of M x_0 with the whole noise."""
    host = tiny_host("sd2", velocity=True)
    learner = CLiC(host, scene(), config(**STILL, attention_weight=0.0, roi_weight=1.0))
    generator = step_generator(0, 0)
    sample = learner._views.draw(generator)
    eps = torch.randn(1, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (1,), generator=generator)
    mask, path = learner._views.masks([sample]), host.noise_path
    latent = learner._views.latents([sample])
    prompt = host.encode_prompt(sample.roi_prompt, learner.handles.vectors())
    with torch.no_grad():
        output = host.predict(path.add_noise(latent, eps, at) * mask, at, [prompt])
    alpha, sigma = (float(number) for number in path.coefficients(at))
    error = output - (alpha * eps - sigma * mask * latent)
    assert terms_of(learner)["roi"] == pytest.approx(float(error.square().mean()), rel=1e-5)


@pytest.mark.parametrize("form", list(Form))
@pytest.mark.parametrize("timestep", [0, 900, 999])
def test_half_covered_cells_weigh_no_more_than_others(
    form: Form, timestep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask that cuts through cells takes part of their noise away, at any level of noise."""
    host = tiny_host("sd2", velocity=True, zero_snr=True)
    eps = noise(1, 4, 16, 16, seed=4)
    monkeypatch.setattr(recipe, "sample_noise", lambda *_: (eps, torch.tensor([timestep])))
    odd = make_scene([scene().images[0].image], {"mark": [plane(5, 19, 5, 15)]}, {"mark": "swirl"})
    settings = {"context_form": form, "roi_form": form, "roi_weight": 1.0, "attention_weight": 0.0}
    learner = CLiC(host, odd, config(**STILL, **settings))
    mask = learner._views.masks([learner._views.draw(step_generator(0, 0))])
    assert 0.2 < float(mask[(mask > 0) & (mask < 1)].min()) < 0.6
    terms = terms_of(learner)
    channels = 4 if form is Form.OFFICIAL else 1  # summed there
    assert 0 < terms["roi"] < 4 * channels
    assert 0 < terms["context"] < 4 * channels
