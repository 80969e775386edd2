"""One case: a node with one or two of its inputs turned bad, run by ComfyUI's own executor."""

from __future__ import annotations

import itertools
import json
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.model_management
import executor as executors
import torch
from comfy_api.latest import io
from digests import digest_of
from executor import PREFIX, Executor, Result, given
from goods import (
    choices,
    default_of,
    flat_inputs,
    good_values,
    is_widget,
    of_type,
    sampled_with,
    tail_values,
)
from hypothesis import strategies as st
from materials import pack
from values import BAD, LEFT_OUT, numbers, texts, whole_numbers

MORE = int(os.environ.get("CONCEPTLOOM_TORTURE", "1"))  # how many times the usual number of cases
PATIENCE = 2.0  # seconds of CPU after which cancel is pressed
STUCK = 20.0  # seconds of CPU more after which nothing has heard of it


class Stuck(BaseException):
    """Cancel was pressed and nothing happened."""


@dataclass(frozen=True)
class Change:
    """What one input gets in place of its good value; `told` names it."""

    told: str
    value: Any


@dataclass(frozen=True)
class Case:
    """A node, a choice of its dynamic input if it has one, and what is bad."""

    kind: str
    option: str = ""
    changes: dict[str, Change] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = ", ".join(f"{name}: {change.told}" for name, change in self.changes.items())
        return (
            f"{self.kind}{f' ({self.option})' if self.option else ''} with {told or 'good input'}"
        )


def inputs_of(kind: str, option: str = "") -> dict[str, io.Input]:
    """Every input of a node under its name in API JSON."""
    found = dict(flat_inputs(kind))
    if chosen := choices(kind):
        name, options = chosen
        found |= {f"{name}.{one.id}": one for one in options.get(option, ())}
    return found


@st.composite
def cases(draw: st.DrawFn, kind: str) -> Case:
    chosen = choices(kind)
    option = draw(st.sampled_from(list(chosen[1]))) if chosen else ""
    inputs = inputs_of(kind, option)
    names = draw(st.lists(st.sampled_from(list(inputs)), min_size=1, max_size=2, unique=True))
    return Case(kind, option, {name: draw(changes(inputs[name])) for name in names})


def changes(one: io.Input) -> st.SearchStrategy[Change]:
    """Bad values of one input."""
    if isinstance(one, io.String.Input):
        found = texts().map(lambda text: Change(repr(text)[:60], text))
    elif isinstance(one, io.Boolean.Input):
        found = st.booleans().map(lambda value: Change(str(value), value))
    elif isinstance(one, io.Combo.Input):
        options = [*one.options, "rubbish", ""]
        found = st.sampled_from(options).map(lambda value: Change(repr(value), value))
    elif isinstance(one, io.Int.Input):
        values = whole_numbers(one.min, one.max)
        found = values.map(lambda value: Change(str(value), value))
    elif isinstance(one, io.Float.Input):
        values = numbers(one.min, one.max)
        found = values.map(lambda value: Change(repr(value), value))
    else:
        makers = BAD.get(one.get_io_type()) or {"good": lambda: of_type(one.get_io_type())}
        found = st.sampled_from(list(makers)).map(lambda told: Change(told, makers[told]))
    return found | st.just(Change("left out", LEFT_OUT)) if one.optional else found


_numbers = itertools.count()
_known_errors: set[str] = set()


def known_errors() -> set[str]:
    """Names of everything that the pack raises on purpose."""
    if not _known_errors:
        module = pack("errors")
        base = module.ConceptLoomError
        _known_errors.update(
            name
            for name, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, base)
        )
    return _known_errors


def outcome_of(
    executor: Executor, case: Case, *, patient: bool = False
) -> tuple[Result, list[str]]:
    """Run a case.

    Args:
        patient: wait for its end, however long it takes.

    Returns:
        What came of it, and what was wrong with that: an error that is not the pack's own or tells
        nothing, an input that was changed, a picture that is none.
    """
    number, values, linked = next(_numbers), {}, {}
    for name, one in inputs_of(case.kind, case.option).items():
        change = case.changes.get(name)
        if change is not None and change.value is LEFT_OUT:
            continue
        if change is not None:
            value = change.value() if callable(change.value) else change.value
        elif is_widget(one):
            linked[name] = default_of(case.kind, name.rpartition(".")[2], one)
            continue
        elif (value := good_values(case.kind, name)) is None:
            may_stay_open = one.optional or name.endswith(LATER)
            if may_stay_open and name not in USED.get(case.kind, ()):
                continue
            value = of_type(one.get_io_type())
        # A fresh name each: the executor's cache tells values apart by it.
        values[f"{name}#{number}"] = value
        linked[name] = given(f"{name}#{number}")
    if case.option:
        linked[choices(case.kind)[0]] = case.option
    tail, drawn = sampled_with(case.kind, "1")
    graph = {"1": {"class_type": PREFIX + case.kind, "inputs": linked}, **tail}
    before = digest_of(values)
    count = len(pack_outputs(case.kind))
    wanted = {f"out{i}": ["1", i] for i in range(count)} | drawn
    try:
        with nullcontext() if patient else patience():
            result = executor.run(graph, {**values, **tail_values(case.kind)}, **wanted)
    finally:
        for name in values:
            executors._given.pop(name, None)
    problems = list(_problems(result))
    if digest_of(values) != before:
        problems.append("an input was changed")
    return result, problems


# Sockets that may stay open, but without which a node only says so.
LATER = ("1",)  # sockets of lists that grow, from the second on
USED = {
    "MaskedBlendedSampler": ("mask",),
    "CrossAttentionGuidance": ("mask",),
    "AdaptiveNegativesTrainer": ("vqa",),
    "EvolveConcepts": ("images.image0",),
}


def pack_outputs(kind: str) -> list[io.Output]:
    return executors.pack_nodes()[PREFIX + kind].GET_SCHEMA().outputs


def _problems(result: Result) -> Iterator[str]:
    if result.refused or result.was_cancelled:  # by the host before it ran; by ourselves
        return
    if result.error:
        if result.kind not in known_errors():
            yield f"{result.kind}: {result.error[:300]}"
        elif len(result.error.split()) < 5:
            yield f"an error that tells nothing: {result.error!r}"
        return
    for name, value in result.values.items():
        samples = value.get("samples") if isinstance(value, dict) else value
        if isinstance(samples, torch.Tensor) and not samples.float().isfinite().all():
            yield f"output {name} contains NaN or infinite values"


@contextmanager
def patience() -> Iterator[None]:
    """Cancels after a while as a user would; by CPU time, so a busy machine changes nothing."""
    pressed = False

    def press(*_: Any) -> None:
        nonlocal pressed
        if pressed:
            raise Stuck
        pressed = True
        comfy.model_management.interrupt_current_processing(True)
        signal.setitimer(signal.ITIMER_PROF, STUCK)

    before = signal.signal(signal.SIGPROF, press)
    signal.setitimer(signal.ITIMER_PROF, PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        comfy.model_management.interrupt_current_processing(False)


def tally(area: str, cases: int, failures: list[str]) -> None:
    """Write down what was tried, for the benchmark that counts it."""
    if place := os.environ.get("CONCEPTLOOM_TORTURE_TALLY"):
        row = {"area": area, "cases": cases, "failures": failures}
        with open(Path(place), "a") as file:
            file.write(json.dumps(row) + "\n")
