"""A base model made of diffusers and transformers parts, behind the port."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError, PromptError, UnsupportedModelError
from ..contexts import batched_pooled
from ..families.clip import content_of
from ..fingerprint import fingerprint_of
from ..noise import EpsPath, VelocityPath
from ..ports import HandleVectors, Prompt
from ..uncompiled import as_written, check_uncompiled
from .base import Named, NetworkHost, named
from .placement import execution_device
from .prompts import TextEncoder, Token
from .sites import canonical_unet_names, unet_sites
from .vae import downscale_of


class DiffusersHost(NetworkHost):
    """UNet2DConditionModel, AutoencoderKL and one or two CLIP text encoders as a `Host`.

    The networks stay the caller's: they are read, hooked for one pass, and given back unchanged.
    Where they are compiled, passes with edits and learning run without it.

    Args:
        unet, vae: diffusers modules; the UNet decides device and precision. They may be offloaded
            to draw with; what learns has to stay on its device.
        encoders: in the order in which the UNet expects their contexts side by side.
        scheduler: any diffusers scheduler of the base model; read for its noise levels and its
            prediction type.

    Raises:
        UnsupportedModelError: another architecture, or another kind of prediction.
        ModelError: the parts do not fit each other.
    """

    def __init__(
        self, *, unet: Any, vae: Any, encoders: Sequence[TextEncoder], scheduler: Any
    ) -> None:
        check_uncompiled(unet, *(encoder.model for encoder in encoders))
        self._network, unet = unet, as_written(unet)  # compiled or not, and its own code
        self.unet = self.network = unet
        self.vae = vae
        self._encoders = [replace(e, model=as_written(e.model)) for e in encoders]
        self.encoders = {encoder.name: encoder.width for encoder in self._encoders}
        self.sites = unet_sites(unet)
        check_fits(unet, vae, self.encoders, scheduler)
        velocity = scheduler.config.prediction_type == "v_prediction"
        trailing = scheduler.config.get("timestep_spacing") == "trailing"
        kind = VelocityPath if velocity else EpsPath
        self.noise_path = kind(scheduler.alphas_cumprod, trailing)
        self.latent_channels = unet.config.in_channels
        self.pixels_per_latent = downscale_of(vae)
        width, channels = unet.config.cross_attention_dim, self.latent_channels
        self.fingerprint = fingerprint_of(
            self.sites, width, self.encoders, self.noise_path, channels
        )
        self._weights = self._named_weights()

    @classmethod
    def tinyworld(
        cls, path: Path | None = None, prepared: Callable[[Any], Any] = lambda network: network
    ) -> DiffusersHost:
        """The bundled tiny model, or another one in its format.

        Args:
            prepared: puts UNet and text encoder where they shall be.
        """
        from ...tinyworld.checkpoint import CHECKPOINT, load_tinyworld

        world = load_tinyworld(path or CHECKPOINT)
        unet, text = prepared(world.unet), prepared(world.text_encoder)
        encoder = TextEncoder("clip_l", text, world.tokenizer)
        world.vae.to(unet.device)
        return cls(unet=unet, vae=world.vae, encoders=[encoder], scheduler=world.scheduler)

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> DiffusersHost:
        """A Stable Diffusion 1.x, 2.x or XL pipeline of diffusers.

        Raises:
            UnsupportedModelError: another pipeline.
            ModelError: its parts do not belong to each other.
        """
        check_pipeline(pipeline)
        xl = getattr(pipeline, "text_encoder_2", None)
        first = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
        width = pipeline.text_encoder.get_input_embeddings().weight.shape[1]
        name = first.get(width, "clip_l")
        encoders = [
            TextEncoder(name, pipeline.text_encoder, pipeline.tokenizer, penultimate=xl is not None)
        ]
        if xl is not None:
            encoders.append(
                TextEncoder("clip_g", xl, pipeline.tokenizer_2, penultimate=True, projected=True)
            )
        return cls(
            unet=pipeline.unet, vae=pipeline.vae, encoders=encoders, scheduler=pipeline.scheduler
        )

    def _forward(
        self, latent: Tensor, timesteps: Tensor, context: Tensor, prompts: Sequence[Prompt]
    ) -> Tensor:
        sizes = self._size_conditions(latent, prompts)
        return self._network(latent, timesteps, context, added_cond_kwargs=sizes).sample

    def _text_models(self) -> list[Any]:
        return [encoder.model for encoder in self._encoders]

    def _size_conditions(self, latent: Tensor, prompts: Sequence[Prompt]) -> dict[str, Tensor]:
        """SDXL's pooled text and picture sizes (original, crop, target)."""
        pooled = batched_pooled(prompts, latent.shape[0])
        if pooled is None or self.unet.config.addition_embed_type is None:
            return {}
        height, width = (self.pixels_per_latent * n for n in latent.shape[-2:])
        sizes = torch.tensor([[height, width, 0, 0, height, width]], device=latent.device)
        return {
            "text_embeds": pooled.to(latent.device, self.dtype),
            "time_ids": sizes.expand(latent.shape[0], -1).to(self.dtype),
        }

    def tokenize(self, text: str) -> tuple[int | str, ...]:
        return tuple(self._encoders[0].ids(text))

    def encode_prompt(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        handles = handles or {}
        windows = [encoder.windows(text, handles) for encoder in self._encoders]
        places = [[_handle_of(token) for window in w for token, _ in window] for w in windows]
        if any(p != places[0] for p in places):
            raise PromptError(
                f"The text encoders cut {text!r} into windows differently; a handle must have as "
                "many vectors in every encoder."
            )
        tokens = tuple(t if isinstance(t, int) else t[0] for w in windows[0] for t, _ in w)
        contexts, pooled = [], None
        for encoder, its_windows in zip(self._encoders, windows, strict=True):
            context, encoder_pooled = encoder.encode(its_windows, handles)
            contexts.append(context)
            pooled = encoder_pooled if encoder_pooled is not None else pooled
        content = content_of(tokens, self._encoders[0].tokenizer.eos_token_id)
        return Prompt(text, torch.cat(contexts, dim=-1), tokens, pooled, content=content)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        vectors = {}
        for encoder in self._encoders:
            ids = torch.tensor(encoder.ids(word), device=execution_device(encoder.model))
            # Asked of the layer: where the encoder is offloaded, only a call finds the weight.
            vectors[encoder.name] = encoder.table(ids).detach().float().clone()
        return vectors

    def _named_weights(self) -> Named:
        of_unet = named("", self.unet)
        names = {name: of_unet[path] for name, path in canonical_unet_names(self.unet).items()}
        for encoder in self._encoders:
            for path, place in named("", encoder.model).items():
                # transformers 5 dropped the "text_model." level of its paths.
                bare = path.removeprefix("text_model.")
                if not bare.startswith("text_projection"):
                    bare = f"text_model.{bare}"
                names[f"{encoder.name}.{bare}"] = place
        return names


def _handle_of(token: Token) -> str | None:
    """Name of the handle that a token belongs to; None for an ordinary token."""
    return None if isinstance(token, int) else token[0]


PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
PREDICTS = ("epsilon", "v_prediction")


def check_pipeline(pipeline: Any) -> None:
    """UnsupportedModelError when a pipeline lacks what a base model is made of."""
    if lost := [part for part in PARTS if getattr(pipeline, part, None) is None]:
        raise UnsupportedModelError(
            f"This {type(pipeline).__name__} has no {lost[0]}; ConceptLoom works with "
            "StableDiffusionPipeline (1.x, 2.x) and StableDiffusionXLPipeline."
        )


def check_fits(unet: Any, vae: Any, widths: Mapping[str, int], scheduler: Any) -> None:
    """Whether the parts of a base model belong to each other.

    Args:
        widths: of the text encoders.

    Raises:
        UnsupportedModelError: another kind of prediction, or a UNet with further inputs.
        ModelError: the parts are those of different models, or their projections are fused.
    """
    prediction = getattr(scheduler.config, "prediction_type", None)
    if prediction not in PREDICTS:
        raise UnsupportedModelError(
            f"The model of this {type(scheduler).__name__} predicts {prediction or 'a flow'}; "
            "ConceptLoom supports noise (epsilon) and velocity (v_prediction)."
        )
    takes, makes = unet.config.in_channels, vae.config.latent_channels
    if takes != makes:
        raise UnsupportedModelError(
            f"The UNet takes {takes} channels but the VAE makes {makes}; models for inpainting "
            "and editing take additional channels. Load the plain text-to-image model."
        )
    reads, width = unet.config.cross_attention_dim, sum(widths.values())
    if reads != width:
        raise ModelError(
            f"The text encoders ({', '.join(widths)}) make contexts {width} wide, but the UNet "
            f"reads {reads}; load both from the same model."
        )
    processors = [type(getattr(module, "processor", None)).__name__ for module in unet.modules()]
    if any(name.startswith("Fused") for name in processors):
        raise ModelError(
            "The UNet's attention projections are fused, which hides keys and values; call "
            "unfuse_qkv_projections() first."
        )
