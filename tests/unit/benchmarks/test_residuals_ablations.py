"""Ablations of residuals: variants differ in what they train, work is not done twice, and the page
says what the rows hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import residuals_ablations as ablations
import residuals_ablations_plan as plan
import residuals_concepts
import residuals_quality
import torch
from quality_tables import claim_verdict
from residuals_ablations_page import Trained, page
from residuals_ablations_plan import DEFAULT, FROZEN, KV, LOOP, NO_WORD, PRIOR, RATIOS, VARIANTS
from residuals_judge import MEASURES
from residuals_plan import BASE, QUICK
from residuals_plan import VARIANTS as LAG_VARIANTS

from conceptloom.cli.models import open_host
from conceptloom.concepts.concept import Concept
from conceptloom.host.ports import Host

SMALL = replace(QUICK, steps=1, images=1, pictures=1, sampling_steps=1, concepts=1, pairs=0)
OBJECT = "twotone"
Cells = dict[tuple[str, int, str], dict[str, list[float]]]


@pytest.fixture(scope="module")
def host() -> Host:
    return open_host(device="cpu")


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Concepts of these tests alone, and a single class picture of one step."""
    monkeypatch.setattr(residuals_concepts, "STORE", tmp_path / "concepts")
    monkeypatch.setattr(plan, "FEW", replace(plan.FEW, draw=1, steps=1))
    return tmp_path / "concepts"


def concept_of(host: Host, variant: str) -> tuple[Concept, list[int], list[int]]:
    """After one step: the concept, [numbers in weights, of V*], and the ranks."""
    config, word = plan.settings_of(SMALL, 0, variant, OBJECT)
    concept = residuals_concepts.learned(host, "model", OBJECT, SMALL.images, config, word)
    what = ablations.trained(concept, config)
    return concept, what[ablations.NUMBERS].tolist(), what[ablations.RANKS].tolist()


def test_every_variant_has_settings_of_its_own() -> None:
    every = {ablations.key_of(SMALL, OBJECT, 0, variant) for variant in VARIANTS}
    assert len(every) == len(VARIANTS)
    rows = [plan.row_of(name, way) for name, how in VARIANTS.items() for way in how.ways]
    assert len(rows) == len(set(rows))


def test_every_row_that_is_compared_is_drawn() -> None:
    drawn = {plan.row_of(name, way) for name, how in VARIANTS.items() for way in how.ways}
    asked = {row for claim in plan.CLAIMS for row in (claim.whole, claim.against)}
    asked |= {row for whole, others in plan.GROUPS.values() for row in (whole, *others)}
    assert asked <= {*drawn, BASE}


def test_more_numbers_learn_at_a_higher_ratio(host: Host) -> None:
    found = {ratio: concept_of(host, RATIOS[ratio])[1:] for ratio in (0.01, 0.05, 0.2)}
    # 3 blocks of width 64 and 4 of width 128, two factors each
    assert found[0.01] == ([2 * (3 * 64 + 4 * 128), 128], [1])
    assert found[0.05] == ([2 * (3 * 64 * 3 + 4 * 128 * 6), 128], [3, 6])
    assert found[0.2] == ([2 * (3 * 64 * 13 + 4 * 128 * 26), 128], [13, 26])


def test_variants_learn_what_they_are_called(host: Host) -> None:
    default, numbers, _ = concept_of(host, DEFAULT)
    frozen, none, _ = concept_of(host, FROZEN)
    start = host.word_vectors("object")["clip_l"]
    assert torch.equal(frozen.handles["my-twotone"]["clip_l"], start.float())
    assert not torch.equal(default.handles["my-twotone"]["clip_l"], start.float())
    assert (numbers[1], none[1]) == (128, 0)
    kv, _, ranks = concept_of(host, KV)
    assert {name.split(".attn2.")[1] for name in kv.weights} == {"to_k.weight", "to_v.weight"}
    assert ranks == []
    assert concept_of(host, NO_WORD)[0].prompts == ("a photo of a <my-twotone>",)
    prior, plain = concept_of(host, PRIOR)[0], concept_of(host, LOOP)[0]
    assert {*prior.weights} == {*plain.weights} == {*default.weights}
    name = next(iter(prior.weights))
    assert not torch.equal(prior.weights[name].up, plain.weights[name].up)


