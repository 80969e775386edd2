"""One run after another, and runs with little memory: the same pictures, or a word about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import comfy.model_management
import pytest
import torch
from cases import Case, Change, outcome_of, tally
from digests import digest_of
from executor import Executor, Result
from faults import faults
from materials import template, with_regions

DRAWN = [  # everything that draws with the same base model
    "ApplyConcept", "ApplyLag", "CrossAttentionGuidance", "LagMaps", "LagSampler",
    "MaskedBlendedEdit", "MaskedBlendedSampler", "RegionFeatureFuser", "TwoStageGeneration",
    "WeaveConcepts", "InvertTemplate", "AttentionMaps",
]  # fmt: skip


def drawn(executor: Executor, kind: str) -> dict[str, torch.Tensor]:
    """Pictures, masks and latents of a run with good inputs."""
    result, _ = outcome_of(executor, Case(kind), patient=True)
    assert result.error == ""
    found = {}
    for name, value in result.values.items():
        value = value.get("samples") if isinstance(value, dict) else value
        if isinstance(value, torch.Tensor):
            found[name] = value
    assert found
    return found


def test_what_ran_before_changes_nothing(executor: Executor):
    """Forwards and backwards through all of them, on one MODEL, CLIP and VAE."""
    template()
    with_regions()
    first = {kind: digest_of(drawn(executor, kind)) for kind in DRAWN}
    again = {kind: digest_of(drawn(executor, kind)) for kind in reversed(DRAWN)}
    failures = [f"{kind}: another result" for kind in DRAWN if first[kind] != again[kind]]
    tally("queue/all that draw, there and back", 2 * len(DRAWN), failures)
    assert not failures


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As with --lowvram: hardly a weight is kept loaded, and one prompt is computed at a time."""
    loaded = comfy.model_management.LoadedModel
    load, mostly_away = loaded.model_load, 1e5  # bytes

    def load_little(self: Any, lowvram_model_memory: int = 0, *args: Any, **kwargs: Any) -> Any:
        return load(self, mostly_away, *args, **kwargs)

    comfy.model_management.unload_all_models()
    monkeypatch.setattr(loaded, "model_load", load_little)
    monkeypatch.setattr("comfy.model_base.BaseModel.memory_required", lambda *_, **__: 1e30)
    yield
    monkeypatch.undo()
    comfy.model_management.unload_all_models()


@pytest.fixture(scope="module")
def usual(executor: Executor) -> dict[str, dict[str, torch.Tensor]]:
    """What is drawn with memory enough."""
    template()
    with_regions()
    return {kind: drawn(executor, kind) for kind in DRAWN}


@pytest.mark.parametrize("kind", DRAWN)
def test_little_memory_draws_the_same(
    executor: Executor, usual: dict[str, Any], little_memory: None, kind: str
):
    found, failures = drawn(executor, kind), []
    for name, value in usual[kind].items():
        if not torch.allclose(found[name], value, rtol=1e-2, atol=1e-2):
            failures.append(f"{kind}: {name} differs by {(found[name] - value).abs().max():.3g}")
    tally(f"memory/{kind}", 1, failures)
    assert not failures


def learn(executor: Executor, name: str) -> Result:
    inputs = {"preset.token_steps": 3, "name": name}
    changes = {key: Change(str(value), value) for key, value in inputs.items()}
    result, _ = outcome_of(
        executor, Case("CrossAttentionLossTrainer", "handles only", changes), patient=True
    )
    return result


def test_memory_that_runs_out_once_is_answered_by_a_step_down(
    executor: Executor, caplog: pytest.LogCaptureFixture
):
    with faults(1, "no memory") as passes:
        result = learn(executor, "once")
    assert passes.seen > 1
    assert result.error == ""
    told = [
        record.message for record in caplog.records if "out of memory at step" in record.message
    ]
    assert len(told) == 1
    tally("memory/runs out once", 1, [])


def test_memory_that_stays_out_ends_in_advice(executor: Executor):
    with faults(1, "no memory", lasts=True):
        result = learn(executor, "always")
    assert result.kind == "MemoryExhaustedError"
    assert "smaller resolution" in result.error
    tally("memory/stays out", 1, [])
