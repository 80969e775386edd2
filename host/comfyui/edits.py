"""Edits on every forward pass of any sampler, carried by a clone of the MODEL.

Two wrappers do it: one around a whole sampling run, which makes the edits and lets go of them, and
one around the UNet, which puts them on for a single pass. The clone holds no tensors and no edits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ..hooks import edits_installed
from ..ports import ForwardInfo, Schedule, UNetEdit, UNetSites
from .schedule import schedule_of
from .sites import unet_sites


@dataclass(frozen=True, slots=True)
class SamplingRun:
    """What edits may know when a sampling run starts."""

    sites: UNetSites
    schedule: Schedule
    sigmas: Tensor | None  # the sampler's own noise levels; None for a pass outside of a sampler


@dataclass(slots=True)
class _Run:
    """One sampling run; a UNet that the host copied for another device gets edits of its own."""

    sigmas: Tensor | None
    edits: dict[nn.Module, tuple[UNetSites, Sequence[UNetEdit]]] = field(default_factory=dict)


class _Slot:
    """Where the wrappers of one application meet. Copies of a MODEL's options share it."""

    def __init__(self) -> None:
        self.run: _Run | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Slot:
        return self


def with_edits(
    model: Any, key: str, make_edits: Callable[[SamplingRun], Sequence[UNetEdit]]
) -> Any:
    """A clone of a MODEL that takes these edits through every forward pass; stackable.

    Args:
        model: stays as it is.
        key: names the application among the wrappers of the host, for example "conceptloom.lag".
        make_edits: called once at the start of every sampling run (and of every forward pass that
            runs outside of a sampler), so that edits may keep state for as long as a run lasts.

    Raises:
        UnsupportedModelError: the MODEL is not a UNet with cross-attention.
    """
    unet_sites(model.model.diffusion_model)
    schedule = schedule_of(model.get_model_object("model_sampling"))
    slot = _Slot()

    def sample(
        executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        outer, slot.run = slot.run, _Run(sigmas)  # runs may nest
        try:
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)
        finally:
            slot.run = outer

    def forward(
        executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        unet, run = executor.class_obj, slot.run or _Run(None)
        if unet not in run.edits:
            sites = unet_sites(unet)
            run.edits[unet] = sites, make_edits(SamplingRun(sites, schedule, run.sigmas))
        sites, edits = run.edits[unet]
        info = ForwardInfo(
            tuple(x.shape), timesteps, _conditional(x.shape[0], args, kwargs), context.shape[1]
        )
        with edits_installed(sites, edits, info):
            return executor(x, timesteps, context, *args, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, sample)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, forward)
    return patched


def _conditional(rows: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bool, ...]:
    """Per row of the batch: whether it belongs to a positive prompt."""
    options = kwargs.get("transformer_options")
    if options is None:  # y, control, transformer_options
        options = args[2] if len(args) > 2 else {}
    chunks = options.get("cond_or_uncond") or [0]  # 0 for positive, 1 for negative; chunk-major
    each = rows // len(chunks)
    return tuple(chunk == 0 for chunk in chunks for _ in range(each))
