"""The page of the bundled model: its order of work, and what it says of a part of the cells."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness.results import Status
from harness.statistics import Cells
from quality import break_a_scene, tinyworld
from quality.tinyworld import AIMS, BAS, CLIC, LAB, RESIDUALS, WEAVER, Aim, Gates, cells_of

from .test_experiment import Counting


def test_one_seed_of_every_method_comes_before_the_next(tmp_path: Path) -> None:
    methods = {"a": Counting(tmp_path / "a"), "b": Counting(tmp_path / "b")}
    order = list(cells_of(methods))
    assert [cell.seed for _, cell in order] == [0] * 8 + [1] * 8
    assert [method for method, _ in order] == ["a"] * 4 + ["b"] * 4 + ["a"] * 4 + ["b"] * 4


def test_a_figure_is_the_mean_of_the_finished_cells_beside_its_limit() -> None:
    cells: Cells = {("mug", 0, "whole"): {"leak": [0.0, 0.1]}, ("cup", 0, "whole"): {"leak": [0.2]}}
    leak = Aim("A method", "leak", "whole", "leak", 0.1, at_most=True)
    claim = leak.claim(cells, 6)
    assert claim.says == "A method: leak"
    assert (claim.found, claim.status) == (pytest.approx(0.125), Status.MISSED)
    assert claim.measure == "mean of 2 of 6 cells"
    assert leak.claim({}, 6).status is Status.UNMEASURED


def test_every_aim_is_a_measure_of_its_method() -> None:
    modules = {
        BAS: break_a_scene, RESIDUALS: tinyworld.lag, CLIC: tinyworld.clic,
        WEAVER: tinyworld.weave, LAB: tinyworld.conceptlab,
    }  # fmt: skip
    for aim in AIMS:
        assert aim.measure in {one.key for one in modules[aim.method].MEASURES}
        assert aim.row in modules[aim.method].VARIANTS


def test_a_figure_needs_ten_members_ornaments_or_templates_and_three_seeds(tmp_path: Path) -> None:
    from conceptloom.cli.models import open_host

    options = tinyworld_options()
    made = tinyworld.experiments_of(open_host(device="cpu"), options)
    members = {method: {w for t in one.things for w in t.split()} for method, one in made.items()}
    assert all(one.seeds == 3 for one in made.values())
    assert {method: len(one.things) for method, one in made.items()} == {
        LAB: 5, WEAVER: 5, RESIDUALS: 10, CLIC: 10, BAS: 5,
    }  # fmt: skip
    assert all(len(members[method]) >= 10 for method in (BAS, WEAVER, RESIDUALS, CLIC))
    wholes = {method: one.whole for method, one in made.items() if method != RESIDUALS}
    for method, whole in wholes.items():
        assert {cell.variant for cell in made[method].cells()} == {whole}


def tinyworld_options() -> object:
    from harness.subject import subject_of

    return subject_of("quality", "tinyworld").parse([])


def test_gates_are_measured_once(tmp_path: Path) -> None:
    gates = Gates(tmp_path, 4)
    assert gates.read() == ([], 4)
    gate = {"name": "file", "reached": 12.3, "asked": 16, "unit": "MB", "ceiling": None,
            "at_most": True}  # fmt: skip
    written = json.dumps({"gates": [gate | {"passed": True}], "prompts": 4})
    (tmp_path / "gates-4.json").write_text(written)
    (read,), count = gates.read()
    assert (read.passed, count) == (True, 4)
    assert tinyworld.gate_claim(read).status is Status.MET
    assert Gates(tmp_path, 8).read() == ([], 8)
    assert Gates(tmp_path, 8, tmp_path / "gates-4.json").read() == ([read], 4)
