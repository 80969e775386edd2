"""Joint attention in diffusers: q, k and v on their way to whatever backend computes it.

Its processors call one function of their module with them. While edits are at work it is another
one, which hands them to the attention that runs in this thread, if somebody has asked for it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

from torch import Tensor, nn

from ..joint import Handler
from ..uncompiled import SharedContext

DISPATCH = "dispatch_attention_fn"
_handler: ContextVar[Handler | None] = ContextVar("handler", default=None)


@functools.cache
def dispatching(network: type[nn.Module]) -> SharedContext:
    """What has to be open while hooks of `tap` are on a network of this class."""
    return SharedContext(lambda: _handed_over(sys.modules[network.__module__]))


def tap(attention: nn.Module, handler: Handler) -> Iterator[Any]:
    """Hooks of an attention."""
    before: list[Handler | None] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        before.append(_handler.get())
        _handler.set(_inside(handler, before[-1]))

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        _handler.set(before.pop())

    yield attention.register_forward_pre_hook(enter)
    yield attention.register_forward_hook(leave, always_call=True)


def _inside(handler: Handler, outer: Handler | None) -> Handler:
    """Two that asked for the same attention."""
    if outer is None:
        return handler
    return lambda attend, *tensors: handler(lambda *some: outer(attend, *some), *tensors)


def _handed_over(module: Any) -> AbstractContextManager[None]:
    original = getattr(module, DISPATCH)

    def dispatch(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        handler = _handler.get()
        if handler is None:
            return original(query, key, value, *args, **kwargs)

        def attend(*split: Tensor) -> Tensor:
            tensors = (t.transpose(1, 2) for t in split)
            return original(*tensors, *args, **kwargs).flatten(2)

        output = handler(attend, *(t.transpose(1, 2) for t in (query, key, value)))
        return output.unflatten(2, (query.shape[2], -1))

    @contextmanager
    def replaced() -> Iterator[None]:
        setattr(module, DISPATCH, dispatch)
        try:
            yield
        finally:
            setattr(module, DISPATCH, original)

    return replaced()
