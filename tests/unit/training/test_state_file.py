"""What a state holds comes back exactly; files of others are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from conceptloom.errors import ConceptFileError, TrainingError
from conceptloom.training.state_file import load_state, save_state

from .learner import Learner

pytestmark = pytest.mark.usefixtures("quick_disk")


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
    assert loaded.more == state.more
    assert loaded.more["phase"] == 0
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


def test_a_concept_is_no_state(tmp_path: Path) -> None:
    from conceptloom.concepts.concept_file import load_concept, save_concept

    from ..fake_host import some_concept

    save_concept(some_concept(), tmp_path / "c.safetensors")
    with pytest.raises(ConceptFileError, match="cannot read the training state"):
        load_state(tmp_path / "c.safetensors", "key")
    save_state(Learner().state(), tmp_path / "s.safetensors", "key")
    with pytest.raises(ConceptFileError, match="queue the trainer again"):
        load_concept(tmp_path / "s.safetensors")
