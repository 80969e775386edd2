"""LAG sampling for the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..attention.lag_config import LagConfig
from ..concepts.concept import AppliedConcepts, Concept
from ..errors import InputError
from ..host.ports import Host, UNetEdit
from ..methods.personalized_residuals import Localised, lag_setup


def localised(
    host: Host, loaded: Sequence[tuple[Concept, float]], prompts: Sequence[str], config: LagConfig
) -> tuple[AppliedConcepts, Sequence[UNetEdit]]:
    """Concepts and strengths as LAG applies them: their handles, and the edit with the residuals.

    Raises:
        ConceptLoomError: a concept cannot be localised, or a prompt lacks it.
    """
    if not loaded:
        raise InputError("--lag localises concepts; load one with --concept.")
    requested = [
        Localised(concept=concept, config=replace(config, strength=strength))
        for concept, strength in loaded
    ]
    setup = lag_setup(host, requested)
    encoded = [host.encode_prompt(text, setup.handles) for text in prompts]
    tokens = {prompt.text: prompt.tokens for prompt in encoded}
    return AppliedConcepts(dict(setup.handles), {}), [setup.edit(host.noise_path.last_t, tokens)]
