"""Settings of `conceptloom train`: each arrives, once, and what does not belong is told."""

from __future__ import annotations

import inspect

import pytest

from conceptloom.cli.train_command import train_with_options
from conceptloom.cli.training_run import settings_from_options
from conceptloom.errors import ConfigError
from conceptloom.methods.clic import OFFICIAL, OFFICIAL_LOOP, CLiCConfig
from conceptloom.methods.registry import method_options, method_specs, settings_of_method
from conceptloom.tinyworld.presets import SIZE
from conceptloom.training.adapters import Scope
from conceptloom.training.method_spec import TINYWORLD, Takes, run_settings
from conceptloom.training.setting import settings_in


def test_settings_of_a_table_are_what_options_are() -> None:
    """A batch's file is YAML: a prompt by itself is no list, and a form is any text."""
    one = settings_from_options({"preview_prompt": "a <my-mug>"}, "tinyworld")
    assert one.previews.prompts == ("a <my-mug>",)
    with pytest.raises(ConfigError, match="paper or official"):
        settings_from_options({"context_form": "mine"}, "tinyworld", method="clic")


def test_every_setting_arrives_where_it_should() -> None:
    settings = settings_from_options(
        {
            "token_steps": 3, "token_rate": 0.1, "weight_steps": 4, "rank": 5,
            "scope": "low-rank", "flip": 0.25, "class_draw": 7, "preview_cfg": 2.0,
            "clip": 0.5, "seed": None, "preview_prompt": [],
        },
        "some model",
    )  # fmt: skip
    config = settings.config
    assert (config.token_phase.steps, config.token_phase.learning_rate) == (3, 0.1)
    assert (config.weight_phase.steps, config.weight_phase.rank) == (4, 5)
    assert config.weight_phase.scope is Scope.LOW_RANK
    assert config.weight_phase.learning_rate == 1e-4  # the preset's for that scope
    assert (config.flip, config.seed) == (0.25, 0)
    assert config.class_images.draw == 7
    assert settings.previews.cfg == 2.0
    assert settings.loop.max_grad_norm == 0.5
    with pytest.raises(ConfigError, match=r"colour.*a setting of Break-A-Scene"):
        settings_from_options({"colour": 1}, "some model")


@pytest.mark.parametrize("method", method_options())
def test_tinyworld_learns_photographs_at_its_own_size(method: str) -> None:
    assert settings_of_method(method, TINYWORLD).config.resolution_px == SIZE


def test_every_setting_of_every_method_is_an_option_once() -> None:
    options = list(inspect.signature(train_with_options()).parameters)
    specs = method_specs(Takes.SCENE)
    declared = {
        s.option for spec in specs for s in settings_in(run_settings(spec, spec.presets[0]))
    }
    assert declared <= set(options)
    assert len(options) == len(set(options))
    # as they are called in people's scripts
    assert set(OPTIONS.split()) <= set(options)


OPTIONS = """
image mask scene background out model layout device precision method preset token_steps token_rate
weight_steps weight_rate scope rank attention_weight attention_level masked_loss union_sampling
prompt_prefix flip resolution batch_size accumulation checkpointing seed object_word context_weight
roi_weight background_weight context_form roi_form prompt roi_prompt brightness random_scale views
detach_start smallest prior_weight prior_prompt class_image class_draw class_steps class_cfg
preview_every preview_prompt preview_steps preview_cfg preview_seed clip weight_decay save_every
max_grad_norm
"""


def test_a_setting_of_another_method_is_refused() -> None:
    for method, option in (
        ("clic", "prior_weight"), ("clic", "smallest"), ("break-a-scene", "roi_weight"),
        ("concept-weaver", "attention_weight"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=r"a setting of "):
            settings_from_options({option: 1}, "some model", method=method)


def test_a_scope_that_nothing_of_the_kind_trains_is_reported() -> None:
    with pytest.raises(ConfigError, match="handles, kv, cross, low-rank or full"):
        settings_from_options({"scope": "everything"}, "some model")
    with pytest.raises(ConfigError, match="no numbers for another"):
        settings_of_method("break-a-scene", "another", is_strict=True)


def test_methods_start_from_their_own_numbers() -> None:
    official = settings_of_method("clic-official")
    assert (official.config, official.loop) == (OFFICIAL, OFFICIAL_LOOP)
    assert settings_of_method("clic").config == CLiCConfig()
    plain = settings_of_method("custom-diffusion", TINYWORLD).changed({"seed": 3}).config
    assert isinstance(plain, CLiCConfig)
    assert (plain.roi_weight, plain.attention_weight, plain.background_weight) == (0, 0, 1)
    assert plain.seed == 3


def test_an_option_under_its_earlier_name_is_read_and_not_listed() -> None:
    listed = inspect.signature(train_with_options()).parameters
    hidden = {name for name, one in listed.items() if getattr(one.annotation, "__metadata__", ())}
    hidden = {n for n in hidden if listed[n].annotation.__metadata__[0].hidden}
    assert hidden == {"clip"}
    for name in ("clip", "max_grad_norm"):
        assert settings_from_options({name: 0.5}, "some model").loop.max_grad_norm == 0.5
