"""LAG sampling for the command line."""

from __future__ import annotations

from collections.abc import Sequence

from ..attention.lag import LagConfig, LagEdit
from ..concepts.concept import Stack, stacked
from ..errors import InputError
from ..host.ports import Host, UNetEdit
from ..methods.personalized_residuals import Localised, check_prompts, joined, lag_concept
from .drawing import parsed_concept


def localised(
    host: Host, options: Sequence[str], prompts: Sequence[str], quantile: float
) -> tuple[Stack, Sequence[UNetEdit]]:
    """The concepts of `--concept`: their handles, and the edit that adds residuals.

    Raises:
        ConceptLoomError: a concept cannot be localised, or a prompt lacks it.
    """
    if not options:
        raise InputError("--lag says where a concept works: load one with --concept.")
    loaded = [
        (asked.load(), LagConfig(strength=asked.strength, quantile=quantile))
        for asked in map(parsed_concept, options)
    ]
    stack = stacked([(concept, 0.0) for concept, _ in loaded])
    made = joined([lag_concept(host, Localised(concept=c, config=config)) for c, config in loaded])
    encoded = [host.encode_prompt(text, stack.handles) for text in prompts]
    check_prompts(made, {prompt.text: prompt.tokens for prompt in encoded})
    return stack, [LagEdit(made, host.noise_path.last_t)]
