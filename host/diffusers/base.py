"""What base models in diffusers have in common, whatever their network and text encoders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ...errors import ModelError, UnsupportedModelError
from ..contexts import batched_context, info_of
from ..families.anima_text import Row, spliced
from ..families.family import TRANSFORMER, Family
from ..families.registry import token_table
from ..hooks import edits_installed
from ..ports import BatchPart, HandleVectors, NoisePath, Prompt, UNetEdit, UNetSites, WeightEdit
from ..uncompiled import uncompiled
from .placement import check_in_memory, compute_dtype, execution_device
from .vae import decoded, encoded
from .weights import checkpointed, edited_weights, frozen

Named = dict[str, tuple[Any, str]]  # canonical name -> module, "weight" or "bias"


class NetworkHost(ABC):
    """A network and what it needs, as a `Host`; see `DiffusersHost` and `AnimaHost`.

    Attributes:
        network: its own code, also where a compiled one runs.
        origin: what the folder of the model is called, where it is known.
    """

    network: Any
    vae: Any
    sites: UNetSites
    noise_path: NoisePath
    encoders: Mapping[str, int]
    latent_channels: int
    pixels_per_latent: int
    fingerprint: str
    origin: str = ""
    _weights: Named

    @property
    def device(self) -> torch.device:
        return execution_device(self.network)

    @property
    def dtype(self) -> torch.dtype:
        return compute_dtype(self.network)

    def predict(
        self,
        latent: Tensor,
        timesteps: Tensor,
        prompts: Sequence[Prompt],
        edits: Sequence[UNetEdit] = (),
        conditional: Sequence[bool] | None = None,
    ) -> Tensor:
        return self._predict(latent, timesteps, prompts, edits, conditional)

    def _predict(
        self,
        latent: Tensor,
        timesteps: Tensor,
        prompts: Sequence[Prompt],
        edits: Sequence[UNetEdit],
        conditional: Sequence[bool] | None,
        pictures: Sequence[int] | None = None,
        part: BatchPart | None = None,
    ) -> Tensor:
        device, dtype = self.device, self.dtype
        latent, timesteps = latent.to(device), timesteps.to(device)
        context = batched_context(prompts, latent.shape[0]).to(device, dtype)
        info = info_of(
            latent, timesteps, prompts, context, conditional, self.sites.text, pictures, part
        )
        with edits_installed(self.sites, edits, info):
            return self._forward(latent.to(dtype), timesteps, context, prompts).float()

    @abstractmethod
    def _forward(
        self, latent: Tensor, timesteps: Tensor, context: Tensor, prompts: Sequence[Prompt]
    ) -> Tensor:
        """What the network says, [B, C, h, w]."""

    @abstractmethod
    def _text_models(self) -> Iterable[nn.Module]:
        """Networks that read prompts."""

    def token_table(self, encoder: str) -> Tensor:
        return self.weight(token_table(encoder))

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        return encoded(self.vae, image, self.pixels_per_latent).to(self.device)

    @torch.no_grad()
    def decode_latent(self, latent: Tensor) -> Tensor:
        return decoded(self.vae, latent)

    def weight(self, name: str) -> Tensor:
        weight = self._original(name)
        check_in_memory(name, weight)
        return weight.detach()

    def weight_shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._original(name).shape)

    def _original(self, name: str) -> Tensor:
        module, attribute = self._weights[name]
        if parametrize.is_parametrized(module, attribute):
            return module.parametrizations[attribute].original
        return getattr(module, attribute)

    def weight_names(self) -> list[str]:
        return list(self._weights)

    @contextmanager
    def edited(
        self, weights: Mapping[str, WeightEdit], *, trainable: bool, checkpointing: bool = False
    ) -> Iterator[None]:
        unknown = [name for name in weights if name not in self._weights]
        if unknown:
            raise ModelError(
                f"The base model has no weight {unknown[0]} ({len(unknown)} such names); the "
                "concept was trained on another kind of model. Load a model of its family."
            )
        for name in weights:
            self.weight(name)  # can be read
        with ExitStack() as stack:
            stack.enter_context(uncompiled)
            if trainable:
                stack.enter_context(frozen(self.network, *self._text_models()))
            if checkpointing:
                stack.enter_context(checkpointed(self.network))
            stack.enter_context(edited_weights(self._weights, weights, trainable=trainable))
            yield


@contextmanager
def splicing(
    table: Any, rows: Sequence[Row], handles: HandleVectors, encoder: str
) -> Iterator[None]:
    """Vectors of handles in place of looked-up rows, differentiably, for one forward pass."""
    if all(isinstance(row, int) for row in rows):
        yield
        return
    hook = table.register_forward_hook(
        lambda module, args, looked_up: spliced(looked_up, rows, handles, encoder)
    )
    try:
        with uncompiled:
            yield
    finally:
        hook.remove()


def named(prefix: str, module: nn.Module) -> Named:
    """Every weight and bias of a module, by its own names behind a prefix."""
    weights: Named = {}
    for path, _ in module.named_parameters():
        owner, _, attribute = path.rpartition(".")
        weights[f"{prefix}{path}"] = (module.get_submodule(owner), attribute)
    return weights


def named_layers(family: Family, network: nn.Module) -> Named:
    """Every weight and bias of a transformer, by the names of its family."""
    of_network, names = named("", network), Named()
    for path in family.paths(lambda blocks: len(network.get_submodule(blocks))):
        theirs = family.diffusers_name(path)
        for kind in ("weight", "bias"):
            if f"{theirs}.{kind}" in of_network:
                names[f"{TRANSFORMER}.{path}.{kind}"] = of_network[f"{theirs}.{kind}"]
    return names


def parts_of(pipeline: Any, names: Sequence[str]) -> dict[str, Any]:
    """Components of a pipeline of diffusers.

    Raises:
        UnsupportedModelError: one of them is missing.
    """
    parts = {name: getattr(pipeline, name, None) for name in names}
    if lost := [name for name, part in parts.items() if part is None]:
        raise UnsupportedModelError(
            f"This {type(pipeline).__name__} has no {lost[0]}; it needs {', '.join(names)}."
        )
    return parts
