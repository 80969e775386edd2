"""Personalized Residuals: what learns, from what, and that it draws the same in both ways."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from conceptloom.attention.lag_config import LagConfig
from conceptloom.concepts.concept import Concept, Diff, stacked
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.errors import (
    BaseMismatchError,
    ConfigError,
    HandleError,
    ImageError,
    InputError,
    PromptError,
)
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import Host, UNetSites
from conceptloom.methods.concept_weaver.prompts import marked_word
from conceptloom.methods.personalized_residuals import (
    Localised,
    PersonalizedResiduals,
    PersonalizedResidualsConfig,
    learn_residuals,
    sample_lag,
)
from conceptloom.methods.personalized_residuals.dataset import make_dataset
from conceptloom.methods.personalized_residuals.lag import lag_setup, single_handle
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.training.adapters import Scope, Start, make_adapters, rank_for
from conceptloom.training.loop import step_generator
from conceptloom.training.previews import PreviewConfig

from ..tiny_models import FAMILIES, assert_unchanged, noise, snapshot, tiny_host

SIDE = 32
PROMPT = "a photo of a {}"


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def pictures(count: int = 2, height: int = SIDE, width: int = SIDE) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(height, width, 3, generator=generator) for _ in range(count)]


def config(**more: Any) -> PersonalizedResidualsConfig:
    return PersonalizedResidualsConfig(**{"steps": 3, "batch_size": 2, **more})


def learner(host: DiffusersHost, captions: tuple[str, ...] = (), **more: Any):
    settings = config(**more)
    subject = make_dataset(pictures(), "my-cat", "big cat", captions, prompt=settings.prompt)
    return PersonalizedResiduals(host, subject, settings)


def learn(host: DiffusersHost, folder: Path | None = None, **more: Any) -> Concept:
    shown = PreviewConfig(steps=1, cfg=1.0)
    learned = learn_residuals(
        host, pictures(), "my-cat", "big cat", config(**more), previews=shown, folder=folder
    )
    assert learned.overlay.ndim == 3
    assert learned.scores == {}
    return learned.concept


@pytest.fixture(scope="module")
def concept(host: DiffusersHost) -> Concept:
    return learn(host, learning_rate=0.3, steps=4)


def sd1_shapes() -> Host:
    """The output projections of SD 1 on the meta device, and nothing else."""
    widths = [320] * 5 + [640] * 5 + [1280] * 6
    weights = {
        f"unet.output_blocks.{i}.1.proj_out.weight": torch.empty(m, m, 1, 1, device="meta")
        for i, m in enumerate(widths)
    }
    return cast(
        Host,
        SimpleNamespace(
            weight_names=lambda: [*weights, "unet.output_blocks.0.1.proj_out.bias"],
            weight=weights.__getitem__,
            device=torch.device("cpu"),
            sites=UNetSites((), ()),
        ),
    )


def test_sd1_learns_1239040_numbers() -> None:
    adapters = make_adapters(sd1_shapes(), Scope.PROJ_OUT, PersonalizedResidualsConfig().ratio)
    assert adapters.count() == 1_239_040
    assert [rank_for(0.05, m) for m in (320, 640, 1280)] == [16, 32, 64]


def test_defaults_are_those_of_the_paper() -> None:
    settings = PersonalizedResidualsConfig()
    assert (settings.steps, settings.batch_size, settings.learning_rate) == (150, 4, 1e-3)
    assert (settings.ratio, settings.flip, settings.train_handle) == (0.05, 0.0, False)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"learning_rate": 0.0},
        {"ratio": -1.0},
        {"flip": 2.0},
        {"prompt": "no place"},
        {"handle_rate": float("inf")},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PersonalizedResidualsConfig(**wrong)


# The lesson


def test_captions_name_the_concept() -> None:
    subject = make_dataset(pictures(), "<my-cat>", " big cat ", prompt=PROMPT)
    assert subject.captions == ("a photo of a <my-cat> big cat",) * 2
    own = make_dataset(pictures(), "my-cat", "cat", ["{} asleep", "one <my-cat>"], prompt=PROMPT)
    assert own.captions == ("<my-cat> cat asleep", "one <my-cat>")


def test_pictures_are_cut_from_the_middle() -> None:
    wide = torch.zeros(20, 41, 4)
    wide[:, 18:22, 0] = 1
    [kept] = make_dataset([wide], "a", "", prompt=PROMPT, multiple_px=4).images
    assert kept.shape == (20, 40, 3)
    [square] = make_dataset([wide], "a", "", prompt=PROMPT, resolution_px=40, multiple_px=4).images
    assert square.shape == (40, 40, 3)
    assert square[:, 16:24, 0].mean() > 0.8
    assert square[:, :12].max() == 0


LESSONS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "no picture": ({"images": []}, ImageError, "No picture"),
    "other sizes": (
        {"images": [*pictures(1), *pictures(1, 48)]},
        ImageError,
        "different sizes",
    ),
    "too small": ({"images": pictures(1, 8)}, ImageError, "8 px"),
    "no picture at all": ({"images": [torch.rand(4, 4)]}, ImageError, "shape"),
    "not a number": ({"images": [torch.full((32, 32, 3), torch.nan)]}, ImageError, "NaN"),
    "too few captions": ({"captions": ["{}"]}, PromptError, "1 captions came for 2"),
    "caption without it": ({"captions": ["{}", "a cat"]}, PromptError, "'a cat' does not contain"),
    "no handle": ({"handle": "my cat"}, HandleError, "my-cat"),
}


@pytest.mark.parametrize("name", LESSONS)
def test_lessons_that_cannot_be_learned_are_refused(name: str) -> None:
    given, error, told = LESSONS[name]
    usual = {"images": pictures(), "handle": "my-cat", "class_word": "cat", "captions": []}
    with pytest.raises(error, match=told):
        make_dataset(**{**usual, **given}, prompt=PROMPT)


# What learns


def gradients(recipe: PersonalizedResiduals) -> set[str]:
    [phase] = recipe.phases()
    with recipe.computing(phase):
        recipe.losses(phase, step_generator(0, 0))["diffusion"].backward()
    return {n for n, p in recipe.named_parameters().items() if p.grad is not None and p.grad.any()}


@pytest.mark.parametrize("family", FAMILIES)
def test_residuals_of_every_output_projection_learn_and_nothing_else(family: str) -> None:
    host = tiny_host(family, velocity=family == "sd2")
    host.encode_prompt("")
    before = snapshot(host)
    recipe = learner(host, start=Start.BOTH_RANDOM)
    names = {f"adapter.unet.{site.name}.proj_out.weight" for site in host.sites.transformers}
    assert gradients(recipe) == {f"{name}.{part}" for name in names for part in ("up", "down")}
    before["hooks"] = snapshot(host)["hooks"]  # transformers leaves some of its own
    assert_unchanged(before, host)


def test_the_handle_learns_where_it_is_asked_to(host: DiffusersHost) -> None:
    still, moving = learner(host), learner(host, train_handle=True, handle_rate=0.02)
    assert not [n for n in still.named_parameters() if n.startswith("handle.")]
    assert "handle.my-cat.clip_l" in gradients(moving)
    [(group, rate)] = moving.phases()[0].others
    assert rate == 0.02
    assert [p.shape for p in group] == [(1, 16)]
    rare = host.word_vectors("ktn")["clip_l"]
    assert torch.equal(still.handles.to_concept_handles()["my-cat"]["clip_l"], rare)


def test_the_loss_is_the_plain_one_by_hand(host: DiffusersHost) -> None:
    captions = ("{} asleep", "a {}")
    recipe = learner(host, captions, batch_size=3, flip=0.5)
    [phase] = recipe.phases()
    generator = step_generator(5, 0)
    with recipe.computing(phase), torch.no_grad():
        found = float(recipe.losses(phase, step_generator(5, 0))["diffusion"])
    picked = []
    for _ in range(3):
        image = int(torch.randint(2, (), generator=generator))
        picked.append((image, float(torch.rand((), generator=generator)) < 0.5))
    eps = torch.randn(3, 4, 16, 16, generator=generator)
    at = torch.randint(1000, (3,), generator=generator)
    total = 0.0
    for row, (image, mirrored) in enumerate(picked):
        pixels = recipe.subject.images[image]
        latent = host.encode_image((pixels.flip(1) if mirrored else pixels)[None])
        prompt = host.encode_prompt(recipe.subject.captions[image], recipe.handles.vectors())
        noisy = host.noise_path.add_noise(latent, eps[[row]], at[[row]])
        with torch.no_grad():
            total += float((host.predict(noisy, at[[row]], [prompt]) - eps[row]).square().mean())
    assert len(set(picked)) > 1
    assert found == pytest.approx(total / 3, rel=1e-4)


def test_the_same_seed_gives_the_same_concept_and_resuming_too(
    host: DiffusersHost, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(step: int, *rest: Any) -> None:
        if step == 2:
            raise Stop

    def bytes_of(concept: Concept, name: str) -> bytes:
        return save_concept(concept, tmp_path / name).read_bytes()

    settings = config(train_handle=True)
    shown = PreviewConfig(steps=1, cfg=1.0)
    given = (host, pictures(), "my-cat", "big cat", settings)
    with pytest.raises(Stop):
        learn_residuals(*given, previews=shown, folder=tmp_path / "runs", progress=stop)
    resumed = learn_residuals(*given, previews=shown, folder=tmp_path / "runs").concept
    whole = learn_residuals(*given, previews=shown).concept
    assert bytes_of(resumed, "a.safetensors") == bytes_of(whole, "b.safetensors")
    other = learn(host, train_handle=True, seed=1)
    assert bytes_of(other, "c.safetensors") != bytes_of(whole, "d.safetensors")


def test_the_concept_says_how_it_came_about(concept: Concept, tmp_path: Path) -> None:
    assert concept.method == "personalized_residuals"
    assert concept.recipe["class_word"] == "big cat"
    assert concept.recipe["ratio"] == 0.05
    assert concept.prompts == ("a photo of a <my-cat> big cat",)
    assert concept.words == {"my-cat": "big cat"}
    assert marked_word(concept, "my-cat", "big cat") == "<my-cat> big cat"
    loaded = load_concept(save_concept(concept, tmp_path / "cat.safetensors"))
    assert loaded.recipe["class_word"] == "big cat"
    assert loaded.weights.keys() == concept.weights.keys()


# Drawing


def drawn(host: DiffusersHost, concept: Concept, text: str = "a <my-cat> big cat", **more: Any):
    given = Localised(concept=concept, **more)
    return sample_lag(host, [given], [text], seeded_noise(host, 1, 1, (32, 48)), steps=2, cfg=3.0)


def plainly(host: DiffusersHost, concept: Concept, strength: float) -> Tensor:
    stack = stacked([(concept, strength)])
    with host.edited(stack.edits, trainable=False):
        positive = host.encode_prompt("a <my-cat> big cat", stack.handles)
        noise_ = seeded_noise(host, 1, 1, (32, 48))
        return sample_ddim(host, [positive], host.encode_prompt(""), noise_, steps=2, cfg=3.0)


def test_lag_off_equals_the_merged_concept_and_strength_zero_the_base(
    host: DiffusersHost, concept: Concept
) -> None:
    off = drawn(host, concept, config=LagConfig(localised=False))
    torch.testing.assert_close(off, plainly(host, concept, 1.0), atol=1e-5, rtol=1e-5)
    assert torch.equal(
        drawn(host, concept, config=LagConfig(strength=0.0)), plainly(host, concept, 0.0)
    )
    localised = drawn(host, concept)
    assert not torch.allclose(localised, off, atol=1e-3)
    assert not torch.allclose(localised, plainly(host, concept, 0.0), atol=1e-3)


def test_prompts_have_to_hold_the_handle(
    host: DiffusersHost, concept: Concept, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(PromptError, match="No prompt contains <my-cat>"):
        drawn(host, concept, "a big cat")
    without = drawn(host, concept, "a <my-cat> big dog")
    assert "contains <my-cat> but not its class word" in caplog.text
    caplog.clear()
    assert torch.equal(drawn(host, concept, "a <my-cat> big dog", class_word=""), without)
    assert not caplog.text, "nothing is missing that nobody wants"
    drawn(host, concept, "a <my-cat> tiger", class_word="tiger")
    drawn(host, concept, "nothing", config=LagConfig(localised=False))


def test_concepts_that_change_more_or_fit_another_model_are_refused(
    host: DiffusersHost, concept: Concept
) -> None:
    name = next(n for n in host.weight_names() if n.endswith("attn2.to_k.weight"))
    more = Concept(
        handles=concept.handles,
        weights={name: Diff(noise(*host.weight(name).shape))},
        base=concept.base,
        method="break_a_scene",
    )
    with pytest.raises(ConfigError, match="Apply Concept"):
        drawn(host, more)
    with pytest.raises(BaseMismatchError):
        drawn(tiny_host("sdxl"), concept)


def test_lag_says_what_to_do_with_a_concept_of_two_objects():
    both = cast(Any, SimpleNamespace(names=("my-mug", "my-fish")))
    with pytest.raises(ConfigError, match=r"<my-mug>, <my-fish>.*without LAG .Apply Concept."):
        single_handle(both)


def test_lag_without_a_concept_says_so(host: DiffusersHost):
    with pytest.raises(InputError, match="no concept to localise; connect one"):
        lag_setup(cast(Host, host), [])
