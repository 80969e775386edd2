"""Bad losses, no memory, no disk: what the loop says, and that nothing is lost."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conceptloom.errors import DivergedError, MemoryExhaustedError, StorageError
from conceptloom.training.checkpoints import StateFolder
from conceptloom.training.loop import is_out_of_memory, run
from conceptloom.training.recipe import Events, LoopConfig, LoopState, Phase, StepDown

from .lines import Cancelled, Lines, stop_at

pytestmark = pytest.mark.usefixtures("quick_disk")


# Bad losses


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("at", [0, 4, 6])
def test_a_bad_loss_stops_before_its_step(tmp_path: Path, bad: float, at: int) -> None:
    good = Lines()
    with pytest.raises(Cancelled):
        run(good, LoopConfig(), stop_at(at) if at else stop_at(1))
    recipe = Lines()
    recipe.factor = lambda n: bad if n == at else 1.0
    store = StateFolder(tmp_path, "k" * 64)
    phase, rate = ("handles", "0.05") if at < 3 else ("weights", "0.025")
    told = rf"stopped at step {at + 1} \({phase}\).*after step {at}.*now {rate}, to a third"
    with pytest.raises(DivergedError, match=told):
        run(recipe, LoopConfig(), store=store)
    assert all(math.isfinite(value) for value in recipe.values())
    if at:
        assert recipe.values() == good.values()
        assert store.newest().step == at  # type: ignore[union-attr]


def exploding(at: int = 60, steps: int = 200) -> Lines:
    recipe = Lines((steps, 0), rate=1e-3)
    recipe.factor = lambda n: 1.0 if n < at else 1.3 ** (n - at)
    return recipe


def test_an_explosion_goes_back_to_the_last_good_state(tmp_path: Path) -> None:
    config = LoopConfig(save_every=10)
    store = StateFolder(tmp_path, "k" * 64)
    recipe = exploding()
    with pytest.raises(DivergedError, match="diverged, its average is") as caught:
        run(recipe, config, store=store)
    kept = store.newest()
    assert kept is not None
    assert 60 <= kept.step <= 70
    assert f"after step {kept.step}" in str(caught.value)
    good = exploding(steps=kept.step)
    run(good, config)
    assert recipe.values() == good.values()


def test_slow_explosions_leave_a_good_state_on_disk(tmp_path: Path) -> None:
    """States are saved often, but none from the way up pushes out the last good one."""
    config, store = LoopConfig(save_every=1), StateFolder(tmp_path, "k" * 64)
    recipe = Lines((400, 0), rate=1e-3)
    recipe.factor = lambda n: 1.0 if n < 100 else 1.06 ** (n - 100)
    with pytest.raises(DivergedError, match="diverged"):
        run(recipe, config, store=store)
    kept = store.newest()
    assert kept is not None
    assert kept.step >= 90


def test_an_explosion_without_a_folder_says_that_it_is_too_late() -> None:
    with pytest.raises(DivergedError, match="the run has no folder"):
        run(exploding(), LoopConfig())


# Memory


class Crowded(Lines):
    """Runs out of memory on some passes."""

    def __init__(self, full: Callable[[int, int], bool], error: Exception) -> None:
        super().__init__()
        self.full, self.error, self.passes, self.freed = full, error, 0, []

    def losses(self, phase: Phase, generator: torch.Generator) -> Mapping[str, Tensor]:
        self.passes += 1
        if self.full(self.passes, self.rows):
            raise self.error
        return super().losses(phase, generator)

    def step_down(self) -> StepDown | None:
        self.freed.append(self.inside)
        return super().step_down()


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory."),
    RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
    RuntimeError("MPS backend out of memory (MPS allocated: 8 GB)"),
]


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("first", [1, 3, 5])
def test_out_of_memory_steps_down_once_and_says_so(
    error: Exception, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = Crowded(lambda n, rows: n >= first and rows == 2, error)
    with caplog.at_level(logging.WARNING, logger="conceptloom"):
        state = run(recipe, LoopConfig())
    assert state.step == 7
    assert (state.stepped_down, state.passes) == (True, 2)
    assert recipe.freed == [0]  # outside of the model's context
    assert f"out of memory at step {first}: one at a time" in caplog.text
    assert [rows for _, rows in recipe.seen] == [2] * (first - 1) + [1] * 2 * (8 - first)


def test_out_of_memory_twice_ends_with_advice(tmp_path: Path) -> None:
    recipe = Crowded(lambda n, rows: n in (3, 6), ERRORS[0])
    store = StateFolder(tmp_path, "k" * 64)
    with pytest.raises(MemoryExhaustedError, match=r"also after stepping down.*smaller resolution"):
        run(recipe, LoopConfig(), store=store)
    assert recipe.inside == 0
    kept = store.newest()
    assert kept is not None
    assert kept.step == 3


def test_memory_is_given_back_when_the_failed_pass_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as the error is handled, its frames hold everything that the pass had made."""
    held, alive = [], []

    class Heavy(Lines):
        def losses(self, phase: Phase, generator: torch.Generator) -> Mapping[str, Tensor]:
            activations = torch.zeros(3)
            held.append(weakref.ref(activations))
            if len(held) == 1:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().losses(phase, generator)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "empty_cache", lambda: alive.append([ref() is not None for ref in held])
    )
    run(Heavy(), LoopConfig())
    assert alive == [[False]]


