"""What a gain is, and when it is sure."""

from __future__ import annotations

import pytest
from harness.results import Status
from harness.statistics import (
    Expectation,
    Gain,
    Measure,
    compared,
    describe_trend,
    gain_table,
    judged,
    spread_table,
)

LIKENESS = Measure("likeness", "likeness", "cosine with the taught object")
LEAKED = Measure("leaked", "leaked", "share of pictures with one too much", is_better_high=False)


def test_more_seeds_of_the_same_things_make_nothing_surer() -> None:
    gains = {"mug": 0.5, "fish": 0.1}
    errors: list[float] = []
    for seeds in (1, 20):
        cells = {
            (thing, seed, variant): {"likeness": [0.2 + gain * (variant == "whole")]}
            for thing, gain in gains.items()
            for seed in range(seeds)
            for variant in ("whole", "part")
        }
        one = compared(cells, "whole", "part", LIKENESS)
        assert (one.gain, one.things) == (pytest.approx(0.3), 2)
        errors.append(one.error)
    # (0.5 - 0.1) / sqrt(2) between the things, over sqrt(2) of them
    assert errors == [pytest.approx(0.2), pytest.approx(0.2)]


def test_seeds_that_one_variant_lacks_are_left_out() -> None:
    cells = {
        ("mug", 0, "whole"): {"leaked": [0.0, 0.5]},
        ("mug", 1, "whole"): {"leaked": [1.0]},
        ("mug", 0, "part"): {"leaked": [1.0]},
    }
    one = compared(cells, "whole", "part", LEAKED)
    assert (one.gain, one.things) == (0.75, 1)


@pytest.mark.parametrize(
    ("gain", "error", "margin", "status"),
    [
        (0.10, 0.04, 0.00, Status.MET),
        (0.07, 0.04, 0.00, Status.UNSURE),
        (-0.10, 0.04, 0.00, Status.MISSED),
        (-0.01, 0.01, 0.05, Status.MET),  # worse, but by less than the margin
        (-0.01, 0.04, 0.05, Status.UNSURE),
        (-0.20, 0.04, 0.05, Status.MISSED),
        (0.10, float("nan"), 0.05, Status.UNSURE),  # a single thing says nothing
        (0.00, 0.00, 0.00, Status.UNSURE),
    ],
)
def test_two_standard_errors_decide(
    gain: float, error: float, margin: float, status: Status
) -> None:
    assert Gain(gain, error, 5).status(margin) is status


def test_the_power_estimate_says_how_many_things_are_needed() -> None:
    # 2.84 errors away: 4 things of error 0.1 for a gain of 0.1 become 4 * 2.84^2
    assert Gain(0.1, 0.1, 4).needed() == 33
    assert Gain(-0.1, 0.1, 4).needed() == 33
    assert Gain(0.3, 0.1, 4).needed() is None  # sure already
    assert Gain(0.0, 0.1, 4).needed() is None
    assert Gain(0.0, 0.0, 4).needed() is None
    assert Gain(0.1, float("nan"), 1).needed() is None


CELLS = {
    ("mug", 0, "whole"): {"likeness": [0.4, 0.6], "leaked": []},
    ("mug", 0, "part"): {"likeness": [0.2], "leaked": []},
    ("cup", 0, "whole"): {"likeness": [0.7], "leaked": []},
    ("cup", 0, "part"): {"likeness": [0.4], "leaked": []},
}


def test_tables_hold_means_spreads_and_gains() -> None:
    spreads = spread_table("t", CELLS, ["whole", "part", "other"], [LIKENESS, LEAKED], 2)
    assert [row["row"] for row in spreads.rows] == ["whole", "part"]
    assert spreads.value("whole", "likeness") == {
        "mean": pytest.approx(0.6), "spread": pytest.approx(0.1 * 2**0.5)
    }  # fmt: skip
    assert spreads.value("whole", "leaked") is None
    gains = gain_table("g", CELLS, "whole", ["whole", "part"], [LIKENESS])
    (row,) = gains.rows
    assert row["likeness"]["gain"] == pytest.approx(0.3)
    both = gain_table("g", CELLS, "whole", ["whole", "part"], [LIKENESS], means=True)
    assert both.value("part", "likeness")["mean"] == pytest.approx(0.3)
    assert set(both.value("whole", "likeness")) == {"mean"}


def test_expectations_without_cells_are_left_out() -> None:
    there = Expectation("it helps", "whole", "part", "likeness")
    gone = Expectation("it helps", "whole", "other", "likeness")
    (claim,) = judged(CELLS, [there, gone], [LIKENESS, LEAKED])
    assert (claim.measure, claim.found) == ("likeness, beside part", pytest.approx(0.3))
    assert claim.error == pytest.approx(0.0, abs=1e-12)
    assert claim.status is Status.MET


def test_a_trend_is_reported_with_how_many_series_show_it() -> None:
    rising = describe_trend([[1, 2, 3], [1, 3, 2.5]], "eta", (-1, 0, 1))
    assert rising.startswith("rises with eta in the mean, and in 1 of 2 series by itself")
    assert "from eta -1 to 1 by +1.7500 ± 0.2500" in rising
    falling = [[3, 2, 1]]
    text = describe_trend(falling, "t_start", (1, 2, 3))
    assert text.startswith("**does not rise** with t_start in the mean, and in 0 of 1 series")
    assert text.endswith("by -2.0000")
    text = describe_trend(falling, "t_start", (1, 2, 3), falls=True)
    assert text.startswith("falls with t_start in the mean, and in 1 of 1 series")
