"""What is promised of one NVIDIA H200, with random weights in bfloat16 at the papers' sizes."""

from __future__ import annotations

from dataclasses import dataclass

from conceptloom.training.phases import TOKENS, WEIGHTS

HARDWARE = "H200"
RESIDUALS, WEAVING, DECODING = "residuals", "weaving", "decoding"  # stages


@dataclass(frozen=True, slots=True)
class Target:
    """Seconds or gigabytes (10^9 bytes) that a cell of `speed gpu` may take.

    Attributes:
        cell: model and part.
        stages: whose seconds are added up; none where memory is meant.
    """

    says: str
    cell: tuple[str, str]
    stages: tuple[str, ...]
    at_most: float


TARGETS = (
    Target(
        "Break-A-Scene's 800 steps on SD 1.5 at 512 px: s on an H200 (paper: 4.5 min, A100)",
        ("sd15", "break-a-scene"), (TOKENS, WEIGHTS), 60,
    ),
    Target(
        "Personalized Residuals' 150 x 4 on SD 1.5 at 512 px: s on an H200 (paper: 3 min, A100)",
        ("sd15", "residuals"), (RESIDUALS,), 25,
    ),
    Target(
        "Weaving two concepts on SD 1.5 at 768 px, 50 steps: s on an H200 (paper: 60 s, RTX 3090)",
        ("sd15", "weave"), (WEAVING, DECODING), 10,
    ),
    Target("Low-rank training on SDXL at 1024 px: GB in use", ("sdxl", "low-rank"), (), 16),
    Target("Low-rank training on Anima at 1024 px: GB in use", ("anima", "low-rank"), (), 12),
)  # fmt: skip
