"""Break-A-Scene: its equations, what a step draws, and the terms of one batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    recipe,
)
from conceptloom.methods.break_a_scene.dataset import SceneDataset, UnionSample, draw_samples
from conceptloom.methods.break_a_scene.losses import attention_loss
from conceptloom.scenes.scene import ConceptScene, make_scene, with_background
from conceptloom.training.loop import step_generator
from conceptloom.training.losses import masked_loss

from ..tiny_models import noise, tiny_host
from .break_a_scene_cases import SIDE, config, latents, plane, scene

# The equations


def test_only_masked_latents_count() -> None:
    noise_, predicted, mask = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(2, 2)
    predicted[0, 0, 0, 1], predicted[0, 0, 1, 1] = 3.0, 100.0
    mask[0, 1] = 1
    # error 3 at one of four latents: 9 / 4, those outside count as zero
    assert masked_loss(predicted, noise_, mask[None, None]).item() == 9 / 4
    assert masked_loss(predicted, noise_, mask[None, None] / 2).item() == 9 / 16
    assert masked_loss(predicted, noise_, mask[None, None] * 0).item() == 0


def test_a_full_mask_is_the_plain_squared_error() -> None:
    predicted, noise_ = noise(2, 4, 5, 3), noise(2, 4, 5, 3, seed=1)
    plain = torch.nn.functional.mse_loss(predicted, noise_)
    assert torch.allclose(masked_loss(predicted, noise_, torch.ones(2, 1, 5, 3)), plain)


def test_attention_loss_by_hand() -> None:
    maps = torch.tensor([[[0.2, 0.1], [0.0, 0.0]], [[0.4, 0.4], [0.4, 0.4]]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    # normalised: [1, .5, 0, 0] and ones; (0 + .25) / 4 and 2 / 4, summed, over the pictures
    assert attention_loss(maps, masks, 1).item() == pytest.approx(0.0625 + 0.5)
    assert attention_loss(maps, masks, 2).item() == pytest.approx((0.0625 + 0.5) / 2)
    assert attention_loss(masks * 0.3, masks, 1).item() == pytest.approx(0, abs=1e-12)


# Drawing


def samples(given: ConceptScene, many: int = 3000, **more: Any) -> list[UnionSample]:
    generator = torch.Generator().manual_seed(0)
    return draw_samples(given, config(**more), many, generator)


def three() -> ConceptScene:
    return with_background(scene(), "room", "wall")


def test_how_many_concepts_and_which_is_uniform() -> None:
    drawn = samples(three())
    sizes = Counter(len(s.names) for s in drawn)
    assert set(sizes) == {1, 2, 3}
    assert all(abs(n - 1000) < 120 for n in sizes.values())  # 4.6 standard deviations
    single = Counter(s.names[0] for s in drawn if len(s.names) == 1)
    assert set(single) == {"mug", "cat", "room"}
    assert all(abs(n - sizes[1] / 3) < 80 for n in single.values())
    orders = Counter(s.names for s in drawn if len(s.names) == 3)
    assert len(orders) == 6  # in any order
    assert all(len(set(s.names)) == len(s.names) for s in drawn)
    assert abs(sum(s.mirrored for s in drawn) - 1500) < 130


def test_without_union_sampling_one_concept_is_drawn() -> None:
    drawn = samples(three(), 300, union_sampling=False)
    assert {len(s.names) for s in drawn} == {1}
    assert {s.names[0] for s in drawn} == {"mug", "cat", "room"}


@pytest.mark.parametrize(("flip", "expected"), [(0.0, {False}), (1.0, {True})])
def test_flip_is_a_chance(flip: float, expected: set[bool]) -> None:
    assert {s.mirrored for s in samples(scene(), 200, flip=flip)} == expected


def test_pictures_are_drawn_with_the_concepts_that_they_show() -> None:
    image = torch.rand(SIDE, SIDE, 3)
    given = make_scene(
        [image, image], {"mug": [plane(2, 9, 2, 9), None], "cat": [None, plane(2, 9, 2, 9)]}, {}
    )
    drawn = samples(given, 300)
    assert {(s.image, s.names) for s in drawn} == {(0, ("mug",)), (1, ("cat",))}


def test_the_prompt_is_in_the_order_of_the_draw() -> None:
    sample = UnionSample(0, False, ("cat", "mug"))
    assert sample.prompt("a photo of ") == "a photo of <cat> and <mug>"


# Latents and masks


def test_masks_on_both_grids_follow_the_image_and_its_mirror(host: DiffusersHost) -> None:
    given = scene()
    material = SceneDataset(host, given, 2)
    plain, mirrored = UnionSample(0, False, ("mug",)), UnionSample(0, True, ("mug",))
    image = given.images[0].image
    latents = material.latents([plain, mirrored])
    assert torch.equal(latents[0], host.encode_image(image[None])[0])
    assert torch.equal(latents[1], host.encode_image(image.flip(1)[None])[0])
    union = material.unions([plain, mirrored])
    assert union.shape == (2, 1, 16, 16)
    assert torch.equal(union[1], union[0].flip(-1))
    assert torch.equal(union[0, 0], plane(4, 20, 4, 16)[::2, ::2])
    targets = material.targets([mirrored, plain])
    assert targets.shape == (2, 8, 8)
    assert torch.equal(targets[0], targets[1].flip(-1))
    assert targets[1].sum() == 4 * 3


def test_the_union_is_the_largest_of_the_drawn_masks(host: DiffusersHost) -> None:
    image = torch.rand(SIDE, SIDE, 3)
    soft = plane(0, 20, 0, 20) * 0.75
    given = make_scene([image], {"mug": [soft], "cat": [plane(10, 30, 10, 30) * 0.875]}, {})
    material = SceneDataset(host, given, 2)
    both = material.unions([UnionSample(0, False, ("mug", "cat"))])[0, 0]
    alone = [material.unions([UnionSample(0, False, (n,))])[0, 0] for n in ("mug", "cat")]
    assert torch.equal(both, torch.maximum(*alone))
    assert both.unique().tolist() == [0, 0.75, 0.875]
    # pairs of picture and concept, sample by sample
    targets = material.targets(
        [UnionSample(0, False, ("cat",)), UnionSample(0, False, ("mug", "cat"))]
    )
    assert [float(t.max()) for t in targets] == [0.875, 0.75, 0.875]


def test_masks_thinner_than_a_cell_do_not_vanish(host: DiffusersHost) -> None:
    thin = plane(0, SIDE, 7, 8)  # one pixel wide, between the samples of both grids
    given = make_scene([torch.rand(SIDE, SIDE, 3)], {"rod": [thin]}, {})
    material = SceneDataset(host, given, 2)
    drawn = [UnionSample(0, False, ("rod",)), UnionSample(0, True, ("rod",))]
    for mask in (*material.unions(drawn)[:, 0], *material.targets(drawn)):
        assert mask.max() == 1
        assert int((mask.sum(0) > 0).sum()) == 1  # one column


# One batch


def terms_of(learner: BreakAScene, phase: int = 1, seed: int = 0) -> dict[str, float]:
    chosen = learner.phases()[phase]
    with learner.computing(chosen), torch.no_grad():
        losses = learner.losses(chosen, step_generator(seed, 0))
    return {name: float(term) for name, term in losses.items()}


def test_the_terms_and_their_weights(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config())
    assert set(terms_of(learner)) == {"diffusion", "attention"}
    learner.class_latents = latents(host)
    base = terms_of(learner)
    assert set(base) == {"diffusion", "attention", "prior"}
    assert base["prior"] == pytest.approx(1, rel=0.6)  # a random model's error
    other = BreakAScene(host, scene(), config(attention_weight=0.03, prior_weight=0.5))
    other.class_latents = latents(host)
    changed = terms_of(other)
    assert changed["attention"] == pytest.approx(3 * base["attention"], rel=1e-5)
    assert changed["prior"] == pytest.approx(base["prior"] / 2, rel=1e-5)
    assert changed["diffusion"] == base["diffusion"]
    none = BreakAScene(host, scene(), config(prior_weight=0.0))
    none.class_latents = latents(host)
    assert set(terms_of(none)) == {"diffusion", "attention"}


def test_a_batch_is_the_mean_of_its_rows(host: DiffusersHost) -> None:
    """Three rows by hand: their prompts, masks, noise and timesteps each."""
    learner = BreakAScene(host, three(), config(batch_size=3))
    generator = step_generator(0, 0)
    drawn = draw_samples(learner.scene, learner.config, 3, generator)
    eps = torch.randn(3, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (3,), generator=generator)
    material = SceneDataset(host, learner.scene, 2)
    total = 0.0
    for row, sample in enumerate(drawn):
        noisy = host.noise_path.add_noise(material.latents([sample]), eps[[row]], at[[row]])
        prompt = host.encode_prompt(sample.prompt("a photo of "), learner.handles.vectors())
        with torch.no_grad():
            predicted = host.predict(noisy, at[[row]], [prompt])
        total += float(((predicted - eps[row]) * material.unions([sample])).square().mean()) / 3
    assert len({len(s.names) for s in drawn}) > 1  # or the test would prove little
    assert terms_of(learner)["diffusion"] == pytest.approx(total, rel=1e-4)


def test_velocity_models_learn_on_their_own_target() -> None:
    host = tiny_host(velocity=True)
    learner = BreakAScene(host, scene(), config())
    generator = step_generator(0, 0)
    (sample,) = draw_samples(learner.scene, learner.config, 1, generator)
    eps = torch.randn(1, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (1,), generator=generator)
    material, path = SceneDataset(host, learner.scene, 2), host.noise_path
    latent = material.latents([sample])
    prompt = host.encode_prompt(sample.prompt("a photo of "), learner.handles.vectors())
    with torch.no_grad():
        output = host.predict(path.add_noise(latent, eps, at), at, [prompt])
    alpha, sigma = (float(number) for number in path.coefficients(at))
    error = (output - (alpha * eps - sigma * latent)) * material.unions([sample])
    assert terms_of(learner)["diffusion"] == pytest.approx(float(error.square().mean()), rel=1e-4)


def test_without_the_masked_loss_the_whole_picture_counts(host: DiffusersHost) -> None:
    masked = terms_of(BreakAScene(host, scene(), config()))
    whole = terms_of(BreakAScene(host, scene(), config(masked_loss=False)))
    assert whole["diffusion"] > 2 * masked["diffusion"]
    assert whole["attention"] == masked["attention"]


def test_without_attention_weight_no_map_is_captured(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []
    real = recipe.AttentionCapture

    def capture(sites: Any) -> Any:
        made = real(sites)
        asked.append(len(made.wanted_attentions(host.sites)))
        return made

    monkeypatch.setattr(recipe, "AttentionCapture", capture)
    with_maps = terms_of(BreakAScene(host, scene(), config()))
    without = terms_of(BreakAScene(host, scene(), config(attention_weight=0.0)))
    assert asked == [3, 0]
    assert without == {"diffusion": with_maps["diffusion"]}


def test_class_images_do_not_change_the_other_terms(host: DiffusersHost) -> None:
    plain, prior = (BreakAScene(host, scene(), config(batch_size=2)) for _ in range(2))
    prior.class_latents = latents(host)
    expected, found = terms_of(plain), terms_of(prior)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4)
