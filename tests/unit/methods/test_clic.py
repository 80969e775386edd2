"""CLiC: equations by hand, what learns, the two forms, and where every setting arrives."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, MaskError, ModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import (
    OFFICIAL,
    OFFICIAL_LOOP,
    OFFICIAL_ROI_PROMPTS,
    PAPER_LOOP,
    CLiC,
    CLiCConfig,
    Form,
    as_break_a_scene_loss,
    as_custom_diffusion,
    learn_detail,
)
from conceptloom.methods.clic.losses import area_noise_loss, attention_loss, outside_weighted
from conceptloom.methods.clic.material import SceneMaterial
from conceptloom.methods.clic.views import views_of
from conceptloom.training import paths
from conceptloom.training.adapters import Scope
from conceptloom.training.concept_file import save_concept
from conceptloom.training.loop import LoopConfig, run, step_generator
from conceptloom.training.losses import masked_noise_loss
from conceptloom.training.phases import TokenPhase, WeightPhase
from conceptloom.training.previews import PreviewConfig
from conceptloom.training.scene import ConceptScene, make_scene
from conceptloom.training.soft_masks import soft_mask

from ..tiny_models import assert_unchanged, snapshot, tiny_host

SIDE = 32  # px; 16 latents
STILL: dict[str, Any] = {"brightness": 0.0, "flip": 0.0}  # the picture as it is


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.os, "fsync", lambda _: None)


@pytest.fixture
def host() -> DiffusersHost:
    return tiny_host()


def plane(top: int, bottom: int, left: int, right: int) -> Tensor:
    mask = torch.zeros(SIDE, SIDE)
    mask[top:bottom, left:right] = 1
    return mask


def scene(pictures: int = 1) -> ConceptScene:
    draw = torch.Generator().manual_seed(0)
    return make_scene(
        [torch.rand(SIDE, SIDE, 3, generator=draw) for _ in range(pictures)],
        {"mark": [plane(4, 20, 4, 16)] * pictures},
        {"mark": "swirl"},
    )


def config(tokens: int = 0, weights: int = 1, **more: Any) -> CLiCConfig:
    phase: dict[str, Any] = {"scope": Scope.CROSS_ATTENTION}
    phase |= {name: more.pop(name) for name in ("scope", "rank") if name in more}
    given: dict[str, Any] = {"views": 2, "object_word": "chair"} | more
    return CLiCConfig(
        token_phase=TokenPhase(steps=tokens, learning_rate=1e-2),
        weight_phase=WeightPhase(steps=weights, learning_rate=1e-3, **phase),
        **given,
    )


def terms_of(learner: CLiC, seed: int = 0) -> dict[str, float]:
    phase = learner.phases()[1]
    with learner.computing(phase), torch.no_grad():
        losses = learner.losses(phase, step_generator(seed, 0))
    return {name: float(term) for name, term in losses.items()}


# The equations


def test_a_soft_mask_by_hand() -> None:
    mask = torch.tensor([0.0, 0.5, 1.0])
    assert soft_mask(mask, 0.5).tolist() == [0.5, 0.75, 1.0]
    assert soft_mask(mask, 0.0).tolist() == mask.tolist()
    assert soft_mask(mask, 1.0).tolist() == [1, 1, 1]


def test_around_the_region_the_error_counts_alpha_squared() -> None:
    error = torch.zeros(1, 1, 1, 2)
    error[..., 0], error[..., 1] = 2.0, 4.0  # inside, outside
    mask = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2)
    # (1 * 2)^2 and (.5 * 4)^2, over two latents
    paper = masked_noise_loss(error, error * 0, soft_mask(mask, 0.5))
    assert paper.item() == (4 + 4) / 2
    # 4 * 1 + 16 * .25 over weights 1 + .25
    official = area_noise_loss(error, error * 0, outside_weighted(mask, 0.5))
    assert official.item() == pytest.approx((4 + 4) / 1.25)


def test_no_edge_counts_less_than_what_lies_beyond_it() -> None:
    mask = torch.tensor([0.0, 0.04, 0.06, 0.7, 1.0])
    assert outside_weighted(mask, 0.5).tolist() == pytest.approx([0.25, 0.25, 0.25, 0.7, 1.0])
    assert outside_weighted(mask, 1.0).tolist() == [1] * 5
    assert torch.equal(outside_weighted(mask, 0.0), mask)


def test_the_area_loss_counts_channels_and_knows_an_empty_mask() -> None:
    predicted, ones = torch.full((1, 4, 2, 2), 3.0), torch.ones(1, 1, 2, 2)
    assert area_noise_loss(predicted, predicted * 0, ones).item() == pytest.approx(4 * 9)
    assert area_noise_loss(predicted, predicted * 0, ones * 0).item() == 0
    half = torch.tensor([1.0, 0.0]).view(1, 1, 1, 2).expand(1, 1, 2, 2)
    assert area_noise_loss(predicted, predicted * 0, half).item() == pytest.approx(4 * 9)
    weight = torch.tensor([2.0])
    assert area_noise_loss(predicted, predicted * 0, ones, weight).item() == pytest.approx(8 * 9)


def test_attention_loss_by_hand() -> None:
    maps = torch.tensor([[[0.3, 0.1], [0.2, 0.1]]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]])
    # stretched: [1, 0, .5, 0]; .25 / 4
    assert attention_loss(maps, masks).item() == pytest.approx(0.0625)
    flat = torch.full((1, 2, 2), 0.2, requires_grad=True)  # divides by 0 in the official code
    loss = attention_loss(flat, masks)
    loss.backward()
    assert loss.item() == pytest.approx(0.25)
    assert flat.grad is not None
    assert flat.grad.isfinite().all()


# The material


def test_views_are_brighter_and_darker_and_the_same_for_the_same_seed() -> None:
    picture = scene().images[0]
    settings = config(views=24, brightness=0.5)
    views = views_of(picture, settings, 0, False)
    again = views_of(picture, settings, 0, False)
    assert all(torch.equal(a.image, b.image) for a, b in zip(views, again, strict=True))
    dark = picture.image < 0.5  # above, a brighter copy is cut at white
    factors = [float((v.image[dark] / picture.image[dark]).median()) for v in views]
    assert 0.5 <= min(factors) < 0.7
    assert 1.3 < max(factors) <= 1.5
    other = views_of(picture, replace(settings, seed=1), 0, False)
    assert not torch.equal(other[0].image, views[0].image)
    (plain,) = views_of(picture, config(**STILL), 0, False)
    assert torch.equal(plain.image, picture.image)


def test_mirrored_views_mirror_picture_and_masks_together() -> None:
    picture = scene().images[0]
    (view,) = views_of(picture, config(brightness=0.0), 0, True)
    assert torch.equal(view.image, picture.image.flip(1))
    assert torch.equal(view.masks["mark"], picture.masks["mark"].flip(1))


def test_larger_and_smaller_copies_say_so_and_take_their_masks_along() -> None:
    image = torch.full((SIDE, SIDE, 3), 0.5)
    image[4:20, 4:16] = 1.0
    picture = make_scene([image], {"mark": [plane(4, 20, 4, 16)]}, {}).images[0]
    views = views_of(picture, config(views=60, brightness=0.0, random_scale=True), 0, False)
    prefixes = Counter(view.prefix for view in views)
    assert set(prefixes) == {"", "a far away ", "very small ", "zoomed in ", "close up "}
    assert prefixes["zoomed in "] + prefixes["close up "] > 30  # two of three
    for view in views:
        mask = view.masks["mark"]
        assert torch.allclose(view.image[..., 0], 0.5 + 0.5 * mask, atol=1e-5)
        if view.prefix in ("a far away ", "very small "):
            assert float(view.valid.mean()) < 0.6**2 * 1.1
            assert (view.image[view.valid == 0] == 0.5).all()


def test_latents_masks_and_blank_regions(host: DiffusersHost) -> None:
    settings = config(**STILL, roi_form=Form.OFFICIAL, context_form=Form.OFFICIAL)
    given = scene()
    material = SceneMaterial(host, given, settings)
    sample = material.draw(step_generator(0, 0))
    picture = given.images[0]
    assert torch.equal(material.latents([sample]), host.encode_image(picture.image[None]))
    mask = picture.masks["mark"][..., None]
    blank = host.encode_image((picture.image * mask + 0.5 * (1 - mask))[None])
    assert torch.equal(material.regions([sample]), blank)
    assert material.masks([sample])[0, 0].sum() == 8 * 6  # 16 x 12 px, 2 px a latent
    valid = material.valid([sample])[0, 0]
    assert (valid[1:-1, 1:-1].min(), valid.sum()) == (1, 14 * 14)  # the official border
    paper = SceneMaterial(host, given, config(**STILL))
    assert paper.valid([sample]).min() == 1


def test_every_picture_concept_and_prompt_is_drawn(host: DiffusersHost) -> None:
    given = make_scene(
        [torch.rand(SIDE, SIDE, 3) for _ in range(2)],
        {"a": [plane(4, 20, 4, 16), None], "b": [plane(4, 20, 20, 30), plane(8, 24, 8, 24)]},
        {},
    )
    material = SceneMaterial(host, given, config(roi_prompts=OFFICIAL_ROI_PROMPTS))
    draw = torch.Generator().manual_seed(0)
    samples = [material.draw(draw) for _ in range(400)]
    seen = Counter((s.image, s.name) for s in samples)
    assert set(seen) == {(0, "a"), (0, "b"), (1, "b")}
    assert abs(seen[1, "b"] - 200) < 45
    assert abs(sum(s.mirrored for s in samples) - 200) < 45
    assert {s.view for s in samples} == {0, 1}
    assert {s.prompt for s in samples} == {"a chair with <a> style", "a chair with <b> style"}
    told = {s.roi_prompt for s in samples if s.name == "a"}
    assert told == {text.replace("{concept}", "<a>") for text in OFFICIAL_ROI_PROMPTS}


# One batch


def test_the_terms_by_hand(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), config(**STILL))
    draw = step_generator(0, 0)
    material = SceneMaterial(host, learner.scene, learner.config)
    sample = material.draw(draw)
    eps = torch.randn(1, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (1,), generator=draw)
    vectors, mask = learner.handles.vectors(), material.masks([sample])
    noisy = host.schedule.add_noise(material.latents([sample]), eps, at)
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
    draw = step_generator(0, 0)
    material = SceneMaterial(host, learner.scene, settings)
    sample = material.draw(draw)
    eps = torch.randn(1, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (1,), generator=draw)
    vectors, mask = learner.handles.vectors(), material.masks([sample])
    whole = host.schedule.add_noise(material.latents([sample]), eps, at)
    region = host.schedule.add_noise(material.regions([sample]), eps, at)
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
    draw = step_generator(0, 0)
    sample = learner._material.draw(draw)
    eps = torch.randn(1, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (1,), generator=draw)
    noisy = host.schedule.add_noise(learner._material.latents([sample]), eps, at)
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
    draw = step_generator(0, 0)
    material = learner._material
    drawn = [material.draw(draw) for _ in range(3)]
    eps = torch.randn(3, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (3,), generator=draw)
    total = 0.0
    for row, sample in enumerate(drawn):
        noisy = host.schedule.add_noise(material.latents([sample]), eps[[row]], at[[row]])
        prompt = host.encode_prompt(sample.prompt, learner.handles.vectors())
        with torch.no_grad():
            predicted = host.predict(noisy, at[[row]], [prompt])
        soft = soft_mask(material.masks([sample]), 0.5)
        total += float(((predicted - eps[[row]]) * soft).square().mean()) / 3
    assert terms_of(learner)["context"] == pytest.approx(total, rel=1e-5)


def test_velocity_models_learn_on_their_own_target() -> None:
    host = tiny_host("sd2", velocity=True)
    learner = CLiC(host, scene(), config(**STILL, attention_weight=0.0))
    draw = step_generator(0, 0)
    sample = learner._material.draw(draw)
    eps = torch.randn(1, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (1,), generator=draw)
    noisy = host.schedule.add_noise(learner._material.latents([sample]), eps, at)
    prompt = host.encode_prompt(sample.prompt, learner.handles.vectors())
    with torch.no_grad():
        error = (host.predict(noisy, at, [prompt]) - eps) * soft_mask(
            learner._material.masks([sample]), 0.5
        )
    expected = float(error.square().mean() / host.schedule.at(at))
    assert terms_of(learner)["context"] == pytest.approx(expected, rel=1e-5)


def test_around_the_region_velocity_models_pay_no_more_than_the_paper_asks() -> None:
    host = tiny_host("sd2", velocity=True)
    learner = CLiC(host, scene(), config(**STILL, attention_weight=0.0, roi_weight=1.0))
    draw = step_generator(0, 0)
    sample = learner._material.draw(draw)
    eps = torch.randn(1, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (1,), generator=draw)
    mask = learner._material.masks([sample])
    noisy = host.schedule.add_noise(learner._material.latents([sample]), eps, at) * mask
    prompt = host.encode_prompt(sample.roi_prompt, learner.handles.vectors())
    with torch.no_grad():
        error = (host.predict(noisy, at, [prompt]) - eps).square()
    inside = error * mask / host.schedule.at(at)
    expected = float((inside + error * (1 - mask)).mean())
    assert terms_of(learner)["roi"] == pytest.approx(expected, rel=1e-5)


# What learns


def step_gradients(learner: CLiC, phase: int = 1) -> dict[str, Tensor]:
    chosen = learner.phases()[phase]
    for parameter in learner.named_parameters().values():
        parameter.grad = None
    with learner.computing(chosen):
        terms = learner.losses(chosen, step_generator(0, 0))
        torch.stack(list(terms.values())).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in learner.named_parameters().items()
        if parameter.grad is not None and bool(parameter.grad.any())
    }


def test_gradients_reach_handle_and_cross_attention_and_nothing_else(host: DiffusersHost) -> None:
    before = snapshot(host)
    learner = CLiC(host, scene(), config())
    reached = set(step_gradients(learner))
    wanted = {f"adapter.{n}.full" for n in host.weight_names() if ".attn2.to_" in n}
    assert reached == {"handle.mark.clip_l", *wanted}
    assert {name.split(".attn2.")[1] for name in wanted} == {
        "to_q.weight.full", "to_k.weight.full", "to_v.weight.full",
        "to_out.0.weight.full", "to_out.0.bias.full",
    }  # fmt: skip
    assert set(step_gradients(CLiC(host, scene(), config(tokens=1)), 0)) == {"handle.mark.clip_l"}
    models = [host.unet, host.vae, *(e.model for e in host._encoders)]
    assert all(p.grad is None for model in models for p in model.parameters())
    assert_unchanged(before, host)


def test_the_start_token_teaches_keys_and_values_nothing(host: DiffusersHost) -> None:
    def of(**more: Any) -> tuple[dict[str, float], dict[str, Tensor]]:
        learner = CLiC(host, scene(), config(**more))
        return terms_of(learner), step_gradients(learner)

    (terms, detached), (same, plain) = of(), of(detach_start=False)
    assert terms == same  # no number of the pass changes
    for name, gradient in detached.items():
        is_read = ".to_k." in name or ".to_v." in name
        assert torch.allclose(gradient, plain[name], rtol=1e-4, atol=1e-7) != is_read, name


def test_every_family_learns() -> None:
    for family in ("sd2", "sdxl"):
        host = tiny_host(family, velocity=family == "sd2")
        host.encode_prompt("")
        before = snapshot(host)
        learner = CLiC(host, scene(), config(weights=2))
        start = {name: p.detach().clone() for name, p in learner.named_parameters().items()}
        run(learner, LoopConfig())
        still = [n for n, p in learner.named_parameters().items() if torch.equal(p, start[n])]
        assert not still
        assert_unchanged(before, host)


def test_checkpointing_learns_the_same(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), config(checkpointing=True))
    with learner.computing(learner.phases()[1]):
        assert host.unet.is_gradient_checkpointing
    ours, theirs = step_gradients(learner), step_gradients(CLiC(host, scene(), config()))
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        assert torch.allclose(ours[name], grad, rtol=1e-3, atol=1e-6), name


def test_stepping_down_gives_rows_first_and_activations_next(host: DiffusersHost) -> None:
    learner = CLiC(host, scene(), config(batch_size=2))
    assert learner.rows == 4
    first, second = learner.step_down(), learner.step_down()
    assert first is not None
    assert second is not None
    assert (first.passes, learner.rows, second.passes) == (2, 2, 1)
    with learner.computing(learner.phases()[0]):
        assert host.unet.is_gradient_checkpointing
    assert learner.step_down() is None
    assert CLiC(host, scene(), config(roi_weight=0.0)).rows == 1


# The whole run

QUICK: dict[str, Any] = {"previews": PreviewConfig(steps=1, cfg=1.0)}


def learned_file(host: DiffusersHost, path: Path, settings: CLiCConfig, **more: Any) -> bytes:
    learned = learn_detail(host, scene(2), settings, **(QUICK | more))
    save_concept(learned.concept, path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file(host: DiffusersHost, tmp_path: Path) -> None:
    before, settings = snapshot(host), config(1, 2, seed=3)
    one = learned_file(host, tmp_path / "a.safetensors", settings)
    assert_unchanged(before, host)
    assert learned_file(tiny_host(), tmp_path / "b.safetensors", settings) == one
    other = learned_file(host, tmp_path / "c.safetensors", replace(settings, seed=4))
    assert other != one


class Cancelled(Exception):
    pass


def test_a_cancelled_run_goes_on_and_gives_the_same_file(tmp_path: Path) -> None:
    settings = config(1, 3)
    straight = learned_file(tiny_host(), tmp_path / "a.safetensors", settings)
    host, heard = tiny_host(), []
    before = snapshot(host)

    def progress(step: int, *_: object) -> None:
        heard.append(step)
        if len(heard) == 3:  # the plan, and two steps
            raise Cancelled

    more = {"folder": tmp_path / "states", "progress": progress}
    with pytest.raises(Cancelled):
        learned_file(host, tmp_path / "b.safetensors", settings, **more)
    assert_unchanged(before, host)
    assert learned_file(host, tmp_path / "b.safetensors", settings, **more) == straight
    assert heard == [0, 1, 2, 0, 3, 4]


def test_what_a_run_leaves_behind(host: DiffusersHost) -> None:
    learned = learn_detail(host, scene(), config(1, 2), **QUICK, loop=LoopConfig(preview_every=2))
    assert [row["step"] for row in learned.history] == [1, 2, 3]
    assert set(learned.history[0]) == {"step", "phase", "total", "context", "attention", "roi"}
    assert learned.samples.shape == (2, SIDE, SIDE, 3)
    assert learned.timeline is not None
    assert set(learned.scores) == {"mark"}
    concept = learned.concept
    assert (concept.method, set(concept.handles)) == ("clic", {"mark"})
    assert concept.prompts == ("A photo of <mark>", "a chair with <mark> style")
    assert len(concept.weights) == sum(".attn2.to_" in name for name in host.weight_names())


def test_the_paper_optimises_without_decay_and_the_code_with_it() -> None:
    assert PAPER_LOOP.weight_decay == 0
    assert replace(PAPER_LOOP, weight_decay=0.1) == OFFICIAL_LOOP
    assert CLiCConfig().weight_phase == WeightPhase(
        steps=500, learning_rate=1e-5, scope=Scope.CROSS_ATTENTION
    )
    ratio = [getattr(OFFICIAL, f"{n}_weight") * 2 for n in ("context", "attention", "roi")]
    assert ratio == [CLiCConfig().context_weight, 0.5, 0.5]


def test_without_a_loop_the_papers_is_taken(host: DiffusersHost) -> None:
    def handle(loop: LoopConfig | None) -> Tensor:
        learned = learn_detail(host, scene(), config(1, 0), **QUICK, loop=loop)
        return learned.concept.handles["mark"]["clip_l"]

    assert torch.equal(handle(None), handle(PAPER_LOOP))
    assert not torch.equal(handle(None), handle(replace(PAPER_LOOP, weight_decay=0.1)))


# Settings

CHANGED: dict[str, Any] = {
    "token_phase": TokenPhase(steps=1, learning_rate=1e-2),
    "weight_phase": WeightPhase(steps=1, learning_rate=2e-3, scope=Scope.CROSS_ATTENTION),
    "context_weight": 2.0,
    "attention_weight": 1.0,
    "roi_weight": 1.0,
    "background_weight": 0.2,
    "context_form": Form.OFFICIAL,
    "roi_form": Form.OFFICIAL,
    "prompt": "{concept} on a {object}",
    "object_word": "bench",
    "roi_prompts": ("{concept}",),
    "attention_level": 4,
    "detach_start": False,
    "brightness": 0.1,
    "flip": 0.0,
    "random_scale": True,
    "views": 1,
    "batch_size": 2,
    "accumulation": 2,
    "resolution_px": 24,
    "seed": 1,
}


def test_every_setting_is_tried_below() -> None:
    names = {field.name for field in fields(CLiCConfig)}
    assert names == {*CHANGED, "checkpointing"}  # that one changes no number


def learned_with(**changes: Any) -> list[Tensor]:
    settings = replace(config(flip=1.0), **changes)  # no mirror may hang on the draw
    learner = CLiC(tiny_host(), scene(), settings)
    run(learner, LoopConfig(accumulation=settings.accumulation))
    return [p.detach().clone() for p in learner.named_parameters().values()]


@pytest.fixture(scope="module")
def usual() -> list[Tensor]:
    return learned_with()


@pytest.mark.parametrize("name", list(CHANGED))
def test_every_setting_changes_what_is_learned(name: str, usual: list[Tensor]) -> None:
    changed = learned_with(**{name: CHANGED[name]})
    assert len(changed) == len(usual)
    assert not all(torch.equal(a, b) for a, b in zip(usual, changed, strict=True))


BAD_SETTINGS: list[tuple[str, Any, str]] = [
    ("context_weight", -1.0, "context_weight is -1.0; .*0 or more"),
    ("roi_weight", float("nan"), "roi_weight is nan"),
    ("background_weight", 1.2, "background_weight is 1.2; .*between 0 and 1"),
    ("brightness", -0.1, "brightness is -0.1"),
    ("views", 0, "views is 0; .*1 or more"),
    ("attention_level", 3, "attention_level is 3; .*1, 2, 4 or 8"),
    ("prompt", "a chair", "prompt is .* holds {concept}"),
    ("roi_prompts", (), "roi_prompts is .* holds {concept}"),
    ("object_word", " ", "object_word is ''; .* like chair"),
    ("weight_phase", WeightPhase(steps=0), "steps is 0; .*at least 1"),
]


@pytest.mark.parametrize(("name", "value", "told"), BAD_SETTINGS)
def test_bad_settings_are_told(name: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        replace(CLiCConfig(), **{name: value})


def test_a_recipe_without_a_loss_is_told() -> None:
    with pytest.raises(ConfigError, match="context_weight is 0"):
        CLiCConfig(context_weight=0.0, attention_weight=0.0, roi_weight=0.0)


def test_views_that_lose_the_region_are_told(host: DiffusersHost) -> None:
    corner = make_scene([torch.rand(SIDE, SIDE, 3)], {"mark": [plane(0, 1, 0, 1)]}, {})
    picture, asked = corner.images[0], config(random_scale=True, views=1, brightness=0.0)
    lost = next(
        replace(asked, seed=seed)
        for seed in range(40)
        if not views_of(picture, replace(asked, seed=seed), 0, False)[0].masks["mark"].any()
    )
    with pytest.raises(MaskError, match="turn random_scale off"):
        SceneMaterial(host, corner, lost)


def test_a_model_without_attention_in_its_up_blocks_is_told(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.host.ports import UNetSites

    monkeypatch.setattr(host, "sites", UNetSites((), ()))
    with pytest.raises(ModelError, match="no cross-attention in its up blocks"):
        CLiC(host, scene(), config())
