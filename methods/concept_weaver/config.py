"""Every setting of Concept Weaver.

The versions of the paper we had access to omit lambda, omega, the thresholds and the dilation of
masks. Values come from Plug-and-Play, whose code the authors used, where it has them; the others
are ours and marked so.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from ...attention.regions import Priority
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
from ...training.setting import check_settings, setting


class Mixing(str, Enum):
    """Where concepts are mixed."""

    FEATURES = "features"  # in every cross-attention: Concept Weaver
    SCORES = "scores"  # in the predicted noise, a whole pass each: the paper's naive baseline


class Keep(str, Enum):
    """Where the template's features are stored."""

    RAM = "RAM"
    DEVICE = "GPU"  # the device that the model computes on
    NOTHING = "recompute"  # nowhere: a step computes them once more, which costs most of a pass


HANDLE, WORD = "{handle}", "{word}"  # what stands in a prompt for a concept and its word


def _stored(default: float, what: str) -> float:
    return setting(
        default,
        help=f"Share of the steps with stored {what}. 0 stores none, 1 all. The fuser recomputes "
        "features beyond it.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
        is_advanced=True,
    )


def _injected(default: float, what: str) -> float:
    return setting(
        default,
        help=f"Share of the steps that inject the template's {what}. 0 releases the layout; 1 "
        "copies it to the end and leaves concepts little of their own shape.",
        minimum=0.0,
        maximum=1.0,
        step=0.05,
    )


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
        check_settings(self)
        if self.token_phase.steps + self.weight_phase.steps == 0:
            raise ConfigError("token_steps + weight_steps", 0, "1 or more")
        if self.weight_phase.steps and self.weight_phase.scope is not Scope.CROSS_ATTENTION_KV:
            allowed = (
                "cross-attention K/V: Region Feature Fuser cannot separate other changes by region"
            )
            raise ConfigError("scope", self.weight_phase.scope.value, allowed)
        if HANDLE not in self.prompt:
            raise ConfigError("prompt", self.prompt, f"a text that contains {HANDLE}")

    def prompt_of(self, name: str, word: str) -> str:
        """Training prompt of a concept: "photo of a <my-mug> mug"."""
        return self.prompt.replace(HANDLE, f"<{name}>").replace(WORD, word).strip()


@dataclass(frozen=True, kw_only=True, slots=True)
class InversionConfig:
    """Step 3: from a picture to its noise and its features."""

    steps: int = setting(  # Plug-and-Play, config_pnp.yaml
        50,
        help="Steps of the sampler: 20 is fast, Plug-and-Play uses 50. Few steps reconstruct the "
        "picture less exactly.",
        minimum=1,
        maximum=1000,
    )
    refinements: int = setting(  # ours; Plug-and-Play makes 999 steps without any
        REFINEMENTS,
        help="Fixed-point iterations per step. 0 is plain DDIM inversion, 2 reconstructs nearly "
        "every picture, more take longer and change little.",
        minimum=0,
        maximum=50,
    )
    resnet_until: float = _stored(0.8, "ResNet features (layout)")
    attention_until: float = _stored(0.5, "queries and keys (which parts belong together)")
    resnet_blocks: tuple[int, ...] = ()  # decoder blocks; () takes 4, or as deep on other models
    attention_blocks: tuple[int, ...] = ()  # decoder blocks; () takes 4, 7, 9, or as deep
    keep: Keep = Keep.RAM

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionConfig:
    """Step 4: the parts of the picture and their concepts."""

    dilate: float = setting(  # ours, 16 px of 768
        0.02,
        help="Growth of the regions as a share of the longer side. 0 keeps the masks as they are, "
        "which distorts concepts; high values let concepts spread into the background.",
        minimum=0.0,
        maximum=0.5,
        step=0.005,
    )
    priority: Priority = setting(  # ours
        Priority.FIRST,
        help="Owner of an area under two masks: the first region, the last one as with layers of "
        "paint, or both.",
    )

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class WeaveConfig:
    """Step 5: drawing the template again with the concepts in it."""

    suppression: float = setting(  # lambda, ours
        0.2,
        help="Concept suppression (lambda): pushes away from the plain sentence. 0 only mixes, "
        "0.2 sharpens the concepts, high values oversaturate.",
        minimum=0.0,
        maximum=2.0,
        step=0.05,
    )
    cfg: float = setting(  # omega (Plug-and-Play, config_pnp.yaml)
        7.5,
        help="Guidance scale, omega in the paper. 1 disables guidance, 7.5 is usual; high values "
        "oversaturate.",
        minimum=1.0,
        maximum=30.0,
        step=0.5,
    )
    negative: str = setting(  # p_neg (the same file)
        "ugly, blurry, black, low res, unrealistic",
        help="What to avoid. The template's features are injected into this pass too.",
        is_prompt=True,
    )
    resnet_until: float = _injected(0.8, "ResNet features, which hold shapes and layout")  # pnp_f_t
    attention_until: float = _injected(  # pnp_attn_t
        0.5, "queries and keys, which hold what belongs together"
    )
    mixing: Mixing = setting(
        Mixing.FEATURES,
        help="features: one pass for all concepts, mixed inside the model. scores: a separate "
        "pass for each, mixed outside the model, without suppression; slow, and edges do not "
        "blend.",
    )

    def __post_init__(self) -> None:
        check_settings(self)
