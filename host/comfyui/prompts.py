"""Handles as words that ComfyUI's own tokenizers understand, and prompts encoded with them.

`<mug>` is rewritten to `embedding:<mug>`, which is how the host marks a vector in the middle of a
prompt; weights, chunks of 77 and everything else of its prompt language stay the host's business.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError, PromptError, UnsupportedModelError
from ..families.anima import ANIMA, COSMOS, QWEN, T5, T5_XXL
from ..families.clip import ENCODERS, content_of
from ..ports import HandleVectors, Prompt, Tokens
from ..prompt_text import HANDLE, MARK, MARKED, check_free, check_vectors, composed, misspelt
from ..uncompiled import as_written
from .anima_clip import KnowsHandles, knowing
from .anima_clip import named_tokens as anima_tokens
from .anima_texts import TOKENIZERS, is_anima_clip
from .llm_clip import KnowsLlmHandles
from .llm_texts import llm_of, telling_llm
from .notices import tell
from .sites import context_width_of, network_sites
from .t5_texts import is_t5_clip, tokenizer_name
from .tokens import merged, telling_tokens


class HandleTokens:
    """Mixed into the class of a tokenizer: known handles become their vectors."""

    handles: Mapping[str, Tensor]  # name -> [n, width]
    identities: Mapping[str, str]  # name -> identity of its concept
    embedding_directory: Any  # the host's own

    tells: bool  # of misspelt words; one encoder of a CLIP does

    def tokenize_with_weights(self, text: str, *args: Any, **kwargs: Any) -> Any:
        if self.tells:
            tell_misspelt(text, self.handles)
        return super().tokenize_with_weights(self._marked(text), *args, **kwargs)  # type: ignore[misc]

    def _marked(self, text: str) -> str:
        def mark(match: re.Match[str]) -> str:
            name = composed(match[1])
            # The host looks for the mark behind a space only.
            return f" {MARK}<{name}>" if name in self.handles else match[0]

        return MARKED.sub(mark, text)

    def _try_get_embedding(self, embedding_name: str) -> tuple[Any, ...]:
        match = HANDLE.match(embedding_name)
        if match is None or match[1] not in self.handles:
            return super()._try_get_embedding(embedding_name)  # type: ignore[misc]
        pair = (self.handles[match[1]], embedding_name[match.end() :].strip())
        # Since 0.16 the host also wants the name, between the two.
        return pair if self._gives_two else (pair[0], match[0], pair[1])  # type: ignore[attr-defined]


def tell_misspelt(text: str, known: Collection[str]) -> None:
    """A line on the console and on the node for words that look like handles and are none."""
    for sentence in misspelt(text, known):
        tell(sentence)


def check_spelling(clip: Any, text: str) -> None:
    """The same for a prompt that our own nodes encode with a CLIP that may know no handle.

    One that knows handles tells by itself.
    """
    inner = _inner(clip.tokenizer, encoder_names(clip)[0])
    knowing_kinds = (KnowsHandles, KnowsLlmHandles)
    if not isinstance(inner, HandleTokens) and not isinstance(clip.tokenizer, knowing_kinds):
        tell_misspelt(text, ())


def encoder_names(clip: Any) -> list[str]:
    """Text encoders of a CLIP that a model of a known family can use, in the host's order.

    Raises:
        UnsupportedModelError: there is none, or others are among them (T5, Qwen, ...).
    """
    if is_anima_clip(clip):
        return [QWEN]
    if name := llm_of(clip):
        return [name]
    if is_t5_clip(clip):
        return [T5_XXL]
    parts = {name for name, _ in clip.cond_stage_model.named_children()}
    names = [name for name in ENCODERS if name in parts and hasattr(clip.tokenizer, name)]
    if not names or parts - set(names):
        raise UnsupportedModelError(
            f"This CLIP consists of {', '.join(sorted(parts)) or 'nothing'}; ConceptLoom works "
            "with the text encoders of Stable Diffusion 1.x, 2.x and XL (clip_l, clip_g, clip_h) "
            "and with those of Anima, Z-Image and Krea 2 (Qwen3) and of Cosmos-Predict2 (T5)."
        )
    return names


def clip_with_handles(
    clip: Any, handles: HandleVectors, identities: Mapping[str, str] | None = None
) -> Any:
    """A clone of a CLIP in which `<name>` stands for the vectors of handle `name`.

    Every prompt node downstream understands them, with weights and in prompts of any length. The
    input CLIP is not modified; applied twice, both sets of handles are known.

    Args:
        identities: handle -> identity of its concept; without one its vectors tell.

    Raises:
        HandleError: a handle has no vectors for one of this CLIP's encoders, or of another width,
            or stands for another concept already.
    """
    patched = clip.clone()
    named = identities or {name: _digest(vectors) for name, vectors in handles.items()}
    if is_anima_clip(clip):
        patched.tokenizer = tokenizer = knowing(clip, handles, named, staticmethod(tell_misspelt))
        telling_tokens(patched, lambda pairs, _: _anima_tokens(tokenizer, pairs), is_printed=False)
        return patched
    if llm_of(clip):
        check_free(known_identities(clip), named)
        return telling_llm(clip, handles, named, staticmethod(tell_misspelt))
    with torch.no_grad():
        patched.tokenizer = _tokenizer_with(clip, _vectors_by_encoder(clip, handles), named)
    names = encoder_names(clip)
    known = {name: _inner(patched.tokenizer, name).handles for name in names}

    def named_tokens(pairs: Mapping[str, Any], rows: int) -> Tokens:
        by_key = {name.removeprefix("clip_"): name for name in names}
        return merged(
            [_named_tokens(pairs[key], known[by_key[key]]) for key in by_key if key in pairs]
        )[:rows]

    telling_tokens(patched, named_tokens)
    return patched


def _anima_tokens(tokenizer: Any, pairs: Mapping[str, Any]) -> Tokens:
    return anima_tokens(tokenizer, [int(token) for token, *_ in pairs[TOKENIZERS[T5]][0]])


def known_identities(clip: Any) -> dict[str, str]:
    """Handle -> identity of the concept that it stands for in a CLIP."""
    if isinstance(clip.tokenizer, KnowsHandles | KnowsLlmHandles):
        return dict(clip.tokenizer.identities)
    inner = _inner(clip.tokenizer, encoder_names(clip)[0])
    return dict(inner.identities) if isinstance(inner, HandleTokens) else {}


def encode(clip: Any, text: str, handles: HandleVectors, device: torch.device) -> Prompt:
    """One prompt with the tokens at its positions; differentiable in the handle vectors."""
    rows = _vectors_by_encoder(clip, handles)
    reader = copy.copy(clip)  # shares everything but the tokenizer
    reader.tokenizer = _tokenizer_with(clip, rows, _identities_of(clip, rows))
    pairs = reader.tokenize(text)
    # Handles that the CLIP knew already (Apply Concept) are found like those given here.
    named = [
        _named_tokens(pairs[name.removeprefix("clip_")], _inner(reader.tokenizer, name).handles)
        for name in rows
    ]
    if any(_handle_places(tokens) != _handle_places(named[0]) for tokens in named):
        raise PromptError(
            f"The text encoders cut {text!r} into chunks differently; a handle must have as many "
            "vectors in every encoder."
        )
    context, pooled = reader.encode_from_tokens(pairs, return_pooled=True)
    tokens = named[0][: context.shape[1]]
    return Prompt(
        text,
        context.to(device, torch.float32),
        tokens,
        pooled.to(device, torch.float32) if pooled is not None else None,
        content=_content(reader.tokenizer, next(iter(rows)), tokens),
    )


def token_ids(clip: Any, name: str, text: str) -> list[int]:
    """BPE ids of a text in one encoder, without start, end and padding."""
    return list(_inner(clip.tokenizer, name).tokenizer(text, add_special_tokens=False)["input_ids"])


def ids_of(clip: Any, text: str) -> dict[str, tuple[int, ...]]:
    """The same in every encoder, by the names that the host's tokenizers give them."""
    return {
        name.removeprefix("clip_"): tuple(token_ids(clip, name, text))
        for name in encoder_names(clip)
    }


