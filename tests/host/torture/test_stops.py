"""Cancel, crash and lack of memory in the middle of every run: nothing stays behind, nothing lost.

Of each run's network the first pass lacks memory, the middle one is cancelled and the last one
breaks; with CONCEPTLOOM_TORTURE above 1 each of the three happens at every pass.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import comfy.model_management
import folder_paths
import pytest
from cases import MORE, Case, Change, inputs_of, known_errors, outcome_of, pack_outputs, tally
from digests import digest_of
from executor import Executor, Result
from faults import BROKEN, faults
from goods import LAB
from materials import pack, template, with_regions

TWO_PHASES = {"preset.token_steps": 2, "preset.weight_steps": 2, "preview_every": 2}
RUNS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "Break-A-Scene": (
        "CrossAttentionLossTrainer", "TinyWorld quick", TWO_PHASES | {"preset.prior_weight": 1.0},
    ),
    "CLiC": ("CrossAttentionLossTrainer", "CLiC low-rank", TWO_PHASES),
    "Personalized Residuals": ("TrainPersonalizedResiduals", "", {"steps": 3, "preview_every": 2}),
    "RoI Matching": ("RoIMatching", "", {"steps": 3}),
    "Concept Discovery": ("ConceptDiscovery", "", {"steps": 3}),
    "ConceptLab": ("AdaptiveNegativesTrainer", "", {"steps": 3, "save_every": 1}),
    "mixing": ("ConceptMixing", "", {"steps": 3}),
    "evolution": ("EvolveConcepts", "", {"steps": 3}),
    "blended sampler": ("MaskedBlendedSampler", "", {}),
    "blended edit": ("MaskedBlendedEdit", "", {"harmonise_steps": 1}),
    "guidance": ("CrossAttentionGuidance", "", {"save_memory": True}),
    "two stages": ("TwoStageGeneration", "", {}),
    "an applied concept": ("ApplyConcept", "", {}),
    "LAG": ("ApplyLag", "", {}),
    "LAG sampler": ("LagSampler", "", {}),
    "LAG maps": ("LagMaps", "", {}),
    "inversion": ("InvertTemplate", "", {"refinements": 1}),
    "fuser": ("RegionFeatureFuser", "", {}),
    "weaving": ("WeaveConcepts", "", {}),
    "weaving of scores": ("WeaveConcepts", "", {"mixing": "scores"}),
    "a prior": ("GenerateWithPrior", "", {}),
    "attention maps": ("AttentionMaps", "", {}),
}  # fmt: skip
FAULTS = ("no memory", "cancel", "breaks")
_names = itertools.count()


@pytest.fixture(scope="module", autouse=True)
def made_before() -> None:
    """What is made once is made now, so that its passes are not counted."""
    template()
    with_regions()


def run(executor: Executor, what: str, name: str) -> Result:
    """A run with a folder of this name; every run finds that the host is as it was before."""
    kind, option, inputs = RUNS[what]
    changes = {key: Change(str(value), value) for key, value in inputs.items()}
    if "name" in inputs_of(kind) and kind != "ConceptDiscovery":  # there it is the handle
        changes["name"] = Change(name, name)
    result, problems = outcome_of(executor, Case(kind, option, changes), patient=True)
    hooks = pack("host.hooks")
    assert hooks._passes.get() == ()
    assert not hooks._editing
    assert not getattr(comfy.model_management, "in_training", False)
    return result, [p for p in problems if BROKEN not in p and "the test says" not in p]


def forget_states() -> None:
    """Nodes without a name of a run would go on from the end of an earlier one."""
    shutil.rmtree(
        Path(folder_paths.get_output_directory(), pack("nodes.runs").RUNS), ignore_errors=True
    )


def made_by(result: Result, what: str) -> str:
    """What a run made, but for texts, which name folders, and the pictures on the way.

    A run that goes on draws those only from where it was stopped.
    """
    names = [one.id for one in pack_outputs(RUNS[what][0])]
    found = {}
    for name, value in result.values.items():
        on_the_way = name.startswith("out") and names[int(name[3:])] == "timeline"
        if not (on_the_way or isinstance(value, str) or _is_model(value)):
            found[name] = value
    return digest_of(found)


def _is_model(value: Any) -> bool:
    return hasattr(value, "patcher") or hasattr(value, "model_options")


def stops_of(total: int) -> Iterable[tuple[int, str]]:
    """Where to stop a run of so many passes, and how."""
    if MORE > 1:
        return itertools.product(range(total), FAULTS)
    return zip((0, total // 2, total - 1), FAULTS, strict=True)


@pytest.mark.parametrize("what", RUNS)
def test_a_run_that_is_stopped_goes_on_as_if_it_had_not(executor: Executor, what: str):
    if RUNS[what][0] in LAB:
        pytest.importorskip("diffusers")
    with faults() as passes:
        whole, problems = run(executor, what, f"whole-{next(_names)}")
    assert problems == []
    assert whole.error == ""
    expected, total = made_by(whole, what), passes.seen
    assert total > 0
    failures: list[str] = []
    stops = list(stops_of(total))
    for at, fault in stops:
        forget_states()
        name = f"stopped-{next(_names)}"
        with faults(at, fault) as passes:
            stopped, problems = run(executor, what, name)
        told = f"{what}, {fault} at pass {at + 1} of {total}"
        failures += [f"{told}: {problem}" for problem in problems]
        assert passes.seen > at, f"{told} was never reached"
        if fault == "breaks" and not stopped.error:
            failures.append(f"{told}: the error was swallowed")
        if fault == "no memory" and stopped.error and stopped.kind not in known_errors():
            assert stopped.kind == "OutOfMemoryError", stopped.kind
        again, problems = run(executor, what, name)
        failures += [f"{told}, queued again: {problem}" for problem in problems]
        if again.error:
            failures.append(f"{told}, queued again: {again.error}")
        elif fault != "no memory" and made_by(again, what) != expected:
            failures.append(f"{told}, queued again: another result")
    tally(f"stops/{what}", len(stops), failures)
    assert not failures, "\n" + "\n".join(failures)
