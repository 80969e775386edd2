"""Every setting of Break-A-Scene; the defaults are the official ones."""

from __future__ import annotations

from dataclasses import dataclass, field

from ...checks import require_fraction, require_positive, require_whole
from ...errors import ConfigError
from ...training.common_settings import (
    PRIOR,
    accumulation_setting,
    batch_size_setting,
    checkpointing_setting,
    flip_setting,
    resolution_setting,
    seed_setting,
    weight_setting,
)
from ...training.phases import TokenPhase, WeightPhase
from ...training.setting import setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassImages:
    """Pictures for prior preservation that the base model draws when none are given."""

    draw: int = setting(  # train.py:150
        100,
        name="prior_pictures",
        option="class_draw",
        help="How many pictures the model draws beforehand to be held to, when none are "
        "connected. 0 does without; fewer start sooner.",
        minimum=0,
        maximum=1000,
        panel=PRIOR,
    )
    prompt: str = setting(  # train.py:128-153
        "a photo at the beach",
        name="prior_prompt",
        help="What those pictures show. Something general that your concepts belong to.",
        is_advanced=True,
        panel=PRIOR,
    )
    steps: int = setting(
        50,
        name="prior_sampling_steps",
        option="class_steps",
        help="Sampling steps of each of those pictures. Few are quick and rough.",
        minimum=1,
        maximum=200,
        is_advanced=True,
        panel=PRIOR,
    )
    cfg: float = setting(
        7.5,
        name="prior_cfg",
        option="class_cfg",
        help="Guidance of those pictures. 1 is none, 7.5 usual; high is harsh.",
        minimum=1.0,
        maximum=30.0,
        step=0.5,
        is_advanced=True,
        panel=PRIOR,
    )

    def __post_init__(self) -> None:
        require_whole("prior_pictures (class_draw)", self.draw, least=0)
        require_whole("prior_sampling_steps (class_steps)", self.steps, least=1)
        require_positive("prior_cfg (class_cfg)", self.cfg)


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakASceneConfig:
    """The whole recipe."""

    token_phase: TokenPhase = field(default_factory=TokenPhase)
    weight_phase: WeightPhase = field(default_factory=WeightPhase)
    attention_weight: float = weight_setting(  # lambda of L_attn (train.py:403)
        0.01,
        "How hard each name's attention is pulled onto its own mask. 0 does not look at it: "
        "faster, and the names mix. Much above 0.1 shape suffers.",
        step=0.001,
    )
    prior_weight: float = weight_setting(  # without class images there is no such term
        1.0,
        "How hard the model is held to what it could draw before. 0 lets it forget, and halves "
        "the work of a step; large values slow the learning down.",
        panel=PRIOR,
    )
    class_images: ClassImages = field(default_factory=ClassImages)
    resolution_px: int = resolution_setting()
    checkpointing: bool = checkpointing_setting()
    batch_size: int = batch_size_setting()  # and as many class images
    accumulation: int = accumulation_setting()
    flip: float = flip_setting(0.5)
    attention_level: int = setting(
        0,
        help="Where attention is compared with the masks: latents made this many times smaller. "
        "0 chooses: 4 as in the paper, less for small pictures.",
        choices={str(level): level for level in (0, 1, 2, 4, 8)},
        is_advanced=True,
    )
    masked_loss: bool = setting(
        True,
        help="On: only what the masks cover is learned. Off: the whole picture, background and "
        "all, sticks to the names.",
        is_advanced=True,
    )
    union_sampling: bool = setting(
        True,
        help="On: steps show some or all concepts together, so that they can be drawn together. "
        "Off: one at a time.",
        is_advanced=True,
    )
    prompt_prefix: str = setting(  # train.py:531
        "a photo of ",
        help="What stands before the names while learning. Use the names in prompts like it.",
        is_advanced=True,
    )
    seed: int = seed_setting()

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
