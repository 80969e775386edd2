"""CLiC: a detail of an object, learned in its context, to be carried onto another object (Safaee
et al., CVPR 2024, arXiv 2311.17083; official code Mehdi0xC/clic, commit a5649f6, no licence).

One picture, the mask of a detail (the ornament of a chair), one new word for it. The loss looks at
the detail and, less, at what carries it; the word's attention is pulled onto the mask; and the
region alone is denoised beside it, so that the word holds what it looks like and not only where.

    ours                      theirs          where
    handle                    v*              concepts/handles.py
    mask                      M_s             dataset.py     on the grid of the latents, soft
    soft_mask                 M_soft          scenes/soft_masks.py   a + (1 - a) M, a = 0.5
    _context_term             l_context       recipe.py, training/losses.py   paper Sec. 3.1
    _attention_term           l_att           recipe.py, losses.py   on CA(v*, x_t) of the up blocks
    _roi_term                 l_RoI           recipe.py      prompt c*, the same noise and t
    StartDetached             detach          attention/start_token.py

Paper and code compute l_context and l_RoI differently (docs/notation.md); `Form` chooses, the
paper's is the default. Not reproduced: altered copies of a picture (views.py) are encoded before
the first step, and a step takes one of them; latents use the mean of the VAE posterior.
"""

from .config import (
    OFFICIAL,
    OFFICIAL_LOOP,
    OFFICIAL_ROI_PROMPTS,
    PAPER_LOOP,
    CLiCConfig,
    Form,
    as_break_a_scene_loss,
    as_custom_diffusion,
)
from .learn import learn_detail
from .recipe import CLiC

__all__ = [
    "OFFICIAL",
    "OFFICIAL_LOOP",
    "OFFICIAL_ROI_PROMPTS",
    "PAPER_LOOP",
    "CLiC",
    "CLiCConfig",
    "Form",
    "as_break_a_scene_loss",
    "as_custom_diffusion",
    "learn_detail",
]
