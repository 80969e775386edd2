"""Anima's prompts that are read in several ways.

Its contexts are made in the MODEL. So the CLIP writes, for each reader, what the adapter takes, and
a sampling run makes contexts of it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..families.anima import QWEN
from ..families.family import TRANSFORMER
from ..hooks import residuals_installed
from ..ports import OwnTexts
from .anima_texts import TOKENIZERS
from .tokens import OWN_TEXTS, T5_IDS, T5_WEIGHTS
from .weights import network_weights

# Keys of a prompt's tokens without the words of painted LoRAs, beside the host's own.
REST_TOKENS = {name: f"conceptloom_rest_{name}" for name in TOKENIZERS.values()}
# a layer, its input and its output -> its new output
Change = Callable[[Any, Tensor, Tensor], Tensor]
Modules = Mapping[str, Sequence[tuple[Any, Callable[[Tensor, Tensor], Tensor]]]]


@dataclass(frozen=True, slots=True, eq=False)
class AdapterInput:
    """What the adapter makes one context of.

    Attributes:
        states: [1, L, width] of Qwen3.
        ids, weights: [n] of T5's tokens.
        changes: canonical name of a weight of the adapter -> what its layer gives instead.
    """

    states: Tensor
    ids: Tensor
    weights: Tensor
    changes: Mapping[str, Change] = field(default_factory=dict[str, Change])

    def context(self, network: Any, like: Tensor) -> Tensor:
        """[1, K, width] as the host makes it, on the device and in the precision of `like`."""
        weights = network_weights(network, TRANSFORMER) if self.changes else {}
        modules = [
            (weights[name].module, functools.partial(change, weights[name].module))
            for name, change in self.changes.items()
        ]
        with residuals_installed(modules):
            return network.preprocess_text_embeds(
                self.states.to(like),
                self.ids.to(like.device)[None],
                t5xxl_weights=self.weights.to(like)[None, :, None],
            )


@dataclass(frozen=True, slots=True, eq=False)
class AnimaOwnTexts:
    """A prompt in a conditioning: as the whole picture reads it, and as single regions do."""

    whole: AdapterInput
    own: Mapping[str, AdapterInput]

    def at(self, states: Tensor | None) -> AnimaOwnTexts:
        """The same prompt after nodes changed its states, for every reader.

        Args:
            states: [1, L, width] of the conditioning as it is sampled; None is not known.
        """
        if states is None:
            return self
        before = self.whole.states
        own = {
            key: replace(one, states=_followed(one.states, before, states))
            for key, one in self.own.items()
        }
        return AnimaOwnTexts(replace(self.whole, states=states), own)

    def adapted(self, network: Any, like: Tensor) -> OwnTexts:
        """What is to be added to the context of the whole picture for each reader."""
        whole = self.whole.context(network, like)
        rows = whole.shape[1]
        return {
            key: F.pad(own, (0, 0, 0, rows - own.shape[1])) - whole
            for key, one in self.own.items()
            for own in [one.context(network, like)[:, :rows]]
        }


class AnimaEncode:
    """What the host calls for every prompt.

    Args:
        inner: the host's own way to encode.
        modules: who reads a prompt -> layers of Qwen3, with what they give instead.
        adapter: the same -> changes of the adapter.
        rest: who reads a prompt without the words of painted LoRAs; None: nobody.
    """

    def __init__(
        self, inner: Callable[[Any], Any], modules: Modules,
        adapter: Mapping[str, Mapping[str, Change]], rest: str | None,
    ) -> None:  # fmt: skip
        self.inner, self._modules, self._adapter, self._rest = inner, modules, adapter, rest

    def around(self, inner: Callable[[Any], Any]) -> AnimaEncode:
        """The same reader of another way to encode."""
        return AnimaEncode(inner, self._modules, self._adapter, self._rest)

    def __call__(self, pairs: Mapping[str, Any]) -> tuple[Any, Any, dict[str, Any]]:
        context, pooled, others = self.inner(pairs)
        own: dict[str, AdapterInput] = {}
        for key in {**self._modules, **self._adapter}:
            with residuals_installed(self._modules.get(key, ())):
                own[key] = _input_of(self.inner(pairs), self._adapter.get(key, {}))
        rest = {name: pairs[key] for name, key in REST_TOKENS.items() if key in pairs}
        if self._rest is not None and rest:
            own[self._rest] = _input_of(self.inner(rest))
        texts = AnimaOwnTexts(_input_of((context, pooled, others)), own)
        return context, pooled, {**others, OWN_TEXTS: texts}


def _input_of(encoded: Any, changes: Mapping[str, Change] | None = None) -> AdapterInput:
    states, _, others = encoded
    return AdapterInput(states, others[T5_IDS], others[T5_WEIGHTS], changes or {})


def _followed(own: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """States of one reader, moved as a node moved those of the whole picture.

    Args:
        own: [1, K, width]; a reader without some words has fewer rows.
        before, after: [1, L, width], [1, M, width]; rows that a node put behind them are kept.
    """
    after = after.to(before)
    rows = min(own.shape[1], before.shape[1], after.shape[1])
    moved = own[:, :rows] + (after[:, :rows] - before[:, :rows])
    # A node that blanks a prompt blanks it for every reader; the adapter cannot tell afterwards.
    moved = moved * (after[:, :rows] != 0).any(dim=-1, keepdim=True)
    return torch.cat([moved, after[:, before.shape[1] :]], dim=1)


def names_of_encoder(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Of changes by canonical name, those of Qwen3; the others are of the adapter."""
    return {name: change for name, change in changes.items() if name.startswith(f"{QWEN}.")}
