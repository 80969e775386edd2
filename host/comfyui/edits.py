"""Edits on every forward pass of any sampler, carried by a clone of the MODEL.

Wrappers do it: one around a whole sampling run, which makes the edits and lets go of them, and one
around the UNet, which puts them on for a single pass. The clone holds no tensors and no edits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from ...errors import InputError, PromptError
from ..hooks import edits_installed
from ..ports import (
    ForwardInfo,
    NoisePath,
    OwnTexts,
    TextLayout,
    Tokens,
    UNetEdit,
    UNetSites,
    WaitsForPrompt,
)
from ..uncompiled import as_written
from .anima_own_texts import AnimaOwnTexts
from .compilation import check_can_edit, edits_possible, noticing, passed_by
from .noise import clock_of, noise_path_if_any, on_a_path
from .region_prompts import patches_contexts, region_prompts
from .run_state import Slot
from .sites import network_sites
from .tokens import ContextReader, own_texts_by_conditioning, tokens_by_conditioning

# Edits of these keys apply in this order, whatever the order of the nodes that asked for them.
ORDERED = ("conceptloom.lag", "conceptloom.local_lora")
UNNUMBERED = 999.0  # last timestep where there are no numbered ones: as Stable Diffusion's


@dataclass(frozen=True, slots=True)
class SamplingRun:
    """What edits may know when a sampling run starts."""

    sites: UNetSites
    noise_path: NoisePath | None  # None where the model is sampled as it was not trained
    sigmas: Tensor | None  # the sampler's own noise levels; None for a pass outside of a sampler
    prompts: Mapping[str, Tokens] = field(default_factory=dict[str, Tokens])  # by "positive 1", ...
    positive: Mapping[str, Tokens] = field(
        default_factory=dict[str, Tokens]
    )  # all but negative ones
    network: nn.Module | None = None  # the UNet that computes, for further passes (`again`)
    times: tuple[float, ...] | None = None  # timesteps of the sampler's steps

    @property
    def last_t(self) -> float:
        """The noisiest of the timesteps that a pass may have."""
        return self.noise_path.last_t if self.noise_path is not None else UNNUMBERED


@dataclass(slots=True)
class _Run:
    """One sampling run; a UNet that the host copied for another device gets edits of its own."""

    sigmas: Tensor | None
    prompts: Mapping[Any, tuple[int, str, Tokens]] = field(default_factory=dict)
    # "positive", "negative", ... in the order of the evaluation; "" is not known.
    lists: Sequence[str] = ()
    one_by_one: bool = False  # some edit had to see another prompt first
    edits: dict[nn.Module, tuple[UNetSites, Sequence[UNetEdit]]] = field(default_factory=dict)
    own_texts: Mapping[Any, OwnTexts | AnimaOwnTexts] = field(
        default_factory=dict
    )  # by conditioning
    passes: int = 0  # of the UNet
    # Prompts that other packs keep in the MODEL, and who reads them during a pass.
    regions: Sequence[Tokens] = ()
    read_context: ContextReader = field(default_factory=ContextReader)
    sampling: Any = None  # the host's conversions between sigma and timestep
    noise_path: NoisePath | None = None  # what is known of it

    def samples_with(self, sampling: Any) -> None:
        self.sampling, self.noise_path = sampling, noise_path_if_any(sampling)

    def times(self) -> tuple[float, ...] | None:
        """Timesteps of the sampler's steps, as passes have them."""
        if self.sigmas is None or len(self.sigmas) < 2:
            return None
        times = self.sampling.timestep(self.sigmas[:-1]).float()
        if self.noise_path is None:
            times = on_a_path(self.sampling, times, UNNUMBERED)
        else:
            times = times / clock_of(self.sampling, self.noise_path)
        return tuple(times.tolist())


