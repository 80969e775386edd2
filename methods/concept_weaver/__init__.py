"""Concept Weaver: several learned concepts woven into one template picture (Kwon et al., CVPR 2024,
arXiv 2404.03913). There is no official code; it builds on Plug-and-Play (arXiv 2211.12572) and
Custom Diffusion (arXiv 2212.04488), and this implementation was compared with their code.

A template picture, generated or photographed, is inverted. When it is redrawn, its injected
features keep the layout, and in every cross-attention each region uses its own concept.

    ours                   theirs          where
    learn_for_bank         Step 1          learn.py, bank.py, scenes/augment.py
    Template.trajectory    z_T .. z_0      template.py, samplers/inversion.py   Step 3
    make_template          DDIM inversion  inversion.py                         Step 3
    Features               f_t^l           features.py, attention/injection.py  Step 3
    Regions.masks          M_i, M_bg       attention/regions.py                 Step 4
    WeaveRegion.prompt     p_+i, p_+bg     prompts.py                           Step 5
    Regions.sentence       p_base          prompts.py
    RegionFusion           h_fuse          attention/fusion.py                  Step 5
    suppression            lambda          config.py
    cfg, negative          omega, p_neg    config.py

The versions of the paper we had access to omit lambda, omega, the injection thresholds, the
dilation of masks and the number of inversion steps: config.py has our values with their reasons.
Deliberately different: inversion steps are refined until sampling reproduces the template
(samplers/inversion.py), so the sampler's own 50 steps replace the 999 of Plug-and-Play. Not
reproduced: the user study, and the CLIP figures, for which the authors' pictures are missing.
"""

from .config import BankConfig, InversionConfig, Keep, Mixing, RegionConfig, WeaveConfig
from .inversion import make_template
from .learn import learn_for_bank
from .regions import Regions, RegionSpec, WeaveRegion, make_regions
from .template import Template
from .weave import WeaveResult, weave

__all__ = [
    "BankConfig",
    "InversionConfig",
    "Keep",
    "Mixing",
    "RegionConfig",
    "RegionSpec",
    "Regions",
    "Template",
    "WeaveConfig",
    "WeaveRegion",
    "WeaveResult",
    "learn_for_bank",
    "make_regions",
    "make_template",
    "weave",
]
