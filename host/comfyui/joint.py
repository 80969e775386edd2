"""Joint attention in ComfyUI: q, k and v on their way to whatever backend computes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from ..joint import Handler

OVERRIDE = "optimized_attention_override"  # of `transformer_options`


def tap(attention: nn.Module, handler: Handler) -> Iterator[Any]:
    """A hook of an attention; overrides of other packs go on working inside of it."""

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        options = dict(kwargs.get("transformer_options") or {})
        previous = options.get(OVERRIDE)

        def override(
            function: Any, query: Tensor, key: Tensor, value: Tensor, *more: Any, **others: Any
        ) -> Tensor:
            def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
                if previous is None:
                    return function(query, key, value, *more, **others)
                return previous(function, query, key, value, *more, **others)

            return handler(attend, query, key, value)

        return args, {**kwargs, "transformer_options": {**options, OVERRIDE: override}}

    yield attention.register_forward_pre_hook(enter, with_kwargs=True)
