"""Concept Weaver whole: its exact identities, what it refuses, and what it leaves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from conceptloom.attention.fusion import RegionFusion
from conceptloom.concepts.concept import Change, Concept, Diff, weight_edits
from conceptloom.errors import (
    BaseMismatchError,
    ConfigError,
    HandleError,
    ImageError,
    InputError,
    MaskError,
    PromptError,
)
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Keep,
    Mixing,
    RegionConfig,
    Regions,
    RegionSpec,
    Template,
    WeaveConfig,
    make_regions,
    make_template,
    weave,
)
from conceptloom.methods.concept_weaver.features import feature_cost, kept_steps
from conceptloom.methods.concept_weaver.regions import sources_of
from conceptloom.methods.concept_weaver.template import check_sigmas
from conceptloom.methods.concept_weaver.weave import ScoreMixing, host_injection
from conceptloom.samplers.inversion import psnr
from conceptloom.samplers.sigmas import euler_step, guided_output_at, output_at
from conceptloom.training.adapters import Scope, scope_weight_names

from ..tiny_models import assert_unchanged, noise, snapshot, tiny_host

STEPS, SENTENCE = 5, "a cat and a dog"
PLAIN = WeaveConfig(suppression=0.0, cfg=3.0, resnet_until=0.0, attention_until=0.0)


@pytest.fixture(scope="module")
def host() -> DiffusersHost:
    return tiny_host()


def picture() -> Tensor:
    return torch.rand(1, 32, 32, 3, generator=torch.Generator().manual_seed(0))


def inverted(host: DiffusersHost, text: str = SENTENCE, **config: Any) -> Template:
    settings = InversionConfig(refinements=0, **config)
    return make_template(host, picture(), text, host.noise_path.levels(STEPS), settings)


@pytest.fixture(scope="module")
def template(host: DiffusersHost) -> Template:
    return inverted(host)


def concept(host: DiffusersHost, name: str, scope: Scope, word: str = "", seed: int = 1) -> Concept:
    generator = torch.Generator().manual_seed(seed)
    weights: dict[str, Change] = {
        weight: Diff(0.1 * torch.randn(host.weight(weight).shape, generator=generator))
        for weight in scope_weight_names(host.weight_names(), scope)
    }
    vectors = {e: torch.randn(1, width, generator=generator) for e, width in host.encoders.items()}
    return Concept(
        handles={name: vectors},
        weights=weights,
        base=host.fingerprint,
        method="test",
        words={name: word},
    )


def box(columns: slice) -> Tensor:
    mask = torch.zeros(32, 32)
    mask[:, columns] = 1
    return mask


LEFT, RIGHT, EVERYWHERE = box(slice(0, 14)), box(slice(18, 32)), torch.ones(32, 32)


@pytest.fixture(scope="module")
def pair(host: DiffusersHost) -> list[RegionSpec]:
    kv = Scope.CROSS_ATTENTION_KV
    return [
        RegionSpec(concept=concept(host, "my-cat", kv), word="cat", mask=LEFT),
        RegionSpec(concept=concept(host, "my-dog", kv, seed=2), word="dog", mask=RIGHT),
    ]


def alone(host: DiffusersHost, learned: Concept | None = None) -> Regions:
    return make_regions("a cat", [RegionSpec(concept=learned, word="cat", mask=EVERYWHERE)])


def sampled(host: DiffusersHost, template: Template, prompt: Any, cfg: float = 3.0) -> Tensor:
    """Plain sampling from the template's noise."""
    negative = host.encode_prompt(WeaveConfig().negative)
    levels, point = template.sigmas.tolist(), template.trajectory[:1]
    with torch.no_grad():
        for sigma, following in pairwise(levels):
            output = guided_output_at(host, point, sigma, prompt, negative, cfg)
            slope = host.noise_path.slope(point, output, sigma)
            point = euler_step(point, slope, sigma, following)
    return point


