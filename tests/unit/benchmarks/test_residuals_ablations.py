"""Ablations of residuals: variants differ in what they train, and no work is done twice; the result
has what the cells hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from harness.results import Status
from harness.statistics import judged
from quality import lag, residuals, residuals_variants, subjects
from quality.residuals import NUMBERS, RANKS, ResidualsExperiment, trained
from quality.residuals_variants import (
    BASE,
    DEFAULT,
    EXPECTATIONS,
    FROZEN,
    GROUPS,
    KV,
    LOOP,
    NO_WORD,
    PRIOR,
    RATIOS,
    VARIANTS,
    row_of,
    settings_of,
)
from quality.subjects import MEASURES, SubjectBudget, budgets, learned
from quality.world import open_model

from conceptloom.concepts.concept import Concept
from conceptloom.host.ports import Host

SMALL: SubjectBudget = replace(budgets()["quick"], batch_size=2, pairs=0)
OBJECT = "mug2"


@pytest.fixture(scope="module")
def host() -> Host:
    return open_model()


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Concepts of these tests alone, and a single class picture of one step."""
    monkeypatch.setattr(subjects, "STORE", tmp_path / "concepts")
    few = replace(residuals_variants.FEW, draw=1, steps=1)
    monkeypatch.setattr(residuals_variants, "FEW", few)
    return tmp_path / "concepts"


def experiment(host: Host, folder: Path) -> ResidualsExperiment:
    return ResidualsExperiment(host, "model", SMALL, folder, seeds=1)


def concept_of(host: Host, variant: str) -> tuple[Concept, list[int], list[int]]:
    """After one step: the concept, [numbers in weights, of V*], and the ranks."""
    config, word = settings_of(SMALL, 0, variant, OBJECT)
    concept = learned(host, "model", OBJECT, SMALL.images, config, word)
    what = trained(concept, config)
    return concept, what[NUMBERS].tolist(), what[RANKS].tolist()


def test_every_variant_has_settings_of_its_own(host: Host, tmp_path: Path) -> None:
    made = experiment(host, tmp_path)
    assert len({made.key(cell) for cell in made.cells()}) == len(VARIANTS)
    rows = [row_of(name, way) for name, how in VARIANTS.items() for way in how.ways]
    assert len(rows) == len(set(rows))


def test_every_row_that_is_compared_is_drawn() -> None:
    drawn = {row_of(name, way) for name, how in VARIANTS.items() for way in how.ways}
    asked = {row for one in EXPECTATIONS for row in (one.whole, one.against)}
    asked |= {row for whole, others in GROUPS.values() for row in (whole, *others)}
    assert asked <= {*drawn, BASE}


def test_more_numbers_learn_at_a_higher_ratio(host: Host) -> None:
    found = {ratio: concept_of(host, RATIOS[ratio])[1:] for ratio in (0.01, 0.05, 0.2)}
    # 7 blocks of width 96, two factors each
    assert found[0.01] == ([2 * 7 * 96, 128], [1])
    assert found[0.05] == ([2 * 7 * 96 * 5, 128], [5])
    assert found[0.2] == ([2 * 7 * 96 * 19, 128], [19])


def test_variants_learn_what_they_are_called(host: Host) -> None:
    default, numbers, _ = concept_of(host, DEFAULT)
    frozen, none, _ = concept_of(host, FROZEN)
    start = host.word_vectors("object")["clip_l"]
    assert torch.equal(frozen.handles["my-mug2"]["clip_l"], start.float())
    assert not torch.equal(default.handles["my-mug2"]["clip_l"], start.float())
    assert (numbers[1], none[1]) == (128, 0)
    kv, _, ranks = concept_of(host, KV)
    assert {name.split(".attn2.")[1] for name in kv.weights} == {"to_k.weight", "to_v.weight"}
    assert ranks == []
    assert concept_of(host, NO_WORD)[0].prompts == ("a photo of a <my-mug2>",)
    prior, plain = concept_of(host, PRIOR)[0], concept_of(host, LOOP)[0]
    assert {*prior.weights} == {*plain.weights} == {*default.weights}
    name = next(iter(prior.weights))
    assert not torch.equal(prior.weights[name].up, plain.weights[name].up)


def test_finished_work_is_not_done_again(
    host: Host, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    default = replace(VARIANTS[DEFAULT], ways=residuals_variants.DEFAULT_WAY)
    few = {DEFAULT: default, RATIOS[0.05]: VARIANTS[RATIOS[0.05]]}
    for module in (residuals_variants, residuals):
        monkeypatch.setattr(module, "VARIANTS", few)
    made = experiment(host, tmp_path / "cells")
    made.compute()
    assert len(list(store.iterdir())) == len(list(made.folder.iterdir())) == len(few)
    assert {row for _, _, row in made.finished()} == {*few, BASE}

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(subjects, "taught", never)
    beside = lag.LagExperiment(host, "model", SMALL, tmp_path / "lag", 1)
    beside.compute()  # has the default's concept
    assert {row for _, _, row in beside.finished()} == {*lag.VARIANTS}
    monkeypatch.setattr(ResidualsExperiment, "drawn", never)
    made.compute()
    made.path(next(made.cells())).unlink()
    with pytest.raises(AssertionError, match="made again"):
        made.compute()


def row(likeness: float) -> Mapping[str, list[float]]:
    return {measure.key: [likeness] for measure in MEASURES}


def test_the_result_compares_the_same_cells_and_leaves_out_what_is_not_there(
    host: Host, tmp_path: Path
) -> None:
    found = {}
    for thing, low, high in [("mug2", 0.2, 0.5), ("fish1", 0.3, 0.6)]:
        found[thing, 0, RATIOS[0.01]] = row(low)
        found[thing, 0, RATIOS[0.05]] = row(high)
    found["mug2", 1, RATIOS[0.05]] = row(0.0)  # without a partner: does not count in gains
    claims = {claim.says: claim for claim in judged(found, EXPECTATIONS, MEASURES)}
    higher = claims["A ratio of 0.05 gets more of the object than 0.01"]
    assert (higher.found, higher.status) == (pytest.approx(0.3), Status.MET)
    assert "A class word helps" not in claims
    headings = [section.heading for section in experiment(host, tmp_path).more_sections(found)]
    assert headings == ["Rank", "What the variants are, and what they train"]
