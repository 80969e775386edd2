"""The loss plot: what is drawn where, and that no history breaks it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from conceptloom.viz.axes import Axis, fitting_axis, nice_ticks, tick_label
from conceptloom.viz.colors import ALARM, INK, PAPER, QUIET, RGB, contrast, series_colour
from conceptloom.viz.plots import _smoothed, loss_plot


def rows(n: int, **terms: float) -> list[dict[str, float]]:
    return [{"step": i, "phase": 0, **terms} for i in range(1, n + 1)]


def where(picture: torch.Tensor, colour: RGB) -> torch.Tensor:
    """(y, x) of all pixels of a colour, [n, 2]."""
    return ((picture * 255 - torch.tensor(colour)).abs().amax(dim=-1) < 2).nonzero()


def plot_area(picture: torch.Tensor) -> torch.Tensor:
    """Without the legend."""
    return picture[40:]


@pytest.mark.parametrize("n", [0, 1, 2, 3, 50])
def test_any_number_of_steps_gives_a_picture_of_the_asked_size(n: int) -> None:
    picture = loss_plot(rows(n, total=0.1, diffusion=0.09), (500, 300))
    assert picture.shape == (300, 500, 3)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < picture.max() <= 1  # something is drawn


def test_one_step_is_a_dot() -> None:
    found = where(plot_area(loss_plot(rows(1, total=0.5))), INK)
    assert len(found) > 5
    assert (found.amax(0) - found.amin(0)).max() < 10


def test_a_constant_is_a_level_line_over_the_whole_width() -> None:
    found = where(plot_area(loss_plot(rows(40, total=0.5))), INK)
    assert found[:, 1].max() - found[:, 1].min() > 500
    assert found[:, 0].max() - found[:, 0].min() < 5


def test_a_falling_loss_falls() -> None:
    picture = plot_area(loss_plot([{"step": i, "total": 1 - i / 100} for i in range(100)]))
    found = where(picture, INK).float()
    y, x = found[:, 0], found[:, 1]
    middle = x.mean()
    assert y[x < middle].mean() + 50 < y[x > middle].mean()  # y runs down


def test_broken_steps_are_gaps_with_a_red_cross() -> None:
    history = rows(60, total=0.5)
    assert not len(where(loss_plot(history), ALARM))
    history[20]["total"], history[40]["total"] = math.nan, math.inf
    picture = loss_plot(history)
    crosses = where(picture[:100], ALARM)[:, 1]
    assert len(crosses.unique()) < 30
    assert crosses.max() - crosses.min() > 150  # two of them, 20 of 60 steps apart
    line = where(plot_area(picture), INK)[:, 1].unique()
    assert (line.diff() > 5).sum() == 2


def test_all_broken_is_still_a_plot() -> None:
    picture = loss_plot(rows(5, total=math.nan, diffusion=math.inf))
    assert len(where(picture[:100], ALARM)) > 5


def test_a_term_that_begins_later_is_not_broken() -> None:
    history = rows(20, total=0.5)
    for row in history[10:]:
        row["phase"], row["prior"] = 1, 0.1
    picture = loss_plot(history)
    assert not len(where(picture, ALARM))
    prior = where(plot_area(picture), series_colour(0))[:, 1]
    assert prior.min() > picture.shape[1] * 0.5


def test_the_second_phase_is_marked_where_it_begins() -> None:
    history = rows(101, total=0.5)
    plain = loss_plot(history)
    for row in history[50:]:
        row["phase"] = 1
    changed = (loss_plot(history) - plain).abs().amax(dim=-1)[70:300].amax(dim=0).nonzero()
    assert len(changed)
    assert changed.min() > 300  # step 51 of 101 stands at about 345 of 640 px
    assert changed.max() < 400


def test_terms_of_any_name_are_drawn_and_bookkeeping_is_not() -> None:
    named = loss_plot(rows(10, similarity=0.2))
    assert len(where(plot_area(named), series_colour(0))) > 100
    extended = rows(10, similarity=0.2, seconds=7.0, learning_rate=5e-4)
    assert torch.equal(named, loss_plot(extended))


def test_a_step_taken_twice_counts_as_the_last_time() -> None:
    again = [*rows(10, total=0.5)[:6], *rows(10, total=0.5)[3:]]
    assert torch.equal(loss_plot(again), loss_plot(rows(10, total=0.5)))


def test_ten_thousand_steps_keep_their_spike() -> None:
    history = rows(10_000, total=0.5)
    calm = loss_plot(history)
    history[5000]["total"] = 5.0
    spiked = loss_plot(history)
    column = (spiked - calm).abs().amax(dim=-1)[60:120].amax(dim=0).nonzero()
    assert len(column)


def test_smoothing_stays_within_a_phase() -> None:
    values = np.array([1.0] * 10 + [9.0] * 10)
    assert np.allclose(_smoothed(values, [0, 10]), values)
    assert not np.allclose(_smoothed(values, [0]), values)


def test_smoothing_steps_over_a_gap() -> None:
    smooth = _smoothed(np.array([2.0, 2.0, math.nan, 2.0]), [0])
    assert np.allclose(smooth[[0, 1, 3]], 2)
    assert math.isnan(smooth[2])


def test_ticks_are_round_numbers() -> None:
    assert nice_ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert nice_ticks(1, 800, 6) == pytest.approx([200, 400, 600, 800])
    assert [tick_label(t) for t in (0.0, 0.05, 200, 20_000, 1e-5)] == [
        "0",
        "0.05",
        "200",
        "20k",
        "1e-05",
    ]


def test_the_axis_is_logarithmic_only_when_the_range_demands_it() -> None:
    narrow, wide = np.linspace(0.1, 1, 50), np.geomspace(0.001, 1, 50)
    assert not fitting_axis([narrow], [narrow]).is_log
    assert not fitting_axis([wide - 0.5], [wide - 0.5]).is_log  # a logarithm has no negatives
    axis = fitting_axis([wide], [wide])
    assert axis.is_log
    assert axis.place(0.03) == pytest.approx(0.5, abs=0.05)  # the middle of 0.001..1
    assert axis.place(0.0) == 0  # below the end, at the end


def test_the_linear_axis_holds_the_curve_and_begins_at_zero() -> None:
    values = np.linspace(0.13, 0.87, 30)
    axis = fitting_axis([values], [values])
    assert (axis.low, axis.high) == pytest.approx((0, 1))
    assert axis.place(0.5) == pytest.approx(0.5)


def test_a_single_step_stands_in_the_middle() -> None:
    assert Axis.of_steps(7, 7).place(7) == 0.5


def test_colours_differ_from_each_other_and_from_paper() -> None:
    colours = [series_colour(i) for i in range(16)]
    assert len(set(colours)) == 16
    assert all(contrast(colour, PAPER) > 1.2 for colour in colours)
    assert contrast(QUIET, PAPER) >= 4.5
    assert contrast((0, 0, 0), (255, 255, 255)) == pytest.approx(21)


def test_the_order_of_the_terms_in_a_row_changes_nothing() -> None:
    """A run that goes on from a saved state has its rows in another order."""
    rows = [
        {"step": i, "total": 3.0 / i, "prior": 1.0 / i, "diffusion": 2.0 / i} for i in (1, 2, 3)
    ]
    turned = [dict(reversed(row.items())) for row in rows]
    assert torch.equal(loss_plot(rows), loss_plot(turned))
