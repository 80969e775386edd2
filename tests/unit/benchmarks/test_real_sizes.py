"""The benchmark at real sizes: how it counts, what it calls met, and that every part runs."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from harness import stage_timer
from harness.report import page
from harness.results import Status
from harness.stage_timer import Stage, Stages
from harness.subject import subject_of
from speed import real
from speed.real import (
    TARGETS,
    TITLES,
    Part,
    claims_of,
    is_whole,
    judged,
    method_rows,
    result_of,
    sides_of,
)

BREAK_A_SCENE = TARGETS[0]


def options_of(*given: str) -> argparse.Namespace:
    return subject_of("speed", "real").parse(given)


def cell(**changes: Any) -> dict[str, Any]:
    """A finished Break-A-Scene, ten seconds short of its target."""
    phases = {name: {"planned": 400, "steps": [0.0625] * 400} for name in BREAK_A_SCENE.stages}
    made = {
        "part": "break-a-scene",
        "family": "sd15",
        "model": "Preset `sd15`: UNet",
        "side": 512,
        "sampling_steps": 50,
        "stages": {"class images": {"planned": 2, "steps": [3.0, 2.0]}, **phases},
        "before": 1,
        "peak": 5 * 10**9,
        "limit": 0,
        "stepped_down": False,
        "failed": "",
        "where": "an H200 of a test",
        "versions": "Python",
        "date": "1 May 2026",
        "dtype": "bf16",
    }
    return made | changes


def test_missing_steps_are_counted_as_long_as_those_after_the_first() -> None:
    part = Stage(planned=10, steps=[5.0, 1.0, 3.0])
    assert (part.made, part.step, part.whole) == (9.0, 2.0, 9.0 + 7 * 2.0)
    assert not part.is_whole
    assert Stage(planned=1, steps=[4.0]).whole == 4.0


def test_a_step_lasts_from_the_one_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 13.0, 13.0, 18.0, 18.0])
    monkeypatch.setattr(stage_timer.time, "perf_counter", lambda: next(clock))
    made = Stages("cpu")
    made.plan("learning", 2)
    made.step("learning")
    made.step("learning")
    assert made.as_json() == {"learning": {"planned": 2, "steps": [3.0, 5.0]}}


def test_a_target_counts_its_own_stages() -> None:
    met = judged({"break-a-scene": cell()}, BREAK_A_SCENE)
    assert (met.found, met.status) == (50.0, Status.MET)
    slow = cell()
    slow["stages"]["handles"]["steps"] = [0.1] * 400
    missed = judged({"break-a-scene": slow}, BREAK_A_SCENE)
    assert (missed.found, missed.status) == (pytest.approx(65.0), Status.MISSED)


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"side": 64}, "not judged: 64 px"),
        ({"sampling_steps": 2}, "not judged: 512 px, 2 sampling steps"),
        ({"where": "AMD EPYC, 2 cores"}, "not judged: promised for an H200"),
        ({"stages": {}}, "not judged: without "),
        (
            {"stages": {key: {"planned": 9, "steps": [0.1] * 4} for key in BREAK_A_SCENE.stages}},
            "not judged: not all steps",
        ),
    ],
)
def test_what_was_not_measured_whole_is_not_judged(changes: dict[str, Any], found: str) -> None:
    claim = judged({"break-a-scene": cell(**changes)}, BREAK_A_SCENE)
    assert claim.measure.startswith(found)
    assert claim.status is Status.UNMEASURED
    assert judged({}, BREAK_A_SCENE).measure == "not judged: not run"
    failed = cell(failed="OutOfMemoryError: none left")
    claim = judged({"break-a-scene": failed}, BREAK_A_SCENE)
    assert (claim.status, claim.why) == (Status.MISSED, "OutOfMemoryError: none left")


def test_memory_is_only_called_met_under_a_limit() -> None:
    limited = cell(part="handles-kv", limit=8 * 10**9)
    *_, claim = claims_of({"handles-kv": limited})
    assert (claim.found, claim.at_most, claim.status) == (5.0, 8.0, Status.MET)
    *_, claim = claims_of({"handles-kv": limited | {"stepped_down": True}})
    assert (claim.measure, claim.status) == ("after stepping down once", Status.MET)
    *_, claim = claims_of({"handles-kv": limited | {"limit": 0}})
    assert (claim.measure, claim.status) == ("not judged: no limit set here", Status.UNMEASURED)


def test_what_is_told_from_fewer_steps_is_marked() -> None:
    few = cell(stages={"handles": {"planned": 400, "steps": [1.0, 0.5]}})
    row, total = method_rows({"break-a-scene": few})
    assert (row["made"], row["step"], row["whole"]) == ("2 of 400", 0.5, "~200.5")
    assert total["whole"] == "~200.5"


def test_only_what_a_target_speaks_of_runs_whole_unless_asked() -> None:
    assert is_whole("break-a-scene", "sd15", "targets")
    assert not is_whole("break-a-scene", "sdxl", "targets")
    assert not is_whole("clic", "sd15", "targets")
    assert is_whole("clic", "sdxl", "all")
    assert not is_whole("break-a-scene", "sd15", "none")


def test_sizes_are_the_papers_unless_asked() -> None:
    assert (sides_of("sd15").training, sides_of("sd15").weaving) == (512, 768)
    assert (sides_of("sdxl").training, sides_of("sdxl").weaving) == (1024, 1024)
    assert (sides_of("sd15", 64).training, sides_of("sd15", 64).weaving) == (64, 96)


def test_a_part_is_limited_where_a_limit_was_promised_and_on_a_gpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fractions: list[float] = []
    card = SimpleNamespace(total_memory=16 * 10**9)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(real, "memory", lambda *_, **more: 1)
    monkeypatch.setattr(real, "processor", lambda _: "a GPU")
    monkeypatch.setattr(real, "describe_model", lambda *_: "a model")

    def too_much(task: object) -> None:
        raise torch.OutOfMemoryError("none left")

    def made(device: str, family: str, part: Part) -> tuple[float, str]:
        options = real.for_model(options_of("--cells", str(tmp_path)), family)
        options.device = device
        real.make_cell(options, "handles-kv", part, object(), family)
        found = json.loads(real.cell_path(options, "handles-kv").read_text())
        return found["limit"], found["failed"]

    quiet, limited = Part(lambda task: None), Part(lambda task: None, is_limited=True)
    assert made("cuda", "sd15", limited) == (8 * 10**9, "")
    assert made("cuda", "sdxl", limited) == (16 * 10**9, "")
    assert made("cuda", "sd15", quiet) == made("cuda", "sd21", limited) == (0, "")
    assert fractions == [0.5, 1.0, 1.0, 1.0]
    assert made("cpu", "sd15", limited) == (0, "")
    assert len(fractions) == 4
    assert made("cuda", "sd15", Part(too_much))[1] == "OutOfMemoryError: none left"


@pytest.mark.slow
def test_every_part_runs_and_is_not_made_again(
    saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ["--checkpoint", str(saved_model), "--pixels", "64", "--steps", "1", "--whole", "none"]
    given += ["--sampling-steps", "2", "--cells", str(tmp_path)]
    options = real.for_model(options_of(*given), "")
    real.work(options)
    names = list(real.parts())
    found = {name: json.loads(real.cell_path(options, name).read_text())
             for name in names}  # fmt: skip
    assert {name: made["failed"] for name, made in found.items()} == dict.fromkeys(names, "")
    for target in TARGETS:  # all that it adds up was measured
        assert set(target.stages) <= set(found[target.part]["stages"])
    result = result_of([found], options)
    text = page(result)
    for title, _ in TITLES.values():
        assert f"| {title} |" in text
    assert {claim.status for claim in result.claims} == {Status.UNMEASURED}  # of this size
    monkeypatch.setattr(real, "open_model", None)
    real.work(options)
