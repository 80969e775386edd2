"""The command line: subjects, workers, commands that pages show, and where results go."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest
import run
from harness import experiment, results
from harness.results import Result
from harness.subject import SUBJECTS, Subject, all_subjects, command_line

SMALL = Result(page="small", title="Small", command="", date="2026-01-01", machine="a test")


def subject(**changes: object) -> Subject:
    made = Subject(
        kind="speed", name="small", page="small", title="Small", about="A small one.",
        run=lambda options: SMALL, options=lambda parser: None,
    )  # fmt: skip
    return replace(made, **changes)


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No result or page of the repository is written."""
    for name in ("RESULTS", "PAGES", "RUNS"):
        monkeypatch.setattr(results, name, tmp_path / name.lower())
    monkeypatch.setattr(experiment, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run, "render", lambda: None)
    return tmp_path


def test_every_subject_of_the_list_is_what_its_words_say() -> None:
    found = all_subjects()
    words = [(kind, name) for kind, names in SUBJECTS.items() for name in names]
    assert [(one.kind, one.name) for one in found] == words
    assert len({one.page for one in found}) == len(found)
    for one in found:
        parser = argparse.ArgumentParser()
        one.options(parser)
        taken = {option for action in parser._actions for option in action.option_strings}
        assert {"--quick", "--label"} <= taken, one.name


def test_no_option_is_understood_as_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        run.main([])
    assert left.value.code == 0
    assert "break_a_scene" in capsys.readouterr().out
    with pytest.raises(SystemExit) as left:
        run.main(["sped"])
    assert left.value.code == 2
    with pytest.raises(SystemExit, match="No speed lagg; there are break_a_scene"):
        run.main(["speed", "lagg"])


def test_a_page_shows_what_to_type_for_the_same_figures() -> None:
    given = ["--budget", "short", "--part", "1/2", "--report", "--label=h200", "--seeds", "4"]
    assert command_line(subject(), given) == (
        "python benchmarks/run.py speed small --budget short --seeds 4"
    )


@pytest.mark.parametrize(
    ("given", "usual", "place", "page"),
    [
        ([], True, "results", "small"),
        ([], False, "runs/results", "small"),
        (["--label", "h200"], False, "results", "small@h200"),
        (["--quick"], True, "runs/results", "small"),
        (["--quick", "--label", "h200"], True, "runs/results", "small@h200"),
    ],
)
def test_only_the_usual_run_and_a_labelled_one_are_the_repositorys(
    given: list[str], usual: bool, place: str, page: str, folders: Path
) -> None:
    def options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--label", default="")
        parser.add_argument("--quick", action="store_true")

    run.run_one(subject(is_usual=lambda _: usual, options=options), given)
    saved = json.loads((folders / place / f"{page}.json").read_text())
    assert saved["page"] == page
    assert saved["command"].startswith("python benchmarks/run.py speed small")
    assert len(list(folders.rglob("*.json"))) == 1
    pages = "pages" if place == "results" else "runs/pages"
    assert (folders / pages / f"{page}.md").is_file()


def test_the_picture_goes_beside_its_page(folders: Path) -> None:
    sheet = experiment.sheet_path("small")
    sheet.parent.mkdir(parents=True)
    sheet.write_bytes(b"jpeg")
    pictured = replace(SMALL, picture=("small.jpg", "What it shows"))
    run.run_one(subject(run=lambda options: pictured), ["--label", "mine"])
    assert (folders / "pages" / "small@mine.jpg").read_bytes() == b"jpeg"
    assert "![What it shows](small@mine.jpg)" in (folders / "pages" / "small@mine.md").read_text()


def test_a_worker_gets_its_options_and_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[argparse.Namespace] = []
    module = argparse.Namespace(work=seen.append)
    monkeypatch.setattr(run, "import_module", lambda name: module)
    run.main(["worker", "speed.steps", json.dumps({"checkpoint": "sd.safetensors", "rounds": 2})])
    (options,) = seen
    assert (options.checkpoint, options.layout, options.rounds) == (
        Path("sd.safetensors"), None, 2
    )  # fmt: skip
