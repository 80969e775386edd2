"""Runs edited passes on the original network instead of a compiled one.

A compiled graph does not call module hooks, and says nothing about it. torch can go back to the
network's own code for the time of a pass, which gives the same numbers and leaves the compiled
graph for every other pass.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ..errors import ModelError


class SharedContext:
    """A context of the whole process: on while any thread is inside of it, off after the last.

    Args:
        make: the context, asked for when somebody enters and it is off; None where there is none.
    """

    def __init__(self, make: Callable[[], AbstractContextManager[Any] | None]) -> None:
        self._make, self._lock = make, threading.Lock()
        self._inside = 0
        self._context: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        with self._lock:
            if self._context is None and (context := self._make()) is not None:
                context.__enter__()
                self._context = context
            self._inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._context is not None:
                context, self._context = self._context, None
                context.__exit__(None, None, None)


def _eager_stance() -> AbstractContextManager[Any] | None:
    # Without this module nothing is compiled, and to import it takes seconds.
    if not _can_run_plain() or "torch._dynamo" not in sys.modules:
        return None
    return torch.compiler.set_stance("force_eager")


# Whatever `torch.compile` has made runs as plain code inside of it. Torch has this since 2.6; where
# it has not, `check_uncompiled` refuses beforehand.
uncompiled = SharedContext(_eager_stance)


def _can_run_plain() -> bool:
    return hasattr(torch.compiler, "set_stance")


def as_written(module: Any) -> Any:
    """The network behind a compiled one; any other as it is."""
    return getattr(module, "_orig_mod", module)


def is_compiled(module: Any) -> bool:
    """Whether `torch.compile` has wrapped a network or any part of it."""
    parts: Iterable[Any] = module.modules() if isinstance(module, nn.Module) else ()
    return any(
        hasattr(part, "_orig_mod") or getattr(part, "_compiled_call_impl", None) is not None
        for part in parts
    )


def check_uncompiled(*modules: Any, compiled: bool = False) -> None:
    """Whether edits can work in networks.

    Args:
        compiled: the host knows of a compiled network that is not among these.

    Raises:
        ModelError: one is compiled, and this torch cannot run it otherwise.
    """
    if not _can_run_plain() and (compiled or any(is_compiled(module) for module in modules)):
        raise ModelError(
            f"The UNet is compiled, and torch {torch.__version__} would silently skip "
            "ConceptLoom's edits. Remove torch.compile (Torch Compile Model), or use torch 2.6 "
            "or newer."
        )
