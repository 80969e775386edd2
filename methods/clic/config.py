"""Every setting of CLiC; the defaults are the paper's, `OFFICIAL` has those of the code."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from enum import Enum

from ...errors import ConfigError
from ...training.adapters import Scope
from ...training.checks import require_fraction, require_positive, require_whole
from ...training.phases import TokenPhase, WeightPhase
from ...training.recipe import LoopConfig

CONCEPT, OBJECT = "{concept}", "{object}"  # what stands in prompts for the handle and its bearer


class Form(str, Enum):
    """Where paper and official code compute something else."""

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

    # Both learn together from the first step on; a phase of the handle alone is ours, off.
    token_phase: TokenPhase = field(default_factory=lambda: TokenPhase(steps=0))
    weight_phase: WeightPhase = field(
        default_factory=lambda: WeightPhase(
            steps=500, learning_rate=1e-5, scope=Scope.CROSS_ATTENTION
        )
    )
    context_weight: float = 1.0  # of l_context; all three weights are the paper's, Sec. 3.1
    attention_weight: float = 0.5  # lambda_att; 0 captures no maps
    roi_weight: float = 0.5  # lambda_RoI; 0 saves half of the forward pass
    background_weight: float = 0.5  # alpha of M_soft; 1 is the plain loss, 0 a hard mask
    context_form: Form = Form.PAPER  # M_soft inside the square; official: outside, by area
    roi_form: Form = Form.PAPER  # masked noisy latent; official: blank pixels, loss inside
    prompt: str = "a {object} with {concept} style"  # P_s (reproduce.sh)
    object_word: str = "object"  # what carries the concept in the pictures: chair, bench, ...
    roi_prompts: tuple[str, ...] = ("A photo of {concept}",)  # one of them, by chance
    attention_level: int = 1  # grid that maps are brought to, 1 = the latents' (learning.py:969)
    detach_start: bool = True  # no gradient through K and V of the start token
    brightness: float = 0.5  # factor of the colours, 1 - this to 1 + this (learning.py:166)
    flip: float = 0.5  # chance of a mirrored picture, masks with it
    random_scale: bool = False  # also larger and smaller, and the prompt says so; authors: off
    views: int = 16  # altered copies of each picture, encoded before the first step
    batch_size: int = 1  # pictures a forward pass, and as many for l_RoI
    accumulation: int = 1  # forward passes an optimizer step
    checkpointing: bool = False  # recompute activations: less memory, about a third more time
    resolution_px: int = 0  # side of the square of the same area; 0 keeps the picture's size
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("context_weight", "attention_weight", "roi_weight"):
            require_positive(name, getattr(self, name), zero=True)
        for name in ("background_weight", "brightness", "flip"):
            require_fraction(name, getattr(self, name))
        for name in ("views", "batch_size", "accumulation"):
            require_whole(name, getattr(self, name), least=1)
        require_whole("resolution_px", self.resolution_px, least=0)
        if self.attention_level not in (1, 2, 4, 8):
            raise ConfigError("attention_level", self.attention_level, "1, 2, 4 or 8")
        if self.token_phase.steps + self.weight_phase.steps == 0:
            raise ConfigError("steps", 0, "at least 1 in one of the two phases")
        if not self.context_weight + self.attention_weight + self.roi_weight:
            raise ConfigError("context_weight", 0, "above 0 where the other two weights are 0")
        for name, texts in (("prompt", (self.prompt,)), ("roi_prompts", self.roi_prompts)):
            if not texts or any(CONCEPT not in text for text in texts):
                raise ConfigError(name, texts, f"a text that holds {CONCEPT}")
        if OBJECT in self.prompt and not self.object_word.strip():
            raise ConfigError("object_word", "", "a word for what carries the concept, like chair")

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
