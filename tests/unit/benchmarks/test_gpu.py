"""The benchmark for one GPU: how it counts and judges, that all models run, where tensors are."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from claims.targets import TARGETS
from harness import stage_timer
from harness.full_size import FULL, MODELS, full_size
from harness.results import Status
from harness.stage_timer import Stage, Stages
from harness.subject import subject_of
from speed import gpu
from speed.gpu import PARTS, PLAN, BudgetedStages, BudgetSpent, Cell, judged, result_of, rows_of

BREAK_A_SCENE = TARGETS[0]


def options_of(*given: str) -> argparse.Namespace:
    return subject_of("speed", "gpu").parse(given)


def cell(**changes: Any) -> dict[str, Any]:
    """A finished Break-A-Scene, ten seconds short of its target."""
    phases = {name: {"planned": 400, "steps": [0.0625] * 400} for name in BREAK_A_SCENE.stages}
    made = {
        "model": "sd15", "part": "break-a-scene", "variant": "", "side": 512,
        "stages": {"class images": {"planned": 2, "steps": [3.0, 2.0]}, **phases},
        "before": 1, "peak": 5 * 10**9, "limit": 0, "failed": "", "where": "an H200 of a test",
    }  # fmt: skip
    return made | changes


def named(**changes: Any) -> dict[str, dict[str, Any]]:
    made = cell(**changes)
    return {" ".join(filter(None, (made["model"], made["part"], made["variant"]))): made}


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


def test_a_budget_ends_a_run_behind_a_finished_step() -> None:
    made = BudgetedStages("cpu", 0.0)
    made.plan("learning", 100)
    with pytest.raises(BudgetSpent):
        made.step("learning")
    assert len(made.found["learning"].steps) == 1


def test_a_target_counts_its_own_stages() -> None:
    met = judged(named(), BREAK_A_SCENE)
    assert (met.found, met.status) == (50.0, Status.MET)
    slow = named()
    slow["sd15 break-a-scene"]["stages"]["handles"]["steps"] = [0.1] * 400
    missed = judged(slow, BREAK_A_SCENE)
    assert (missed.found, missed.status) == (pytest.approx(65.0), Status.MISSED)


@pytest.mark.parametrize(
    ("changes", "measure"),
    [
        ({"where": "AMD EPYC, 2 cores"}, "not judged: promised for an H200"),
        ({"stages": {}}, "not judged: without "),
        (
            {"stages": {key: {"planned": 9, "steps": [0.1] * 4} for key in BREAK_A_SCENE.stages}},
            "not judged: not all steps",
        ),
    ],
)
def test_what_was_not_measured_whole_is_not_judged(changes: dict[str, Any], measure: str) -> None:
    claim = judged(named(**changes), BREAK_A_SCENE)
    assert claim.measure.startswith(measure)
    assert claim.status is Status.UNMEASURED
    assert judged({}, BREAK_A_SCENE).measure == "not judged: not run"
    failed = judged(named(failed="OutOfMemoryError: none left"), BREAK_A_SCENE)
    assert (failed.status, failed.why) == (Status.MISSED, "OutOfMemoryError: none left")


def test_memory_has_targets_of_its_own() -> None:
    target = next(target for target in TARGETS if not target.stages)
    model, part = target.cell
    claim = judged(named(model=model, part=part), target)
    assert (claim.found, claim.at_most, claim.status) == (5.0, 16, Status.MET)
    assert [one.limit for one in PLAN if (one.model, one.part) == target.cell] == [16e9]


def test_every_target_is_a_cell_with_room_in_its_budget() -> None:
    budgets = {(one.model, one.part): one.seconds for one in PLAN if not one.variant}
    for target in TARGETS:
        assert budgets[target.cell] > (target.at_most if target.stages else 0)
    assert sum(one.seconds for one in PLAN) < 8.5 * 60


def test_few_steps_are_marked_and_compared_with_plain_ones_of_the_same_variant() -> None:
    plain = named(
        part="plain", variant="float8", stages={"drawing": {"planned": 2, "steps": [2, 2]}}
    )
    few = {"drawing": {"planned": 50, "steps": [9.0, 3.0]}}
    cells = {**named(part="lag", variant="float8", stages=few), **plain, **named(part="plain")}
    row, *_ = rows_of({"x": cells["sd15 lag float8"]}, cells)
    assert (row["made"], row["step"], row["ratio"]) == ("2 of 50", 3.0, 1.5)
    assert row["whole"] == "~156.0"


def test_memory_is_limited_on_a_gpu_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fractions: list[float] = []
    card = SimpleNamespace(total_memory=32 * 10**9)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(gpu, "memory", lambda *_, **more: 1)
    monkeypatch.setattr(gpu, "processor", lambda _: "a GPU")

    def too_much(task: object) -> None:
        raise torch.OutOfMemoryError("none left")

    monkeypatch.setitem(PARTS, "low-rank", ("", too_much, ""))
    for device, limit in (("cuda", 16e9), ("cuda", 0.0), ("cpu", 16e9)):
        options = options_of("--cells", str(tmp_path), "--device", device)
        one = Cell("sdxl", "low-rank", 1, limit=limit)
        gpu.measure(options, one, object())
        made = json.loads(gpu.cell_path(options, one).read_text())
        assert (made["limit"], made["failed"]) == (
            limit if device == "cuda" else 0, "OutOfMemoryError: none left"
        )  # fmt: skip
    assert fractions == [0.5, 1.0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo detected a call:UserWarning")  # torch about diffusers
@pytest.mark.parametrize("model", MODELS)
def test_all_cells_run_at_tiny_sizes_and_are_not_made_again(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = options_of("--quick", "--device", "cpu", "--cells", str(tmp_path), "--times", "9")
    variants = {one.variant for one in PLAN if one.model == model}
    for variant in variants:
        gpu.work(argparse.Namespace(**vars(options), model=model, variant=variant))
    paths = {one.name: gpu.cell_path(options, one) for one in PLAN if one.model == model}
    cells = {name: json.loads(path.read_text()) for name, path in paths.items()}
    assert {name: made["failed"] for name, made in cells.items()} == dict.fromkeys(cells, "")
    for target in TARGETS:  # all that it adds up was measured
        if target.cell[0] == model:
            assert set(target.stages) <= set(cells[" ".join(target.cell)]["stages"])
    result = result_of(cells, options)
    assert {claim.status for claim in result.claims} == {Status.UNMEASURED}
    monkeypatch.setattr(gpu, "measure", None)
    gpu.work(argparse.Namespace(**vars(options), model=model, variant=""))


@pytest.mark.parametrize("name", MODELS)
def test_a_prediction_stays_on_the_models_device(name: str) -> None:
    """On the second device that every machine has, where a tensor of the CPU is an error."""
    prompt = full_size(name, "cpu", tiny=True).encode_prompt("a photo of a mug")
    pooled = None if prompt.pooled is None else prompt.pooled.to("meta")
    prompt = replace(prompt, context=prompt.context.to("meta"), pooled=pooled)
    host = full_size(name, "meta", tiny=True)
    side = 8 if name in ("sd15", "sdxl") else 16
    latent = torch.randn(2, host.latent_channels, side, side, device="meta", dtype=host.dtype)
    output = host.predict(latent, torch.tensor([500.0, 20.0]), [prompt, prompt])
    assert output.device.type == "meta"
    assert output.shape == latent.shape


def test_published_sizes() -> None:
    """Billions of numbers of the networks, as their authors say: Anima 2, Z-Image 6."""
    from conceptloom.tinyworld.dit.networks import build_transformer

    counts = {}
    for name, (config, _) in FULL.items():
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in build_transformer(config).parameters()) / 1e9
    assert counts["anima"] == pytest.approx(2.0, abs=0.1)
    assert counts["zimage"] == pytest.approx(6.15, abs=0.1)
