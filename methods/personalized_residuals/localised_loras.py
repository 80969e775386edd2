"""Concepts that change more than output projections, by the engine of localised LoRAs.

The paper's LAG knows residuals on output projections. A concept with changes elsewhere, such as
one imported from a LoRA file, is applied in its place by `attention.local`: the settings of LAG
say the same things to both engines, as far as both have them.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...attention.lag_config import LagConfig, Unconditional
from ...attention.local_lora import LocalConfig, LocalLora
from ...attention.local_masks import Cut, MaskMeans
from ...concepts.concept import Concept, check_applies, identities
from ...concepts.lora_concept import lora_of_concept
from ...errors import ConfigError
from ...host.ports import Host
from .lag import Localised, class_word_of, is_residual, single_handle

_DEFAULT = LagConfig()
# The share of positions that LAG leaves out by default is half; a cut at 0.45 of the range does
# about that for one object.
CUT_OF_QUANTILE = Cut().threshold / _DEFAULT.quantile


def by_engine(requested: Sequence[Localised]) -> tuple[list[Localised], list[Localised]]:
    """Concepts for the paper's LAG, and those for the engine of localised LoRAs."""
    residuals = [one for one in requested if is_residual(one.concept)]
    return residuals, [one for one in requested if not is_residual(one.concept)]


def is_merged(one: Localised) -> bool:
    """Whether a concept works in the whole picture, as an ordinary LoRA."""
    return not one.config.localised and one.mask is None


def local_lora_of(host: Host, one: Localised) -> LocalLora:
    """A concept as the engine of localised LoRAs takes it.

    Raises:
        BaseMismatchError: it was made for another base model.
        ConfigError: it has several handles, or a setting that only residuals have.
    """
    concept, config = one.concept, one.config
    check_applies(concept, host.fingerprint)
    handle = single_handle(concept)
    _check_settings(concept, config)
    word = (class_word_of(concept) if one.class_word is None else one.class_word).strip()
    tokens = host.tokenize(word) if word else ()
    means = MaskMeans.SOMEWHERE if config.localised else MaskMeans.EXACTLY
    return LocalLora(
        file=lora_of_concept(concept, identities(concept)[handle]),
        name=f"<{handle}>",
        words=word or (f"<{handle}>" if config.localised else ""),
        tokens=tokens or (handle,),
        trigger=(handle,) if tokens else (),
        strength=config.strength,
        text_strength=config.strength,
        config=LocalConfig(
            found_after=config.start or LocalConfig().found_after,
            end=config.end,
            cut=Cut(threshold=min(1.0, config.quantile * CUT_OF_QUANTILE)),
            mask_means=means,
        ),
        mask=one.mask,
        label=f"<{handle}>",
    )


def _check_settings(concept: Concept, config: LagConfig) -> None:
    """Edges of masks and rows of negative prompts have one way in this engine."""
    for name, value, usual in (
        ("softness", config.softness, _DEFAULT.softness),
        ("smoothing", config.smoothing, _DEFAULT.smoothing),
        ("negative_rows", config.unconditional, Unconditional.SAME),
    ):
        if value != usual:
            raise ConfigError(
                name,
                getattr(value, "value", value),
                f"{getattr(usual, 'value', usual)} for <{concept.names[0]}>, which changes more "
                "than output projections (an imported LoRA); only concepts of Personalized "
                "Residuals have this setting",
            )
