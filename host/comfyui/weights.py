"""Weights by canonical name, and computing with edited ones.

Edits ride on weight wrappers of a cloned patcher: the host calls them on every use of a weight,
wherever it pages, casts or offloads it, and the weights themselves are never touched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch
from torch import Tensor, nn

from ..families.family import Family
from ..families.registry import family_of
from ..families.transformer import parts_of_fused
from ..hooks import residuals_installed
from ..inference import usable
from ..ports import FactoredEdit, WeightEdit

PROJECTION = "text_projection"
Wrapper = Callable[[Tensor], Tensor]  # weight as the host would use it -> weight to use


@dataclass(frozen=True, slots=True)
class Weight:
    """One weight or bias, and where the host keeps it."""

    key: str  # in the state dict of the patcher's model
    module: Any
    attribute: str  # "weight" or "bias"
    rows: slice | None = None  # of a tensor in which the host keeps several

    def of(self, tensor: Tensor) -> Tensor:
        """Its own rows of what the host keeps."""
        return tensor if self.rows is None else tensor[self.rows]

    @property
    def patch_key(self) -> Any:
        """What the host's patches call it."""
        if self.rows is None:
            return self.key
        return self.key, (0, self.rows.start, self.rows.stop - self.rows.start)


def network_weights(network: nn.Module, name: str) -> dict[str, Weight]:
    """Canonical name -> weight, for everything in a network of this canonical name."""
    family = family_of(network)
    weights = dict(_weights(network, f"{name}.", "diffusion_model."))
    if family is None or not family.fused:
        return weights
    return {
        own: Weight(weight.key, weight.module, weight.attribute, rows)
        for canonical, weight in weights.items()
        for own, rows in _apart(family, network, canonical)
    }


def _apart(family: Family, network: Any, name: str) -> Iterator[tuple[str, slice | None]]:
    """Canonical names and rows of what a weight of the host holds."""
    start, _, path = name.partition(".")
    layer, _, attribute = path.rpartition(".")
    inside = family.from_comfy(layer)
    if len(inside) == 1:
        yield name, None
        return
    rows = parts_of_fused(network.get_submodule(layer.rpartition(".")[0]))
    for own, part in zip(inside, rows, strict=True):
        yield f"{start}.{own}.{attribute}", part


def text_weights(cond_stage_model: Any, encoders: list[str]) -> dict[str, Weight]:
    """Canonical name -> weight, for everything in the text encoders."""
    weights: dict[str, Weight] = {}
    for name in encoders:
        transformer = getattr(cond_stage_model, name).transformer
        weights.update(_weights(transformer, f"{name}.", f"{name}.transformer."))
    return weights


def reaches_the_unet(name: str) -> bool:
    """False for text projections: every encoder has one here, only SDXL's second one uses it."""
    return PROJECTION not in name or name.startswith("clip_g.")


def _weights(root: nn.Module, canonical: str, prefix: str) -> Iterator[tuple[str, Weight]]:
    for path, module in root.named_modules():
        for attribute in ("weight", "bias"):
            if hasattr(module, f"{attribute}_function") and _has(module, attribute):
                name = f"{path}.{attribute}"
                yield canonical + name, Weight(prefix + name, module, attribute)


def _has(module: Any, attribute: str) -> bool:
    return getattr(module, attribute, None) is not None


def original_weight(patcher: Any, weight: Weight) -> Tensor:
    """A weight as the checkpoint had it, also while LoRAs are loaded. Do not write into it."""
    if (backup := patcher.hook_backup.get(weight.key)) is not None:
        value = backup[0]
    elif (backup := patcher.backup.get(weight.key)) is not None:
        value = backup.weight
    else:
        value = comfy.utils.get_attr(patcher.model, weight.key)
    value = value.dequantize() if hasattr(value, "dequantize") and value.is_quantized else value
    return usable(weight.of(value.detach()))


def shape_of(patcher: Any, weight: Weight) -> tuple[int, ...]:
    """Shape of a weight, whatever the host keeps it as."""
    shape = tuple(comfy.utils.get_attr(patcher.model, weight.key).shape)
    if weight.rows is None:
        return shape
    return (weight.rows.stop - weight.rows.start, *shape[1:])


