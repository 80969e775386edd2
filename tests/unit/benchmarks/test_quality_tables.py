"""What a gain is, and when it is sure."""

from __future__ import annotations

import pytest
from quality_tables import Measure, compared, verdict_of

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
        gain, error, things = compared(cells, "whole", "part", LIKENESS)
        assert (gain, things) == (pytest.approx(0.3), 2)
        errors.append(error)
    # (0.5 - 0.1) / sqrt(2) between the things, over sqrt(2) of them
    assert errors == [pytest.approx(0.2), pytest.approx(0.2)]


def test_seeds_that_one_variant_lacks_are_left_out() -> None:
    cells = {
        ("mug", 0, "whole"): {"leaked": [0.0, 0.5]},
        ("mug", 1, "whole"): {"leaked": [1.0]},
        ("mug", 0, "part"): {"leaked": [1.0]},
    }
    gain, _, things = compared(cells, "whole", "part", LEAKED)
    assert (gain, things) == (0.75, 1)


@pytest.mark.parametrize(
    ("gain", "error", "verdict"),
    [(0.21, 0.1, "the whole method is better"), (0.19, 0.1, "better, but within the spread"),
     (-0.21, 0.1, "**the whole method is worse**"), (1e-16, 0.07, "no difference"),
     (-0.1, 0.1, "**not better** (within the spread)")],
)  # fmt: skip
def test_two_standard_errors_count_as_sure(gain: float, error: float, verdict: str) -> None:
    assert verdict_of(gain, error) == verdict
