"""Personalized Residuals: one concept in a few megabytes, applied only where the concept is
(Ham et al., CVPR 2024, arXiv 2405.12978; there is no official code).

Every transformer block ends in an output projection. A residual of low rank is learned on each of
them from a few pictures, with a plain diffusion loss, no masks and no pictures of the class. When
drawing, localized attention-guided (LAG) sampling adds the residual only where the cross-attention
of the same block looks for the concept; the rest of the picture comes from the base model.

    ours                    theirs            where
    handle, class_word      V*, macro class   dataset.py       "a photo of a V* [macro class]"
    up, down                A_i, B_i          training/adapters.py   Delta W_i = A_i B_i, Sec. 3.1
    ratio                   r_i / m_i         config.py        0.05: 16, 32 and 64 on SD 1
    masked_loss             L_LDM             training/losses.py     with a mask of ones
    summed_attention        A_{i,C}           attention/lag_masks.py   Sec. 3.2
    binarised               M_i               attention/lag_masks.py   at the median
    LagEdit.layer           f^_i              attention/lag.py

On SD 1 with ratio 0.05 these are 1,239,040 numbers, 5 MB. What the paper leaves open, and what we
do (docs/notation.md): how factors are drawn, whether V* learns, how heads are reduced, and what
happens in rows of the negative prompt. Not reproduced: the study with people, CLIP and DINO scores.
"""

from .config import PersonalizedResidualsConfig
from .lag import LagSetup, Localised, lag_concept, lag_setup, residuals_of, sample_lag
from .learn import learn_residuals
from .localised_loras import by_engine, is_merged, local_lora_of
from .recipe import PersonalizedResiduals

__all__ = [
    "LagSetup",
    "Localised",
    "PersonalizedResiduals",
    "PersonalizedResidualsConfig",
    "by_engine",
    "is_merged",
    "lag_concept",
    "lag_setup",
    "learn_residuals",
    "local_lora_of",
    "residuals_of",
    "sample_lag",
]
