"""Prepares concepts for LAG sampling, and samples with them in plain Python."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ...attention.lag import LagEdit, OnMasks
from ...attention.lag_config import LagConfig
from ...attention.lag_plan import LagConcept
from ...concepts.concept import Concept, LowRank, check_applies, identities, stacked
from ...errors import BaseMismatchError, ConfigError, InputError, PromptError
from ...host.ports import HandleVectors, Host, Progress, Tokens, find_run, no_progress
from ...host.roles import Role, is_matrix, roles_of
from ...samplers.ddim import sample_ddim

log = logging.getLogger("conceptloom")


@dataclass(frozen=True, kw_only=True, slots=True)
class Localised:
    """A concept and how to localise it."""

    concept: Concept
    config: LagConfig = field(default_factory=LagConfig)
    class_word: str | None = None  # None is the one that it was learned with; "" goes without
    mask: Tensor | None = None  # [H, W], 0..1; the residual works only inside of it too


@dataclass(frozen=True, kw_only=True, slots=True)
class LagSetup:
    """Concepts prepared for LAG, for nodes, command line and `sample_lag`.

    Attributes:
        handles: vectors of the concepts, for encoding the prompts.
        identities: identity of each handle's concept, see `concepts.concept.identities`.
    """

    concepts: tuple[LagConcept, ...]
    handles: HandleVectors
    identities: Mapping[str, str]

    def edit(
        self, last_t: float, prompts: Mapping[str, Tokens] | None = None,
        on_masks: OnMasks | None = None,
    ) -> LagEdit:  # fmt: skip
        """The edit of one sampling run, or of one forward pass.

        Args:
            last_t: timestep of pure noise.
            prompts: text or name -> tokens; None if unknown.
            on_masks: receives the masks of every block.

        Raises:
            PromptError: no prompt contains a localised concept.
        """
        if prompts is not None:
            check_prompts(self.concepts, prompts)
        return LagEdit(self.concepts, last_t, on_masks)

    def after(self, earlier: Sequence[LagConcept]) -> LagSetup:
        """Combined with concepts that are already applied to the model.

        Raises:
            ConfigError: a concept occurs twice with different settings.
        """
        return replace(self, concepts=joined([*earlier, *self.concepts]))


def lag_setup(host: Host, requested: Sequence[Localised]) -> LagSetup:
    """Check concepts against the model and each other, and prepare them for LAG.

    Raises:
        HandleError: two different concepts have the same handle.
        BaseMismatchError: a concept was trained on another base model.
        InputError: there is no concept.
        ConfigError: one changes more than output projections or has several
            handles; or one comes twice with different settings.
    """
    if not requested:
        raise InputError(
            "There is no concept to localise; connect one to LAG, or load one with --concept."
        )
    return LagSetup(
        concepts=joined([lag_concept(host, one) for one in requested]),
        handles=stacked([(one.concept, 0.0) for one in requested]).handles,
        identities={k: v for one in requested for k, v in identities(one.concept).items()},
    )


def lag_concept(host: Host, localised: Localised) -> LagConcept:
    """Convert a concept for the edit.

    Raises:
        BaseMismatchError: it was trained on another base model.
        ConfigError: it changes more than output projections, or has several handles.
    """
    concept = localised.concept
    check_applies(concept, host.fingerprint)
    handle = single_handle(concept)
    word = class_word_of(concept) if localised.class_word is None else localised.class_word
    return LagConcept(
        handle=handle,
        class_tokens=host.tokenize(word) if word.strip() else (),
        residuals=_fitting(host, concept),
        config=localised.config,
        mask=localised.mask,
    )


def single_handle(concept: Concept) -> str:
    """The one handle of a concept that is localised.

    Raises:
        ConfigError: it has several.
    """
    if len(concept.names) != 1:
        names = ", ".join(f"<{name}>" for name in concept.names)
        raise ConfigError(
            "concept",
            names,
            "a concept with one handle, since LAG localises one; apply this concept without LAG "
            "(Apply Concept), or learn each object by itself",
        )
    return concept.names[0]


def _fitting(host: Host, concept: Concept) -> dict[str, tuple[Tensor, Tensor]]:
    """Residuals of a concept, each of an output projection that the model has."""
    widths = {site.weight: site.outputs for site in host.sites.layers}
    residuals = residuals_of(concept)
    for name, (up, _) in residuals.items():
        if widths.get(name) != up.shape[0]:
            raise BaseMismatchError(
                f"<{concept.names[0]}> changes {name}, {up.shape[0]} wide, but this model has "
                f"{widths.get(name, 'no such layer')} there; load a checkpoint of the family "
                "that the concept was trained on."
            )
    return residuals


def joined(concepts: Sequence[LagConcept]) -> tuple[LagConcept, ...]:
    """Every concept once; the strengths of duplicates add up.

    Names identify concepts here; `stacked` has checked that they are unique.

    Raises:
        ConfigError: a concept occurs twice with different settings or masks.
    """
    joined_concepts: dict[str, LagConcept] = {}
    for concept in concepts:
        before = joined_concepts.get(concept.handle)
        if before is None:
            joined_concepts[concept.handle] = concept
            continue
        strength = before.config.strength + concept.config.strength
        config = replace(before.config, strength=strength)
        is_same = config == replace(concept.config, strength=strength)
        if not (
            is_same and before.class_tokens == concept.class_tokens and _same_mask(before, concept)
        ):
            raise ConfigError(
                "concept",
                f"<{concept.handle}>, applied twice with different settings",
                "applied once, or with the same mask, class word and settings each time; only "
                "strengths add up",
            )
        joined_concepts[concept.handle] = replace(before, config=config)
    return tuple(joined_concepts.values())


def _same_mask(one: LagConcept, other: LagConcept) -> bool:
    if one.mask is None or other.mask is None:
        return one.mask is other.mask
    return one.mask.shape == other.mask.shape and torch.equal(one.mask, other.mask)


def class_word_of(concept: Concept) -> str:
    """The macro class of a concept's training; "" for concepts of other methods."""
    return str(concept.recipe.get("class_word", ""))


