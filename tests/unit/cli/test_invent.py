"""`conceptloom invent` on a tiny model: results in a folder, and going on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("typer")

from typer.testing import CliRunner

from conceptloom.cli import laboratory, models
from conceptloom.cli.app import app
from conceptloom.cli.lab_options import chosen_settings
from conceptloom.concepts.concept_file import load_concept
from conceptloom.methods.conceptlab import (
    OFFICIAL_LOOP,
    ConceptLabConfig,
    EvolutionConfig,
    SpaceDefaults,
)
from conceptloom.methods.conceptlab.spec import SPEC

from ..tiny_models import tiny_host

ARGUMENTS = ["--of", "pet:2", "--of", "toy", "--not", "dog", "--prior", "none", "--vqa", "none"]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "open_host", lambda *_, **__: tiny_host())
    monkeypatch.setattr(laboratory, "natural_size", lambda host: (32, 32))
    image_generator = laboratory.HostImageGenerator
    monkeypatch.setattr(
        laboratory,
        "HostImageGenerator",
        lambda host, *, steps, cfg, size: image_generator(host, steps=1, cfg=cfg, size=size),
    )


def test_a_concept_its_checkpoints_and_pictures_lie_in_the_folder(tmp_path: Path) -> None:
    command = ["invent", "my-pet", *ARGUMENTS, "--steps", "2", "--every", "1", "-o", str(tmp_path)]
    for _ in range(2):
        result = CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
    concept = load_concept(tmp_path / "concept.safetensors")
    assert concept.names == ["my-pet"]
    assert concept.recipe["positives"] == ["pet", "toy"]
    assert concept.recipe["weights"] == [2.0, 1.0]
    early = load_concept(tmp_path / "checkpoints" / "000001.safetensors")
    assert early.recipe["checkpoint"] == 1
    for name in ("timeline.png", "samples.png", "similarity.png", "losses.csv"):
        assert (tmp_path / name).is_file()
    assert "dog" in result.output


@pytest.mark.parametrize("category", ["pet:much", "pet:nan", ":2"])
def test_a_weight_that_is_no_number_is_reported(tmp_path: Path, category: str) -> None:
    result = CliRunner().invoke(app, ["invent", "my-pet", "--of", category, "-o", str(tmp_path)])
    assert result.exit_code == 2


def test_every_setting_of_the_method_is_an_option(tmp_path: Path) -> None:
    more = ["--not", "dog", "--not", "cat", "--forbid", "animal", "--gradual", "--guidance", "2"]
    more += ["--from", "toy", "--template", "a {concept}", "--most-negatives", "1"]
    command = ["invent", "my-pet", "--prior", "none", "--of", "pet", *more, "--steps", "1"]
    result = CliRunner().invoke(app, [*command, "--every", "1", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    recipe = load_concept(tmp_path / "concept.safetensors").recipe
    negatives = recipe["negatives"]
    assert (negatives["start"], negatives["forbidden"]) == (["dog", "cat"], ["animal"])
    assert (negatives["gradual"], negatives["most"], negatives["every"]) == (True, 1, 1)
    assert (recipe["sampling"]["guidance"], recipe["initialiser_word"]) == (2.0, "toy")
    assert recipe["templates"] == ["a {concept}"]


def test_a_mix_has_no_options_about_negatives(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["mix", "x", "star", "--not", "dog", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "--not" in result.output


def test_a_prior_decides_where_settings_start() -> None:
    on_tinyworld, official = (chosen_settings(SPEC, prior, {}) for prior in ("tinyworld", "none"))
    assert (on_tinyworld.config.steps, on_tinyworld.config.learning_rate) == (300, 1e-2)
    assert (official.config, official.loop) == (ConceptLabConfig(), OFFICIAL_LOOP)
    words = chosen_settings(SPEC, "none", {"not_": ["pet"]}, positives=("plant",)).config
    assert (words.positives, words.negatives.start) == (("plant",), ("pet",))


def test_a_space_changes_only_what_the_user_left() -> None:
    space = SpaceDefaults((1.0, -1.0), ("a {concept}",), ("one {concept}",))
    fitted = space.fitted(ConceptLabConfig(negative_floor=0.1, gallery=("my {concept}",)))
    assert (fitted.positive_ceiling, fitted.negative_floor) == (1.0, 0.1)
    assert (fitted.templates, fitted.gallery) == (("a {concept}",), ("my {concept}",))
    assert space.fitted(EvolutionConfig()).sentences == ("a {concept}",)


def test_a_mix_has_no_ceiling_but_what_the_user_sets() -> None:
    space, mixed = SpaceDefaults((0.5, 0.0)), ConceptLabConfig(positives=("mug", "teapot"))
    assert space.fitted(ConceptLabConfig()).positive_ceiling == 0.5
    assert space.fitted(mixed).positive_ceiling == 1.0
    assert space.fitted(replace(mixed, positive_ceiling=0.3)).positive_ceiling == 0.3
    assert SpaceDefaults().fitted(mixed).positive_ceiling == 0.28  # CLIP's, as officially


def test_a_mix_tells_which_word_its_ceiling_keeps_from_pulling(tmp_path: Path) -> None:
    command = ["mix", "my-mix", "mug:2", "fish", "--prior", "none", "--steps", "2"]
    free = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "free")])
    assert free.exit_code == 0, free.output
    assert "without a pull" not in free.output
    capped = [*command, "--positive-ceiling", "-0.9", "-o", str(tmp_path / "capped")]
    told = " ".join(CliRunner().invoke(app, capped).output.split())
    assert "mug in 100% of the steps, fish in 100% of the steps" in told
    one = ["invent", "my-pet", "--prior", "none", "--of", "pet", "--vqa", "none", "--steps", "1"]
    alone = CliRunner().invoke(app, [*one, "--positive-ceiling", "-0.9", "-o", str(tmp_path / "1")])
    assert alone.exit_code == 0, alone.output
    assert "without a pull" not in alone.output
