"""What one kind of pass of LAG needs to know: concepts, rows, and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..host.ports import ForwardInfo, Tokens, TokenSpans, find_run, find_runs
from .context_rows import PromptRows, rows_with
from .lag_config import LagConfig, Unconditional


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LagConcept:
    """One concept for the edit.

    Attributes:
        handle: name without brackets.
        class_tokens: BPE ids of the class word; empty uses the handle alone.
        residuals: weight of an output projection -> A [m, r] and B [r, m].
        mask: [H, W], 0..1; also limits the concept. None is no limit.
    """

    handle: str
    class_tokens: Tokens
    residuals: Mapping[str, tuple[Tensor, Tensor]]
    config: LagConfig
    mask: Tensor | None = None

    @property
    def is_everywhere(self) -> bool:
        """Whether no mask of any kind limits it."""
        return not self.config.localised and self.mask is None

    def positions(self, tokens: Tokens) -> tuple[int, ...]:
        """C of the paper: the handle's tokens and the class word's; empty without the handle.

        The class word that follows the handle counts; where none does, every one in the prompt.
        """
        handle, runs = find_run(tokens, (self.handle,)), find_runs(tokens, self.class_tokens)
        following = {row for run in runs if run[0] - 1 in handle for row in run}
        places = sorted(following) or dict.fromkeys(row for run in runs for row in run)
        return (*handle, *places) if handle else ()


@dataclass(frozen=True, slots=True)
class Plan:
    """What one kind of forward pass needs: which rows and tokens to look at."""

    concepts: tuple[LagConcept, ...]  # those that are at work at this noise level
    rows: PromptRows  # by the host's own prompts
    picture_of: Tensor | None  # [B] picture of every row of the batch; None for a single one
    may_have_rows: bool  # there are some, or another pack may bring them
    is_everywhere: bool  # no mask of any kind limits any concept
    is_plain: bool  # the mask itself is all that a row takes
    shares_shape: bool  # all masks are cut from the attention in the same way
    words: Tensor  # [B, G, K] 1 at rows of the context that say a concept; of joint sites


@torch.inference_mode(False)  # a pass that autograd follows may need the same plan later
def plan_of(concepts: tuple[LagConcept, ...], info: ForwardInfo) -> Plan:
    n_rows = info.latent_shape[0]
    pictures, device = list(info.pictures or range(n_rows)), info.timesteps.device
    prompts = info.prompts or ((),) * n_rows
    rows = rows_of(concepts, prompts, pictures, info.context_length, device, info.n_pictures)
    return Plan(
        concepts,
        rows,
        torch.tensor(pictures, device=device) if len(rows.holds) > 1 else None,
        rows.exist or (info.read_context is not None and any(info.conditional)),
        all(c.is_everywhere for c in concepts),
        all(c.config.is_plain for c in concepts),
        len({c.config.shape for c in concepts}) == 1,
        _words(concepts, prompts, info.conditional, info.context_length, device),
    )


def _words(
    concepts: tuple[LagConcept, ...], prompts: Sequence[Tokens], conditional: Sequence[bool],
    context_length: int, device: torch.device,
) -> Tensor:  # fmt: skip
    """[B, G, K] 1 where a row of a positive prompt's context says a concept.

    And in all of a negative one that takes the residual everywhere.
    """
    words = torch.zeros(len(prompts), len(concepts), context_length, device=device)
    for row, tokens in enumerate(prompts):
        for g, concept in enumerate(concepts):
            if conditional[row]:
                places = concept.positions(tokens)
                words[row, g, [place for place in places if place < context_length]] = 1
            elif concept.config.unconditional is Unconditional.EVERYWHERE:
                words[row, g] = 1
    return words


def rows_of(
    concepts: tuple[LagConcept, ...],
    prompts: Sequence[Tokens],
    pictures: Sequence[int],
    context_length: int,
    device: torch.device,
    n_pictures: int = 0,
) -> PromptRows:
    places = [[_columns(c, tokens, context_length) for c in concepts] for tokens in prompts]
    return rows_with(places, pictures, len(concepts), context_length, device, n_pictures)


def _columns(concept: LagConcept, tokens: Tokens, context_length: int) -> list[int]:
    """Key positions of a concept, in every repeat of its prompt."""
    positions = concept.positions(tokens) if concept.config.localised else ()
    return [
        start + place
        for start in (range(0, context_length, len(tokens)) if tokens else ())
        for place in positions
    ]


def by_token(weights: Tensor, plan: Plan, spans: TokenSpans, inputs: Tensor) -> Tensor:
    """Weights [B, G, N] of positions -> [B, G, S] of the tokens of a sequence.

    Its text takes a residual at the words of a concept, and everywhere if no mask limits that.
    """
    tokens = spans.spread(weights, inputs.shape[1])
    if inputs.shape[1] < spans.total:
        return tokens
    tokens = tokens.expand(len(inputs), -1, -1).clone()
    text = tokens[..., spans.text]
    if len(plan.words) == len(inputs):
        text[..., : spans.words] = plan.words.to(tokens)
    for g, concept in enumerate(plan.concepts):
        if concept.is_everywhere:
            text[:, g] = 1
    return tokens