def test_out_of_memory_with_nothing_to_give_ends_with_advice() -> None:
    recipe = Crowded(lambda n, rows: n == 2, ERRORS[0])
    recipe.rows = 1
    with pytest.raises(MemoryExhaustedError, match="nothing left to free"):
        run(recipe, LoopConfig())


@pytest.mark.parametrize("error", ERRORS)
def test_out_of_memory_in_the_optimizer_ends_with_advice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Moments are made at the first step of a phase; half of them are no state to go on with."""
    made = []

    def full(like: Tensor, **options: object) -> Tensor:
        made.append(like)
        if len(made) > 3:
            raise error
        return torch.empty_like(like).zero_()

    recipe, store = Lines(), StateFolder(tmp_path, "k" * 64)
    monkeypatch.setattr(torch, "zeros_like", full)
    with pytest.raises(MemoryExhaustedError, match=r"in the optimizer at step 4.*smaller scope"):
        run(recipe, LoopConfig(save_every=3), store=store)
    assert recipe.rows == 2  # a smaller pass was not tried
    assert [file.name for file in store.files()] == ["state-00000003.safetensors"]


@pytest.mark.parametrize("error", ERRORS)
def test_a_preview_without_memory_is_left_out(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    """Not a reason to learn at half the speed, and never one to stop."""
    pictures, recipe = [], Lines()

    def draw(step: int) -> Tensor | None:
        if step in (2, 4):
            raise error
        return torch.zeros(1, 1, 3)

    def progress(step: int, total: int, message: str, preview: Tensor | None) -> None:
        pictures.append(preview is not None)

    state = run(recipe, LoopConfig(preview_every=2), Events(progress, on_preview=draw))
    assert (state.step, state.stepped_down) == (7, False)
    assert pictures == [False, False, False, False, False, True, False]
    assert "no preview at step 4: out of memory" in caplog.text


def test_a_preview_that_is_broken_is_reported() -> None:
    def draw(step: int) -> Tensor | None:
        raise RuntimeError("mat1 and mat2 cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        run(Lines(), LoopConfig(preview_every=2), Events(on_preview=draw))


def test_gradients_are_gone_when_previews_are_drawn_and_afterwards() -> None:
    recipe, held = Lines(), []

    def draw(step: int) -> None:
        held.append(recipe.handle.grad)

    run(recipe, LoopConfig(preview_every=1), Events(on_preview=draw))
    assert held == [None] * 7
    assert all(p.grad is None for p in recipe.named_parameters().values())


def test_a_resumed_run_stays_stepped_down(tmp_path: Path) -> None:
    straight = Crowded(lambda n, rows: n == 2, ERRORS[0])
    run(straight, LoopConfig())
    with pytest.raises(Cancelled):
        run(
            Crowded(lambda n, rows: n == 2, ERRORS[0]),
            LoopConfig(),
            stop_at(4),
            StateFolder(tmp_path, "k" * 64),
        )
    again = Crowded(lambda n, rows: False, ERRORS[0])
    run(again, LoopConfig(), store=StateFolder(tmp_path, "k" * 64))
    assert [rows for _, rows in again.seen] == [1] * 6
    assert again.values() == straight.values()


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    recipe = Crowded(lambda n, rows: n == 2, RuntimeError("mat1 and mat2 cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        run(recipe, LoopConfig())
    assert recipe.freed == []
    assert not is_out_of_memory(ValueError("can't allocate memory"))


# Disk


class FullDisk(StateFolder):
    """Refuses states from some step on."""

    until = 10**9

    def save(self, state: LoopState, parameters: Mapping[str, nn.Parameter]) -> str:
        if 3 <= state.step < self.until:
            raise StorageError("the disk is full; free some space and queue again")
        return super().save(state, parameters)


def test_a_full_disk_does_not_cost_the_work_that_is_in_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    straight, recipe = Lines(), Lines()
    run(straight, LoopConfig())
    state = run(recipe, LoopConfig(save_every=1), store=FullDisk(tmp_path, "k" * 64))
    assert state.step == 7
    assert recipe.values() == straight.values()
    assert "state after step 3 could not be saved" in caplog.text
    assert "the disk is full" in caplog.text
    files = StateFolder(tmp_path, "k" * 64).files()
    assert files[0].name == "state-00000002.safetensors"


def test_a_disk_that_has_room_again_is_used(tmp_path: Path) -> None:
    store = FullDisk(tmp_path, "k" * 64)
    store.until = 5
    run(Lines(), LoopConfig(save_every=1), store=store)
    assert store.files()[0].name == "state-00000007.safetensors"


def test_cancelling_with_a_full_disk_is_reported(tmp_path: Path) -> None:
    store = FullDisk(tmp_path, "k" * 64)
    with pytest.raises(StorageError, match="disk is full") as caught:
        run(Lines(), LoopConfig(save_every=2), stop_at(5), store)
    assert isinstance(caught.value.__context__, Cancelled)
    assert store.files()[0].name == "state-00000002.safetensors"
