"""A run that was stopped goes on exactly as if it had not been."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from conceptloom.concepts import paths
from conceptloom.errors import StorageError, TrainingError
from conceptloom.training.checkpoints import StateFolder
from conceptloom.training.recipe import LoopState

from .learner import Learner

pytestmark = pytest.mark.usefixtures("quick_disk")


def written(folder: StateFolder, learner: Learner, *steps: int) -> list[Path]:
    paths_ = []
    for n in steps:
        learner.run(n - len(learner.history))
        paths_.append(folder.write(learner.state()))
    return paths_


def test_the_last_two_states_are_kept(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "k" * 64)
    files = written(folder, Learner(), 2, 4, 6)
    assert folder.files() == [files[2], files[1]]
    assert folder.finish(keep=True).startswith("1 saved state, ")
    assert folder.files() == [files[2]]
    assert folder.finish(keep=False) == "no saved state left"
    assert folder.files() == []


def test_a_damaged_state_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder, learner = StateFolder(tmp_path, "k" * 64), Learner()
    older, newer = written(folder, learner, 2, 4)
    newer.write_bytes(newer.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING, logger="conceptloom"):
        state = folder.newest()
    assert state is not None
    assert state.step == 2
    assert "damaged" in caplog.text
    older.write_bytes(b"")
    assert folder.newest() is None


def test_damaged_later_states_do_not_push_out_good_ones(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "k" * 64)
    for path in written(folder, Learner(), 8, 9):
        path.write_bytes(b"broken")
    written(folder, Learner(), 3)
    state = folder.newest()
    assert state is not None
    assert state.step == 3
    assert len(folder.files()) == 1


def test_states_after_a_step_can_be_dropped(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path, "k" * 64)
    files = written(folder, Learner(), 2, 4)
    folder.drop_after(3)
    assert folder.files() == [files[0]]
    folder.drop_after(2)
    assert folder.files() == [files[0]]


def test_old_states_that_cannot_be_removed_stop_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On Windows a file that another program reads cannot be removed."""
    folder, learner = StateFolder(tmp_path, "k" * 64), Learner()
    files = written(folder, learner, 2, 4)

    def held(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "The process cannot access the file", str(path))

    monkeypatch.setattr(Path, "unlink", held)
    with caplog.at_level(logging.WARNING, logger="conceptloom"):
        files += written(folder, learner, 6)
    assert "state-00000002.safetensors could not be removed" in caplog.text
    monkeypatch.undo()
    assert folder.files() == files[::-1]
    assert written(folder, learner, 8) == folder.files()[:1]
    assert len(folder.files()) == 2


def test_on_a_full_disk_older_states_give_way_and_the_newest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, learner = StateFolder(tmp_path, "k" * 64), Learner()
    files = written(folder, learner, 2, 4)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        written(folder, learner, 6)
    assert folder.files() == files[-1:]
    assert len(list(folder.folder.iterdir())) == 1


# The loop's own way of saving


def loop_of(steps: int) -> tuple[LoopState, dict[str, nn.Parameter]]:
    parameters = {"a": nn.Parameter(torch.ones(2)), "b.c": nn.Parameter(torch.ones(1, 3))}
    state = LoopState(phase=0, optimizer=optimizer_of(parameters, 0))
    advance(state, parameters, steps)
    return state, parameters


def optimizer_of(parameters: Mapping[str, nn.Parameter], phase: int) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters.values(), lr=0.1 / (1 + phase))


def advance(state: LoopState, parameters: Mapping[str, nn.Parameter], steps: int) -> None:
    assert state.optimizer is not None
    for _ in range(steps):
        total = sum(((p - state.step) ** 2).sum() for p in parameters.values())
        state.optimizer.zero_grad()
        total.backward()
        state.optimizer.step()
        state.step += 1
        state.history.append({"step": state.step, "phase": 0, "total": total.item()})


def test_a_loop_goes_on_exactly(tmp_path: Path) -> None:
    straight, straight_parameters = loop_of(9)
    first, first_parameters = loop_of(4)
    first.stepped_down, first.passes = True, 2
    store = StateFolder(tmp_path, "k" * 64)
    assert "state-00000004" in store.save(first, first_parameters)
    _, parameters = loop_of(0)
    resumed = StateFolder(tmp_path, "k" * 64).load(
        parameters, lambda i: optimizer_of(parameters, i)
    )
    assert resumed is not None
    assert (resumed.step, resumed.phase, resumed.passes) == (4, 0, 2)
    assert resumed.stepped_down
    advance(resumed, parameters, 5)
    for name, parameter in parameters.items():
        assert torch.equal(parameter, straight_parameters[name])
    assert resumed.history == straight.history


def test_a_loop_without_saved_state_begins_anew(tmp_path: Path) -> None:
    _, parameters = loop_of(0)
    assert (
        StateFolder(tmp_path, "k" * 64).load(parameters, lambda i: optimizer_of(parameters, i))
        is None
    )


def test_a_state_with_other_parameters_is_refused(tmp_path: Path) -> None:
    state, parameters = loop_of(1)
    store = StateFolder(tmp_path, "k" * 64)
    store.save(state, parameters)
    del parameters["a"]
    with pytest.raises(TrainingError, match="other parameters"):
        store.load(parameters, lambda i: optimizer_of(parameters, i))
