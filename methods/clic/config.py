"""Every setting of CLiC; the defaults are the paper's, `OFFICIAL` has those of the code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum

from ...checks import require_whole
from ...errors import ConfigError
from ...training.adapters import Scope
from ...training.common_settings import (
    accumulation_setting,
    batch_size_setting,
    checkpointing_setting,
    flip_setting,
    resolution_setting,
    seed_setting,
    views_setting,
    weight_setting,
)
from ...training.phases import TokenPhase, WeightPhase
from ...training.recipe import LoopConfig
from ...training.setting import check_settings, setting

CONCEPT, OBJECT = "{concept}", "{object}"  # what stands in prompts for the handle and its bearer


class Form(str, Enum):
    """Which formula applies where the paper and the official code differ."""

    PAPER = "paper"
    OFFICIAL = "official"


# learning.py:270-278
OFFICIAL_ROI_PROMPTS = (
    "A photo of {concept}",
    "A pattern of {concept}",
    "{concept}",
    "{concept} on a blank background",
    "A photo of {concept} on a blank background",
    "{concept} style",
    "A photo of {concept} style",
    "{concept} style on a blank background",
)
FAR, NEAR = ("a far away ", "very small "), ("zoomed in ", "close up ")  # learning.py:261-264


@dataclass(frozen=True, kw_only=True, slots=True)
class CLiCConfig:
    """The whole recipe."""

    object_word: str = setting(
        "object",
        help="The object that carries the detail in your pictures: chair, bench, ring. Use a "
        "plain word that the model knows; the detail then transfers to other objects.",
    )
    # Both learn together from the first step on; a phase of the handle alone is ours, off.
    token_phase: TokenPhase = field(default_factory=lambda: TokenPhase(steps=0))
    weight_phase: WeightPhase = field(
        default_factory=lambda: WeightPhase(
            steps=500, learning_rate=1e-5, scope=Scope.CROSS_ATTENTION
        )
    )
    # The three weights are the paper's, Sec. 3.1.
    context_weight: float = weight_setting(  # of l_context
        1.0,
        "Weight of the loss on the detail together with its object. 0 removes it, and the "
        "shape of the detail suffers.",
    )
    attention_weight: float = weight_setting(  # lambda_att
        0.5,
        "Weight of the attention loss, which fits the name's attention to the mask. 0 disables "
        "it: faster, but the detail spreads over the object; high values cost likeness.",
    )
    roi_weight: float = weight_setting(  # lambda_RoI
        0.5,
        "Weight of the loss on the region alone, cut out of its picture. 0 halves the work per "
        "step and reduces likeness; values far above 1 lose the context of the detail.",
    )
    background_weight: float = setting(  # alpha of M_soft
        0.5,
        help="Weight of the area around the mask (alpha). 0 ignores it, 1 counts it like the "
        "detail itself; the paper's 0.5 learns the detail on its object.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
    )
    prompt: str = setting(  # P_s (reproduce.sh)
        "a {object} with {concept} style",
        help="Training prompt; {object} and {concept} stand for object word and name. Prompts "
        "that use the name the same way work best.",
        is_advanced=True,
    )
    roi_prompts: tuple[str, ...] = setting(
        ("A photo of {concept}",),
        help="Prompts for the region alone, one per line. Each step picks one at random.",
        option="roi_prompt",
        is_multiline=True,
        is_advanced=True,
    )
    context_form: Form = setting(
        Form.PAPER,
        help="Selects a form where the paper and the authors' code differ. paper: weights "
        "inside the square, mean over all; official: by area.",
        is_advanced=True,
    )
    roi_form: Form = setting(
        Form.PAPER,
        help="Selects a form where the paper and the authors' code differ. paper: the region "
        "of the noisy latents; official: on blank pixels, loss inside.",
        is_advanced=True,
    )
    attention_level: int = setting(  # learning.py:969
        1,
        help="Downsampling factor of the attention maps in the loss, relative to the latents. 1 "
        "is finest, as in the authors' code; 8 is too coarse for a detail.",
        choices={str(level): level for level in (1, 2, 4, 8)},
        is_advanced=True,
    )
    detach_start: bool = setting(  # no gradient through K and V of the start token
        True,
        help="On: the fixed start of every prompt does not train the model, so other prompts "
        "keep their pictures. Off: it trains the model too.",
        is_advanced=True,
    )
    brightness: float = setting(  # learning.py:166
        0.5,
        help="Range of random brightness changes in training. 0 disables them; 0.5 makes "
        "pictures half to one and a half times as bright. Use 0 where the colour matters.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        is_advanced=True,
    )
    random_scale: bool = setting(
        False,
        help="On: training also shows the picture at smaller and larger scales, with the scale "
        "in the prompt. Off: as in the authors' runs.",
        is_advanced=True,
    )
    views: int = views_setting(
        16,
        "Number of copies of each picture with random brightness, made before the first step. 1 "
        "is a single brightness; many vary more and take slightly longer to start.",
    )
    resolution_px: int = resolution_setting()
    checkpointing: bool = checkpointing_setting()
    batch_size: int = batch_size_setting()  # and as many for l_RoI
    accumulation: int = accumulation_setting()
    flip: float = flip_setting(0.5)
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        check_settings(self)
        if self.token_phase.steps + self.weight_phase.steps == 0:
            raise ConfigError("token_steps + weight_steps", 0, "1 or more")
        if not self.context_weight + self.attention_weight + self.roi_weight:
            raise ConfigError("context_weight", 0, "above 0 where the other two weights are 0")
        for name, texts in (("prompt", (self.prompt,)), ("roi_prompts", self.roi_prompts)):
            if not texts or any(CONCEPT not in text for text in texts):
                raise ConfigError(name, texts, f"a text that contains {CONCEPT}")
        if OBJECT in self.prompt and not self.object_word.strip():
            raise ConfigError(
                "object_word", "", "a word for the object that carries the concept, like chair"
            )

    def prompt_of(self, name: str) -> str:
        """P_s of a concept: "a chair with <ornament> style"."""
        return _filled(self.prompt, name, self.object_word)

    def roi_prompts_of(self, name: str) -> list[str]:
        """Prompts of the region alone: "A photo of <ornament>"."""
        return [_filled(text, name, self.object_word) for text in self.roi_prompts]


def _filled(text: str, name: str, object_word: str) -> str:
    word = object_word.strip()
    if word[:1].lower() in tuple("aeiou"):
        text = re.sub(rf"\b([Aa]) {re.escape(OBJECT)}", rf"\1n {OBJECT}", text)
    return text.replace(CONCEPT, f"<{name}>").replace(OBJECT, word)


PAPER_LOOP = LoopConfig(weight_decay=0.0)  # Adam, which is AdamW without decay
OFFICIAL = CLiCConfig(  # reproduce.sh
    context_weight=0.5,
    attention_weight=0.25,
    roi_weight=0.25,
    context_form=Form.OFFICIAL,
    roi_form=Form.OFFICIAL,
    roi_prompts=OFFICIAL_ROI_PROMPTS,
)
OFFICIAL_LOOP = LoopConfig(weight_decay=0.1)  # learning.py:497


def as_custom_diffusion(config: CLiCConfig) -> CLiCConfig:
    """The same run with the plain diffusion loss and nothing else (the code's mode "content")."""
    return replace(config, attention_weight=0.0, roi_weight=0.0, background_weight=1.0)


def as_break_a_scene_loss(config: CLiCConfig) -> CLiCConfig:
    """The same run with a hard mask and the attention loss (the code's mode "break")."""
    return replace(config, roi_weight=0.0, background_weight=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoStageConfig:
    """When two-stage generation changes from the base model to the concept (Sec. 4.1).

    The base model lays out "a photo of an OBJECT", then the tuned one draws "a photo of an OBJECT,
    with v* style". The paper gives t_s = 5 of 50; the authors published no script for it.
    """

    base_steps: int = 5  # t_s, steps of the base model alone
    steps: int = 50
    cfg: float = 7.5

    def __post_init__(self) -> None:
        require_whole("base_steps", self.base_steps, least=0)
        if self.base_steps > self.steps:
            raise ConfigError("base_steps", self.base_steps, f"at most the {self.steps} steps")
