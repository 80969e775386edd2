"""Every setting of Personalized Residuals; the paper's values, or ours where it has none."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError
from ...training.adapters import Start
from ...training.common_settings import (
    LARGEST_SEED,
    MOST_STEPS,
    SMALLEST_RATE,
    checkpointing_setting,
    rate_setting,
    steps_setting,
)
from ...training.setting import check_settings, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalizedResidualsConfig:
    """The whole recipe (paper, Sec. 3.1 and "Implementation details")."""

    steps: int = steps_setting(
        150, "Training steps. Few give little likeness; many also learn the background.", minimum=1
    )
    batch_size: int = setting(
        4,
        help="Pictures per step. More give steadier gradients and need more memory.",
        minimum=1,
        maximum=MOST_STEPS,
    )
    learning_rate: float = rate_setting(  # of the residuals; AdamW, constant
        1e-3,
        "Learning rate of the residuals. Too low: no likeness. Too high: every picture looks "
        "like the training pictures, or the loss diverges.",
        option="rate",
    )
    ratio: float = setting(  # of a layer's width; from 1 on the rank
        0.05,
        help="Rank of a residual as a share of its layer's width. 0.05 is 16 to 64 on SD 1.5 "
        "and a file of 5 MB; 0.01 is 1 MB. Values from 1 on are the rank itself.",
        minimum=SMALLEST_RATE,
        maximum=1024.0,
        step=SMALLEST_RATE,
        rounding=False,
    )
    seed: int = setting(
        0,
        help="The same seed and inputs give the same concept, bit for bit.",
        minimum=0,
        maximum=LARGEST_SEED,
        is_limit=False,
    )
    resolution_px: int = setting(
        0,
        help="Training resolution: side of the square crop from the centre of every picture. "
        "Use the model's native size: 512 for SD 1.5, 768 for SD 2.1, 1024 for SDXL, Anima, "
        "Z-Image and Krea 2, 128 for TinyWorld. Larger takes long and much memory and teaches a "
        "scale that the model never draws; smaller loses detail. 0 keeps the size of the pictures.",
        option="resolution",
        minimum=0,
        maximum=MOST_STEPS,
    )
    checkpointing: bool = checkpointing_setting()
    start: Start = setting(  # the paper draws both factors and gives no scale
        Start.KAIMING,
        help="Initialisation of the factors. Kaiming and gaussian leave the model unchanged at "
        "first; both random follows the paper, with a small second factor.",
        is_advanced=True,
    )
    rare_token: str = setting(
        "ktn",
        help="A token without meaning to the model; the name takes over its vector. Empty "
        "picks one at random.",
        is_advanced=True,
    )
    train_handle: bool = setting(  # the paper does not say whether V* learns
        False,
        help="On: also trains the name's embedding. Off: trains only the residuals.",
        is_advanced=True,
    )
    handle_rate: float = rate_setting(
        5e-4, "Learning rate of the name's embedding, if it is trained.", is_advanced=True
    )
    prompt: str = setting(
        "a photo of a {}",
        help="Prompt of pictures without a caption; {} stands for name and class word.",
        is_advanced=True,
    )
    flip: float = setting(
        0.0,
        help="Probability that a step mirrors a picture. 0 for text or objects with a left and "
        "a right side, 1 always mirrors.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        is_advanced=True,
    )
    accumulation: int = setting(
        1,
        help="Forward passes per step. More give steadier gradients and take longer, without "
        "more memory.",
        minimum=1,
        maximum=MOST_STEPS,
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        check_settings(self)
        if "{}" not in self.prompt:
            raise ConfigError("prompt", self.prompt, "a text with {} where the concept stands")
