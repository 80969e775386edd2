"""Every setting of Personalized Residuals; the paper's values, or ours where it has none."""

from __future__ import annotations

from dataclasses import dataclass

from ...checks import require_fraction, require_positive, require_whole
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
from ...training.setting import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalizedResidualsConfig:
    """The whole recipe (paper, Sec. 3.1 and "Implementation details")."""

    steps: int = steps_setting(150, "Few learn little; many learn the background too.", minimum=1)
    batch_size: int = setting(
        4,
        help="Pictures in a step. More need more memory.",
        minimum=1,
        maximum=MOST_STEPS,
    )
    learning_rate: float = rate_setting(  # of the residuals; AdamW, constant
        1e-3,
        "How far the residuals move in a step. Too low: no likeness. Too high: everything looks "
        "like the training pictures, or the loss explodes.",
        option="rate",
    )
    ratio: float = setting(  # of a layer's width; from 1 on the rank
        0.05,
        help="Rank of a residual as a share of its layer's width. 0.05 is 16 to 64 on SD 1.5 and "
        "a file of 5 MB; 0.01 is 1 MB; from 1 on it is the rank itself.",
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
    )
    resolution_px: int = setting(
        0,
        help="Side of the square cut from the middle of every picture; the model learns at this "
        "size. Choose the one that it draws at: 64 for TinyWorld, 512 for SD 1.5, 768 for SD 2.1, "
        "1024 for SDXL. Larger takes long and much memory and teaches a scale that it never "
        "draws; smaller loses detail. 0 keeps the pictures' own size.",
        option="resolution",
        minimum=0,
        maximum=MOST_STEPS,
    )
    checkpointing: bool = checkpointing_setting()
    start: Start = setting(  # the paper draws both factors and gives no scale
        Start.KAIMING,
        help="How the factors begin. Kaiming and gaussian leave the model as it is at first; both "
        "random is what the paper says, with a small second factor.",
        is_advanced=True,
    )
    rare_token: str = setting(
        "ktn",
        help="A word that means nothing to the model, whose vector the name takes over. Empty "
        "draws one by chance.",
        is_advanced=True,
    )
    train_handle: bool = setting(  # the paper does not say whether V* learns
        False,
        help="On: the name's vector learns too. Off: only the residuals do.",
        is_advanced=True,
    )
    handle_rate: float = rate_setting(
        5e-4, "How far the name moves, if it learns.", is_advanced=True
    )
    prompt: str = setting(
        "a photo of a {}",
        help="Of pictures without a caption; {} is name and class word.",
        is_advanced=True,
    )
    flip: float = setting(
        0.0,
        help="Chance that a step sees a picture mirrored. 0 for things with writing or a left and "
        "a right, 1 mirrors always.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        is_advanced=True,
    )
    accumulation: int = setting(
        1,
        help="Forward passes in a step: steadier and slower, with no more memory.",
        minimum=1,
        maximum=MOST_STEPS,
        is_advanced=True,
    )

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            require_whole(name, getattr(self, name), least=1)
        for name in ("learning_rate", "handle_rate", "ratio"):
            require_positive(name, getattr(self, name))
        require_fraction("flip", self.flip)
        require_whole("resolution_px", self.resolution_px, least=0)
        if "{}" not in self.prompt:
            raise ConfigError("prompt", self.prompt, "a text with {} where the concept stands")
