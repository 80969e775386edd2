"""Moving a sampler's latents by a gradient through the UNet, under any sampler of the host.

Before the sampler asks the model, a pass of its own runs through everything that the host and other
packs put around the UNet (areas, ControlNet, patches), in inference mode as always. Only the UNet
itself is left for autograd: there the pass leaves inference mode, computes its gradient, and ends.
Then the latents are moved in place, which is how a change outlives the step in every sampler.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ..hooks import edits_installed
from ..ports import ForwardInfo, StopForward, Tokens, UNetEdit, UNetSites
from ..uncompiled import as_written
from .compilation import check_can_edit, edits_possible, passed_by
from .edits import OPTIONS_AT, options_of, picture_shape
from .noise import input_scale, noise_path_of
from .region_prompts import patches_contexts, region_prompts
from .run_state import Slot
from .sites import network_sites
from .tokens import ContextReader, tokens_by_conditioning
from .training import autograd_possible, checkpointed, exact_attention, let_go
from .weights import kept_for_autograd, network_weights, usable

Forward = Callable[[Tensor, UNetEdit], object]  # unit-variance latents, an edit: one pass


class Steering(Protocol):
    """What steers; it lives for one sampling run."""

    def wants(self, step: int) -> bool:
        """Whether latents are moved before a step; 0 is the first of the sampler's schedule."""
        ...

    def sees(self, tokens: Tokens) -> bool:
        """Whether a positive prompt of these tokens takes part."""
        ...

    def gradient(
        self, forward: Forward, latent: Tensor, sites: UNetSites, tokens: Tokens
    ) -> Tensor:
        """Gradient [B, C, h, w] to unit-variance latents; autograd is possible inside."""
        ...

    def moved(self, latent: Tensor, gradient: Tensor) -> Tensor:
        """The latents after the move, same units."""
        ...


@dataclass(slots=True)
class _Run:
    """One sampling run."""

    steering: Steering
    sigmas: Tensor
    prompts: Mapping[Any, tuple[int, str, Tokens]]
    patcher: Any
    # Prompts of regions that other packs keep in the MODEL, by the conditioning that they work on.
    regions: Mapping[Any, Sequence[Tokens]]
    read_context: ContextReader
    gradients: list[Tensor] = field(default_factory=list)
    asked: Tokens | None = None  # tokens of the prompt whose gradient is being computed
    computed: int = 0  # gradients of the whole run


def with_steering(
    model: Any,
    key: str,
    make_steering: Callable[[Mapping[str, Tokens]], Steering],
    *,
    checkpointing: bool = False,
) -> Any:
    """A clone of a MODEL with steered latents in every sampling run; stackable.

    Args:
        model: is not modified.
        key: names the application among the wrappers of the host.
        make_steering: called at the start of a run with the tokens of all positive prompts that
            tell them, by "positive 1" and so on; may raise. Prompts of regions that other packs
            keep in the MODEL are among them.
        checkpointing: compute activations again in the backward pass instead of keeping them.

    Raises:
        UnsupportedModelError: the MODEL is of a family that is not supported.
    """
    network_sites(as_written(model.model.diffusion_model))
    noise_path_of(model.get_model_object("model_sampling"))
    slot: Slot[_Run] = Slot()

    def sample(
        executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        guider = executor.class_obj
        check_can_edit(guider.model_patcher)
        prompts = tokens_by_conditioning(guider)
        positive_prompts = [
            tokens for _, name, tokens in prompts.values() if name == "positive" and tokens
        ]
        reader, regions = ContextReader(), dict[Any, Sequence[Tokens]]()
        for c in guider.conds.get("positive") or ():
            regions[c.get("uuid")] = of_region = region_prompts(guider.model_options, [c], reader)
            positive_prompts += of_region
        steering = make_steering(
            {f"positive {i + 1}": tokens for i, tokens in enumerate(positive_prompts)}
        )
        run = _Run(steering, sigmas, prompts, guider.model_patcher, regions, reader)
        steered = _steered(sampler, functools.partial(_steer, run, guider))
        with slot.filled(run):
            return executor(noise, latent, steered, sigmas, *args, **kwargs)

    def forward(executor: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        run = slot.run
        if run is None or run.asked is None:
            return executor(x, *args, **kwargs)
        with checkpointed(executor.class_obj) if checkpointing else nullcontext():
            run.gradients.append(_gradient(run, executor, x, *args, **kwargs))
        run.computed += 1
        raise StopForward

    def apply(executor: Any, *args: Any, **kwargs: Any) -> Any:
        if slot.run is None or slot.run.asked is None:
            return executor(*args, **kwargs)
        with edits_possible():  # ends with StopForward, if all is well
            output = executor(*args, **kwargs)
        if not slot.run.computed:
            raise passed_by(key)
        return output  # somebody answered for the UNet, as step caches do

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, sample)
    patched.add_wrapper_with_key(WrappersMP.APPLY_MODEL, key, apply)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, key, forward)
    return patched


