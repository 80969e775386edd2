"""Break-A-Scene: equations by hand, what learns, and where every setting arrives."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, ImageError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
    learn_scene,
    recipe,
)
from conceptloom.methods.break_a_scene import learn as learn_module
from conceptloom.methods.break_a_scene.losses import attention_loss
from conceptloom.methods.break_a_scene.material import SceneMaterial
from conceptloom.methods.break_a_scene.sampling import Sample, draw_samples
from conceptloom.samplers.class_images import drawn_class_latents
from conceptloom.training import paths, session
from conceptloom.training.adapters import Scope
from conceptloom.training.concept_file import save_concept
from conceptloom.training.loop import LoopConfig, run, step_generator
from conceptloom.training.losses import masked_noise_loss
from conceptloom.training.previews import PreviewConfig
from conceptloom.training.scene import ConceptScene, make_scene, with_background

from ..tiny_models import assert_unchanged, noise, snapshot, tiny_host

SIDE = 32  # px; 16 latents


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.os, "fsync", lambda _: None)


@pytest.fixture
def host() -> DiffusersHost:
    return tiny_host()


def plane(top: int, bottom: int, left: int, right: int) -> Tensor:
    made = torch.zeros(SIDE, SIDE)
    made[top:bottom, left:right] = 1
    return made


def scene(pictures: int = 1) -> ConceptScene:
    draw = torch.Generator().manual_seed(0)
    return make_scene(
        [torch.rand(SIDE, SIDE, 3, generator=draw) for _ in range(pictures)],
        {
            "mug": [plane(4, 20, 4, 16)] * pictures,
            "cat": [plane(12, 28, 20, 28)] * pictures,
        },
        {"mug": "cup", "cat": ""},
    )


def config(tokens: int = 1, weights: int = 1, **more: Any) -> BreakASceneConfig:
    phase: dict[str, Any] = {"scope": Scope.CROSS_ATTENTION_KV}
    phase |= {name: more.pop(name) for name in ("scope", "rank") if name in more}
    given: dict[str, Any] = {"resolution_px": 0, "attention_level": 2} | more
    return BreakASceneConfig(
        token_phase=TokenPhase(steps=tokens, learning_rate=1e-2),
        weight_phase=WeightPhase(steps=weights, learning_rate=1e-3, **phase),
        **given,
    )


# The equations


def test_only_masked_latents_count() -> None:
    noise_, predicted, mask = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), torch.zeros(2, 2)
    predicted[0, 0, 0, 1], predicted[0, 0, 1, 1] = 3.0, 100.0
    mask[0, 1] = 1
    # error 3 at one of four latents: 9 / 4, those outside count as zero
    assert masked_noise_loss(predicted, noise_, mask[None, None]).item() == 9 / 4
    assert masked_noise_loss(predicted, noise_, mask[None, None] / 2).item() == 9 / 16
    assert masked_noise_loss(predicted, noise_, mask[None, None] * 0).item() == 0


def test_a_full_mask_is_the_plain_squared_error() -> None:
    predicted, noise_ = noise(2, 4, 5, 3), noise(2, 4, 5, 3, seed=1)
    plain = torch.nn.functional.mse_loss(predicted, noise_)
    assert torch.allclose(masked_noise_loss(predicted, noise_, torch.ones(2, 1, 5, 3)), plain)


def test_weights_count_row_by_row() -> None:
    predicted = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    ones = torch.ones(2, 1, 1, 1)
    weight = torch.tensor([10.0, 3.0])
    # (10 * 1 + 3 * 4) / 2
    assert masked_noise_loss(predicted, ones * 0, ones, weight).item() == 11


def test_attention_loss_by_hand() -> None:
    maps = torch.tensor([[[0.2, 0.1], [0.0, 0.0]], [[0.4, 0.4], [0.4, 0.4]]])
    masks = torch.tensor([[[1.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [0.0, 0.0]]])
    # normalised: [1, .5, 0, 0] and ones; (0 + .25) / 4 and 2 / 4, summed, over the pictures
    assert attention_loss(maps, masks, 1).item() == pytest.approx(0.0625 + 0.5)
    assert attention_loss(maps, masks, 2).item() == pytest.approx((0.0625 + 0.5) / 2)
    assert attention_loss(masks * 0.3, masks, 1).item() == pytest.approx(0, abs=1e-12)


# Drawing


def samples(given: ConceptScene, many: int = 3000, **more: Any) -> list[Sample]:
    draw = torch.Generator().manual_seed(0)
    return draw_samples(given, config(**more), many, draw)


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
    sample = Sample(0, False, ("cat", "mug"))
    assert sample.prompt("a photo of ") == "a photo of <cat> and <mug>"


# Latents and masks


def test_masks_on_both_grids_follow_the_image_and_its_mirror(host: DiffusersHost) -> None:
    given = scene()
    material = SceneMaterial(host, given, 2)
    plain, mirrored = Sample(0, False, ("mug",)), Sample(0, True, ("mug",))
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
    soft = plane(0, 20, 0, 20) * 0.25
    given = make_scene([image], {"mug": [soft], "cat": [plane(10, 30, 10, 30) * 0.75]}, {})
    material = SceneMaterial(host, given, 2)
    both = material.unions([Sample(0, False, ("mug", "cat"))])[0, 0]
    alone = [material.unions([Sample(0, False, (n,))])[0, 0] for n in ("mug", "cat")]
    assert torch.equal(both, torch.maximum(*alone))
    assert both.unique().tolist() == [0, 0.25, 0.75]
    # pairs of picture and concept, sample by sample
    targets = material.targets([Sample(0, False, ("cat",)), Sample(0, False, ("mug", "cat"))])
    assert [float(t.max()) for t in targets] == [0.75, 0.25, 0.75]


def test_masks_thinner_than_a_cell_do_not_vanish(host: DiffusersHost) -> None:
    thin = plane(0, SIDE, 7, 8)  # one pixel wide, between the samples of both grids
    given = make_scene([torch.rand(SIDE, SIDE, 3)], {"rod": [thin]}, {})
    material = SceneMaterial(host, given, 2)
    drawn = [Sample(0, False, ("rod",)), Sample(0, True, ("rod",))]
    for mask in (*material.unions(drawn)[:, 0], *material.targets(drawn)):
        assert mask.max() == 1
        assert int((mask.sum(0) > 0).sum()) == 1  # one column


# One batch


def terms_of(learner: BreakAScene, phase: int = 1, seed: int = 0) -> dict[str, float]:
    chosen = learner.phases()[phase]
    with learner.computing(chosen), torch.no_grad():
        losses = learner.losses(chosen, step_generator(seed, 0))
    return {name: float(term) for name, term in losses.items()}


def latents(host: DiffusersHost, count: int = 3) -> Tensor:
    return noise(count, 4, SIDE // 2, SIDE // 2, seed=8)


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
    draw = step_generator(0, 0)
    drawn = draw_samples(learner.scene, learner.config, 3, draw)
    eps = torch.randn(3, 4, 16, 16, generator=draw)
    at = torch.randint(1000, (3,), generator=draw)
    material = SceneMaterial(host, learner.scene, 2)
    total = 0.0
    for row, sample in enumerate(drawn):
        noisy = host.schedule.add_noise(material.latents([sample]), eps[[row]], at[[row]])
        prompt = host.encode_prompt(sample.prompt("a photo of "), learner.handles.vectors())
        with torch.no_grad():
            predicted = host.predict(noisy, at[[row]], [prompt])
        total += float(((predicted - eps[row]) * material.unions([sample])).square().mean()) / 3
    assert len({len(s.names) for s in drawn}) > 1  # or the test would prove little
    assert terms_of(learner)["diffusion"] == pytest.approx(total, rel=1e-4)


def test_velocity_models_learn_on_their_own_target(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = BreakAScene(tiny_host(velocity=True), scene(), config())
    weights: list[Tensor] = []

    def loss(predicted: Tensor, noise_: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        weights.append(weight)
        return masked_noise_loss(predicted, noise_, mask, weight)

    monkeypatch.setattr(recipe, "masked_noise_loss", loss)
    assert terms_of(learner)["diffusion"] > 0
    assert weights[0].item() > 1


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
        asked.append(sum(made.wants_cross_attention(s) for s in host.sites.transformers))
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


# What learns

SCOPES = {
    Scope.HANDLES: lambda name: False,
    Scope.CROSS_ATTENTION_KV: lambda name: ".attn2.to_k." in name or ".attn2.to_v." in name,
    Scope.CROSS_ATTENTION: lambda name: ".attn2." in name,
    Scope.FULL: lambda name: True,
}


def step_gradients(learner: BreakAScene, phase: int) -> dict[str, Tensor]:
    chosen = learner.phases()[phase]
    with learner.computing(chosen):
        for seed in range(4):  # some draw shows each concept
            terms = learner.losses(chosen, step_generator(seed, 0))
            torch.stack(list(terms.values())).sum().backward()
    named = learner.named_parameters()
    return {n: p.grad for n, p in named.items() if p.grad is not None and bool(p.grad.any())}


def without_gradient(host: DiffusersHost) -> bool:
    models = [host.unet, host.vae, *(e.model for e in host._encoders)]
    return all(p.grad is None for model in models for p in model.parameters())


@pytest.mark.parametrize("scope", list(SCOPES))
def test_gradients_reach_what_the_scope_says_and_nothing_else(
    host: DiffusersHost, scope: Scope
) -> None:
    learner = BreakAScene(host, scene(), config(scope=scope))
    learner.class_latents = latents(host)
    before = snapshot(host)
    handles = {"handle.mug.clip_l", "handle.cat.clip_l"}
    assert set(step_gradients(learner, 0)) == handles
    reached = set(step_gradients(learner, 1)) - handles
    wanted = {
        f"adapter.{name}.full"
        for name in host.weight_names()
        if SCOPES[scope](name.removeprefix("unet."))
    }
    # a bias of a key is the one thing that softmax cannot feel
    idle = {name for name in wanted - reached if "k_proj.bias" not in name}
    assert not reached - wanted
    assert not idle
    assert {n.removeprefix("adapter.") for n in learner.named_parameters() if "adapter" in n} == {
        n.removeprefix("adapter.") for n in wanted
    }
    assert without_gradient(host)
    assert_unchanged(before, host)


@pytest.mark.parametrize("scope", [Scope.LOW_RANK, Scope.PROJ_OUT])
def test_low_rank_scopes_learn_their_factors(host: DiffusersHost, scope: Scope) -> None:
    learner = BreakAScene(host, scene(), config(scope=scope, rank=3))
    reached = set(step_gradients(learner, 1))
    ups = {name for name in learner.named_parameters() if name.endswith(".up")}
    assert ups
    assert ups <= reached  # `down` waits for `up` to leave zero
    assert {p.shape[1] for n, p in learner.named_parameters().items() if n in ups} <= {3}
    assert without_gradient(host)


@pytest.mark.parametrize("family", ["sd2", "sdxl"])
def test_every_family_learns(family: str) -> None:
    host = tiny_host(family, velocity=family == "sd2")
    before = snapshot(host)
    host.encode_prompt("")
    learner = BreakAScene(host, scene(), config(2, 2, scope=Scope.CROSS_ATTENTION_KV))
    learner.class_latents = latents(host)
    start = {name: p.detach().clone() for name, p in learner.named_parameters().items()}
    run(learner, LoopConfig())
    still = [n for n, p in learner.named_parameters().items() if torch.equal(p, start[n])]
    assert not still
    before["hooks"] = snapshot(host)["hooks"]  # transformers leaves some of its own
    assert_unchanged(before, host)


def test_the_first_phase_leaves_every_weight_as_it_was(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config(3, 1, scope=Scope.FULL))
    start = {name: p.detach().clone() for name, p in learner.named_parameters().items()}
    before, moved = snapshot(host), []

    class Stop(Exception):
        pass

    def progress(step: int, total: int, *rest: object) -> None:
        if step == 3:
            moved.extend(
                n for n, p in learner.named_parameters().items() if not torch.equal(p, start[n])
            )
            raise Stop

    from conceptloom.training.recipe import Events

    with pytest.raises(Stop):
        run(learner, LoopConfig(), Events(progress))
    assert set(moved) == {"handle.mug.clip_l", "handle.cat.clip_l"}
    assert_unchanged(before, host)


def test_checkpointing_learns_the_same(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config(checkpointing=True, scope=Scope.FULL))
    with learner.computing(learner.phases()[1]):
        assert host.unet.is_gradient_checkpointing
    plain = BreakAScene(host, scene(), config(scope=Scope.FULL))
    ours, theirs = step_gradients(learner, 1), step_gradients(plain, 1)
    assert set(ours) == set(theirs)
    for name, grad in theirs.items():
        assert torch.allclose(ours[name], grad, rtol=1e-3, atol=1e-6), name


def test_stepping_down_gives_rows_first_and_activations_next(host: DiffusersHost) -> None:
    learner = BreakAScene(host, scene(), config(batch_size=2))
    first = learner.step_down()
    assert first is not None
    assert (first.passes, "2 passes" in first.told) == (2, True)
    second = learner.step_down()
    assert second is not None
    assert (second.passes, "again in the backward" in second.told) == (1, True)
    with learner.computing(learner.phases()[0]):
        assert host.unet.is_gradient_checkpointing
    assert learner.step_down() is None


# The whole run

QUICK: dict[str, Any] = {
    "class_images": ClassImages(draw=2, steps=1),
    "previews": PreviewConfig(steps=1, cfg=1.0),
}


def learned_file(
    host: DiffusersHost, path: Path, settings: BreakASceneConfig, **more: Any
) -> bytes:
    learned = learn_scene(host, scene(2), settings, **(QUICK | more))
    save_concept(learned.concept, path)
    return path.read_bytes()


def test_the_same_seed_gives_the_same_file(host: DiffusersHost, tmp_path: Path) -> None:
    before = snapshot(host)
    settings = config(2, 2, scope=Scope.CROSS_ATTENTION_KV, seed=3)
    one = learned_file(host, tmp_path / "a.safetensors", settings)
    assert_unchanged(before, host)
    assert learned_file(tiny_host(), tmp_path / "b.safetensors", settings) == one
    other = learned_file(host, tmp_path / "c.safetensors", replace(settings, seed=4))
    assert other != one


class Cancelled(Exception):
    pass


class Reports:
    """Listens for a while, then cancels."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.heard: list[tuple[int, str]] = []

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        self.heard.append((step, message.split(":")[0].split(" of ")[0]))
        if len(self.heard) > self.patience:
            raise Cancelled


