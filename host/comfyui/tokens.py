"""The tokens behind a conditioning, so that edits can locate a handle in any prompt.

A conditioning of ComfyUI holds vectors and no text. A CLIP that knows handles writes the tokens
beside them and remembers their vectors: by these they are found where a node dropped the tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ..families.anima import PAD, ROWS
from ..ports import Tokens
from .prompt_prints import PRINTS, either, print_of

TOKENS = "conceptloom_tokens"  # entry of a conditioning's options
OWN_TEXTS = "conceptloom_own_texts"  # another: what single regions read, see `Prompt.own_texts`
ENCODE = "encode_token_weights"  # what the host calls for every prompt
T5_IDS = "t5xxl_ids"  # a third, of the host: what stands at the rows of Anima's contexts
T5_WEIGHTS = "t5xxl_weights"  # and how much each of them counts
FILLERS = {49407, 0}  # CLIP's ids of the end and of padding
HIDDEN = (
    "If it is there, a node between the text encoder and the sampler hides the words: one that "
    "encodes with another CLIP, mixes more than two prompts, adds noise, reads conditionings from "
    "a file, or keeps the prompts of regions where they cannot be read."
)


def telling_tokens(
    clip: Any, named_tokens: Callable[[Mapping[str, Any], int], Tokens], *, is_printed: bool = True
) -> None:
    """Let a CLIP, that has no other owner, write the tokens of each prompt into its conditioning.

    Args:
        named_tokens: the host's tokens of all encoders, and how many rows came of them -> `Tokens`
            of these rows.
        is_printed: False where the tokens are not those of the vectors' rows.
    """
    outer = clip.patcher.get_model_object(ENCODE)
    # A reader of own texts encodes several times; each prompt is told of once, below it.
    around = getattr(outer, "around", None)
    encode = outer.inner if around is not None else outer

    def encode_and_tell(pairs: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        context, pooled, *more = encode(pairs)
        tokens = named_tokens(pairs, context.shape[1])
        if is_printed:
            PRINTS.add(context, tokens)
        return context, pooled, {**(more[0] if more else {}), TOKENS: tokens}

    telling = encode_and_tell if around is None else around(encode_and_tell)
    clip.patcher.add_object_patch(ENCODE, telling)


def merged(readings: Sequence[Tokens]) -> Tokens:
    """What several encoders read at each position; a prompt may differ between them.

    Where they read different things, the position holds the set of them.
    """
    return tuple(_at_one_place(place) for place in itertools.zip_longest(*readings))


def _at_one_place(read: Sequence[Any]) -> Any:
    there = [token for token in read if token is not None]
    words = [token for token in there if token not in FILLERS]
    return either(words) if words else there[0]


def tokens_by_conditioning(guider: Any) -> dict[Any, tuple[int, str, Tokens]]:
    """Id of a conditioning -> number and name of its list ("positive", ...), and its tokens.

    The tokens are as many as the vectors; empty where a conditioning does not tell.
    """
    return {
        condition["uuid"]: (number, name, _tokens_of(condition))
        for number, name, condition in _conditions(guider)
        if "uuid" in condition
    }


class ContextReader:
    """Reads contexts that other packs make from prompts of their own; for one sampling run."""

    def __init__(self) -> None:
        self._known: dict[bytes, Tokens] = {}

    def __call__(self, context: Tensor) -> tuple[Tokens, ...]:
        """Tokens of every row of a context [R, K, width]; empty for one that nobody knows."""
        return tuple(self._read(row[None]) for row in context.detach())

    def _read(self, row: Tensor) -> Tokens:
        key = print_of(row).numpy().tobytes()  # every pass brings the same rows
        if key not in self._known:
            self._known[key] = PRINTS.tokens_of(row)
        return self._known[key]


def own_texts_by_conditioning(guider: Any) -> dict[Any, tuple[Any, Tensor | None]]:
    """Id of a conditioning -> what single regions read in its place, and its present vectors.

    The former is `OwnTexts`, or Anima's.
    """
    return {
        condition["uuid"]: (condition[OWN_TEXTS], condition.get("cross_attn"))
        for _, _, condition in _conditions(guider)
        if "uuid" in condition and OWN_TEXTS in condition
    }


def _conditions(guider: Any) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for number, (name, conditions) in enumerate(guider.conds.items()):
        for condition in conditions or ():
            yield number, name, condition


def _tokens_of(condition: Mapping[str, Any]) -> Tokens:
    context = condition.get("cross_attn")
    if (ids := condition.get(T5_IDS)) is not None:
        return _by_ids(ids.flatten().tolist(), condition.get(TOKENS, ()))
    if context is None or context.ndim != 3:
        return ()
    return PRINTS.tokens_of(context, condition.get(TOKENS, ()))


def _by_ids(ids: list[int], written: Tokens) -> Tokens:
    """Tokens of a context that Anima's adapter makes; handles as they were written beside it."""
    every = [*ids, *[PAD] * (ROWS - len(ids))]
    if len(written) != len(every):
        return tuple(every)
    pairs = zip(every, written, strict=True)
    return tuple(name if isinstance(name, str) else number for number, name in pairs)