def encoder_width(clip: Any, name: str) -> int:
    """Width of a token vector."""
    return getattr(clip.cond_stage_model, name).transformer.get_input_embeddings().embedding_dim


def _tokenizer_with(
    clip: Any, rows: Mapping[str, Mapping[str, Tensor]], identities: Mapping[str, str]
) -> Any:
    """A copy of a CLIP's tokenizer that knows handles; encoder -> handle -> [n, width]."""
    check_free(known_identities(clip), identities)
    outer = copy.copy(clip.tokenizer)
    for name, known in rows.items():
        inner: Any = copy.copy(_inner(outer, name))
        named = identities
        if isinstance(inner, HandleTokens):
            known, named = {**inner.handles, **known}, {**inner.identities, **named}
        else:
            inner.__class__ = _knowing_handles(type(inner))
            inner._gives_two = _gives_two(inner)
        inner.handles, inner.identities, inner.tells = known, named, name == next(iter(rows))
        if inner.embedding_directory is None:
            inner.embedding_directory = []  # without a folder the host does not look for marks
        setattr(outer, tokenizer_name(name), inner)
    return outer


def _inner(tokenizer: Any, name: str) -> Any:
    """The tokenizer of one encoder."""
    return getattr(tokenizer, tokenizer_name(name))


def _content(tokenizer: Any, name: str, tokens: Tokens) -> tuple[bool, ...]:
    if name == T5_XXL:
        return COSMOS.text.is_content(tokens)
    return content_of(tokens, _inner(tokenizer, name).end_token)