class WrappedWeights:
    """Wrappers for a patcher that has no other owner.

    Args:
        patcher: a clone made for this.
        weights: those of this patcher, by canonical name.
        edits: by canonical name; names of other patchers are left to them.
        trainable: call the edits on every use, and keep every weight fit for autograd; factored
            edits are added to what their layers give.
    """

    def __init__(
        self,
        patcher: Any,
        weights: Mapping[str, Weight],
        edits: Mapping[str, WeightEdit],
        *,
        trainable: bool,
    ) -> None:
        self._patcher = patcher
        self._wrappers: list[tuple[Weight, Wrapper]] = []
        self._positions: list[tuple[Weight, Wrapper]] = []
        self._residuals: list[tuple[nn.Module, Callable[[Tensor, Tensor], Tensor]]] = []
        by_key: dict[str, list[tuple[Weight, WeightEdit | None]]] = {}
        for name, weight in weights.items():
            edit = edits.get(name)
            if trainable and isinstance(edit, FactoredEdit):
                self._residuals.append((weight.module, _residual_of(weight, edit)))
                edit = None
            by_key.setdefault(weight.key, []).append((weight, edit))
        for key, kept_together in by_key.items():
            weight, edit = kept_together[0][0], _edit_of_all(kept_together)
            if edit is not None:
                wrapper = _edited(patcher, edit) if trainable else _edited_once(edit)
            elif trainable and _autograd_keeps(weight):
                wrapper = _copied(patcher)
            else:
                continue
            self._wrappers.append((weight, wrapper))
            if edit is not None and key.endswith("embeddings.position_embedding.weight"):
                self._positions.append((weight, wrapper))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The wrappers on their patcher, and all hooks that belong to them."""
        with ExitStack() as cleanup:
            cleanup.enter_context(residuals_installed(self._residuals))
            cleanup.callback(self._take_off)
            for weight, wrapper in self._wrappers:
                self._patcher.add_weight_wrapper(weight.key, wrapper)
            for weight, wrapper in self._positions:
                text_model = comfy.utils.get_attr(
                    self._patcher.model, weight.key.split(".embeddings.")[0]
                )
                hook = text_model.register_forward_pre_hook(
                    _shifting_positions(weight, wrapper), with_kwargs=True
                )
                cleanup.callback(hook.remove)
            yield

    def settle(self) -> None:
        """Put the wrappers where the host left them out.

        Dynamic VRAM loads small layers (norms, mostly) by a short way that forgets about wrappers.
        """
        for weight, wrapper in self._wrappers:
            functions = _functions(weight)
            if not any(f is wrapper for f in functions):
                setattr(weight.module, f"{weight.attribute}_function", [*functions, wrapper])

    def _take_off(self) -> None:
        # The host does this when it next loads the model; nobody should meet them before.
        for weight, wrapper in self._wrappers:
            functions = _functions(weight)
            others = [f for f in functions if f is not wrapper]
            if len(others) != len(functions):
                setattr(weight.module, f"{weight.attribute}_function", others)


def _functions(weight: Weight) -> list[Wrapper]:
    return getattr(weight.module, f"{weight.attribute}_function")


@contextmanager
def kept_for_autograd(patcher: Any, weights: Mapping[str, Weight]) -> Iterator[None]:
    """Weights of a model that is loaded already, fit for a backward pass; then as they were."""
    wrapper, before = _copied(patcher), [(w, _functions(w)) for w in weights.values()]
    try:
        for weight, functions in before:
            if _autograd_keeps(weight):
                setattr(weight.module, f"{weight.attribute}_function", [*functions, wrapper])
        yield
    finally:
        for weight, functions in before:
            setattr(weight.module, f"{weight.attribute}_function", functions)


def _autograd_keeps(weight: Weight) -> bool:
    """Whether a backward pass reads this weight; looking up a table's rows does not."""
    parameter = getattr(weight.module, weight.attribute)
    return not isinstance(weight.module, nn.Embedding) or parameter.requires_grad


def _copied(patcher: Any) -> Wrapper:
    """A weight as autograd may keep it until the backward pass.

    The host hands out a copy of its own when the model is loaded whole, but a place in a buffer
    that the next layer overwrites when it is paged or offloaded.
    """

    # Not the patcher: it keeps its wrappers, and would wait for the garbage collector with them.
    model, is_dynamic = patcher.model, patcher.is_dynamic()

    def wrapper(weight: Tensor) -> Tensor:
        weight = weight.detach()
        paged = is_dynamic or getattr(model, "model_lowvram", True)
        return weight.clone() if paged or weight.is_inference() else weight

    return wrapper


def _residual_of(weight: Weight, edit: FactoredEdit) -> Callable[[Tensor, Tensor], Tensor]:
    """What an edit adds to a layer's output, of which it may change some channels."""
    rows = weight.rows
    if rows is None:
        return edit.residual

    def residual(inputs: Tensor, output: Tensor) -> Tensor:
        changed = edit.residual(inputs, output[..., rows])
        return torch.cat([output[..., : rows.start], changed, output[..., rows.stop :]], dim=-1)

    return residual


def _edit_of_all(weights: Sequence[tuple[Weight, WeightEdit | None]]) -> WeightEdit | None:
    """One edit of what the host keeps, which may hold the rows of several weights.

    A wrapper for each of them would copy the whole tensor as often.
    """
    edits = [(weight.rows, edit) for weight, edit in weights if edit is not None]
    if not edits or edits[0][0] is None:
        return edits[0][1] if edits else None
    in_order = sorted(((rows, edit) for rows, edit in edits if rows), key=lambda it: it[0].start)

    def edited(whole: Tensor) -> Tensor:
        parts, end = list[Tensor](), 0
        for rows, edit in in_order:
            parts += [whole[end : rows.start], edit(whole[rows]).to(whole)]
            end = rows.stop
        return torch.cat([*parts, whole[end:]])

    return edited


def _edited(patcher: Any, edit: WeightEdit) -> Wrapper:
    copied = _copied(patcher)
    return lambda weight: edit(copied(weight)).to(weight)


def _edited_once(edit: WeightEdit) -> Wrapper:
    made: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def wrapper(weight: Tensor) -> Tensor:
        place = (weight.device, weight.dtype)
        if place not in made:
            with torch.no_grad():
                made[place] = edit(usable(weight.detach())).to(weight).detach()
        return made[place]

    return wrapper


def _shifting_positions(weight: Weight, edited: Wrapper) -> Callable[..., Any]:
    """The host adds position embeddings without calling their layer: add what an edit changes."""

    def shift(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        embeds = kwargs["embeds"]
        before = usable(getattr(weight.module, weight.attribute).detach()).to(embeds)
        return args, {**kwargs, "embeds": embeds + (edited(before) - before)}

    return shift
