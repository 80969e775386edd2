"""Break-A-Scene: several concepts from one picture (Avrahami et al., SIGGRAPH Asia 2023,
arXiv 2305.16311; official code google/break-a-scene, commit b142cf2).

One picture, one mask per concept, one new word ("handle") per concept. Each step selects a random
subset of the concepts. The model denoises only under their masks, and a second loss fits the
attention of each word to its own mask. Phase 1 trains the words, phase 2 the words and the model.

    ours                      theirs          where
    handle                    <asset_i>       concepts/handles.py
    subset                    s = (i1 .. ik)  dataset.py     union sampling, paper Sec. 4.2
    masked_loss               L_rec           training/losses.py
    attention_loss            L_attn          losses.py      on CA(v_i, z_t), paper Sec. 4.3
    prior loss                L_prior         recipe.py      in the code, not in the paper
    TokenPhase, WeightPhase   phase 1, 2      config.py      paper Sec. 4.1

Where the official code and the paper differ, we follow the code, which produced the figures:
attention is divided by its maximum, masked-out latents count as zeros in the mean, prior
preservation is on. We do not reproduce its errors (docs/notation.md): the attention loss works
without prior images, with any batch size, resolution and aspect ratio, and nothing writes into a
softmax output. Also different: latents are the mean of the VAE posterior, not a sample, and class
images stay latents and are not compressed as JPEG.
"""

from .config import BreakASceneConfig, ClassImages, TokenPhase, WeightPhase
from .learn import learn_scene
from .recipe import BreakAScene

__all__ = [
    "BreakAScene",
    "BreakASceneConfig",
    "ClassImages",
    "TokenPhase",
    "WeightPhase",
    "learn_scene",
]
