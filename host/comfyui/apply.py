"""Applies a learned concept to MODEL and CLIP with ordinary ComfyUI patches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from typing import Any, NamedTuple

from comfy.weight_adapter import LoKrAdapter, LoRAAdapter
from torch import Tensor

from ...errors import BaseMismatchError
from ..ports import HandleVectors
from ..prompt_text import check_free
from ..uncompiled import as_written
from .anima_clip import give_rows
from .prompts import clip_with_handles, encoder_names, known_identities
from .sites import network_sites
from .weights import Weight, network_weights, reaches_the_unet, text_weights

APPLIED = "conceptloom.applied"  # attachment of a MODEL: handle -> identity of its concept


class KroneckerDelta(NamedTuple):
    """delta = scale kron(left, right)."""

    left: Tensor  # [a, b]
    right: Tensor  # [c, d, ...]
    scale: float


# Dense delta of the weight's shape, or (up [out, r], down [r, in], scale): delta = scale up @ down.
WeightDelta = Tensor | KroneckerDelta | tuple[Tensor, Tensor, float]


def apply_concept(
    model: Any,
    clip: Any,
    weight_deltas: Mapping[str, WeightDelta],
    handles: HandleVectors,
    strength: float = 1.0,
    identities: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """Clones of MODEL and CLIP that know a concept; the inputs are not modified.

    Args:
        weight_deltas: canonical weight name -> what learning added to it.
        handles: name -> vectors per text encoder; usable as `<name>` in every prompt downstream.
        strength: factor on the weights, not on the handles; 0 leaves them exactly as they are.
        identities: handle -> identity of the concept; the same one may be applied again.

    Raises:
        BaseMismatchError: the concept has weights that this base model has not, or not so large.
        HandleError: the handles do not fit the text encoders, or stand for another concept.
    """
    network = as_written(model.model.diffusion_model)
    sites = network_sites(network)  # refuses other families, in words
    unet = network_weights(network, sites.network)
    text = text_weights(clip.cond_stage_model, encoder_names(clip))
    for name, delta in weight_deltas.items():
        _check_fits(name, delta, unet.get(name) or text.get(name))
    applied_clip = clip_with_handles(clip, handles, identities)
    applied_model = model_with_identities(model.clone(), identities or {}, applied_clip)
    if strength != 0:
        for patcher, weights in ((applied_model, unet), (applied_clip, text)):
            patches = {
                weights[name].patch_key: _patch(weights[name], delta)
                for name, delta in weight_deltas.items()
                if name in weights
            }
            if patches:
                patcher.add_patches(patches, strength)
    return applied_model, applied_clip


def model_with_identities(model: Any, added: Mapping[str, str], clip: Any) -> Any:
    """A MODEL without other owners, marked with the concepts applied to it.

    Its CLIP knows them too, but not every graph takes both through the same nodes.

    Args:
        clip: that knows them; some families' words pass through the MODEL, too.

    Raises:
        HandleError: a handle stands for another concept already.
    """
    known: Mapping[str, str] = model.get_attachment(APPLIED) or {}
    check_free(known, added)
    if added:
        model.set_attachments(APPLIED, {**known, **added})
    give_rows(model, clip)
    return model


def check_new_handles(model: Any, clip: Any, names: Iterable[str]) -> None:
    """Whether handles are free to be learned.

    Raises:
        HandleError: a concept on MODEL or CLIP bears one of them.
        UnsupportedModelError: the MODEL is of a family that is not supported.
    """
    network_sites(as_written(model.model.diffusion_model))  # refuses other families, in words
    learned = {name: "" for name in names}
    check_free(model.get_attachment(APPLIED) or {}, learned)
    check_free(known_identities(clip), learned)


def _patch(weight: Weight, delta: WeightDelta) -> Any:
    if isinstance(delta, Tensor):
        return ("diff", (delta.detach().reshape(_shape(weight)),))
    if isinstance(delta, KroneckerDelta):
        whole = (delta.scale * delta.left.detach(), delta.right.detach())
        return LoKrAdapter({weight.key}, (*whole, None, *[None] * 6))
    up, down, scale = delta
    # The host divides alpha by the rank. What follows it: mid, DoRA scale, reshape.
    factors = (up.detach(), down.detach(), scale * down.shape[0], None, None, None)
    return LoRAAdapter({weight.key}, factors)


def _shape(weight: Weight) -> tuple[int, ...]:
    return tuple(weight.of(getattr(weight.module, weight.attribute)).shape)


def _check_fits(name: str, delta: WeightDelta, weight: Weight | None) -> None:
    if weight is None or not reaches_the_unet(name):
        raise BaseMismatchError(
            f"The concept changes {name}, which this base model does not have; it was trained on "
            "another kind of model. Load a checkpoint of its family."
        )
    shape = _shape(weight)
    # A 1x1 convolution (SD1) and a linear layer (SD2, SDXL) hold the same numbers.
    if isinstance(delta, Tensor):
        came = (delta.shape[0], delta[0].numel())
    elif isinstance(delta, KroneckerDelta):
        left, right = delta.left, delta.right
        came = (left.shape[0] * right.shape[0], left.shape[1] * right[0].numel())
    else:
        came = (delta[0].shape[0], delta[1][0].numel())
    if came != (shape[0], prod(shape[1:])):
        raise BaseMismatchError(
            f"{name} is {'x'.join(map(str, shape))} in this base model, but {came[0]}x{came[1]} "
            "in the concept; it was trained on a model of other widths. Load a checkpoint of its "
            "family."
        )