def test_a_run_cancelled_at_every_report_gives_the_same_file(tmp_path: Path) -> None:
    """Before anything, among the class images, between phases, at previews, after the end."""
    settings = config(2, 2, scope=Scope.CROSS_ATTENTION_KV)
    loop = LoopConfig(preview_every=2, save_every=3)
    straight = learned_file(tiny_host(), tmp_path / "a.safetensors", settings, loop=loop)
    host, told = tiny_host(), []
    before = snapshot(host)
    for count in range(20):
        reports = Reports(count % 3)
        more = {"loop": loop, "folder": tmp_path / "states", "progress": reports}
        try:
            found = learned_file(host, tmp_path / "b.safetensors", settings, **more)
        except Cancelled:
            told.append(reports.heard[-1])
            assert_unchanged(before, host)
            continue
        assert found == straight
        break
    else:
        pytest.fail("the run never came to its end")
    assert {message for _, message in told} >= {"drawing class images", "handles"}
    assert (0, told[0][1]) == told[0]


def test_a_full_disk_does_not_cost_the_concept(
    host: DiffusersHost,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from conceptloom.errors import StorageError

    def full(*_: object) -> None:
        raise StorageError("the disk is full; free some space")

    settings = config(1, 1, scope=Scope.HANDLES)
    straight = learn_scene(host, scene(), settings, **QUICK).concept
    monkeypatch.setattr(session, "write_csv", full)
    monkeypatch.setattr(learn_module.StateFolder, "save", full)
    concept = learn_scene(host, scene(), settings, **QUICK, folder=tmp_path).concept
    for name, vectors in straight.handles.items():
        assert torch.equal(concept.handles[name]["clip_l"], vectors["clip_l"])
    assert caplog.text.count("the disk is full") == 2


def test_what_a_run_leaves_behind(host: DiffusersHost) -> None:
    learned = learn_scene(
        host, scene(), config(1, 2, scope=Scope.HANDLES), **QUICK, loop=LoopConfig(preview_every=2)
    )
    assert [row["step"] for row in learned.history] == [1, 2, 3]
    terms = {"step", "phase", "total", "diffusion", "attention"}
    assert set(learned.history[0]) == terms  # nothing of a class image reaches the handles
    assert set(learned.history[1]) == {*terms, "prior"}
    assert learned.samples.shape == (3, SIDE, SIDE, 3)  # each alone, and both
    assert learned.timeline is not None
    assert set(learned.scores) == {"mug", "cat"}
    concept = learned.concept
    assert set(concept.handles) == {"mug", "cat"}
    assert concept.words == {"mug": "cup", "cat": ""}
    assert concept.base == host.fingerprint
    assert concept.prompts == (
        "a photo of <mug>",
        "a photo of <cat>",
        "a photo of <mug> and <cat>",
    )
    assert concept.history["steps"] == 3


def test_the_overlay_shows_the_level_that_the_loss_reads(
    host: DiffusersHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conceptloom.training import previews

    levels = []
    real = previews.read_attention

    def read(*args: Any, level: int, **more: Any) -> Any:
        levels.append(level)
        return real(*args, level=level, **more)

    monkeypatch.setattr(previews, "read_attention", read)
    learn_scene(host, scene(), config(1, 0, attention_level=2), **QUICK)
    assert levels == [2]


# Settings

CHANGED: dict[str, Any] = {
    "token_phase": TokenPhase(steps=2, learning_rate=1e-2),
    "weight_phase": WeightPhase(steps=1, learning_rate=2e-3, scope=Scope.CROSS_ATTENTION_KV),
    "attention_weight": 1.0,
    "attention_level": 1,
    "prior_weight": 3.0,
    "prior_prompt": "a forest of tall trees",
    "masked_loss": False,
    "union_sampling": False,
    "prompt_prefix": "a drawing of ",
    "flip": 0.0,
    "batch_size": 2,
    "accumulation": 2,
    "resolution_px": 24,
    "seed": 1,
}


def test_every_setting_is_tried_below() -> None:
    names = {field.name for field in fields(BreakASceneConfig)}
    assert names == {*CHANGED, "checkpointing"}  # that one changes no number


def learned_with(**changes: Any) -> list[Tensor]:
    settings = replace(config(1, 1, flip=1.0), **changes)  # no mirror may hang on the draw
    concept = learn_scene(tiny_host(), scene(), settings, **QUICK).concept
    weights = [change.tensor for change in concept.weights.values()]  # type: ignore[union-attr]
    return [*(rows["clip_l"] for rows in concept.handles.values()), *weights]


@pytest.fixture(scope="module")
def usual() -> list[Tensor]:
    return learned_with()


@pytest.mark.parametrize("name", list(CHANGED))
def test_every_setting_changes_what_is_learned(name: str, usual: list[Tensor]) -> None:
    changed = learned_with(**{name: CHANGED[name]})
    assert len(changed) == len(usual)
    assert not all(torch.equal(a, b) for a, b in zip(usual, changed, strict=True))


def test_every_setting_has_its_own_states(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "model_digest", lambda host: "the same")

    def folder(settings: BreakASceneConfig, given: ClassImages, loop: LoopConfig) -> Path:
        learner = BreakAScene(host, scene(), settings)
        kept = learn_module._kept(tmp_path, learner, loop, given)
        assert kept is not None
        return kept.folder

    base, images, loop = config(), ClassImages(draw=2), LoopConfig()
    found = [folder(base, images, loop)]
    found += [folder(replace(base, **{n: v}), images, loop) for n, v in CHANGED.items()]
    drawn = [{"draw": 3}, {"steps": 7}, {"cfg": 2.0}, {"images": torch.rand(1, 32, 32, 3)}]
    found += [folder(base, replace(images, **change), loop) for change in drawn]
    found += [folder(base, images, replace(loop, clip=0.5))]
    assert len(set(found)) == len(found)
    # how often somebody looks changes nothing
    assert folder(base, images, replace(loop, save_every=7, preview_every=3)) == found[0]


BAD_SETTINGS = [
    (TokenPhase, "steps", -1, "token_steps is -1; .*whole number, 0 or more"),
    (TokenPhase, "steps", 1.5, "token_steps is 1.5"),
    (TokenPhase, "learning_rate", -1e-3, "token_rate is -0.001; .*above 0"),
    (TokenPhase, "learning_rate", float("nan"), "token_rate is nan"),
    (WeightPhase, "learning_rate", float("inf"), "weight_rate is inf"),
    (WeightPhase, "learning_rate", 0, "weight_rate is 0"),
    (WeightPhase, "rank", 0, "rank is 0; .*1 or more"),
    (BreakASceneConfig, "attention_weight", -0.1, "attention_weight is -0.1; .*0 or more"),
    (BreakASceneConfig, "prior_weight", float("nan"), "prior_weight is nan"),
    (BreakASceneConfig, "attention_level", 3, "attention_level is 3; .*0, 1, 2, 4 or 8"),
    (BreakASceneConfig, "flip", 1.5, "flip is 1.5; .*between 0 and 1"),
    (BreakASceneConfig, "flip", float("nan"), "flip is nan"),
    (BreakASceneConfig, "batch_size", 0, "batch_size is 0"),
    (BreakASceneConfig, "accumulation", True, "accumulation is True"),
    (BreakASceneConfig, "resolution_px", -8, "resolution_px is -8"),
]


@pytest.mark.parametrize(("kind", "name", "value", "told"), BAD_SETTINGS)
def test_bad_settings_are_told(kind: Any, name: str, value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        kind(**{name: value})


def test_a_recipe_of_no_steps_is_told() -> None:
    with pytest.raises(ConfigError, match=r"steps is 0; .*at least 1 in one of the two phases"):
        config(0, 0)


def test_a_level_that_the_model_lacks_is_told(host: DiffusersHost) -> None:
    with pytest.raises(ConfigError, match=r"attention_level is 8; .*one of 1, 2 for this model"):
        BreakAScene(host, scene(), config(attention_level=8))


def test_class_images_of_another_size_are_told(host: DiffusersHost) -> None:
    given = ClassImages(images=torch.rand(1, 16, 16, 3))
    before = snapshot(host)
    with pytest.raises(ImageError, match="are 16x16 px but the scene is learned at 32x32 px"):
        learn_scene(host, scene(), config(), class_images=given)
    assert_unchanged(before, host)


def test_class_images_that_are_given_are_used(host: DiffusersHost) -> None:
    given = ClassImages(images=torch.rand(1, SIDE, SIDE, 3))
    learner = BreakAScene(host, scene(), config())
    found = learn_module._class_latents(learner, given, None, lambda *_: None)
    assert found is not None
    assert torch.equal(found, host.encode_image(given.images))  # type: ignore[arg-type]
    none = learn_module._class_latents(learner, ClassImages(draw=0), None, lambda *_: None)
    assert none is None


def test_class_images_that_nothing_needs_are_told(
    host: DiffusersHost, caplog: pytest.LogCaptureFixture
) -> None:
    given = ClassImages(images=torch.rand(1, SIDE, SIDE, 3))
    for settings in (config(1, 1, prior_weight=0.0), config(1, 0)):
        learner = BreakAScene(host, scene(), settings)
        assert learn_module._class_latents(learner, given, None, lambda *_: None) is None
    assert caplog.text.count("The class images that came are not used") == 2


def test_class_images_are_drawn_once_for_a_run(
    host: DiffusersHost, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws: list[Tensor] = []

    def drawn(*args: Any, **more: Any) -> Tensor:
        draws.append(drawn_class_latents(*args, **more))
        return draws[-1]

    monkeypatch.setattr(learn_module, "drawn_class_latents", drawn)
    with pytest.raises(Cancelled):
        learn_scene(host, scene(), config(1, 1), **QUICK, folder=tmp_path, progress=Reports(2))
    learn_scene(host, scene(), config(1, 1), **QUICK, folder=tmp_path)
    assert len(draws) == 1
    (kept,) = tmp_path.rglob("class-latents.safetensors")
    kept.write_bytes(b"not a file")  # damaged: made again
    learn_scene(host, scene(), config(1, 1), **QUICK, folder=tmp_path)
    assert torch.equal(draws[0], draws[1])
