"""The loop: phases, resuming, stopping at any moment, and what is done about bad steps."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from conceptloom.errors import ConfigError, DivergedError, MemoryExhaustedError, StorageError
from conceptloom.training import paths
from conceptloom.training.checkpoints import StateFolder
from conceptloom.training.loop import is_out_of_memory, run, step_generator, summary
from conceptloom.training.recipe import Events, LoopConfig, LoopState, Phase, StepDown


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths.os, "fsync", lambda _: None)


class Cancelled(Exception):
    """What a host raises when its user cancels."""


class Lines:
    """A handle in the first phase, a weight with it in the second; targets are drawn."""

    def __init__(self, steps: Sequence[int] = (3, 4), rate: float = 0.05) -> None:
        draw = torch.Generator().manual_seed(1)
        self.handle = nn.Parameter(torch.randn(4, generator=draw))
        self.weight = nn.Parameter(torch.randn(4, generator=draw))
        self.steps, self.rate = steps, rate
        self.seen: list[tuple[str, int]] = []
        self.rows, self.checkpointing, self.inside = 2, False, 0
        self.factor: Callable[[int], float] = lambda pass_: 1.0

    def phases(self) -> Sequence[Phase]:
        first, second = self.steps
        return [
            Phase("handles", first, self.rate, [self.handle]),
            Phase("weights", second, self.rate / 2, [self.handle, self.weight]),
        ]

    def named_parameters(self) -> Mapping[str, nn.Parameter]:
        return {"handle": self.handle, "weight": self.weight}

    @contextmanager
    def computing(self, phase: Phase) -> Iterator[None]:
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    def losses(self, phase: Phase, draw: torch.Generator) -> Mapping[str, Tensor]:
        assert self.inside == 1
        factor = self.factor(len(self.seen))
        self.seen.append((phase.name, self.rows))
        target = torch.randn(self.rows, 4, generator=draw)
        near = (self.handle - target).square().mean() * factor
        terms = {"diffusion": near, "prior": 0.5 * (self.weight * self.handle).square().sum()}
        return terms if len(self.seen) % 2 else dict(reversed(terms.items()))

    def step_down(self) -> StepDown | None:
        if self.rows > 1:
            passes, self.rows = self.rows, 1
            return StepDown("one at a time", passes)
        return None

    def values(self) -> list[float]:
        return [*self.handle.tolist(), *self.weight.tolist()]


def stop_at(step: int) -> Events:
    def progress(now: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        if now == step:
            raise Cancelled

    return Events(progress)


def test_one_step_by_hand() -> None:
    recipe = Lines((1, 0), rate=0.1)
    before = recipe.handle.detach().clone()
    target = torch.randn(2, 4, generator=step_generator(5, 0))
    weight = recipe.weight.detach()
    grad = (before - target).sum(0) / 4 + weight.square() * before
    grad = grad * min(1.0, 1 / float(grad.norm()))
    # AdamW's first step: decay, then the sign of the gradient
    by_hand = before * (1 - 0.1 * 0.01) - 0.1 * grad / (grad.abs() + 1e-8)
    state = run(recipe, LoopConfig(seed=5))
    assert torch.allclose(recipe.handle, by_hand, atol=1e-6)
    assert torch.equal(recipe.weight.detach(), weight)
    row = state.history[0]
    assert (row["step"], row["phase"]) == (1, 0)
    assert row["total"] == pytest.approx(row["diffusion"] + row["prior"])
    near = float((before - target).square().mean())
    assert row["diffusion"] == pytest.approx(near)


def test_phases_follow_each_other_with_a_fresh_optimizer() -> None:
    recipe, phases = Lines((3, 4)), []
    state = run(recipe, LoopConfig(), Events(on_step=lambda row: phases.append(row["phase"])))
    assert phases == [0, 0, 0, 1, 1, 1, 1]
    assert [name for name, _ in recipe.seen] == ["handles"] * 3 + ["weights"] * 4
    assert state.optimizer is not None
    assert all(int(slot["step"]) == 4 for slot in state.optimizer.state.values())
    assert state.optimizer.param_groups[0]["lr"] == recipe.rate / 2


@pytest.mark.parametrize("steps", [(0, 2), (2, 0), (1, 1)])
def test_a_phase_may_have_no_steps(steps: tuple[int, int]) -> None:
    recipe = Lines(steps)
    assert run(recipe, LoopConfig()).step == 2
    names = ["handles"] * steps[0] + ["weights"] * steps[1]
    assert [name for name, _ in recipe.seen] == names


def test_the_same_seed_gives_the_same_numbers() -> None:
    one, same, other = Lines(), Lines(), Lines()
    assert run(one, LoopConfig(seed=1)).history == run(same, LoopConfig(seed=1)).history
    run(other, LoopConfig(seed=2))
    assert one.values() == same.values()
    assert one.values() != other.values()


def test_the_global_generator_is_left_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(Lines(), LoopConfig())
    assert torch.equal(torch.get_rng_state(), before)


def test_passes_of_a_step_differ_and_repeat() -> None:
    drawn = [torch.rand((), generator=step_generator(*key)) for key in ((0, 1), (0, 1, 1), (1, 1))]
    assert len({float(value) for value in drawn}) == 3
    assert float(torch.rand((), generator=step_generator(0, 1))) == float(drawn[0])


# Resuming


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

    def losses(self, phase: Phase, draw: torch.Generator) -> Mapping[str, Tensor]:
        if len(self.seen) == self.at_pass:
            raise self.error
        return super().losses(phase, draw)


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


def test_previews_are_told_with_their_step() -> None:
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


# Gradients


def test_accumulation_equals_a_bigger_batch() -> None:
    class Fixed(Lines):
        """Both passes together see the rows of the one."""

        def __init__(self, parts: int) -> None:
            super().__init__((3, 3))
            self.parts = parts

        def losses(self, phase: Phase, draw: torch.Generator) -> Mapping[str, Tensor]:
            number, part = divmod(len(self.seen), self.parts)
            self.seen.append((phase.name, part))
            rows = torch.randn(4, 4, generator=torch.Generator().manual_seed(number))
            mine = rows.chunk(self.parts)[part]
            near = (self.handle + self.weight - mine).square().mean()
            return {"diffusion": near}

    whole, parts = Fixed(1), Fixed(2)
    history = run(whole, LoopConfig(accumulation=1)).history
    in_parts = run(parts, LoopConfig(accumulation=2)).history
    assert parts.values() == pytest.approx(whole.values(), abs=1e-6)
    assert [r["total"] for r in in_parts] == pytest.approx([r["total"] for r in history])


def test_gradients_are_clipped_to_the_norm_and_not_below() -> None:
    norms = []

    class Watched(Lines):
        def phases(self) -> Sequence[Phase]:
            return [Phase("handles", 1, 0.1, [self.handle, self.weight])]

    def norm_after(clip: float, scale: float = 1.0) -> float:
        recipe = Watched()
        run(recipe, LoopConfig(clip=clip, loss_scale=scale))
        grads = torch.cat([recipe.handle.grad, recipe.weight.grad])  # type: ignore[list-item]
        norms.append(grads)
        return float(grads.norm())

    free = norm_after(0)
    assert free > 0.5
    assert norm_after(0.5) == pytest.approx(0.5, rel=1e-4)
    assert norm_after(2 * free) == pytest.approx(free)
    assert torch.allclose(norms[1] * free / 0.5, norms[0], rtol=1e-4)
    # the scale is out of the gradients before they are clipped
    assert norm_after(0.5, 1024.0) == pytest.approx(0.5, rel=1e-4)
    assert torch.allclose(norms[3], norms[1], rtol=1e-5)


def test_a_power_of_two_as_loss_scale_changes_no_bit() -> None:
    plain, scaled = Lines(), Lines()
    history = run(plain, LoopConfig()).history
    assert run(scaled, LoopConfig(loss_scale=1024.0)).history == history
    assert plain.values() == scaled.values()


class Overflowing(Lines):
    """Gradients of some passes are infinite, their losses are not."""

    def __init__(self, bad: Callable[[int], bool], steps: tuple[int, int] = (30, 0)) -> None:
        super().__init__(steps)
        self.bad = bad

    def losses(self, phase: Phase, draw: torch.Generator) -> Mapping[str, Tensor]:
        bad = self.bad(len(self.seen))
        terms = dict(super().losses(phase, draw))
        if bad:
            terms["overflow"] = (self.handle - self.handle.detach()).abs().sqrt().sum() * 0 + (
                self.handle.sum() * math.inf - self.handle.sum().detach() * math.inf
            ).nan_to_num(0)
            terms["overflow"].register_hook(lambda grad: grad * math.inf)
        return terms


def test_an_overflow_under_loss_scaling_skips_the_step_only() -> None:
    recipe = Overflowing(lambda n: n == 3)
    state = run(recipe, LoopConfig(loss_scale=1024.0))
    assert state.step == 30
    assert torch.isfinite(recipe.handle).all()
    assert state.optimizer is not None
    assert {int(slot["step"]) for slot in state.optimizer.state.values()} == {29}


def test_gradients_that_always_overflow_are_told() -> None:
    recipe = Overflowing(lambda n: n >= 2)
    with pytest.raises(DivergedError, match=r"step 22 .*gradients are not finite"):
        run(recipe, LoopConfig(loss_scale=1024.0))


def test_infinite_gradients_without_scaling_stop_at_once() -> None:
    recipe = Overflowing(lambda n: n == 2)
    with pytest.raises(DivergedError, match=r"step 3 .*gradients are not finite"):
        run(recipe, LoopConfig())
    assert torch.isfinite(recipe.handle).all()


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
    told = rf"stopped at step {at + 1} \({phase}\).*after step {at} is kept.*now {rate}, to a third"
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
    with pytest.raises(DivergedError, match="exploded, its average is") as caught:
        run(recipe, config, store=store)
    kept = store.newest()
    assert kept is not None
    assert 60 <= kept.step <= 70
    assert f"after step {kept.step} is kept" in str(caught.value)
    good = exploding(steps=kept.step)
    run(good, config)
    assert recipe.values() == good.values()


def test_slow_explosions_leave_a_good_state_on_disk(tmp_path: Path) -> None:
    """States are saved often, but none from the way up pushes out the last good one."""
    config, store = LoopConfig(save_every=1), StateFolder(tmp_path, "k" * 64)
    recipe = Lines((400, 0), rate=1e-3)
    recipe.factor = lambda n: 1.0 if n < 100 else 1.06 ** (n - 100)
    with pytest.raises(DivergedError, match="exploded"):
        run(recipe, config, store=store)
    kept = store.newest()
    assert kept is not None
    assert kept.step >= 90


def test_an_explosion_without_a_folder_says_that_it_is_too_late() -> None:
    with pytest.raises(DivergedError, match="no folder was given"):
        run(exploding(), LoopConfig())


# Memory


class Crowded(Lines):
    """Runs out of memory on some passes."""

    def __init__(self, full: Callable[[int, int], bool], error: Exception) -> None:
        super().__init__()
        self.full, self.error, self.passes, self.freed = full, error, 0, []

    def losses(self, phase: Phase, draw: torch.Generator) -> Mapping[str, Tensor]:
        self.passes += 1
        if self.full(self.passes, self.rows):
            raise self.error
        return super().losses(phase, draw)

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


def test_out_of_memory_with_nothing_to_give_ends_with_advice() -> None:
    recipe = Crowded(lambda n, rows: n == 2, ERRORS[0])
    recipe.rows = 1
    with pytest.raises(MemoryExhaustedError, match="nothing left to give"):
        run(recipe, LoopConfig())


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
    assert "state after step 3 was not saved" in caplog.text
    assert "the disk is full" in caplog.text
    files = StateFolder(tmp_path, "k" * 64).files()
    assert files[0].name == "state-00000002.safetensors"


def test_a_disk_that_has_room_again_is_used(tmp_path: Path) -> None:
    store = FullDisk(tmp_path, "k" * 64)
    store.until = 5
    run(Lines(), LoopConfig(save_every=1), store=store)
    assert store.files()[0].name == "state-00000007.safetensors"


def test_cancelling_with_a_full_disk_is_told(tmp_path: Path) -> None:
    store = FullDisk(tmp_path, "k" * 64)
    with pytest.raises(StorageError, match="disk is full") as caught:
        run(Lines(), LoopConfig(save_every=2), stop_at(5), store)
    assert isinstance(caught.value.__context__, Cancelled)
    assert store.files()[0].name == "state-00000002.safetensors"


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accumulation", 0),
        ("accumulation", 1.5),
        ("clip", -1.0),
        ("clip", math.nan),
        ("weight_decay", math.inf),
        ("save_every", -1),
        ("preview_every", True),
        ("loss_scale", 0.0),
        ("epsilon", math.nan),
    ],
)
def test_bad_settings_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is {value!r}; it must be"):
        LoopConfig(**{name: value})


def test_every_setting_arrives_in_the_optimizer() -> None:
    recipe = Lines((1, 0), rate=0.3)
    config = LoopConfig(betas=(0.5, 0.75), weight_decay=0.25, epsilon=1e-3)
    optimizer = run(recipe, config).optimizer
    assert optimizer is not None
    (group,) = optimizer.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"], group["eps"]) == (
        0.3,
        (0.5, 0.75),
        0.25,
        1e-3,
    )


def test_a_summary_is_the_mean_of_the_last_tenth() -> None:
    history = [{"step": i, "phase": 0, "total": float(i), "prior": 1.0} for i in range(1, 21)]
    assert summary(history) == {"steps": 20, "total": 19.5, "prior": 1.0}
    assert summary([]) == {"steps": 0}


def test_groups_of_a_phase_move_at_their_own_rates() -> None:
    class TwoRates(Lines):
        def phases(self) -> Sequence[Phase]:
            return [Phase("both", 1, 0.01, [self.weight], (([self.handle], 0.1),))]

    lines = TwoRates()
    before = lines.weight.detach().clone(), lines.handle.detach().clone()
    run(lines, LoopConfig(weight_decay=0.0, clip=0.0))
    moved = [
        (now - then).abs() for now, then in zip((lines.weight, lines.handle), before, strict=True)
    ]
    # Adam's first step is as long as the rate, whatever the gradient.
    torch.testing.assert_close(moved[0], torch.full((4,), 0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved[1], torch.full((4,), 0.1), rtol=1e-3, atol=0)
