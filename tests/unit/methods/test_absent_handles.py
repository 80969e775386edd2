"""Handles that a step does not show move as the rows of one token table in the official code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import BreakAScene
from conceptloom.methods.clic import CLiC
from conceptloom.methods.concept_weaver.bank import BankRecipe
from conceptloom.methods.concept_weaver.config import BankConfig
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import run, step_generator
from conceptloom.training.phases import TokenPhase, WeightPhase
from conceptloom.training.recipe import LoopConfig, Phase

from . import break_a_scene_cases as several
from . import clic_cases

LOOP = LoopConfig(seed=4)


def bank(host: DiffusersHost) -> BankRecipe:
    phases = {
        "token_phase": TokenPhase(steps=6, learning_rate=1e-2),
        "weight_phase": WeightPhase(steps=4, learning_rate=1e-3, scope=Scope.CROSS_ATTENTION_KV),
    }
    config: Any = replace(BankConfig(), **phases, views=2, resolution_px=0)
    return BankRecipe(host, several.scene(), config)


LEARNERS: dict[str, Callable[[DiffusersHost], Any]] = {
    "break_a_scene": lambda host: BreakAScene(host, several.scene(), several.config(6, 4)),
    "clic": lambda host: CLiC(host, several.scene(), clic_cases.config(6, 4)),
    "concept_weaver": bank,
}


class TableRows:
    """Handles as the official code has them: rows of one table that all learn together."""

    def __init__(self, learner: Any) -> None:
        self.names = learner.handles.names
        rows = [rows.detach() for rows in learner.handles.parameters()]
        self.table = nn.Parameter(torch.cat(rows).clone())

    def vectors(self) -> dict[str, dict[str, Tensor]]:
        return {name: {"clip_l": self.table[i : i + 1]} for i, name in enumerate(self.names)}


def official_steps(learner: Any, phase: Phase, rows: TableRows, others: list[nn.Parameter]) -> Any:
    """Plain AdamW of torch over the table, on the very passes that our loop makes."""
    every = [rows.table, *others]
    learner.handles = rows
    optimizer = torch.optim.AdamW(every, lr=phase.learning_rate, weight_decay=LOOP.weight_decay)
    with learner.computing(phase):
        for step in phase_steps(learner, phase):
            optimizer.zero_grad()
            terms = learner.losses(phase, step_generator(LOOP.seed, step))
            torch.stack(list(terms.values())).sum().backward()
            nn.utils.clip_grad_norm_(every, LOOP.max_grad_norm)
            optimizer.step()
    return optimizer


def phase_steps(learner: Any, phase: Phase) -> Iterator[int]:
    first, second = (p.steps for p in learner.phases_before)
    yield from range(first) if phase.name == "handles" else range(first, first + second)


@pytest.mark.parametrize("method", list(LEARNERS))
def test_parameters_and_optimizer_are_those_of_one_table(method: str, host: DiffusersHost) -> None:
    ours, theirs = LEARNERS[method](host), LEARNERS[method](host)
    state = run(ours, LOOP)
    rows, theirs.phases_before = TableRows(theirs), theirs.phases()
    weights = list(theirs.adapters.parameters())
    for phase, others in zip(theirs.phases_before, ([], weights), strict=True):
        optimizer = official_steps(theirs, phase, rows, others)
    learned = torch.cat([p.detach() for p in ours.handles.parameters()])
    torch.testing.assert_close(learned, rows.table.detach(), rtol=0, atol=2e-6)
    assert state.optimizer is not None
    slots = [state.optimizer.state[p] for p in ours.handles.parameters()]
    for name, rtol in (("exp_avg", 1e-4), ("exp_avg_sq", 1e-4)):
        expected = optimizer.state[rows.table][name]
        moments = torch.cat([slot[name] for slot in slots])
        torch.testing.assert_close(moments, expected, rtol=rtol, atol=1e-5 * expected.abs().max())
    assert {int(slot["step"]) for slot in slots} == {4}


def test_weights_that_no_pass_reaches_stand_still(host: DiffusersHost) -> None:
    """Only rows of the table have a gradient of zero; decay alone would move anything else."""
    learner = LEARNERS["break_a_scene"](host)
    idle = nn.Parameter(torch.ones(3))
    phases = [replace(p, parameters=[*p.parameters, idle]) for p in learner.phases()]
    learner.phases = lambda: phases
    run(learner, LOOP)
    assert idle.tolist() == [1, 1, 1]
