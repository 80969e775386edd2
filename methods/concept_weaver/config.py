"""Every setting of Concept Weaver.

The paper's texts that we could read leave out lambda, omega, the thresholds and how far masks are
dilated. Where Plug-and-Play, whose code the authors used, has a value, it is taken from there; the
others are ours and say so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ...attention.regions import Priority
from ...checks import require_fraction, require_positive, require_whole
from ...errors import ConfigError
from ...samplers.inversion import REFINEMENTS
from ...scenes.augment import SMALLEST
from ...training.adapters import Scope
from ...training.common_settings import (
    accumulation_setting,
    batch_size_setting,
    checkpointing_setting,
    flip_setting,
    resolution_setting,
    seed_setting,
    views_setting,
)
from ...training.phases import TokenPhase, WeightPhase
from ...training.setting import setting


class Mixing(str, Enum):
    """Where concepts meet."""

    FEATURES = "features"  # in every cross-attention: Concept Weaver
    SCORES = "scores"  # in the predicted noise, a whole pass each: the paper's naive baseline


class Keep(str, Enum):
    """Where the template's features wait until they are used."""

    RAM = "RAM"
    DEVICE = "GPU"  # the device that the model computes on
    NOTHING = "recompute"  # nowhere: a step computes them once more, which costs most of a pass


HANDLE, WORD = "{handle}", "{word}"  # what stands in a prompt for a concept and its word


@dataclass(frozen=True, kw_only=True, slots=True)
class BankConfig:
    """Step 1: how a concept of the bank is learned."""

    # Handles, K and V learn together from the first step on; a phase of handles alone is ours, off.
    token_phase: TokenPhase = field(default_factory=lambda: TokenPhase(steps=0))
    weight_phase: WeightPhase = field(  # both numbers: paper, implementation details
        default_factory=lambda: WeightPhase(
            steps=500, learning_rate=1e-5, scope=Scope.CROSS_ATTENTION_KV
        )
    )
    smallest: float = setting(
        round(SMALLEST, 3),  # a third, as a widget can hold it
        help="Minimum scale of the random sizes in training, as a share of the side; pictures "
        "appear at random places on grey. 1 keeps the size: the concept then fits only regions "
        "of its own size.",
        minimum=0.05,
        maximum=1.0,
        step=0.001,
        rounding=0.001,
    )
    prompt: str = setting(  # TweedieMix's; the word may be empty
        f"photo of a {HANDLE} {WORD}",
        help="Training prompt; {handle} and {word} stand for the name and its initial word. "
        "Regions uses the same form.",
        is_advanced=True,
    )
    views: int = views_setting(  # ours
        16,
        "Number of copies of each picture with random size and place, made before the first step. "
        "1 is a single size and place; many vary more and take slightly longer to start.",
    )
    resolution_px: int = resolution_setting()
    checkpointing: bool = checkpointing_setting()
    batch_size: int = batch_size_setting()
    accumulation: int = accumulation_setting()
    flip: float = flip_setting(0.0)  # half of them in Custom Diffusion (hflip)
    seed: int = seed_setting()

    def __post_init__(self) -> None:
        for name in ("batch_size", "accumulation", "views"):
            require_whole(name, getattr(self, name), least=1)
        require_whole("resolution_px", self.resolution_px, least=0)
        for name in ("smallest", "flip"):
            require_fraction(name, getattr(self, name))
        if self.token_phase.steps + self.weight_phase.steps == 0:
            raise ConfigError("steps", 0, "at least 1 in one of the two phases")
        if self.weight_phase.steps and self.weight_phase.scope is not Scope.CROSS_ATTENTION_KV:
            allowed = (
                "cross-attention K/V: Region Feature Fuser cannot separate other changes by region"
            )
            raise ConfigError("scope", self.weight_phase.scope.value, allowed)
        if HANDLE not in self.prompt:
            raise ConfigError("prompt", self.prompt, f"a text that contains {HANDLE}")

    def prompt_of(self, name: str, word: str) -> str:
        """What teaches a concept: "photo of a <my-mug> mug"."""
        return self.prompt.replace(HANDLE, f"<{name}>").replace(WORD, word).strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class InversionConfig:
    """Step 3: from a picture to its noise and its features."""

    steps: int = 50  # of the sampler (Plug-and-Play, config_pnp.yaml)
    refinements: int = REFINEMENTS  # ours; Plug-and-Play makes 999 steps without any
    resnet_until: float = 0.8  # share of the steps whose ResNet features are kept
    attention_until: float = 0.5  # share of the steps whose queries and keys are kept
    resnet_blocks: tuple[int, ...] = ()  # decoder blocks; () takes 4, or as deep on other models
    attention_blocks: tuple[int, ...] = ()  # decoder blocks; () takes 4, 7, 9, or as deep
    keep: Keep = Keep.RAM

    def __post_init__(self) -> None:
        require_whole("steps", self.steps, least=1)
        require_whole("refinements", self.refinements, least=0)
        if self.refinements > 50:
            raise ConfigError("refinements", self.refinements, "at most 50")
        require_fraction("resnet_until", self.resnet_until)
        require_fraction("attention_until", self.attention_until)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConfig:
    """Step 4: who has which part of the picture."""

    dilate: float = 0.02  # of the longer side; ours, 16 px of 768
    priority: Priority = Priority.FIRST  # where the masks themselves overlap; ours

    def __post_init__(self) -> None:
        require_fraction("dilate", self.dilate)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeaveConfig:
    """Step 5: drawing the template again with the concepts in it."""

    suppression: float = 0.2  # lambda, ours; 0 mixes only
    cfg: float = 7.5  # omega (Plug-and-Play, config_pnp.yaml)
    negative: str = "ugly, blurry, black, low res, unrealistic"  # p_neg (the same file)
    resnet_until: float = 0.8  # share of the steps (pnp_f_t of the same file)
    attention_until: float = 0.5  # share of the steps (pnp_attn_t of the same file)
    mixing: Mixing = Mixing.FEATURES

    def __post_init__(self) -> None:
        require_positive("suppression", self.suppression, zero=True)
        require_positive("cfg", self.cfg)
        require_fraction("resnet_until", self.resnet_until)
        require_fraction("attention_until", self.attention_until)
