"""The training loop: phases, optimizer, gradients, and what it draws."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, DivergedError
from conceptloom.training.loop import run, step_generator, summary
from conceptloom.training.recipe import Events, LoopConfig, Phase

from .lines import Lines


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


# Gradients


def test_accumulation_equals_a_bigger_batch() -> None:
    class Fixed(Lines):
        """Both passes together see the rows of the one."""

        def __init__(self, parts: int) -> None:
            super().__init__((3, 3))
            self.parts = parts

        def losses(self, phase: Phase, generator: torch.Generator) -> Mapping[str, Tensor]:
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
        optimizer = run(recipe, LoopConfig(max_grad_norm=clip, loss_scale=scale)).optimizer
        assert optimizer is not None
        # Adam's first moment after one step is a tenth of the gradient.
        moments = [optimizer.state[p]["exp_avg"] for p in (recipe.handle, recipe.weight)]
        grads = torch.cat(moments) / (1 - LoopConfig().betas[0])
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

    def losses(self, phase: Phase, generator: torch.Generator) -> Mapping[str, Tensor]:
        bad = self.bad(len(self.seen))
        terms = dict(super().losses(phase, generator))
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


def test_gradients_that_always_overflow_are_reported() -> None:
    recipe = Overflowing(lambda n: n >= 2)
    with pytest.raises(DivergedError, match=r"step 22 .*gradients are not finite"):
        run(recipe, LoopConfig(loss_scale=1024.0))


def test_infinite_gradients_without_scaling_stop_at_once() -> None:
    recipe = Overflowing(lambda n: n == 2)
    with pytest.raises(DivergedError, match=r"step 3 .*gradients are not finite"):
        run(recipe, LoopConfig())
    assert torch.isfinite(recipe.handle).all()


# Settings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("accumulation", 0),
        ("accumulation", 1.5),
        ("max_grad_norm", -1.0),
        ("max_grad_norm", math.nan),
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
    run(lines, LoopConfig(weight_decay=0.0, max_grad_norm=0.0))
    moved = [
        (now - then).abs() for now, then in zip((lines.weight, lines.handle), before, strict=True)
    ]
    # Adam's first step is as long as the rate, whatever the gradient.
    torch.testing.assert_close(moved[0], torch.full((4,), 0.01), rtol=1e-3, atol=0)
    torch.testing.assert_close(moved[1], torch.full((4,), 0.1), rtol=1e-3, atol=0)
