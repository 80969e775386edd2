"""Z-Image and Krea 2 in diffusers: one stream of text and picture, and a language model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from ...errors import ModelError, UnsupportedModelError
from ..contexts import in_groups, rows_by_length
from ..families.llm_text import (
    SYSTEM,
    TEMPLATE,
    ids_in,
    is_content,
    prompt_rows,
    rows_of,
    tokens_of,
)
from ..families.registry import family_of
from ..families.single_stream import KREA_2, TAPS
from ..fingerprint import fingerprint_of
from ..noise import FlowPath
from ..ports import HandleVectors, Prompt, Tokens, UNetEdit, Words
from ..prompt_text import unescaped
from ..uncompiled import as_written, check_uncompiled
from ..words import as_in_text
from .base import Named, NetworkHost, named, named_layers, parts_of, splicing
from .placement import execution_device
from .single_stream import joint_sites, velocity
from .vae import downscale_of

PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")


class SingleStreamHost(NetworkHost):
    """A Z-Image or Krea 2 model as a `Host`.

    The networks stay the caller's: they are read, hooked for one pass, and given back unchanged.

    Args:
        transformer: ZImageTransformer2DModel or Krea2Transformer2DModel; decides device and
            precision.
        vae: the model's autoencoder.
        text_encoder: Qwen3Model, or Qwen3VLModel for Krea 2.
        tokenizer: of the text encoder.
        scheduler: read for its shift.

    Raises:
        UnsupportedModelError: another network, or the scheduler is not that of a flow.
        ModelError: the parts do not fit each other.
    """

    def __init__(
        self, *, transformer: Any, vae: Any, text_encoder: Any, tokenizer: Any, scheduler: Any
    ) -> None:
        check_uncompiled(transformer, text_encoder)
        self._as_given, self.network = transformer, as_written(transformer)
        family = family_of(self.network)
        if family is None or family.joint is None:
            raise UnsupportedModelError(
                f"{type(self.network).__name__} is no single-stream transformer that ConceptLoom "
                "knows; load Z-Image or Krea 2."
            )
        self._family, self.vae = family, vae
        self._encoder, self._tokenizer = as_written(text_encoder), tokenizer
        self._name = next(iter(family.token_tables))
        self.sites = joint_sites(family, self.network)
        self.noise_path = FlowPath(_shift_of(scheduler))
        width = self._encoder.get_input_embeddings().embedding_dim
        self.encoders: Mapping[str, int] = {self._name: width}
        self._check_fit(width * len(TAPS[family.name]))
        self.latent_channels: int = self.network.config.in_channels // (
            family.patch**2 if family is KREA_2 else 1
        )
        self.pixels_per_latent = downscale_of(vae)
        self.fingerprint = fingerprint_of(
            self.sites, self._width, self.encoders, self.noise_path, self.latent_channels
        )
        self._weights = self._named_weights()

    @classmethod
    def from_pipeline(cls, pipeline: Any) -> SingleStreamHost:
        """A ZImagePipeline or Krea2Pipeline of diffusers.

        Raises:
            UnsupportedModelError: a part of it is missing.
        """
        host = cls(**parts_of(pipeline, PARTS))
        names = (getattr(one, "name_or_path", "") for one in (pipeline, pipeline.transformer))
        host.origin = next((name for name in map(_called, names) if name), "")
        if getattr(pipeline.config, "is_distilled", False):
            host.origin = f"{host.origin or type(pipeline).__name__} (distilled)"
        return host

    @property
    def _width(self) -> int:
        """Of a row of the context."""
        assert self.sites.joint is not None
        return self.sites.joint.context_width

    def _check_fit(self, makes: int) -> None:
        if makes != self._width:
            raise ModelError(
                f"The text encoder makes contexts {makes} wide, but the transformer reads "
                f"{self._width}; load both from the same model."
            )

    def predict(
        self,
        latent: Tensor,
        timesteps: Tensor,
        prompts: Sequence[Prompt],
        edits: Sequence[UNetEdit] = (),
        conditional: Sequence[bool] | None = None,
    ) -> Tensor:
        groups = rows_by_length(prompts, len(latent), conditional)
        if len(groups) > 1:
            return in_groups(self._predict, groups, latent, timesteps, prompts, edits, conditional)
        return self._predict(latent, timesteps, prompts, edits, conditional)

    def _forward(
        self, latent: Tensor, timesteps: Tensor, context: Tensor, prompts: Sequence[Prompt]
    ) -> Tensor:
        return velocity(self._family, self._as_given, latent, timesteps, context)

    def _text_models(self) -> list[Any]:
        return [self._encoder]

    def tokenize(self, text: str) -> Tokens:
        return (Words(text),) if text.strip() else ()

    def _ids(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _ids_of_prompt(self, text: str) -> list[int]:
        return self._ids(unescaped(text))

    @property
    def _template(self) -> str:
        return SYSTEM + TEMPLATE if self._family is KREA_2 else TEMPLATE

    def encode_prompt(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        handles = handles or {}
        rows = rows_of(self._template.format(text), handles, self._name, self._ids_of_prompt)
        ids = ids_in(rows)
        known = [token if isinstance(token, int) else 0 for token in ids]
        taken = torch.tensor([known], device=execution_device(self._encoder))
        with splicing(self._encoder.get_input_embeddings(), rows, handles, self._name):
            states = self._encoder(input_ids=taken, output_hidden_states=True).hidden_states
        context = torch.cat([states[tap] for tap in TAPS[self._family.name]], dim=-1)
        if self._family is KREA_2:  # without what stands before the prompt
            context = context[:, prompt_rows(ids).start :]
        tokens = tokens_of(ids, self._decode, context.shape[1])
        return Prompt(text, context.float(), tokens, content=is_content(tokens))

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        table = self._encoder.get_input_embeddings()
        ids = torch.tensor(self._ids(as_in_text(word)), device=execution_device(table))
        return {self._name: table(ids).detach().float().clone()}

    def _named_weights(self) -> Named:
        names = named_layers(self._family, self.network)
        for path, place in named("", self._encoder).items():
            inner = path.removeprefix("model.").removeprefix("language_model.")
            names[f"{self._name}.model.{inner}"] = place
        return names


def _shift_of(scheduler: Any) -> float:
    """Of the noise levels; ComfyUI takes the largest of a shift that depends on the size."""
    config = scheduler.config
    if config.get("use_dynamic_shifting"):
        return math.exp(config.max_shift)
    if (shift := config.get("shift")) is None:
        raise UnsupportedModelError(
            f"This {type(scheduler).__name__} is not that of a flow; use "
            "FlowMatchEulerDiscreteScheduler."
        )
    return float(shift)


def _called(where: Any) -> str:
    """What a file, a folder or a repository is called; `where` is a path, a name, or empty.

    A snapshot of a hub's cache is called as its repository, not by its hash.
    """
    parts = PurePath(str(where)).parts
    repositories = [part for part in parts if part.startswith("models--")]
    return (repositories or list(parts) or [""])[-1]
