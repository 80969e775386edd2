"""Steps of a sampling run as localised LoRAs see them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence


class Schedule:
    """Which step of a run a pass belongs to.

    Args:
        times: timesteps of the run's steps, from noise to picture; None outside of a run.
        last_t: the noisiest timestep of the model.
    """

    def __init__(self, times: Sequence[float] | None, last_t: float) -> None:
        self.times = tuple(times) if times else None
        self._close = 1e-6 * last_t  # numbers that differ less are of the same step
        self._late = self.times is not None and self.times[0] < last_t / 2

    def step(self, timestep: float) -> int:
        """Number of the step; passes between two steps belong to the earlier one."""
        assert self.times is not None
        falling = [-time for time in self.times]
        return max(0, bisect_right(falling, -timestep + self._close) - 1)

    def finding_steps(self, share: float) -> int:
        """How many steps a LoRA is looked for; one where most of the noise is gone already."""
        assert self.times is not None
        return 1 if self._late and share < 1 else max(1, int(share * len(self.times) + 1e-6))

    def second_look(self, share: float, found_at: int) -> int | None:
        """Number of the step that looks a second time.

        None where the share is 1, or where no step is left between the first masks and the last
        step, which is too late for others.

        Args:
            found_at: number of the first step with masks.
        """
        assert self.times is not None
        step = int(share * len(self.times) + 1e-6)
        return step if share < 1 and found_at <= step < len(self.times) - 1 else None

    def is_over(self, step: int, share: float) -> bool:
        """Whether a share of the run has passed before a step."""
        assert self.times is not None
        return share < 1 and step >= share * len(self.times)