def test_finished_work_is_not_done_again(
    host: Host, tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = {
        DEFAULT: replace(VARIANTS[DEFAULT], ways=plan.DEFAULT_WAY),
        RATIOS[0.05]: VARIANTS[RATIOS[0.05]],
    }
    for module in (plan, ablations):
        monkeypatch.setattr(module, "VARIANTS", few)
    folder = tmp_path / "cells"
    ablations.compute(host, "model", SMALL, folder)
    assert len(list(store.iterdir())) == len(list(folder.iterdir())) == len(few)
    found, what = ablations.finished(SMALL, folder)
    assert {*what} == {*few}
    assert {row for _, _, row in found} == {*few, BASE}

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(residuals_concepts, "taught", never)
    residuals_quality.compute(host, "model", SMALL, tmp_path / "lag")  # has the default's concept
    lag = residuals_quality.finished(SMALL, tmp_path / "lag")
    assert {row for _, _, row in lag} == {*LAG_VARIANTS}
    monkeypatch.setattr(ablations, "drawn", never)
    ablations.compute(host, "model", SMALL, folder)
    file = ablations.file_of(folder, OBJECT, 0, DEFAULT)
    file.unlink()
    with pytest.raises(AssertionError, match="made again"):
        ablations.compute(host, "model", SMALL, folder)


def row(likeness: float) -> dict[str, list[float]]:
    return {measure.key: [likeness] for measure in MEASURES}


def told(found: Cells, what: dict[str, Trained]) -> list[str]:
    return page(found, what, QUICK, "command", "digest").splitlines()


def test_the_page_compares_the_same_cells_and_leaves_out_what_is_not_there() -> None:
    found: Cells = {}
    for thing, low, high in [("split", 0.2, 0.5), ("flower", 0.3, 0.6)]:
        found[thing, 0, RATIOS[0.01]] = row(low)
        found[thing, 0, RATIOS[0.05]] = row(high)
    found["split", 1, RATIOS[0.05]] = row(0.0)  # without a partner: does not count in gains
    lines = told(found, {RATIOS[0.05]: Trained([3, 6], 7296, 128)})
    claims = [line for line in lines if line.startswith("| A ratio of 0.05 gets more")]
    assert claims == [
        "| A ratio of 0.05 gets more of the object than 0.01 | likeness, ratio 0.01 | "
        "**+0.30 ± 0.00** | holds |"
    ]
    assert not any("class word helps" in line for line in lines)
    assert any("| 3, 6 | 7,296 | 128 |" in line for line in lines)
    assert "## Class word" not in lines
    (state,) = [line for line in lines if "cells are finished" in line]
    assert "Nothing yet of: default, ratio 0.2" in state


@pytest.mark.parametrize(
    ("gain", "error", "margin", "verdict"),
    [
        (0.10, 0.04, 0.00, "holds"),
        (0.07, 0.04, 0.00, "open"),
        (-0.10, 0.04, 0.00, "fails"),
        (-0.01, 0.01, 0.05, "holds"),  # worse, but by less than the margin
        (-0.01, 0.04, 0.05, "open"),
        (-0.20, 0.04, 0.05, "fails"),
        (0.10, float("nan"), 0.05, "open"),  # a single cell says nothing
        (0.00, 0.00, 0.00, "open"),
    ],
)
def test_two_standard_errors_decide(gain: float, error: float, margin: float, verdict: str) -> None:
    assert claim_verdict(gain, error, margin) == verdict
