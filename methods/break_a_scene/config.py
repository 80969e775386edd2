"""Every setting of Break-A-Scene; the defaults are the official ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...errors import ConfigError
from ...training.checks import require_fraction, require_positive, require_whole
from ...training.phases import TokenPhase, WeightPhase


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakASceneConfig:
    """The whole recipe."""

    token_phase: TokenPhase = field(default_factory=TokenPhase)
    weight_phase: WeightPhase = field(default_factory=WeightPhase)
    attention_weight: float = 0.01  # lambda of L_attn (train.py:403); 0 captures no maps
    attention_level: int = 0  # downsampling of the maps against the latent; 0 picks it
    prior_weight: float = 1.0  # of the prior loss; without prior images it is not computed
    prior_prompt: str = "a photo at the beach"  # of the class images (train.py:128-153)
    masked_loss: bool = True  # False: the loss sees the whole picture (ablation)
    union_sampling: bool = True  # False: one concept a step (ablation)
    prompt_prefix: str = "a photo of "  # train.py:531
    flip: float = 0.5  # chance of a mirrored picture, masks with it
    batch_size: int = 1  # pictures a forward pass, and as many class images
    accumulation: int = 1  # forward passes an optimizer step
    checkpointing: bool = False  # recompute activations: less memory, about a third more time
    resolution_px: int = 0  # side of the square of the same area; 0 keeps the picture's size
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("attention_weight", "prior_weight"):
            require_positive(name, getattr(self, name), zero=True)
        require_fraction("flip", self.flip)
        for name in ("batch_size", "accumulation"):
            require_whole(name, getattr(self, name), least=1)
        require_whole("resolution_px", self.resolution_px, least=0)
        if self.attention_level not in (0, 1, 2, 4, 8):
            raise ConfigError("attention_level", self.attention_level, "0, 1, 2, 4 or 8")
        if self.token_phase.steps + self.weight_phase.steps == 0:
            raise ConfigError("steps", 0, "at least 1 in one of the two phases")
