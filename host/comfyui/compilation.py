"""Edited passes in a ComfyUI where models are compiled: by torch, or by the host itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import comfy.cli_args
import comfy.patcher_extension
from comfy.patcher_extension import WrappersMP

from ...errors import MissedSitesError
from ..uncompiled import SharedContext, check_uncompiled, uncompiled

BY_NODE = "torch.compile"  # the key of core's wrapper, which swaps the UNet for a compiled one
HOST_SWITCH = "disable_comfy_compiler"  # an argument of ComfyUI's command line, from 0.38 on

_pausing: ContextVar[bool] = ContextVar("pausing", default=False)


@contextmanager
def _host_compiler_off() -> Iterator[None]:
    arguments: Any = comfy.cli_args.args
    before = getattr(arguments, HOST_SWITCH)
    setattr(arguments, HOST_SWITCH, True)
    try:
        yield
    finally:
        setattr(arguments, HOST_SWITCH, before)


def _host_switch() -> AbstractContextManager[None] | None:
    return _host_compiler_off() if hasattr(comfy.cli_args.args, HOST_SWITCH) else None


_without_host_compiler = SharedContext(_host_switch)


@contextmanager
def edits_possible() -> Iterator[None]:
    """The UNet's own code runs, layer by layer, and edits may keep what it gives.

    The host's compiler records what a block allocates and plays it again: a tensor that is kept
    would be overwritten, or end the process, and a replay calls no hook.
    """
    with uncompiled, _without_host_compiler, _allocations_not_recorded():
        yield


@contextmanager
def _allocations_not_recorded() -> Iterator[None]:
    """A recording that is under way already rests; there is one for each thread."""
    if _pausing.get():  # the host counts no depth: an inner pause would end the outer one
        yield
        return
    before = _pausing.set(True)
    try:
        with _pause():
            yield
    finally:
        _pausing.reset(before)


def _pause() -> AbstractContextManager[Any]:
    try:
        import comfy.model_prefetch as prefetch
    except ImportError:
        return nullcontext()
    return getattr(prefetch, "pause_malloc_graph", nullcontext)()


def check_can_edit(patcher: Any) -> None:
    """Before anything is sampled: whether edits can work in a MODEL.

    Raises:
        ModelError: it is compiled, and this torch cannot run it otherwise.
    """
    by_node = bool(patcher.get_wrappers(WrappersMP.APPLY_MODEL, BY_NODE))
    check_uncompiled(
        patcher.model.diffusion_model, *patcher.object_patches.values(), compiled=by_node
    )


def noticing(executor: Any) -> tuple[Any, Callable[[], bool]]:
    """The same executor of the UNet's forward pass, and whether it got to the UNet itself.

    Other wrappers may answer in its place: step caches give again what an earlier step gave.
    """
    ran = False

    def original(*args: Any, **kwargs: Any) -> Any:
        nonlocal ran
        ran = True
        return executor.original(*args, **kwargs)

    noted = comfy.patcher_extension.WrapperExecutor.new_class_executor(
        original, executor.class_obj, executor.wrappers, executor.idx
    )
    return noted, lambda: ran


def passed_by(what: str) -> MissedSitesError:
    """Where the model ran and never came to the UNet's wrappers."""
    return MissedSitesError(
        f"The UNet ran without calling {what}, so it would have no effect. Another node probably "
        "runs the UNet as a compiled or recorded graph (TensorRT, CUDA graphs), or calls it in "
        "its own way: remove that node from this MODEL."
    )
