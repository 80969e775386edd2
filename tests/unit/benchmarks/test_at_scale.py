"""The benchmark at real sizes: how it counts, what it calls met, and that every part runs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import at_scale
import pytest
import stages as stages_module
import torch
from at_scale import Part
from at_scale_page import TITLES, judged, page
from at_scale_plan import TARGETS, is_whole, sides_of
from stages import Stage, Stages

BREAK_A_SCENE = TARGETS[0]


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
    monkeypatch.setattr(stages_module.time, "perf_counter", lambda: next(clock))
    made = Stages("cpu")
    made.plan("learning", 2)
    made.step("learning")
    made.step("learning")
    assert made.as_json() == {"learning": {"planned": 2, "steps": [3.0, 5.0]}}


def test_a_target_counts_its_own_stages() -> None:
    assert judged({"break-a-scene": cell()}, BREAK_A_SCENE) == ("50.0 s", "met")
    slow = cell()
    slow["stages"]["handles"]["steps"] = [0.1] * 400
    assert judged({"break-a-scene": slow}, BREAK_A_SCENE) == ("65.0 s", "**missed**")


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"failed": "OutOfMemoryError: none left"}, "**missed**: OutOfMemoryError"),
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
    assert judged({"break-a-scene": cell(**changes)}, BREAK_A_SCENE)[1].startswith(found)
    assert judged({}, BREAK_A_SCENE)[1] == "not judged: not run"


def test_memory_is_only_called_met_under_a_limit() -> None:
    limited = cell(part="handles-kv", limit=8 * 10**9)
    text = page([{"handles-kv": limited}], "x")
    assert "within 8 GB | Preset `sd15` | 5.0 GB | met |" in text
    down = page([{"handles-kv": limited | {"stepped_down": True}}], "x")
    assert "met, after stepping down once" in down
    assert "no limit set here" in page([{"handles-kv": limited | {"limit": 0}}], "x")


def test_what_is_told_from_fewer_steps_is_marked() -> None:
    few = cell(stages={"handles": {"planned": 400, "steps": [1.0, 0.5]}})
    (row,) = [r for r in page([{"break-a-scene": few}], "x").splitlines() if "2 of 400" in r]
    assert row.endswith("| 0.5000 |  |  | ~200.5 |  |")


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
    monkeypatch.setattr(at_scale, "memory", lambda *_, **more: 1)
    monkeypatch.setattr(at_scale, "processor", lambda _: "a GPU")
    monkeypatch.setattr(at_scale, "describe_model", lambda *_: "a model")

    def too_much(task: object) -> None:
        raise torch.OutOfMemoryError("none left")

    def made(device: str, family: str, part: Part) -> tuple[float, str]:
        options = at_scale.for_model(at_scale.arguments(["--cells", str(tmp_path)]), family)
        options.device = device
        at_scale._make(options, "handles-kv", part, object(), family)
        found = at_scale.json.loads(at_scale.cell_path(options, "handles-kv").read_text())
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
    options = at_scale.for_model(at_scale.arguments(given), "")
    at_scale.work(options)
    names = list(at_scale.parts())
    found = {name: at_scale.json.loads(at_scale.cell_path(options, name).read_text())
             for name in names}  # fmt: skip
    assert {name: made["failed"] for name, made in found.items()} == dict.fromkeys(names, "")
    for target in TARGETS:  # all that it adds up was measured
        assert set(target.stages) <= set(found[target.part]["stages"])
    text = page([found], "x")
    for title, _ in TITLES.values():
        assert f"| {title} |" in text
    assert "**missed**" not in text  # of this size nothing is judged
    assert "| met |" not in text
    monkeypatch.setattr(at_scale, "open_model", None)
    at_scale.work(options)
