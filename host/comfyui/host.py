"""A base model made of ComfyUI's MODEL, CLIP and VAE, behind the port."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import PurePath
from typing import Any

import comfy.model_management
import comfy.patcher_extension
import torch
from torch import Tensor

from ...errors import ModelError
from ..contexts import batched_context, batched_pooled, in_groups, info_of, rows_by_length
from ..families.registry import token_table
from ..fingerprint import fingerprint_of
from ..hooks import edits_installed
from ..noise import NoisePath
from ..pictures import check_picture, planes_of
from ..ports import BatchPart, HandleVectors, Prompt, Tokens, UNetEdit, WeightEdit, Words
from ..uncompiled import as_written
from ..words import as_in_text
from .compilation import check_can_edit, edits_possible
from .noise import clock_of, noise_path_if_any, noise_path_of
from .sites import context_width_of, network_sites
from .texts import texts_of
from .training import (
    autograd_possible,
    checkpointed,
    exact_attention,
    let_go,
    text_layers_keep_inputs,
)
from .weights import (
    WrappedWeights,
    network_weights,
    original_weight,
    reaches_the_unet,
    shape_of,
    usable,
)


def check_channels(vae: Any, expected: int) -> None:
    """Raises ModelError for a VAE whose latents the MODEL does not take."""
    quant = getattr(vae.first_stage_model, "post_quant_conv", None)
    # The host's own number stays 4 for a VAE that was made of a config.
    channels = getattr(quant, "in_channels", None) or getattr(vae, "latent_channels", expected)
    if channels != expected:
        raise ModelError(
            f"The VAE makes latents with {channels} channels, but the MODEL takes {expected}. "
            "Connect the model's own VAE."
        )


class ComfyHost:
    """MODEL, CLIP and VAE of a graph as a `Host`.

    The three stay the graph's: they are read, hooked for one pass, and given back unchanged. LoRAs
    and patches that sit on them take part. What comes from a forward pass follows the mode it runs
    in; to learn, open `edited(..., trainable=True)` first, which leaves inference mode.

    Args:
        model: a MODEL of a family that `families.registry` knows.
        clip: its CLIP.
        vae: its VAE; optional if no picture is encoded or decoded.
        applies_only: concepts are applied and no timestep is asked for, so any sampling will do.

    Raises:
        UnsupportedModelError: another architecture, or another kind of prediction.
        ModelError: MODEL, CLIP and VAE do not fit each other.
    """

    def __init__(
        self, model: Any, clip: Any, vae: Any = None, *, applies_only: bool = False
    ) -> None:
        self._patcher, self._clip, self._vae = model, clip, vae
        self.sites = network_sites(self._network)
        check_can_edit(model)
        sampling = model.get_model_object("model_sampling")
        known = noise_path_if_any(sampling) if applies_only else noise_path_of(sampling)
        self._noise_path = known
        self._texts = texts_of(clip, self._network, self.sites)
        self.encoders = self._texts.encoders
        form = model.get_model_object("latent_format")
        self.latent_channels = form.latent_channels
        self.has_time = form.latent_dimensions == 3
        if vae is not None:
            check_channels(vae, self.latent_channels)
            self.pixels_per_latent = vae.spacial_compression_encode()
        else:
            self.pixels_per_latent = getattr(form, "spacial_downscale_ratio", 8)
        self.fingerprint = fingerprint_of(
            self.sites, context_width_of(self.sites), self.encoders, known, self.latent_channels
        )
        self._weights = network_weights(self._network, self.sites.network)
        self._text_weights = self._texts.weights
        self._learning = False
        self._wrapped: list[WrappedWeights] = []

    @property
    def _base(self) -> Any:
        return self._patcher.model

    @property
    def _network(self) -> Any:
        """The network's own code, also while the host holds a compiled one in its place."""
        return as_written(self._base.diffusion_model)

    @property
    def noise_path(self) -> NoisePath:
        if self._noise_path is None:  # says why
            return noise_path_of(self._patcher.get_model_object("model_sampling"))
        return self._noise_path

    @property
    def clock(self) -> float:
        """What the network takes as timestep, over the path's t."""
        return clock_of(self._patcher.get_model_object("model_sampling"), self.noise_path)

    @property
    def device(self) -> torch.device:
        return self._patcher.load_device

    @property
    def dtype(self) -> torch.dtype:
        # Asked of the patcher: a node may have set it, and the model hears of that when loaded.
        return self._patcher.get_model_object("manual_cast_dtype") or self._base.get_dtype()

    @property
    def origin(self) -> str:
        made_by = getattr(self._patcher, "cached_patcher_init", None)  # loader, arguments
        paths = (one for one in (made_by[1] if made_by else ()) if isinstance(one, (str, PurePath)))
        return next((PurePath(path).name for path in paths), "")

    def predict(
        self,
        latent: Tensor,
        timesteps: Tensor,
        prompts: Sequence[Prompt],
        edits: Sequence[UNetEdit] = (),
        conditional: Sequence[bool] | None = None,
    ) -> Tensor:
        if self.sites.joint is not None:
            groups = rows_by_length(prompts, len(latent), conditional)
            if len(groups) > 1:
                return in_groups(
                    self._predict, groups, latent, timesteps, prompts, edits, conditional
                )
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
        rows = latent.shape[0]
        latent, timesteps = usable(latent).to(self.device), usable(timesteps).to(self.device)
        context = usable(batched_context(prompts, rows)).to(self.device)
        info = info_of(
            latent, timesteps, prompts, context, conditional, self.sites.text, pictures, part
        )
        inputs = latent.unsqueeze(2) if self.has_time else latent
        self._load([self._patcher], self._base.memory_required([rows, *inputs.shape[1:]]))
        dtype = self.dtype
        extra: dict[str, Any] = self.extra_inputs(latent, prompts)
        if self.sites.joint is not None:
            extra["num_tokens"] = context.shape[1]
        inputs = torch.cat([inputs, extra.pop("c_concat")], 1) if "c_concat" in extra else inputs
        with (
            edits_possible() if edits else nullcontext(),
            edits_installed(self.sites, edits, info),
        ):
            output = self._base.diffusion_model(
                inputs.to(dtype),
                timesteps.float() * self.clock,
                context=context.to(dtype),
                transformer_options=self._transformer_options(timesteps, info.conditional),
                **extra,
            ).float()
        let_go(self._network)
        return output.squeeze(2) if self.has_time else output

    def extra_inputs(self, latent: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """What some networks take beside latent and context: SDXL's sizes, an inpainting mask."""
        height, width = (self.pixels_per_latent * n for n in latent.shape[-2:])
        arguments = {"noise": latent, "device": self.device, "height": height, "width": width}
        arguments["latent_image"] = (
            latent  # without a mask, an inpainting model takes only its size
        )
        pooled = batched_pooled(prompts, latent.shape[0])
        if pooled is not None:
            arguments["pooled_output"] = usable(pooled).to(self.device)
        conditions = self._base.extra_conds(**arguments)
        rows, dtype = latent.shape[0], self.dtype
        return {
            name: usable(condition.cond).to(self.device, dtype).expand(rows, *[-1] * (c.ndim - 1))
            for name, condition in conditions.items()
            if isinstance(c := condition.cond, Tensor)
        }

    def _transformer_options(
        self, timesteps: Tensor, is_conditional: Sequence[bool]
    ) -> dict[str, Any]:
        """As the host's samplers fill them, so that patches of other packs find what they read."""
        options = dict(self._patcher.model_options["transformer_options"])
        for kind in ("wrappers", "callbacks"):
            options[kind] = comfy.patcher_extension.merge_nested_dicts(
                options.get(kind, {}), getattr(self._patcher, kind)
            )
        options["cond_or_uncond"] = [0 if row else 1 for row in is_conditional]
        options["sigmas"] = self.noise_path.level_at(timesteps)
        if self._learning:
            exact_attention(options)
        return options

    def _load(self, patchers: list[Any], memory_required: float = 0) -> None:
        # Weights were made in inference mode, and only there may they be moved.
        with torch.inference_mode():
            comfy.model_management.load_models_gpu(patchers, memory_required=memory_required)
        for wrapped in self._wrapped:
            wrapped.settle()

    def tokenize(self, text: str) -> Tokens:
        if self.sites.text.by_letters:
            return (Words(text),) if text.strip() else ()
        return tuple(self._texts.ids(self._clip, self._texts.word_encoder, text))

    def encode_prompt(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        self._load([self._clip.patcher])
        like = torch.empty(0, device=self.device, dtype=self.dtype)
        return self._texts.encode(self._clip, self._loaded_network, text, handles or {}, like)

    def _loaded_network(self) -> Any:
        self._load([self._patcher])
        return self._network

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        vectors = {}
        text = as_in_text(word) if self.sites.text.by_letters else word
        for name in self.encoders:
            table = self._original(token_table(name))
            ids = torch.tensor(self._texts.ids(self._clip, name, text), device=table.device)
            vectors[name] = table[ids].to(self.device, torch.float32, copy=True)
        return vectors

    def token_table(self, encoder: str) -> Tensor:
        return self.weight(token_table(encoder))

    @torch.no_grad()
    def encode_image(self, image: Tensor) -> Tensor:
        check_picture(image, self.pixels_per_latent)
        pixels = planes_of(usable(image)).movedim(1, -1)
        encode = self._the_vae("encoded").encode
        if self.has_time:  # the host takes several pictures for a film
            latent = torch.cat([encode(row[None]) for row in pixels])
            latent = latent.unsqueeze(2) if latent.ndim == 4 else latent  # of a VAE for pictures
        else:
            latent = encode(pixels)
        return self._flat(self._base.process_latent_in(latent)).to(self.device, torch.float32)

    @torch.no_grad()
    def decode_latent(self, latent: Tensor) -> Tensor:
        latent = usable(latent).detach().float()
        latent = latent.unsqueeze(2) if self.has_time else latent
        latent, vae = self._base.process_latent_out(latent), self._the_vae("decoded")
        pictures = vae.decode(self._flat(latent) if vae.latent_dim == 2 else latent)
        return pictures.flatten(0, -4).float().cpu()

    def _flat(self, latent: Tensor) -> Tensor:
        """[B, C, h, w] of latents that may have an axis for time."""
        return latent.squeeze(2) if latent.ndim == 5 else latent

    def _the_vae(self, purpose: str) -> Any:
        if self._vae is None:
            raise ModelError(
                f"A picture has to be {purpose}, but no VAE is connected; connect one."
            )
        return self._vae

    def weight(self, name: str) -> Tensor:
        return self._original(name).to(self.device)

    def _original(self, name: str) -> Tensor:
        if name in self._weights:
            return original_weight(self._patcher, self._weights[name])
        if name in self._text_weights:
            return original_weight(self._clip.patcher, self._text_weights[name])
        raise self._unknown([name])

    def weight_shape(self, name: str) -> tuple[int, ...]:
        if name in self._weights:
            return shape_of(self._patcher, self._weights[name])
        if name in self._text_weights:
            return shape_of(self._clip.patcher, self._text_weights[name])
        raise self._unknown([name])

    def weight_names(self) -> list[str]:
        return [*self._weights, *filter(reaches_the_unet, self._text_weights)]

    @contextmanager
    def edited(
        self, weights: Mapping[str, WeightEdit], *, trainable: bool, checkpointing: bool = False
    ) -> Iterator[None]:
        known = set(self.weight_names())
        if unknown := [name for name in weights if name not in known]:
            raise self._unknown(unknown)
        before = (self._patcher, self._clip, self._learning, self._wrapped)
        with ExitStack() as stack:
            stack.enter_context(edits_possible())
            if trainable:
                stack.enter_context(autograd_possible())
                stack.enter_context(text_layers_keep_inputs(self._clip.cond_stage_model))
            if checkpointing:
                stack.enter_context(checkpointed(self._network))
            network, clip = self._patcher.clone(), self._clip.clone()
            wrapped = [
                WrappedWeights(patcher, of_patcher, weights, trainable=trainable)
                for patcher, of_patcher in (
                    (network, self._weights),
                    (clip.patcher, self._text_weights),
                )
            ]
            for one in wrapped:
                stack.enter_context(one.installed())
            try:
                self._patcher, self._clip = network, clip
                self._learning = self._learning or trainable
                self._wrapped = [*self._wrapped, *wrapped]
                yield
            finally:
                self._patcher, self._clip, self._learning, self._wrapped = before

    def _unknown(self, names: Sequence[str]) -> ModelError:
        return ModelError(
            f"The base model has no weight {names[0]} ({len(names)} such names); the concept was "
            "trained on another kind of model. Load a checkpoint of its family."
        )
