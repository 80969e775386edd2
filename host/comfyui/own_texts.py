"""Prompts that are read in several ways: the whole picture's, and one for each localised LoRA.

A LoRA's part of the text encoder works only where the LoRA does. So a CLIP encodes each prompt once
as it is and once more for each of them; what differs travels in the conditioning, beside the
vectors that every node knows.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..hooks import residuals_installed
from ..ports import Tokens
from .anima_own_texts import AnimaEncode, Change, names_of_encoder
from .anima_texts import is_anima_clip
from .prompts import encoder_names, ids_of
from .t5_texts import tokenizer_name
from .tokens import ENCODE, OWN_TEXTS
from .weights import text_weights

Pairs = Mapping[str, Any]  # encoder -> chunks of (token, weight), as the host's tokenizers give


def clip_with_own_texts(
    clip: Any,
    own: Mapping[str, Mapping[str, Change]],
    rest: str | None = None,
    passages: Sequence[str] = (),
) -> Any:
    """A clone of a CLIP that encodes each prompt in further ways.

    What an earlier call put on the CLIP is replaced.

    Args:
        own: who reads it -> canonical weight name -> what its layer gives instead.
        rest: who reads a prompt without the passages; None: nobody.
        passages: words that are left out there.
    """
    is_anima = is_anima_clip(clip)
    of_encoders = {k: names_of_encoder(c) if is_anima else c for k, c in own.items()}
    weights = text_weights(clip.cond_stage_model, encoder_names(clip))
    modules = {
        key: [
            (weights[name].module, functools.partial(change, weights[name].module))
            for name, change in changes.items()
        ]
        for key, changes in of_encoders.items()
        if changes
    }
    patched = clip.clone()
    encode: Any = patched.patcher.get_model_object(ENCODE)
    if getattr(encode, "around", None) is not None:
        encode = encode.inner
    if is_anima:
        adapter = {
            key: {name: change for name, change in changes.items() if name not in of_encoders[key]}
            for key, changes in own.items()
        }
        patched.tokenizer = copy.copy(patched.tokenizer)
        patched.tokenizer.passages = tuple(passages)
        reader: Any = AnimaEncode(encode, modules, {k: c for k, c in adapter.items() if c}, rest)
        patched.patcher.add_object_patch(ENCODE, reader)
        return patched
    pads = {name.removeprefix("clip_"): _padding(clip, name) for name in encoder_names(clip)}
    runs = [ids_of(clip, words) for words in passages]
    reader = _Encode(encode, modules, rest, runs, pads)
    patched.patcher.add_object_patch(ENCODE, reader)
    return patched


class _Encode:
    """What the host calls for every prompt."""

    def __init__(
        self,
        inner: Callable[[Pairs], Any],
        modules: Mapping[str, Sequence[tuple[Any, Callable[[Tensor, Tensor], Tensor]]]],
        rest: str | None,
        passages: Sequence[Mapping[str, Tokens]],
        pads: Mapping[str, int],
    ) -> None:
        self.inner, self._modules = inner, modules
        self._rest, self._passages, self._pads = rest, passages, pads

    def around(self, inner: Callable[[Pairs], Any]) -> _Encode:
        """The same reader of another way to encode."""
        return _Encode(inner, self._modules, self._rest, self._passages, self._pads)

    def __call__(self, pairs: Pairs) -> tuple[Any, Any, dict[str, Any]]:
        context, pooled, *more = self.inner(pairs)
        others: dict[str, Any] = dict(more[0]) if more else {}
        texts: dict[str, Tensor] = dict(others.get(OWN_TEXTS, {}))
        moved: list[Tensor] = []
        for key, modules in self._modules.items():
            with residuals_installed(modules):
                own, own_pooled, *_ = self.inner(pairs)
            texts[key] = own - context
            if pooled is not None:
                moved.append(own_pooled - pooled)
        if self._rest is not None:
            without, _, *_ = self.inner(without_passages(pairs, self._passages, self._pads))
            texts[self._rest] = without - context
        if (
            moved and pooled is not None
        ):  # one vector for the whole picture: all of them have an equal share
            pooled = pooled + torch.stack(moved).sum(dim=0) / len(moved)
        return context, pooled, {**others, OWN_TEXTS: texts}


def without_passages(
    pairs: Pairs, passages: Sequence[Mapping[str, Tokens]], pads: Mapping[str, int]
) -> dict[str, Any]:
    """Chunks of tokens without some runs of them, filled up at their ends."""
    return {
        encoder: [
            _without(list(chunk), [p[encoder] for p in passages if p.get(encoder)], pads[encoder])
            for chunk in chunks
        ]
        if encoder in pads
        else chunks
        for encoder, chunks in pairs.items()
    }


def _without(chunk: list[Any], runs: Sequence[Tokens], pad: int) -> list[Any]:
    size = len(chunk)
    for run in runs:
        place = 0
        while place + len(run) <= len(chunk):
            piece = [entry[0] for entry in chunk[place : place + len(run)]]
            same = all(isinstance(t, int) and t == r for t, r in zip(piece, run, strict=True))
            if same:
                del chunk[place : place + len(run)]
            else:
                place += 1
    filler = (pad, 1.0, *(chunk[-1][2:] if chunk else ()))
    return chunk + [filler] * (size - len(chunk))


def _padding(clip: Any, name: str) -> int:
    tokenizer = getattr(clip.tokenizer, tokenizer_name(name))
    pad = getattr(tokenizer, "pad_token", None)
    return int(pad if pad is not None else tokenizer.end_token)
