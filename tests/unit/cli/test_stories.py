"""The demo's later stories, in a step or two: what they show, judge and leave behind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from conceptloom.cli import laboratory
from conceptloom.cli.demo import clic, conceptlab, residuals, teaching, weaver
from conceptloom.cli.demo.story import DemoContext
from conceptloom.cli.models import open_host
from conceptloom.concepts.concept_file import load_concept
from conceptloom.host.ports import no_progress
from conceptloom.tinyworld.presets import SIZE
from conceptloom.tinyworld.prior import TinyPrior, build_prior
from conceptloom.training.method_spec import RunSettings

Settings = Callable[..., RunSettings]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DemoContext:
    quick = replace(teaching.ON_TINYWORLD, steps=1, batch_size=1)
    monkeypatch.setattr(teaching, "ON_TINYWORLD", quick)
    for story in (clic, residuals, weaver):
        monkeypatch.setattr(story, "STEPS", 4)
    return DemoContext(open_host(device="cpu"), tmp_path, no_progress, lambda _: None)


def test_the_weave_shows_what_it_wove(context: DemoContext) -> None:
    story = weaver.tell(context)
    section = story.sections[0]
    woven = [figure.samples[0] for figure in section.figures[-len(weaver.WAYS) :]]
    assert {tuple(sample.image.shape) for sample in woven} == {(SIZE, SIZE, 3)}
    assert [sample.is_as_asked is not None for sample in woven] == [
        way == weaver.WEAVING for way in weaver.WAYS
    ]
    assert story.as_asked[1] == 1, "comparisons are shown, but not counted"
    assert section.table is not None
    assert [row[0] for row in section.table.rows] == list(weaver.WAYS)
    assert all(0 <= abs(float(row[1])) <= 1 for row in section.table.rows)
    for name in story.handles:
        kept = load_concept(context.folder / f"{name}.safetensors")
        assert kept.method == "personalized_residuals"


def test_what_a_story_learned_serves_the_next(
    context: DemoContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    story = residuals.tell(context)
    assert story.as_asked[1] == residuals.COUNT, "only pictures with LAG are judged"
    assert residuals.OBJECT in weaver.WOVEN
    learned = context.learned[residuals.NAME]

    def never(*_: object, **more: object) -> None:
        raise AssertionError("learned again")

    monkeypatch.setattr(teaching, "learn_residuals", never)
    again = teaching.learned_member(context, residuals.OBJECT, residuals.TAUGHT_ON)
    assert again is learned


def test_an_ornament_is_judged_on_its_target_and_nothing_else_changes(
    context: DemoContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: Settings = clic.settings_of_method

    def quick(name: str, family: str) -> RunSettings:
        settings = given(name, family)
        return settings.changed({"token_steps": 1, "weight_steps": 1, "batch_size": 1})

    monkeypatch.setattr(clic, "settings_of_method", quick)
    monkeypatch.setattr(clic, "COUNT", 2)
    story = clic.tell(context)
    assert story.as_asked[1] == 2
    table = story.sections[0].table
    assert table is not None
    assert dict(zip(table.heads, table.rows[0], strict=True))["change outside"] == "0"
    assert load_concept(context.folder / f"{clic.NAME}.safetensors").method == "clic"


def test_an_invention_is_judged_by_what_is_known(
    context: DemoContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(laboratory, "load_tiny_prior", untrained_prior)
    for name, value in (("STEPS", 1), ("LOOK_EVERY", 1), ("DDIM_STEPS", 2), ("COUNT", 1)):
        monkeypatch.setattr(conceptlab, name, value)
    story = conceptlab.tell(context)
    assert story.as_asked[1] == len(conceptlab.PLACES)
    table = story.sections[0].table
    assert table is not None
    assert len(table.rows) == 2, "the invention, and the category's own word"
    assert story.sections[0].figures[0].is_wide


def untrained_prior() -> TinyPrior:
    """Of the right sizes: what it imagines means nothing."""
    made = build_prior()
    networks: list[nn.Module] = [made.prior, made.vision]
    for network in networks:
        network.eval().requires_grad_(False)
    return made
