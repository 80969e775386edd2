"""No clone of a MODEL or CLIP that a node makes waits for the garbage collector.

ComfyUI follows a clone that goes to the model that it was made of, but only if it goes by itself:
of one in a circle of references it loses track, warns of a memory leak, and collects garbage before
every pass of any model from then on.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cases import Case, choices, outcome_of
from comfy.model_patcher import ModelPatcher
from executor import Executor
from goods import LAB, WITHOUT_RESULT, kinds

CLONING = {
    "CrossAttentionLossTrainer", "TrainPersonalizedResiduals", "ApplyConcept", "ApplyLag",
    "LagSampler", "CrossAttentionGuidance", "RoIMatching", "ConceptDiscovery",
    "RegionFeatureFuser", "WeaveConcepts",
}  # fmt: skip


@contextmanager
def clones_made() -> Iterator[list[weakref.ref[ModelPatcher]]]:
    """Every clone made in the context, while nothing collects garbage."""
    made: list[weakref.ref[ModelPatcher]] = []
    clone = ModelPatcher.clone

    def counted(self: ModelPatcher, *args: Any, **more: Any) -> ModelPatcher:
        new = clone(self, *args, **more)
        made.append(weakref.ref(new))
        return new

    gc.collect()
    gc.disable()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ModelPatcher, "clone", counted)
            yield made
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("kind", "option"),
    [(kind, option) for kind in kinds() for option in (choices(kind) or ("", [""]))[1]],
)
def test_no_clone_waits_for_the_collector(executor: Executor, kind: str, option: str):
    if kind in LAB:
        pytest.importorskip("diffusers")
    with clones_made() as made:
        result, problems = outcome_of(executor, Case(kind, option), patient=True)
        assert problems == []
        assert bool(result.error) == (kind in WITHOUT_RESULT), result.error
        before = [one for one in made if one() is not None]
        gc.collect()
        left = [one for one in before if one() is None]
    assert made or kind not in CLONING
    assert not left, f"{len(left)} of {len(made)} clones were in a circle"
