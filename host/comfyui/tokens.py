"""Which tokens stand behind a conditioning, so that edits find a handle in any prompt.

A conditioning of ComfyUI holds vectors and no text. A CLIP that knows handles writes the tokens
beside them; they travel through every node that passes conditionings on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..ports import Tokens

TOKENS = "conceptloom_tokens"  # entry of a conditioning's options
UNKNOWN = -1  # a position that somebody else's node added
ENCODE = "encode_token_weights"  # what the host calls for every prompt


def telling_tokens(clip: Any, key: str, named_tokens: Any) -> None:
    """Let a CLIP, which nobody else holds, write the tokens of each prompt into its conditioning.

    Args:
        key: of the encoder whose tokens are written, as the host's tokens name it: "l", "g", "h".
        named_tokens: the host's tokens of that encoder -> `Tokens`.
    """
    encode = clip.patcher.get_model_object(ENCODE)

    def encode_and_tell(pairs: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        context, pooled, *more = encode(pairs)
        tokens = named_tokens(pairs[key])[: context.shape[1]]
        return context, pooled, {**(more[0] if more else {}), TOKENS: tokens}

    clip.patcher.add_object_patch(ENCODE, encode_and_tell)


def tokens_by_conditioning(guider: Any) -> dict[Any, tuple[int, str, Tokens]]:
    """Id of a conditioning -> number and name of its list ("positive", ...), and its tokens.

    The tokens are as many as the vectors; empty where a conditioning does not tell.
    """
    return {
        condition["uuid"]: (number, name, _tokens_of(condition))
        for number, name, condition in _conditions(guider)
        if "uuid" in condition
    }


def _conditions(guider: Any) -> Iterator[tuple[int, str, Mapping[str, Any]]]:
    for number, (name, conditions) in enumerate(guider.conds.items()):
        for condition in conditions or ():
            yield number, name, condition


def _tokens_of(condition: Mapping[str, Any]) -> Tokens:
    tokens, context = condition.get(TOKENS, ()), condition.get("cross_attn")
    if not tokens or context is None:
        return ()
    # Conditioning (Concat) puts another prompt's vectors behind.
    return (*tokens, *(UNKNOWN,) * (context.shape[1] - len(tokens)))[: context.shape[1]]