def residuals_of(concept: Concept) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight of an output projection -> A [m, r] and B [r, m], the scale in A.

    Raises:
        ConfigError: the concept has other changes than low-rank ones of output projections.
    """
    residuals: dict[str, tuple[Tensor, Tensor]] = {}
    for name, change in concept.weights.items():
        if not (_is_projection(name) and isinstance(change, LowRank)):
            raise ConfigError(
                "concept",
                f"<{concept.names[0]}> ({concept.method}), which changes {name}",
                "a concept of Personalized Residuals, or of another method with the scope "
                "proj_out; for this one use Apply Concept",
            )
        residuals[name] = change.factors
    return residuals


def is_residual(concept: Concept) -> bool:
    """Whether a concept changes output projections by low rank and nothing else."""
    return all(
        _is_projection(name) and isinstance(change, LowRank)
        for name, change in concept.weights.items()
    )


def _is_projection(name: str) -> bool:
    return is_matrix(name) and Role.PROJ_OUT in roles_of(name)


def check_prompts(concepts: Sequence[LagConcept], prompts: Mapping[str, Tokens]) -> None:
    """Check that a prompt contains every localised concept; warn about a missing class word.

    Args:
        prompts: text or name -> tokens.

    Raises:
        PromptError: a concept is missing, so that its mask is undefined.
    """
    for concept in (c for c in concepts if c.config.localised and c.config.strength):
        name = f"<{concept.handle}>"
        holding = {text: t for text, t in prompts.items() if find_run(t, (concept.handle,))}
        if not holding:
            raise PromptError(
                f"No prompt contains {name}, so LAG cannot localise the concept; write {name} in "
                "the positive prompt, or draw without LAG (localised off, or no --lag)."
            )
        for text, tokens in holding.items():
            n_handle = len(find_run(tokens, (concept.handle,)))
            if concept.class_tokens and len(concept.positions(tokens)) == n_handle:
                log.warning(
                    "The prompt %r contains %s but not its class word, so LAG uses the attention "
                    "of %s alone; the class word after it, as in training, makes the masks "
                    "steadier.",
                    text, name, name,
                )  # fmt: skip


def sample_lag(
    host: Host,
    concepts: Sequence[Localised],
    prompts: Sequence[str],
    noise: Tensor,
    *,
    negative: str = "",
    steps: int = 50,
    cfg: float = 7.5,
    on_masks: OnMasks | None = None,
    progress: Progress = no_progress,
) -> Tensor:
    """Latents [B, C, h, w] with every concept only where it is, DDIM.

    Args:
        prompts: one per row of `noise`, or one for all; handles in angle brackets.
        noise: [B, C, h, w] of unit variance.
        on_masks: receives every block's masks of every step.

    Raises:
        PromptError: no prompt contains a concept.
    """
    setup = lag_setup(host, concepts)
    encoded = [host.encode_prompt(text, setup.handles) for text in prompts]
    tokens = {prompt.text: prompt.tokens for prompt in encoded}
    return sample_ddim(
        host,
        encoded,
        host.encode_prompt(negative, setup.handles),
        noise,
        steps=steps,
        cfg=cfg,
        edits=[setup.edit(host.noise_path.last_t, tokens, on_masks)],
        progress=progress,
    )
