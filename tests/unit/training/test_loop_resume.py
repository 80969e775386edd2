"""Cancelling and going on: the same bits as a run that was never stopped."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conceptloom.training.checkpoints import StateFolder
from conceptloom.training.loop import run, summary
from conceptloom.training.recipe import Events, LoopConfig, LoopState, Phase

from .lines import Cancelled, Lines, stop_at

pytestmark = pytest.mark.usefixtures("quick_disk")


@pytest.mark.parametrize("step", range(1, 8))
@pytest.mark.parametrize("save_every", [0, 2])
def test_a_run_stopped_after_any_step_goes_on_exactly(
    tmp_path: Path, step: int, save_every: int
) -> None:
    config = LoopConfig(seed=4, save_every=save_every)
    straight = Lines()
    history = run(straight, config).history
    first = Lines()
    with pytest.raises(Cancelled):
        run(first, config, stop_at(step), StateFolder(tmp_path, "k" * 64))
    assert StateFolder(tmp_path, "k" * 64).files()[0].name == (f"state-{step:08d}.safetensors")
    again, seen = Lines(), []
    events = Events(on_step=lambda row: seen.append(row["step"]))
    state = run(again, config, events, StateFolder(tmp_path, "k" * 64))
    assert seen == list(range(step + 1, 8))
    assert again.values() == straight.values()
    assert state.history == history
    assert summary(state.history) == summary(history)


def test_stopping_after_every_single_step_changes_nothing(tmp_path: Path) -> None:
    straight = Lines()
    run(straight, LoopConfig(seed=4))
    for step in range(1, 8):
        with pytest.raises(Cancelled):
            run(Lines(), LoopConfig(seed=4), stop_at(step), StateFolder(tmp_path, "k" * 64))
    again = Lines()
    run(again, LoopConfig(seed=4), store=StateFolder(tmp_path, "k" * 64))
    assert again.seen == []
    assert again.values() == straight.values()


class Stops(Lines):
    """Cancelled from inside of a forward pass, or by a key in the middle of a step."""

    def __init__(self, at_pass: int, error: type[BaseException] = Cancelled) -> None:
        super().__init__()
        self.at_pass, self.error = at_pass, error

    def losses(self, phase: Phase, generator: torch.Generator) -> Mapping[str, Tensor]:
        if len(self.seen) == self.at_pass:
            raise self.error
        return super().losses(phase, generator)


@pytest.mark.parametrize("at_pass", range(7))
@pytest.mark.parametrize("error", [Cancelled, KeyboardInterrupt])
def test_cancel_in_a_forward_pass_keeps_the_steps_before(
    tmp_path: Path, at_pass: int, error: type[BaseException]
) -> None:
    straight = Lines()
    run(straight, LoopConfig())
    stopped = Stops(at_pass, error)
    with pytest.raises(error):
        run(stopped, LoopConfig(), store=StateFolder(tmp_path, "k" * 64))
    assert stopped.inside == 0
    assert len(StateFolder(tmp_path, "k" * 64).files()) == (1 if at_pass else 0)
    again = Lines()
    run(again, LoopConfig(), store=StateFolder(tmp_path, "k" * 64))
    assert len(again.seen) == 7 - at_pass
    assert again.values() == straight.values()


def test_a_key_in_the_middle_of_an_update_saves_no_half_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    straight = Lines()
    run(straight, LoopConfig(save_every=2))
    updates = []
    real = torch.optim.AdamW.step

    def step(self: torch.optim.AdamW) -> None:
        real(self)
        updates.append(1)
        if len(updates) == 4:  # the parameters have moved, the step is not counted yet
            raise KeyboardInterrupt

    store = StateFolder(tmp_path, "k" * 64)
    with monkeypatch.context() as patched:
        patched.setattr(torch.optim.AdamW, "step", step)
        with pytest.raises(KeyboardInterrupt):
            run(Lines(), LoopConfig(save_every=2), store=store)
    assert "in the middle of a step" in caplog.text
    assert [f.name for f in store.files()] == ["state-00000002.safetensors"]
    again = Lines()
    run(again, LoopConfig(save_every=2), store=store)
    assert again.values() == straight.values()


def test_cancel_while_a_preview_is_drawn_keeps_its_step(tmp_path: Path) -> None:
    def draw(step: int) -> None:
        if step == 4:
            raise Cancelled

    config = LoopConfig(preview_every=2)
    straight = Lines()
    run(straight, config)
    with pytest.raises(Cancelled):
        run(Lines(), config, Events(on_preview=draw), StateFolder(tmp_path, "k" * 64))
    again, drawn = Lines(), []
    events = Events(on_preview=drawn.append)
    run(again, config, events, StateFolder(tmp_path, "k" * 64))
    assert drawn == [6]
    assert again.values() == straight.values()


def test_previews_are_reported_with_their_step() -> None:
    told = []

    def progress(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        told.append((step, total, None if preview is None else float(preview), message))

    events = Events(progress, on_preview=lambda step: torch.tensor(float(step)))
    run(Lines(), LoopConfig(preview_every=3), events)
    assert [(step, total, shown) for step, total, shown, _ in told] == [
        (step, 7, float(step) if step in (3, 6) else None) for step in range(1, 8)
    ]
    assert told[0][3].startswith("handles: loss ")
    assert told[-1][3].endswith("0 s left")


def test_without_a_folder_a_run_can_be_cancelled_too() -> None:
    recipe = Lines()
    with pytest.raises(Cancelled):
        run(recipe, LoopConfig(), stop_at(2))
    assert recipe.inside == 0


def test_no_step_is_saved_twice(tmp_path: Path) -> None:
    """The state of a large model is gigabytes."""
    saved = []

    class Counts(StateFolder):
        def save(self, state: LoopState, parameters: Mapping[str, nn.Parameter]) -> str:
            saved.append(state.step)
            return super().save(state, parameters)

    for _ in range(2):  # the second run finds itself finished
        run(Lines(), LoopConfig(save_every=7), store=Counts(tmp_path, "k" * 64))
    assert saved == [7]
    run(Lines(), LoopConfig(save_every=5), store=Counts(tmp_path, "l" * 64))
    assert saved == [7, 5, 7]


def test_a_step_of_several_passes_can_be_cancelled_between_them(tmp_path: Path) -> None:
    """A step that is not whole is taken anew, to the same numbers."""
    whole, stopped = Lines(), Lines()
    config = LoopConfig(accumulation=3)
    run(whole, config)

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        assert total == 7
        if len(stopped.seen) == 7:  # in the middle of step 3
            assert (step, message) == (2, "")
            raise Cancelled

    store = StateFolder(tmp_path, "k" * 64)
    with pytest.raises(Cancelled):
        run(stopped, config, Events(progress), store)
    assert len(stopped.seen) == 7
    resumed = Lines()
    run(resumed, config, store=store)
    assert len(resumed.seen) == 15
    assert resumed.values() == whole.values()
