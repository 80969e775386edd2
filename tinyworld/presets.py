"""How each method that learns from a scene learns on TinyWorld: one home of these numbers.

TinyWorld is a thousandth of Stable Diffusion: it bears, and needs, larger steps. With low-rank
changes it forgets little in so few of them, and would learn little beside class images.
"""

from __future__ import annotations

from dataclasses import replace

from ..methods.break_a_scene import BreakASceneConfig, ClassImages, TokenPhase, WeightPhase
from ..methods.clic import CLiCConfig
from ..methods.concept_weaver import BankConfig
from ..training.adapters import Scope
from .world import SIZE

CFG = 3.0  # of previews and class images
FULL_RATE = 5e-4  # of every weight
# At the paper's weight of the attention loss, words that start as shapes of one world mix.
BREAK_A_SCENE = BreakASceneConfig(
    token_phase=TokenPhase(steps=60, learning_rate=5e-3),
    weight_phase=WeightPhase(steps=240, learning_rate=3e-3, scope=Scope.LOW_RANK, rank=2),
    attention_weight=0.1,
    prior_weight=0.0,
    prior_prompt="a photo of an object",
    batch_size=4,
    resolution_px=SIZE,
)
CLASS_IMAGES = ClassImages(draw=16, steps=20, cfg=CFG)
# A third of 64 px would leave nothing to see.
BANK = BankConfig(
    token_phase=TokenPhase(steps=60, learning_rate=5e-3),
    weight_phase=WeightPhase(steps=240, learning_rate=2e-3, scope=Scope.CROSS_ATTENTION_KV),
    smallest=0.7,
    prompt="a photo of a {handle} {word}",
    batch_size=4,
    resolution_px=SIZE,
)
RATE_OF_SCOPE = {
    Scope.HANDLES: 5e-3,
    Scope.CROSS_ATTENTION_KV: 2e-3,
    Scope.CROSS_ATTENTION: 3e-4,  # all of it
    Scope.LOW_RANK: 3e-3,
    Scope.FULL: FULL_RATE,
}


def clic(config: CLiCConfig) -> CLiCConfig:
    """A recipe of CLiC with the larger steps.

    Every weight learns: in so few steps the small cross-attention alone gets an ornament's colours
    and not its pattern.
    """
    return replace(
        config,
        token_phase=TokenPhase(steps=40, learning_rate=5e-3),
        weight_phase=WeightPhase(steps=160, learning_rate=FULL_RATE, scope=Scope.FULL),
        # Colours tell ornaments apart, and these are words that the model was trained on.
        brightness=0.1,
        views=4,
        prompt="a photo of a {object} and {concept}",
        roi_prompts=("a photo of {concept}",),
        resolution_px=SIZE,
    )
