"""A run that was stopped goes on exactly as if it had not been."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conceptloom.errors import ConceptFileError, StorageError, TrainingError
from conceptloom.training import paths
from conceptloom.training.checkpoints import (
    StateFolder,
    TrainingState,
    content_key,
    load_state,
    model_digest,
    save_state,
)
from conceptloom.training.recipe import LoopState

from .fake_host import FakeHost


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.os, "fsync", lambda _: None)


class Learner:
    """A line fitted to noise: optimizer with momentum, and a generator of its own."""

    def __init__(self, optimizer: str = "AdamW") -> None:
        self.weight = nn.Parameter(torch.tensor([1.0, -1.0, 0.5]))
        self.half = nn.Parameter(torch.ones(2, dtype=torch.bfloat16))
        self.draw = torch.Generator().manual_seed(11)
        kinds = {
            "AdamW": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.9, 0.99), weight_decay=0.01),
            "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
            "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
            "Adagrad": lambda p: torch.optim.Adagrad(p, lr=0.01),
        }
        self.optimizer = kinds[optimizer]([self.weight, self.half])
        self.history: list[dict[str, float]] = []

    def run(self, steps: int) -> None:
        for _ in range(steps):
            target = torch.randn(3, generator=self.draw)
            loss = (self.weight - target).square().sum() + self.half.float().square().sum()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            step = len(self.history) + 1
            row = {"step": step, "phase": 0, "total": loss.item()}
            self.history.append(row if step % 2 else {**row, "prior": 1 / 3})

    def state(self) -> TrainingState:
        return TrainingState(
            step=len(self.history),
            parameters={"weight": self.weight.detach(), "half": self.half.detach()},
            optimizer=self.optimizer.state_dict(),
            generators={"draw": self.draw.get_state()},
            history=self.history,
            more={"phase": 0},
        )

    @torch.no_grad()
    def take(self, state: TrainingState) -> None:
        self.weight.copy_(state.parameters["weight"])
        self.half.copy_(state.parameters["half"])
        assert state.optimizer is not None
        self.optimizer.load_state_dict(state.optimizer)
        self.draw.set_state(state.generators["draw"])
        self.history = state.history


@pytest.mark.parametrize("optimizer", ["AdamW", "amsgrad", "SGD", "Adagrad"])
def test_resuming_is_exact(tmp_path: Path, optimizer: str) -> None:
    straight, first, second = (Learner(optimizer) for _ in range(3))
    straight.run(20)
    first.run(7)
    save_state(first.state(), tmp_path / "s.safetensors", "key")
    second.take(load_state(tmp_path / "s.safetensors", "key"))
    second.run(13)
    assert torch.equal(straight.weight, second.weight)
    assert torch.equal(straight.half, second.half)
    assert straight.history == second.history


def test_what_comes_back_is_what_went_in(tmp_path: Path) -> None:
    learner = Learner()
    learner.run(5)
    state = learner.state()
    save_state(state, tmp_path / "s.safetensors", "key")
    loaded = load_state(tmp_path / "s.safetensors", "key")
    assert loaded.history == state.history
    assert [type(row["step"]) for row in loaded.history] == [int] * 5
    assert loaded.more == {"phase": 0}
    assert loaded.optimizer is not None
    assert state.optimizer is not None
    assert loaded.optimizer["param_groups"] == state.optimizer["param_groups"]
    assert loaded.parameters["half"].dtype == torch.bfloat16


def test_the_same_state_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        learner = Learner()
        learner.run(3)
        save_state(learner.state(), tmp_path / name, "key")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_state_of_other_inputs_is_refused(tmp_path: Path) -> None:
    save_state(Learner().state(), tmp_path / "s.safetensors", "key")
    with pytest.raises(TrainingError, match="other settings"):
        load_state(tmp_path / "s.safetensors", "another key")


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
    folder.clear()
    assert list(tmp_path.iterdir()) == []


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


def test_a_full_disk_keeps_the_states_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, learner = StateFolder(tmp_path, "k" * 64), Learner()
    files = written(folder, learner, 2, 4)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(paths.os, "fsync", full)
    with pytest.raises(StorageError, match="disk is full"):
        written(folder, learner, 6)
    assert folder.files() == files[::-1]
    assert len(list(folder.folder.iterdir())) == 2


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


def test_a_concept_is_no_state(tmp_path: Path) -> None:
    from conceptloom.training.concept_file import load_concept, save_concept

    from .fake_host import some_concept

    save_concept(some_concept(), tmp_path / "c.safetensors")
    with pytest.raises(ConceptFileError, match="no training state"):
        load_state(tmp_path / "c.safetensors", "key")
    save_state(Learner().state(), tmp_path / "s.safetensors", "key")
    with pytest.raises(ConceptFileError, match="queue the trainer again"):
        load_concept(tmp_path / "s.safetensors")


# Keys


@dataclass(frozen=True)
class Settings:
    rate: float = 1e-3
    words: tuple[str, ...] = ("cat",)


def variants() -> Iterator[tuple[str, Any, dict[str, Any]]]:
    image, mask = torch.zeros(4, 4, 3), torch.ones(4, 4)
    yield "m", Settings(), {"images": [image], "masks": [mask]}
    yield "other", Settings(), {"images": [image], "masks": [mask]}
    yield "m", replace(Settings(), rate=2e-3), {"images": [image], "masks": [mask]}
    yield "m", replace(Settings(), words=("dog",)), {"images": [image], "masks": [mask]}
    yield "m", Settings(), {"images": [image + 1e-3], "masks": [mask]}
    yield "m", Settings(), {"images": [image, image], "masks": [mask]}
    yield "m", Settings(), {"images": [image], "masks": [1 - mask]}
    yield "m", Settings(), {"images": [image], "masks": [mask.reshape(2, 8)]}
    yield "m", Settings(), {"images": [image], "masks": [mask], "prior": [image]}


def test_every_input_counts_in_the_key() -> None:
    keys = [content_key(*variant) for variant in variants()]
    assert len(set(keys)) == len(keys)
    assert keys == [content_key(*variant) for variant in variants()]


def test_two_models_of_one_family_differ() -> None:
    host, other = FakeHost(), FakeHost()
    assert model_digest(host) == model_digest(other)
    other.weights["unet.input_blocks.1.1.proj_in.weight"][0, 0] += 1e-3
    assert model_digest(host) != model_digest(other)
