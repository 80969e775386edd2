"""Break-A-Scene: several concepts from one picture (Avrahami et al., SIGGRAPH Asia 2023,
arXiv 2305.16311; official code google/break-a-scene, commit b142cf2).

One picture, one mask per concept, one new word ("handle") per concept. Every step draws a random
subset of the concepts and asks the model to denoise only under their masks, while the attention of
each word is pulled onto its own mask. First only the words learn, then the model learns with them.

    ours                      theirs          where
    handle                    <asset_i>       concepts/handles.py
    subset                    s = (i1 .. ik)  union_sampling.py   union sampling, paper Sec. 4.2
    masked_loss               L_rec           training/losses.py
    attention_loss            L_attn          losses.py      on CA(v_i, z_t), paper Sec. 4.3
    prior loss                L_prior         recipe.py      in the code, not in the paper
    TokenPhase, WeightPhase   phase 1, 2      config.py      paper Sec. 4.1

Where the official code and the paper disagree we follow the code, whose numbers made the figures:
attention is divided by its maximum, masked-out latents count as zeros in the mean, prior
preservation is on. Where the code is wrong we are right instead (docs/notation.md): without prior
images the attention loss still works, any batch size, any resolution and aspect, and no write into
a softmax output. Not reproduced: latents use the mean of the VAE posterior and not a sample of it,
and class images of prior preservation stay latents and do not pass through a JPEG.
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