def test_a_template_tells_how_well_it_comes_back(host: DiffusersHost, template: Template) -> None:
    assert template.trajectory.shape == (STEPS + 1, 4, 16, 16)
    assert template.reconstruction.shape == (32, 32, 3)
    seen = host.decode_latent(host.encode_image(picture()))[0]
    assert template.psnr == pytest.approx(psnr(template.reconstruction, seen))
    assert template.timesteps == (801, 601, 401, 201, 1)
    assert [template.step_at(t) for t in (801, 700.2, 599, 3, 0)] == [0, 1, 1, 4, 4]


def test_thresholds_of_zero_and_plain_regions_are_plain_sampling(
    host: DiffusersHost, template: Template
) -> None:
    found = weave(host, template, alone(host), PLAIN).latent
    expected = sampled(host, template, host.encode_prompt("a cat"))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_one_concept_everywhere_is_that_concepts_own_model(
    host: DiffusersHost, template: Template
) -> None:
    learned = concept(host, "my-cat", Scope.CROSS_ATTENTION_KV)
    found = weave(host, template, alone(host, learned), replace(PLAIN, cfg=1.0)).latent
    with host.edited(weight_edits(learned), trainable=False):
        prompt = host.encode_prompt("a <my-cat>", learned.handles)
        expected = sampled(host, template, prompt, cfg=1.0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(found, weave(host, template, alone(host), PLAIN).latent, atol=0.1)


def test_suppression_of_what_is_equal_changes_nothing(
    host: DiffusersHost, template: Template
) -> None:
    found = [
        weave(host, template, alone(host), replace(PLAIN, suppression=x)).latent for x in (0, 0.7)
    ]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-3)


def test_the_template_comes_back_when_nothing_is_asked_for(host: DiffusersHost) -> None:
    """No concept, no guidance: injected features are those that would be there anyway."""
    sigmas, settings = torch.linspace(0.1, 0, STEPS + 1), InversionConfig(refinements=12)
    template = make_template(host, picture(), "a cat", sigmas, settings)
    assert template.psnr > 40
    found = weave(host, template, alone(host), WeaveConfig(cfg=1.0, suppression=0.0))
    clean = template.trajectory[-1:]
    assert (found.latent - clean).norm() < 0.02 * clean.norm()  # features are half precision
    assert found.image.shape == (1, 32, 32, 3)


def test_kept_and_recomputed_features_weave_the_same(
    host: DiffusersHost, template: Template, pair: list[RegionSpec]
) -> None:
    regions = make_regions(SENTENCE, pair)
    fresh = inverted(host, keep=Keep.NOTHING)
    assert fresh.features == ()
    assert torch.equal(fresh.trajectory, template.trajectory)
    found = [weave(host, t, regions, WeaveConfig(cfg=2.0)).latent for t in (template, fresh)]
    torch.testing.assert_close(*found, rtol=0.02, atol=0.02)  # kept ones are half precision
    partly = inverted(host, resnet_until=0.4, attention_until=0.2)
    found.append(weave(host, partly, regions, WeaveConfig(cfg=2.0)).latent)
    torch.testing.assert_close(found[0], found[2], rtol=0.02, atol=0.02)


def test_the_size_of_the_cache_is_reported_before_and_met(
    host: DiffusersHost, template: Template
) -> None:
    config, told = InversionConfig(), []
    expected = feature_cost(host, template.blocks, (16, 16), config, STEPS)
    assert template.feature_bytes() == expected > 0
    assert len(template.features) == kept_steps(config, STEPS) == 4

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append((step, total, message))
        raise KeyboardInterrupt  # cancelled at once: nothing was computed yet

    with pytest.raises(KeyboardInterrupt):
        make_template(host, picture(), "", host.noise_path.levels(STEPS), config, progress=progress)
    assert told == [
        (0, 2 * STEPS + 4, f"5 steps; stores {expected / 2**20:,.1f} MiB of features in RAM")
    ]


def test_each_setting_arrives(
    host: DiffusersHost, template: Template, pair: list[RegionSpec]
) -> None:
    regions = make_regions(SENTENCE, pair)
    whole = weave(host, template, regions, WeaveConfig()).latent
    for change in (
        {"suppression": 0.0},
        {"cfg": 2.0},
        {"negative": "red"},
        {"resnet_until": 0.2},
        {"attention_until": 0.0},
        {"mixing": Mixing.SCORES},
    ):
        other = weave(host, template, regions, replace(WeaveConfig(), **change)).latent
        assert not torch.allclose(whole, other, atol=1e-3), change