def with_edits(
    model: Any,
    key: str,
    make_edits: Callable[[SamplingRun], Sequence[UNetEdit]],
    *,
    replace: bool = False,
) -> Any:
    """A clone of a MODEL that takes these edits through every forward pass; stackable.

    Args:
        model: is not modified.
        key: names the application among the wrappers of the host, for example "conceptloom.lag".
        make_edits: called once at the start of every sampling run (and of every forward pass that
            runs outside of a sampler), so that edits may keep state for as long as a run lasts.
        replace: take the place of what was applied under this key, instead of coming after it.

    Raises:
        UnsupportedModelError: the MODEL is of a family that is not supported.

    Sampling raises MissedSitesError where the model passes an edit by, and ModelError where it is
    compiled for good.
    """
    network_sites(as_written(model.model.diffusion_model))
    outside = model.get_model_object("model_sampling")
    slot: Slot[_Run] = Slot()

    def sample(
        executor: Any, noise: Any, latent: Any, sampler: Any, sigmas: Any, *args: Any, **kwargs: Any
    ) -> Any:
        patcher = executor.class_obj.model_patcher
        check_can_edit(patcher)
        guider = executor.class_obj
        run = _Run(sigmas, tokens_by_conditioning(guider))
        positive = guider.conds.get("positive") or ()
        run.regions = region_prompts(guider.model_options, positive, run.read_context)
        run.own_texts = {
            one: texts.at(states) if isinstance(texts, AnimaOwnTexts) else texts
            for one, (texts, states) in own_texts_by_conditioning(guider).items()
        }
        run.samples_with(patcher.get_model_object("model_sampling"))  # of nodes behind this too
        with slot.filled(run):
            return executor(noise, latent, sampler, sigmas, *args, **kwargs)

    def forward(
        executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        unet, run = executor.class_obj, slot.run or _Run(None)
        if run.sampling is None:  # outside of a sampler
            run.samples_with(outside)
        if unet not in run.edits:
            sites = network_sites(unet)
            prompts = _named(run.prompts)
            positive = {name: t for name, t in prompts.items() if "negative" not in name}
            positive |= {f"region {i + 1}": tokens for i, tokens in enumerate(run.regions)}
            started = SamplingRun(
                sites, run.noise_path, run.sigmas, prompts, positive, unet, run.times()
            )
            run.edits[unet] = sites, make_edits(started)
            run.own_texts = _adapted(run.own_texts, unet, context)
        sites, edits = run.edits[unet]
        options = options_of(args, kwargs)
        executor, ran = noticing(executor)
        run.passes += 1
        info = _info(x, timesteps, context, options, run, sites.text)
        with edits_installed(sites, edits, info) as coverage:
            output = executor(x, timesteps, context, *args, **kwargs)
            coverage.network_ran = ran()
            return output

    def apply(executor: Any, *args: Any, **kwargs: Any) -> Any:
        # Around the host's own wrapper for compiled models, which the UNet's is inside of.
        with edits_possible():
            output = executor(*args, **kwargs)
        if slot.run is not None and not slot.run.passes:
            raise passed_by(key)
        return output

    def evaluate(executor: Any, model: Any, conds: Any, x: Tensor, *args: Any) -> Any:
        run = slot.run or _Run(None)
        run.lists = tuple(_list_name(run, conditions) for conditions in conds)
        if not run.one_by_one:
            try:
                return executor(model, conds, x, *args)
            except WaitsForPrompt:
                run.one_by_one = True
        return _one_by_one(lambda some: executor(model, some, x, *args), conds, x)

    patched = model.clone()
    for kind, wrapper in (
        (WrappersMP.OUTER_SAMPLE, sample),
        (WrappersMP.CALC_COND_BATCH, evaluate),
        (WrappersMP.APPLY_MODEL, apply),
        (WrappersMP.DIFFUSION_MODEL, forward),
    ):
        if replace:
            patched.remove_wrappers_with_key(kind, key)
        patched.add_wrapper_with_key(kind, key, wrapper)
        patched.wrappers[kind] = _in_order(patched.wrappers[kind])
    return patched


def _in_order(wrappers: Mapping[Any, Any]) -> dict[Any, Any]:
    """Wrappers by key, those of `ORDERED` in that order at the places that they have together."""
    there = iter([key for key in ORDERED if key in wrappers])
    keys = [next(there) if key in ORDERED else key for key in wrappers]
    return {key: wrappers[key] for key in keys}


def _one_by_one(
    evaluate: Callable[[list[Any]], list[Tensor]], conds: Sequence[Any], x: Tensor
) -> list[Tensor]:
    """Predictions for every list of conditionings, in an order in which no edit has to wait.

    The host runs the negative prompt first when memory does not allow both at once.
    """
    outputs: dict[int, Tensor] = {}
    waiting = [number for number, cond in enumerate(conds) if cond is not None]
    while waiting:
        waits: list[int] = []
        for number in waiting:
            alone = [cond if n == number else None for n, cond in enumerate(conds)]
            try:
                outputs[number] = evaluate(alone)[number]
            except WaitsForPrompt as reason:
                waits.append(number)
                if len(waits) == len(waiting):
                    raise PromptError(
                        f"The sampler cannot continue: {reason}. Write the handle in the positive "
                        "prompt, or choose another setting for the negative one."
                    ) from reason
        waiting = waits
    return [outputs.get(number, torch.zeros_like(x)) for number in range(len(conds))]


def _named(prompts: Mapping[Any, tuple[int, str, Tokens]]) -> dict[str, Tokens]:
    """Tokens of every prompt that tells them, by a name that a user understands."""
    prompts_with_tokens = [(name, tokens) for _, name, tokens in prompts.values() if tokens]
    return {f"{name} {i + 1}": tokens for i, (name, tokens) in enumerate(prompts_with_tokens)}


OPTIONS_AT = 2  # place of `transformer_options` behind the context, where it comes by place


def options_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """`transformer_options` of a call; networks differ in what stands before them."""
    by_place = args[OPTIONS_AT] if len(args) > OPTIONS_AT else None
    options = kwargs.get("transformer_options", by_place)
    return options if isinstance(options, dict) else {}


def picture_shape(x: Tensor) -> tuple[int, ...]:
    """[B, C, h, w] of latents that may have an axis for time.

    Raises:
        InputError: they are those of a film.
    """
    if x.ndim == 5 and x.shape[2] != 1:
        raise InputError(
            f"The latents have {x.shape[2]} frames; ConceptLoom works on pictures. Use a latent "
            "with a length of 1."
        )
    return (*x.shape[:2], *x.shape[-2:])


def _info(
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    options: dict[str, Any],
    run: _Run,
    text: TextLayout,
) -> ForwardInfo:
    chunks = options.get("cond_or_uncond") or [0]  # which list of prompts; chunk-major
    ids = options.get("uuids") or [None] * len(chunks)
    each = x.shape[0] // len(chunks)
    per_chunk = [_tokens(run, *chunk) for chunk in zip(chunks, ids, strict=False)]
    if run.noise_path is None:
        timesteps = on_a_path(run.sampling, timesteps, UNNUMBERED)
    else:
        timesteps = timesteps / clock_of(run.sampling, run.noise_path)
    return ForwardInfo(
        picture_shape(x),
        timesteps,
        tuple(_is_positive(run, chunk) for chunk in chunks for _ in range(each)),
        context.shape[1],
        tuple(tokens for tokens in per_chunk for _ in range(each)),
        tuple(picture for _ in chunks for picture in range(each)),
        _repeated(_encoded(chunks, ids), each),
        _repeated((_own_texts(run, *chunk) for chunk in zip(chunks, ids, strict=False)), each),
        read_context=run.read_context if patches_contexts(options) else None,
        text=text,
    )


def _adapted(
    texts: Mapping[Any, OwnTexts | AnimaOwnTexts], network: Any, context: Tensor
) -> dict[Any, OwnTexts]:
    """Texts of regions as contexts, those that only the network makes contexts of, too."""
    return {
        one: own.adapted(as_written(network), context) if isinstance(own, AnimaOwnTexts) else own
        for one, own in texts.items()
    }


def _encoded(chunks: Sequence[int], ids: Sequence[Any]) -> list[object]:
    """What tells prompts apart; without an id each chunk counts as one of its own."""
    pairs = enumerate(zip(chunks, ids, strict=False))
    return [(number if one is None else one, chunk) for number, (chunk, one) in pairs]


def _repeated(chunks: Iterable[Any], each: int) -> tuple[Any, ...]:
    """One entry for every row."""
    return tuple(one for one in chunks for _ in range(each))


def _tokens(run: _Run, chunk: int, conditioning: Any) -> Tokens:
    return () if _is_borrowed(run, chunk, conditioning) else _known(run, conditioning)[2]


def _own_texts(run: _Run, chunk: int, conditioning: Any) -> OwnTexts:
    texts = run.own_texts.get(conditioning, {})
    return (
        {} if isinstance(texts, AnimaOwnTexts) or _is_borrowed(run, chunk, conditioning) else texts
    )


def _known(run: _Run, conditioning: Any) -> tuple[int, str, Tokens]:
    return run.prompts.get(conditioning, (0, "", ()))


def _is_borrowed(run: _Run, chunk: int, conditioning: Any) -> bool:
    """For a prompt with an area the host makes a negative one that bears its id."""
    return _name_at(run, chunk) not in ("", _known(run, conditioning)[1])


def _is_positive(run: _Run, chunk: int) -> bool:
    """By name where it is known: some guiders ask for the negative prompt first, or for three."""
    name = _name_at(run, chunk)
    return name == "positive" if name else chunk == 0


def _name_at(run: _Run, chunk: int) -> str:
    speaks = any(name == "positive" for _, name, _ in run.prompts.values())
    return run.lists[chunk] if speaks and chunk < len(run.lists) else ""


def _list_name(run: _Run, conditions: Sequence[Mapping[str, Any]] | None) -> str:
    """What the first one is called; those that the host borrows from other lists come behind."""
    first = (conditions or [{}])[0]
    return run.prompts.get(first.get("uuid"), (0, "", ()))[1]
