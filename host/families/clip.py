"""CLIP text encoders, as Stable Diffusion and the priors read prompts with them."""

from __future__ import annotations

from collections.abc import Sequence

from ..conditioning import TextLayout, Token

CHUNK = 77  # rows that an encoder takes at once, start and end among them
LAYOUT = TextLayout(chunk=CHUNK, before=1)
ENCODERS = ("clip_l", "clip_g", "clip_h")  # those of SD1 and SDXL, SDXL, SD2
BY_WIDTH = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}  # width of a token vector -> encoder
# Linear layers of an encoder's layers.
LINEAR_PARTS = (
    *(f"self_attn.{part}_proj" for part in ("q", "k", "v", "out")),
    "mlp.fc1",
    "mlp.fc2",
)


def token_table(encoder: str) -> str:
    """Canonical name of the weight that holds an encoder's token vectors."""
    return f"{encoder}.text_model.embeddings.token_embedding.weight"


def content_of(tokens: Sequence[Token], end: int) -> tuple[bool, ...]:
    """Which rows stand for a piece of the prompt: none of start, end and padding.

    Args:
        tokens: of whole chunks.
        end: id of the end token; what follows it in a chunk is padding.
    """
    rows: list[bool] = []
    for start in range(0, len(tokens), CHUNK):
        chunk = list(tokens[start : start + CHUNK])
        size = chunk.index(end, 1) if end in chunk[1:] else len(chunk)
        rows += [0 < row < size for row in range(len(chunk))]
    return tuple(rows)