def _steer(run: _Run, guider: Any, x: Tensor, sigma: Tensor, options: dict[str, Any]) -> None:
    """Move x_sigma in place, if this step is steered."""
    step = int((run.sigmas.to(sigma) - sigma.flatten()[0]).abs().argmin())
    if not run.steering.wants(step):
        return
    run.gradients.clear()
    for condition in guider.conds.get("positive") or ():
        known_as = condition.get("uuid")
        tokens = run.prompts.get(known_as, (0, "", ()))[2]
        every = (tokens, *run.regions.get(known_as, ()))
        if "area" in condition or not any(map(run.steering.sees, every)):
            continue
        run.asked = tokens
        try:
            with suppress(StopForward):
                comfy.samplers.calc_cond_batch(guider.inner_model, [[condition]], x, sigma, options)
        finally:
            run.asked = None
    if run.gradients:
        gradient = torch.stack(run.gradients).sum(dim=0)[:, : x.shape[1]].to(x)
        sampling = run.patcher.get_model_object("model_sampling")
        scale = input_scale(sampling, float(sigma.flatten()[0]))  # x_t = scale x_sigma
        x.copy_(run.steering.moved(x * scale, gradient) / scale)
    run.gradients.clear()


def _gradient(
    run: _Run, executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *args: Any,
    **kwargs: Any,
) -> Tensor:  # fmt: skip
    """The steering's gradient to the network's input; leaves the network as it was."""
    network, tokens = executor.class_obj, run.asked or ()
    sites, rows = network_sites(network), x.shape[0]
    weights, shape = network_weights(network, sites.network), picture_shape(x)
    options_here = options_of(args, kwargs)
    with autograd_possible(), kept_for_autograd(run.patcher, weights):
        timesteps, context = _usable((timesteps, context))
        info = ForwardInfo(
            shape, timesteps, (True,) * rows, context.shape[1], (tokens,) * rows,
            tuple(range(rows)),
            read_context=run.read_context if patches_contexts(options_here) else None,
            text=sites.text,
        )  # fmt: skip

        def forward(moving: Tensor, edit: UNetEdit) -> object:
            # A pass takes the tensors of a ControlNet off their lists: every one gets its own.
            more, named = _usable(args), _usable(kwargs)
            options = dict(options_here)
            exact_attention(options)
            if "transformer_options" in named:
                named["transformer_options"] = options
            else:
                more = (*more[:OPTIONS_AT], options, *more[OPTIONS_AT + 1 :])
            with edits_installed(sites, [edit], info):
                return executor(
                    moving.view(x.shape).to(x.dtype), timesteps, context, *more, **named
                )

        flat = usable(x).float().view(shape)
        gradient = run.steering.gradient(forward, flat, sites, tokens)
        let_go(network)
        return gradient.view(x.shape)


def _usable(value: Any) -> Any:
    """Nested arguments of the host with every tensor as autograd can keep it, in new containers."""
    if isinstance(value, Tensor):
        return usable(value)
    if isinstance(value, (list, tuple)):
        parts = [_usable(part) for part in value]
        return value._make(parts) if hasattr(value, "_make") else type(value)(parts)
    if isinstance(value, dict):
        return {name: _usable(part) for name, part in value.items()}
    return value


class _SteeredModel:
    """The model as a sampler calls it, with a move before every call."""

    def __init__(self, model: Any, steer: Callable[[Tensor, Tensor, dict[str, Any]], None]) -> None:
        self._model, self._steer = model, steer

    def __call__(self, x: Tensor, sigma: Tensor, *args: Any, **kwargs: Any) -> Any:
        self._steer(x, sigma, kwargs.get("model_options") or {})
        return self._model(x, sigma, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def _steered(sampler: Any, steer: Callable[[Tensor, Tensor, dict[str, Any]], None]) -> Any:
    """A copy of a SAMPLER that moves its own latents before it calls the model."""
    steered = copy.copy(sampler)
    # Inside of the host's KSAMPLER the function holds the sampler's own latents; what reaches the
    # model may already be a blend with a noise mask.
    name = "sampler_function" if hasattr(sampler, "sampler_function") else "sample"
    function = getattr(sampler, name)

    @functools.wraps(function)
    def call(model: Any, *args: Any, **kwargs: Any) -> Any:
        return function(_SteeredModel(model, steer), *args, **kwargs)

    setattr(steered, name, call)
    return steered