def _identities_of(clip: Any, rows: Mapping[str, Mapping[str, Tensor]]) -> dict[str, str]:
    """Identities of handles of which only vectors are known: the CLIP's own where they agree."""
    known = known_identities(clip)

    def agrees(handle: str) -> bool:
        return handle in known and all(
            torch.equal(
                _inner(clip.tokenizer, encoder).handles[handle].to(added[handle]), added[handle]
            )
            for encoder, added in rows.items()
        )

    every = next(iter(rows.values()))
    return {handle: known[handle] if agrees(handle) else "" for handle in every}


def _digest(vectors: Mapping[str, Tensor]) -> str:
    """What tells handles apart that are no part of a concept."""
    digest = hashlib.sha256()
    for encoder, rows in sorted(vectors.items()):
        digest.update(encoder.encode() + rows.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


@cache  # a prompt is encoded in every step of learning
def _knowing_handles(kind: type) -> type:
    return type(kind.__name__, (HandleTokens, kind), {})


def _gives_two(tokenizer: Any) -> bool:
    """Whether this host expects two things from `_try_get_embedding` and not three."""
    bare = copy.copy(tokenizer)
    bare.embedding_directory = []
    bare.handles = {}
    return len(bare._try_get_embedding("conceptloom-probe")) == 2


def _vectors_by_encoder(clip: Any, handles: HandleVectors) -> dict[str, dict[str, Tensor]]:
    """Encoder -> handle -> its own copy of the vectors, [n, width]."""
    rows: dict[str, dict[str, Tensor]] = {}
    for name in encoder_names(clip):
        width, rows[name] = encoder_width(clip, name), {}
        for handle, vectors in handles.items():
            check_vectors(handle, vectors, {name: width})
            rows[name][handle] = vectors[name].reshape(-1, width).clone()
    return rows


def _named_tokens(chunks: Any, rows: Mapping[str, Tensor]) -> tuple[int | str, ...]:
    """BPE id, or name of a handle, for every position of every chunk."""
    owner = {row.data_ptr(): name for name, vectors in rows.items() for row in vectors}
    # A vector that belongs to no handle came from an embedding file: the host's own business.
    return tuple(
        owner.get(token.data_ptr(), MARK) if isinstance(token, Tensor) else int(token)
        for chunk in chunks
        for token, *_ in chunk
    )


def _handle_places(tokens: tuple[int | str, ...]) -> list[tuple[int, str]]:
    return [(i, token) for i, token in enumerate(tokens) if isinstance(token, str)]


def check_widths(clip: Any, context_width: int) -> None:
    """ModelError when a CLIP cannot feed a UNet with contexts of this width."""
    names = encoder_names(clip)
    width = sum(encoder_width(clip, name) for name in names)
    if width != context_width:
        raise ModelError(
            f"This CLIP ({', '.join(names)}) makes contexts {width} wide, but the MODEL reads "
            f"{context_width}; connect MODEL and CLIP of the same checkpoint."
        )


def check_prompts_fit(model: Any, conditionings: Iterable[Any]) -> None:
    """Whether a MODEL can read what CLIPs encoded.

    Raises:
        UnsupportedModelError: the MODEL is no UNet with cross-attention.
        ModelError: it reads contexts of another width.
    """
    network = as_written(model.model.diffusion_model)
    sites = network_sites(network)
    width = context_width_of(sites)
    if sites.family == ANIMA.name:  # what its adapter reads
        width = network.llm_adapter.blocks[0].cross_attn.context_dim
    for conditioning in conditionings:
        for context, *_ in conditioning:
            if context.ndim != 3 or context.shape[-1] != width:
                raise ModelError(
                    f"A prompt was encoded {context.shape[-1]} wide, but the MODEL reads {width}; "
                    "encode it with the CLIP of the same checkpoint."
                )
