"""Anima in diffusers: CosmosTransformer3DModel, its text conditioner, Qwen3 and T5's tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import ModelError, UnsupportedModelError
from ..families import transformer
from ..families.anima import ADAPTER, ANIMA, LAYOUT, QWEN, T5
from ..families.anima_text import AnimaRows, padded, rows_of
from ..families.family import TRANSFORMER
from ..fingerprint import fingerprint_of
from ..noise import FlowPath
from ..ports import HandleVectors, Prompt
from ..uncompiled import as_written, check_uncompiled
from .base import Named, NetworkHost, named, named_layers, parts_of, splicing
from .placement import execution_device
from .vae import downscale_of

PARTS = (
    "transformer", "text_conditioner", "vae", "text_encoder", "tokenizer", "t5_tokenizer",
    "scheduler",
)  # fmt: skip


class AnimaHost(NetworkHost):
    """An Anima model as a `Host`.

    The networks stay the caller's: they are read, hooked for one pass, and given back unchanged.

    Args:
        transformer: CosmosTransformer3DModel; it decides device and precision.
        text_conditioner: AnimaTextConditioner.
        vae: AutoencoderKLQwenImage, or any other autoencoder of pictures for this transformer.
        text_encoder: Qwen3Model.
        tokenizer, t5_tokenizer: of Qwen3 and of T5.
        scheduler: read for its shift.

    Raises:
        UnsupportedModelError: the scheduler is not that of a flow.
        ModelError: the parts do not fit each other.
    """

    def __init__(
        self, *, transformer: Any, text_conditioner: Any, vae: Any, text_encoder: Any,
        tokenizer: Any, t5_tokenizer: Any, scheduler: Any,
    ) -> None:  # fmt: skip
        check_uncompiled(transformer, text_conditioner, text_encoder)
        self._as_given, self.network = transformer, as_written(transformer)
        self.conditioner, self.vae = as_written(text_conditioner), vae
        self._qwen = as_written(text_encoder)
        self._tokenizers = {QWEN: tokenizer, T5: t5_tokenizer}
        self.sites = sites_of(self.network)
        self.noise_path = FlowPath(_shift_of(scheduler))
        self.encoders = {
            QWEN: self._qwen.get_input_embeddings().embedding_dim,
            T5: self.conditioner.embed.embedding_dim,
        }
        self._check_fit()
        self.latent_channels = self.network.config.out_channels
        self.pixels_per_latent = downscale_of(vae)
        width = self.network.config.text_embed_dim
        self.fingerprint = fingerprint_of(
            self.sites, width, self.encoders, self.noise_path, self.latent_channels
        )
        self._weights = self._named_weights()

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> AnimaHost:
        """A pipeline of diffusers with Anima's components.

        Raises:
            UnsupportedModelError: one of them is missing.
        """
        return cls(**parts_of(pipeline, PARTS))

    @classmethod
    def tinyworld(
        cls, path: Path | None = None, prepared: Callable[[Any], Any] = lambda network: network
    ) -> AnimaHost:
        """The bundled tiny Anima, or another one in its format.

        Args:
            prepared: puts the networks where they shall be.

        Raises:
            ModelError: its weights are not there.
        """
        from ...tinyworld.dit.checkpoint import load_dit

        world = load_dit(ANIMA.name, path)
        network = prepared(world.transformer)
        world.vae.to(network.device)
        return cls(
            transformer=network,
            text_conditioner=prepared(world.adapter),
            vae=world.vae,
            text_encoder=prepared(world.text_encoder),
            tokenizer=world.tokenizer,
            t5_tokenizer=world.t5_tokenizer,
            scheduler=world.scheduler,
        )

    def _check_fit(self) -> None:
        if self.network.config.concat_padding_mask and find_spec("torchvision") is None:
            raise ModelError(
                "diffusers resizes the padding mask of this transformer with torchvision, which is "
                "not installed; pip install torchvision, or load the model with open_host."
            )
        reads, makes = self.network.config.text_embed_dim, self.conditioner.config.target_dim
        source = self.conditioner.config.source_dim
        if reads != makes or source != self.encoders[QWEN]:
            raise ModelError(
                f"The text conditioner reads states {source} wide and makes contexts {makes} "
                f"wide, but the text encoder gives {self.encoders[QWEN]} and the transformer reads "
                f"{reads}; load all of them from the same model."
            )

    def _forward(
        self, latent: Tensor, timesteps: Tensor, context: Tensor, prompts: Sequence[Prompt]
    ) -> Tensor:
        height, width = latent.shape[-2:]
        patch = ANIMA.patch
        filled = F.pad(latent, (0, -width % patch, 0, -height % patch), mode="circular")
        output = self._as_given(
            hidden_states=filled.unsqueeze(2),
            timestep=timesteps.to(latent.dtype),
            encoder_hidden_states=context,
            padding_mask=filled.new_zeros(1, 1, *filled.shape[-2:]),
            return_dict=False,
        )[0]
        return output.squeeze(2)[..., :height, :width]

    def _text_models(self) -> list[Any]:
        return [self.conditioner, self._qwen]

    def tokenize(self, text: str) -> tuple[int | str, ...]:
        return tuple(self._ids(T5, text))

    def _ids(self, encoder: str, text: str) -> list[int]:
        return list(self._tokenizers[encoder](text, add_special_tokens=False)["input_ids"])

    def encode_prompt(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        handles = handles or {}
        rows = rows_of(
            text, handles, lambda piece: self._ids(QWEN, piece), lambda piece: self._ids(T5, piece)
        )
        states = self._states(rows, handles)
        weights = torch.tensor(rows.weights).to(states)[None, :, None]
        with splicing(self.conditioner.embed, rows.t5, handles, T5):
            made = self.conditioner(states, rows.ids().to(states.device))
        n_rows = len(rows.t5)  # behind them are zeros
        context = padded(made[:, :n_rows] * weights).float()
        return Prompt(text, context, rows.tokens, content=LAYOUT.is_content(rows.tokens))

    def _states(self, rows: AnimaRows, handles: HandleVectors) -> Tensor:
        """[1, L, width] what Qwen3 says of a prompt, as the conditioner takes it."""
        ids = torch.tensor([[row if isinstance(row, int) else 0 for row in rows.qwen]])
        table = self._qwen.get_input_embeddings()
        with splicing(table, rows.qwen, handles, QWEN):
            states = self._qwen(input_ids=ids.to(execution_device(self._qwen))).last_hidden_state
        return states.to(self.device, self.dtype)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        tables = {QWEN: self._qwen.get_input_embeddings(), T5: self.conditioner.embed}
        return {
            name: table(torch.tensor(self._ids(name, word), device=execution_device(table)))
            .detach()
            .float()
            .clone()
            for name, table in tables.items()
        }

    def _named_weights(self) -> Named:
        names = named_layers(ANIMA, self.network)
        names |= named(f"{TRANSFORMER}.{ADAPTER}.", self.conditioner)
        for path, place in named("", self._qwen).items():
            names[f"{QWEN}.model.{path.removeprefix('model.')}"] = place
        return names


def sites_of(network: Any) -> Any:
    """Sites of a CosmosTransformer3DModel."""
    return transformer.sites_of(ANIMA, network, in_diffusers=True)


def _shift_of(scheduler: Any) -> float:
    shift = scheduler.config.get("shift")
    if shift is None or scheduler.config.get("use_dynamic_shifting"):
        raise UnsupportedModelError(
            f"Anima is a flow with a fixed shift, but this {type(scheduler).__name__} has none; "
            "use FlowMatchEulerDiscreteScheduler(shift=3.0)."
        )
    return float(shift)
