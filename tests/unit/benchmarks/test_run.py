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
from harness.subject import SUBJECTS, Subject, add_common_options, command_line, subject_of

SCENES = ["--scenes=s", "--clip=c", "--dino=d"]
SMALL = Result(date="2026-01-01", machine="a test")


class Small(Subject):
    """A subject whose module is here."""

    usual, found = True, SMALL

    @property
    def module(self) -> object:
        def arguments(parser: argparse.ArgumentParser) -> None:
            add_common_options(parser)

        return argparse.Namespace(
            __doc__="A small one.", arguments=arguments, run=lambda options: self.found,
            is_usual=lambda options: self.usual,
        )  # fmt: skip


def subject(**changes: object) -> Subject:
    made = type("Changed", (Small,), changes)
    return made("speed", "small", "small", "Small")


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No result or page of the repository is written."""
    for name in ("RESULTS", "PAGES", "RUNS"):
        monkeypatch.setattr(results, name, tmp_path / name.lower())
    monkeypatch.setattr(experiment, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(run, "render", lambda: None)
    return tmp_path


@pytest.mark.parametrize("one", SUBJECTS, ids=lambda one: f"{one.kind} {one.name}")
def test_every_subject_has_a_module_with_its_options(one: Subject) -> None:
    assert subject_of(one.kind, one.name) is one
    parser = argparse.ArgumentParser()
    one.module.arguments(parser)
    taken = {option for action in parser._actions for option in action.option_strings}
    assert {"--quick", "--label"} <= taken
    assert callable(one.module.run)


def test_pages_and_words_of_subjects_are_their_own() -> None:
    assert len({one.page for one in SUBJECTS}) == len(SUBJECTS)
    assert len({(one.kind, one.name) for one in SUBJECTS}) == len(SUBJECTS)


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
    run.run_one(subject(usual=usual), given)
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
    run.run_one(subject(found=pictured), ["--label", "mine"])
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


@pytest.mark.parametrize(
    ("kind", "name", "given", "usual"),
    [
        ("speed", "break_a_scene", [], True),
        ("speed", "break_a_scene", ["--rounds", "3"], True),
        ("speed", "break_a_scene", ["--device", "cuda"], False),
        ("speed", "core", ["--device", "cuda"], False),
        ("speed", "lag", ["--preset", "35m"], False),
        ("quality", "clic", [], True),
        ("quality", "clic", ["--part", "1/2"], False),
        ("similarity", "scenes", SCENES, False),
        ("similarity", "scenes", [*SCENES, "--checkpoint=m"], True),
        ("similarity", "conceptlab", ["--prior=p", "--decoder=d", "--clip=c"], True),
        ("quality", "tinyworld", ["--count", "2"], False),
    ],
)
def test_only_default_options_make_the_repositorys_own_result(
    kind: str, name: str, given: list[str], usual: bool
) -> None:
    one = subject_of(kind, name)
    assert one.is_usual(one.parse(given)) is usual
