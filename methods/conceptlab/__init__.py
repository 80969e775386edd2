"""ConceptLab: a new member of a category that none of its members is (Richardson et al., ACM TOG
2024, arXiv 2308.02669; official code kfirgoldberg/ConceptLab, commit f94f43c, MIT).

One token vector is trained. Each step puts it into a random sentence, predicts an image embedding
with the diffusion prior, and compares it with the embeddings of the same sentence for the category
(closer) and for named members of it (farther). A VQA model names the member that the concept
currently resembles; this word becomes another negative.

    ours                    theirs                  where
    handle                  v*, S*                  concepts/handles.py
    `imagine`               P(E_y(v*))              vision/ports.py, vision/prior.py
    `meanings`              E_y(c), c in C          no prior comes in: constraints stay broad
    `look_at`               E_im(c)                 pictures of parents
    positive_loss           1 - S(C_pos, v*)        losses.py, with the code's ceiling
    negative_loss           (S + S_max)(C_neg) / 2  losses.py, with the code's floor
    mix_loss                L_mix                   losses.py, by the paper
    positive_weight         lambda                  config.py
    Negatives               adaptive negatives      questions.py

Not reproduced: two faults of the official code (docs/notation.md). Style templates have the
subjects of the official ones in plainer words.
"""

from .config import (
    OFFICIAL_LOOP,
    ConceptKind,
    ConceptLabConfig,
    EvolutionConfig,
    Initialiser,
    NegativesConfig,
    style_config,
    text_space_config,
)
from .evolution import LINEAGE, describe_lineage, parents_from_concepts, parents_from_photographs
from .inputs import SpaceDefaults, parsed_number, weighted_words
from .learn import Invented, evolve, invent
from .recipe import SIMILARITY, ConceptLab, Evolution, Parent, SamplingContext

__all__ = [
    "LINEAGE",
    "OFFICIAL_LOOP",
    "SIMILARITY",
    "ConceptKind",
    "ConceptLab",
    "ConceptLabConfig",
    "Evolution",
    "EvolutionConfig",
    "Initialiser",
    "Invented",
    "NegativesConfig",
    "Parent",
    "SamplingContext",
    "SpaceDefaults",
    "describe_lineage",
    "evolve",
    "invent",
    "parents_from_concepts",
    "parents_from_photographs",
    "parsed_number",
    "style_config",
    "text_space_config",
    "weighted_words",
]
