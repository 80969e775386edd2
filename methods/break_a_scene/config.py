"""Every setting of Break-A-Scene; the defaults are the official ones."""

from __future__ import annotations

from dataclasses import dataclass, field

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
from ...training.setting import check_settings, setting


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassImages:
    """Pictures for prior preservation that the base model draws when none are given."""

    draw: int = setting(  # train.py:150
        100,
        name="prior_pictures",
        option="class_draw",
        help="Number of class pictures that the model draws before training when none are "
        "connected. 0 disables prior preservation; fewer start sooner, more preserve more.",
        minimum=0,
        maximum=1000,
        panel=PRIOR,
    )
    prompt: str = setting(  # train.py:128-153
        "a photo at the beach",
        name="prior_prompt",
        help="Prompt of the class pictures. Choose something general that includes your concepts.",
        is_advanced=True,
        panel=PRIOR,
    )
    steps: int = setting(
        50,
        name="prior_sampling_steps",
        option="class_steps",
        help="Sampling steps of each class picture. Few are fast and rough.",
        minimum=1,
        maximum=200,
        is_advanced=True,
        panel=PRIOR,
    )
    cfg: float = setting(
        7.5,
        name="prior_cfg",
        option="class_cfg",
        help="Guidance scale of the class pictures. 1 disables guidance, 7.5 is usual; high "
        "values oversaturate.",
        minimum=1.0,
        maximum=30.0,
        step=0.5,
        is_advanced=True,
        panel=PRIOR,
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class BreakASceneConfig:
    """The whole recipe."""

    token_phase: TokenPhase = field(default_factory=TokenPhase)
    weight_phase: WeightPhase = field(default_factory=WeightPhase)
    attention_weight: float = weight_setting(  # lambda of L_attn (train.py:403)
        0.01,
        "Weight of the attention loss, which fits each name's attention to its own mask. 0 "
        "disables it: faster, but concepts mix. Far above 0.1 the shape suffers.",
        step=0.001,
    )
    prior_weight: float = weight_setting(  # without class images there is no such term
        1.0,
        "Weight of prior preservation, which keeps what the model could draw before. 0 "
        "disables it and halves the work per step; high values slow training down.",
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
        help="Downsampling factor of the attention maps in the loss, relative to the latents. Low "
        "values are finer, high ones coarser. 0 chooses: 4 as in the paper, less for small "
        "pictures.",
        choices={str(level): level for level in (0, 1, 2, 4, 8)},
        is_advanced=True,
    )
    masked_loss: bool = setting(
        True,
        help="On: learns only the areas under the masks. Off: learns the whole picture, so "
        "that the background becomes part of the concepts.",
        is_advanced=True,
    )
    union_sampling: bool = setting(
        True,
        help="On: a step shows some or all concepts together, so that prompts can combine "
        "them. Off: one concept per step.",
        is_advanced=True,
    )
    prompt_prefix: str = setting(  # train.py:531
        "a photo of ",
        help="Text before the names in training prompts. Prompts that use the names the same "
        "way work best.",
        is_advanced=True,
    )
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        check_settings(self)
        if self.token_phase.steps + self.weight_phase.steps == 0:
            raise ConfigError("token_steps + weight_steps", 0, "1 or more")
