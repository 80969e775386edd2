"""Every setting of Personalized Residuals; the paper's values, or ours where it has none."""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import ConfigError
from ...training.adapters import Start
from ...training.checks import require_fraction, require_positive, require_whole


@dataclass(frozen=True, kw_only=True, slots=True)
class PersonalizedResidualsConfig:
    """The whole recipe (paper, Sec. 3.1 and "Implementation details")."""

    steps: int = 150  # optimizer steps
    batch_size: int = 4  # pictures a forward pass
    learning_rate: float = 1e-3  # of the residuals; AdamW, constant
    ratio: float = 0.05  # rank of a residual as a share of its layer's width; from 1 on the rank
    start: Start = Start.KAIMING  # the paper draws both factors and gives no scale: BOTH_RANDOM
    rare_token: str = "ktn"  # whose vectors the handle takes over; "" draws one
    train_handle: bool = False  # the paper does not say whether V* learns
    handle_rate: float = 5e-4  # of the handle's vectors, where they learn
    prompt: str = "a photo of a {}"  # of pictures without a caption; {} is "<handle> class word"
    flip: float = 0.0  # chance of a mirrored picture
    accumulation: int = 1  # forward passes an optimizer step
    checkpointing: bool = False  # recompute activations: less memory, about a third more time
    resolution_px: int = 0  # side of the square cut from the middle; 0 keeps the pictures' size
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "accumulation"):
            require_whole(name, getattr(self, name), least=1)
        for name in ("learning_rate", "handle_rate", "ratio"):
            require_positive(name, getattr(self, name))
        require_fraction("flip", self.flip)
        require_whole("resolution_px", self.resolution_px, least=0)
        if "{}" not in self.prompt:
            raise ConfigError("prompt", self.prompt, "a text with {} where the concept stands")