@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_of_one_concept_everywhere_scores_and_features_mix_alike(
    host: DiffusersHost, template: Template, pair: list[RegionSpec], cfg: float
) -> None:
    regions = make_regions(SENTENCE, [replace(pair[0], mask=EVERYWHERE)])
    config = replace(PLAIN, cfg=cfg)
    found = weave(host, template, regions, replace(config, mixing=Mixing.SCORES)).latent
    fused = weave(host, template, regions, config).latent
    torch.testing.assert_close(found, fused, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_score_mixing_by_the_formula(
    host: DiffusersHost, template: Template, pair: list[RegionSpec]
) -> None:
    """Under a concept's mask the noise is that of its own model, between them the base model's."""
    regions = make_regions(SENTENCE, pair, config=RegionConfig(dilate=0.0))
    sources, base = sources_of(host, regions), host.encode_prompt(SENTENCE)
    injection = host_injection(host, template, WeaveConfig())
    point, sigma = template.trajectory[:1], float(template.sigmas[0])
    found = ScoreMixing(host, regions, sources, base, injection)(point, sigma)
    own = [
        output_at(host, point, sigma, [base], [injection, RegionFusion([source], EVERYWHERE[None])])
        for source in sources
    ]
    cat, dog, behind = slice(0, 7), slice(9, 16), slice(7, 9)  # a latent is 2 px wide
    for cells, expected in zip((cat, dog, behind), own, strict=True):
        torch.testing.assert_close(found[..., cells], expected[..., cells])
    assert not torch.allclose(own[0], own[1], atol=1e-3)


def test_concepts_that_teach_the_text_encoder_are_read_by_it(
    host: DiffusersHost, template: Template
) -> None:
    learned = concept(host, "my-cat", Scope.CROSS_ATTENTION_KV)
    text = {
        name: Diff(noise(*host.weight(name).shape))
        for name in host.weight_names()
        if name.startswith("clip_l") and "fc1.weight" in name
    }
    assert text
    both = replace(learned, weights={**learned.weights, **text})
    found = [weave(host, template, alone(host, c), PLAIN).latent for c in (learned, both)]
    assert not torch.allclose(*found, atol=1e-3)


def test_the_model_is_what_it_was(
    host: DiffusersHost, template: Template, pair: list[RegionSpec]
) -> None:
    before = snapshot(host)
    weave(host, template, make_regions(SENTENCE, pair), WeaveConfig())

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        weave(host, template, make_regions(SENTENCE, pair), progress=progress)
    assert_unchanged(before, host)


def test_prompts_are_built_and_can_be_given(pair: list[RegionSpec]) -> None:
    made = make_regions(SENTENCE, pair)
    assert [part.prompt for part in made.parts] == ["a <my-cat>", "a <my-dog>", SENTENCE]
    assert made.prompts.splitlines()[0] == f"base: {SENTENCE}"
    given = make_regions(SENTENCE, [pair[0], replace(pair[1], prompt="one <my-dog>, asleep")])
    assert [part.prompt for part in given.parts][:2] == ["a <my-cat>", "one <my-dog>, asleep"]
    own = make_regions("animals", [replace(w, prompt=f"<{w.concept.names[0]}>") for w in pair])
    assert own.parts[2].prompt == "animals"


def test_the_handle_learned_from_the_word_is_taken(host: DiffusersHost) -> None:
    one = concept(host, "first", Scope.HANDLES, "cat")
    two = concept(host, "second", Scope.HANDLES, "dog")
    both = replace(
        one, handles={**one.handles, **two.handles}, words={"first": "cat", "second": "dog"}
    )
    made = make_regions("a dog", [RegionSpec(concept=both, word="dog", mask=LEFT)])
    assert made.parts[0].prompt == "a <second>"
    made = make_regions("a dog", [RegionSpec(concept=both, word="dog", mask=LEFT, handle="first")])
    assert made.parts[0].prompt == "a <first>"
    with pytest.raises(HandleError, match="no handle <third>"):
        make_regions("a dog", [RegionSpec(concept=both, word="dog", mask=LEFT, handle="third")])


# What is refused


def test_bad_regions_are_refused(host: DiffusersHost, pair: list[RegionSpec]) -> None:
    with pytest.raises(MaskError, match="<my-dog> is empty"):
        make_regions(SENTENCE, [pair[0], replace(pair[1], mask=torch.zeros(32, 32))])
    with pytest.raises(MaskError, match="<my-dog> has no mask"):
        make_regions(SENTENCE, [pair[0], replace(pair[1], mask=None)])
    with pytest.raises(InputError, match="No region"):
        make_regions(SENTENCE, [])
    with pytest.raises(PromptError, match="does not contain 'dog'"):
        make_regions("a cat", pair)
    with pytest.raises(PromptError, match="neither a word nor a prompt"):
        make_regions(SENTENCE, [replace(pair[0], word=" ")])
    with pytest.raises(PromptError, match="does not contain <my-cat>"):
        make_regions(SENTENCE, [replace(pair[0], prompt="a cat"), pair[1]])
    behind = replace(pair[1], prompt="a plain meadow")
    with pytest.raises(PromptError, match="does not contain <my-dog>"):
        make_regions(SENTENCE, [pair[0]], behind)


@pytest.mark.parametrize("scope", [Scope.CROSS_ATTENTION, Scope.LOW_RANK, Scope.FULL])
def test_concepts_with_changes_of_any_layer_are_accepted(host: DiffusersHost, scope: Scope) -> None:
    learned = concept(host, "my-cat", scope)
    source = sources_of(host, alone(host, learned))[0]
    drawing = {name for name in learned.weights if name.startswith("unet.")}
    assert source.changes.keys() <= drawing
    assert all("time_embed" in name for name in drawing - source.changes.keys())


def test_other_models_and_sizes_are_refused(
    host: DiffusersHost, template: Template, pair: list[RegionSpec]
) -> None:
    regions = make_regions(SENTENCE, pair)
    with pytest.raises(BaseMismatchError, match="the same family, another checkpoint"):
        weave(tiny_host(seed=5), template, regions)
    with pytest.raises(BaseMismatchError, match="inverted on a different model"):
        weave(tiny_host("sdxl"), template, regions)
    foreign = replace(pair[0], concept=replace(pair[0].concept, base="another"))
    with pytest.raises(BaseMismatchError, match="trained on the base model"):
        weave(host, template, make_regions(SENTENCE, [foreign, pair[1]]))
    wide = make_regions("a cat", [RegionSpec(concept=None, word="cat", mask=torch.ones(32, 64))])
    with pytest.raises(MaskError, match="64x32 px but the template is 32x32"):
        weave(host, template, wide)
    with pytest.raises(ImageError, match="one picture"):
        make_template(host, noise(2, 32, 32, 3), "", host.noise_path.levels(2))


def test_sigmas_have_to_be_the_templates_own(host: DiffusersHost, template: Template) -> None:
    check_sigmas(template, template.sigmas)
    check_sigmas(template, template.sigmas[2:])
    for bad in (host.noise_path.levels(6), template.sigmas * 1.1, torch.zeros(0)):
        with pytest.raises(ConfigError, match="those of the template"):
            check_sigmas(template, bad)


def test_settings_outside_of_their_range_are_refused(host: DiffusersHost) -> None:
    for kind, bad in (
        (WeaveConfig, {"suppression": -1}),
        (WeaveConfig, {"cfg": 0}),
        (WeaveConfig, {"resnet_until": 1.1}),
        (InversionConfig, {"steps": 0}),
        (InversionConfig, {"refinements": 99}),
    ):
        with pytest.raises(ConfigError):
            kind(**bad)
    with pytest.raises(ConfigError, match="attention_blocks is 7"):
        inverted(host, attention_blocks=(7,))
