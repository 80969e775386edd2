"""Experiments: what is planned, what is computed, and what goes on."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from harness import experiment, report, results, store
from harness.experiment import Cell, Experiment, Found, part_of, perform, result_of
from harness.results import Result, Status
from harness.statistics import Expectation, Measure
from harness.store import file_name, kept_tensors
from harness.subject import SUBJECTS, subject_of
from quality import tasks, world

from conceptloom.tinyworld.concepts import CONCEPTS, concept
from conceptloom.tinyworld.members import CATEGORIES
from conceptloom.tinyworld.shapes import BACKGROUNDS


class Counting(Experiment):
    """Likeness is the seed plus one where nothing is switched off."""

    things, variants = ("mug", "cup"), ("whole", "part")
    rows, whole = variants, "whole"
    measures = (Measure("likeness", "likeness", "how like"),)
    expectations = (Expectation("it helps", "whole", "part", "likeness"),)
    version = "1"

    def __init__(self, folder: Path, seeds: int = 2) -> None:
        super().__init__(folder, seeds)
        self.made: list[Cell] = []

    def key(self, cell: Cell) -> str:
        return f"{cell.variant} {self.version}"

    def make(self, cell: Cell) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        self.made.append(cell)
        likeness = cell.seed + (cell.variant == "whole")
        return {"likeness": torch.tensor([float(likeness)])}, {"said": cell.thing}

    def judge(self, cell: Cell, kept: Mapping[str, torch.Tensor]) -> dict[str, Found]:
        return {cell.variant: {"likeness": kept["likeness"].tolist()}}


def test_whole_rounds_come_first_and_finished_cells_are_not_made_again(tmp_path: Path) -> None:
    first = Counting(tmp_path)
    first.compute()
    assert [cell.seed for cell in first.made] == [0] * 4 + [1] * 4
    assert first.words(first.made[0]) == {"key": "whole 1", "said": "mug"}
    again = Counting(tmp_path)
    again.compute()
    assert again.made == []
    again.path(first.made[2]).unlink()
    again.compute()
    assert again.made == [first.made[2]]


def test_cells_of_another_key_are_made_again(tmp_path: Path) -> None:
    Counting(tmp_path).compute()
    other = Counting(tmp_path)
    other.version = "2"
    assert other.finished() == {}
    other.compute()
    assert len(other.made) == 8


def test_parts_share_the_work_thing_by_thing(tmp_path: Path) -> None:
    one, two = Counting(tmp_path), Counting(tmp_path)
    one.compute(part_of("1/2"))
    two.compute(part_of("2/2"))
    assert {cell.thing for cell in one.made} == {"mug"}
    assert {cell.thing for cell in two.made} == {"cup"}
    assert len(one.made) + len(two.made) == 8


def test_the_result_has_tables_claims_and_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(experiment, "stamp", lambda *_: {"date": "today", "machine": "here"})
    made = Counting(tmp_path)
    made.compute(part_of("1/2"))
    result = result_of(made, "counting", "digest")
    assert result.about[0] == "4 of 8 cells are finished so far."
    assert result.table("variants").value("whole", "likeness")["mean"] == 1.5
    (claim,) = result.claims
    assert (claim.found, claim.status) == (1.0, Status.UNSURE)  # one thing says nothing
    made.compute()
    (claim,) = result_of(made, "counting", "digest").claims
    assert (claim.error, claim.status) == (0.0, Status.MET)
    assert len(result.cells) == 4


def test_only_the_report_of_what_is_finished_may_be_wanted(tmp_path: Path) -> None:
    def performed(**asked: object) -> Result:
        return perform(Counting(tmp_path), Namespace(part=(1, 1), **asked), "counting", "digest")

    assert performed(report=True).about[0] == "0 of 8 cells are finished so far."
    assert performed(report=False).about[0] == "8 of 8 cells are finished."
    assert performed(report=True).about[0] == "8 of 8 cells are finished."


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [one.name for one in SUBJECTS if one.kind == "quality" and one.name != "residuals"]
)
def test_every_quality_subject_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As little as --quick does; residuals have tests of their own."""
    one = subject_of("quality", name)
    for module in (results, experiment, store):
        monkeypatch.setattr(module, "RUNS", tmp_path)
    for module in ("clic", "subjects"):
        monkeypatch.setattr(import_module(f"quality.{module}"), PLACES[module], tmp_path / module)
    result = one.run(one.parse(["--quick"]))
    assert report.page(result)
    assert result.claims or name == "clic_eta"


PLACES = {"clic": "RUNS", "subjects": "STORE"}  # names of the folders that modules keep work in


def test_a_file_is_there_whole_and_made_once(tmp_path: Path) -> None:
    path = tmp_path / f"{file_name('a b', 0, 'V* frozen: now')}.safetensors"
    assert path.name == "a-b-0-V-frozen-now.safetensors"
    for expected in (1.0, 1.0):
        kept = kept_tensors(path, "one", lambda: {"x": torch.ones(1)})
        assert float(kept["x"]) == expected
    assert float(kept_tensors(path, "two", lambda: {"x": torch.zeros(1)})["x"]) == 0.0


def test_tasks_speak_of_what_there_is() -> None:
    for scene in tasks.SCENES:
        assert set(scene.objects) <= set(CONCEPTS)
        assert scene.background in tasks.BACKGROUND_WORDS
        assert set(scene.elsewhere) <= set(BACKGROUNDS)
        assert world.scene_of(scene).image.shape == (*world.PICTURE, 3)
    for subject, taught in tasks.SUBJECTS.items():
        assert CONCEPTS[subject] == taught.word
        assert {taught.taught_on, *taught.drawn_on} <= set(BACKGROUNDS)
    for pair in tasks.PAIRS:
        assert set(pair) <= set(tasks.SUBJECTS)
    for invented in tasks.INVENTIONS:
        assert set(invented.pair) <= set(CATEGORIES[invented.category])


@pytest.mark.parametrize("task", tasks.DETAILS, ids=lambda task: task.name)
def test_a_target_is_the_same_without_and_with_its_ornament(task: tasks.DetailTask) -> None:
    bare, goal = world.bare_of(task), world.goal_of(task)
    assert world.taught_of(task).bearer.emblem == goal.bearer.emblem == task.ornament
    assert np.array_equal(bare.masks, goal.masks)
    changed = (bare.image != goal.image).any(axis=-1)
    assert changed.any()
    assert not changed[goal.masks[1] == 0].any()


@pytest.mark.parametrize("task", tasks.WEAVES, ids=lambda task: task.name)
def test_a_template_shows_known_members_of_the_concepts_classes(task: tasks.WeaveTask) -> None:
    scene = world.template_of(task, 0)
    assert scene.caption == world.sentence_of(task)
    members = [placed.member for placed in scene.things]
    assert [m.kind for m in members if m] == [CONCEPTS[name] for name in task.concepts]
    assert not any(concept(n) == m for n, m in zip(task.concepts, members, strict=True))
