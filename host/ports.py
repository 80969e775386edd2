"""The interface between methods and hosts.

A method receives a `Host` (ComfyUI or diffusers; it does not know which) and describes the network
with *sites* (places for hooks), *edits* (hooks of one forward pass) and *weights* by their
canonical names. Canonical names are those of the original
Stable Diffusion checkpoints without prefix:

    unet.output_blocks.4.1.transformer_blocks.0.attn2.to_k.weight
    clip_l.text_model.encoder.layers.0.self_attn.q_proj.weight     (clip_g, clip_h alike)

`sites`, `edits`, `conditioning` and `noise` beside this file have the parts; import them from here.

A LoRA that works in one region of the picture, for example, is an edit that asks for two places:
`wanted_layers` names the layers to gate, whose `rows` say what a mask has to fit, and `layer`
gives their new output; `wanted_attended` and `attended` mix further contexts into an attention
before its output projection. See `edits.UNetEdit`.

Alphabet: B batch, h w latent grid, N = h*w of a site, K tokens of the context, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .conditioning import HandleVectors as HandleVectors
from .conditioning import OwnTexts as OwnTexts
from .conditioning import Prompt as Prompt
from .conditioning import TextLayout as TextLayout
from .conditioning import Token as Token
from .conditioning import Tokens as Tokens
from .conditioning import Words as Words
from .conditioning import find_run as find_run
from .conditioning import find_runs as find_runs
from .conditioning import is_token as is_token
from .edits import AttentionCall as AttentionCall
from .edits import BatchPart as BatchPart
from .edits import ForwardInfo as ForwardInfo
from .edits import StopForward as StopForward
from .edits import StreamTexts as StreamTexts
from .edits import UNetEdit as UNetEdit
from .edits import WaitsForPrompt as WaitsForPrompt
from .noise import NoisePath as NoisePath
from .sites import AttentionKind as AttentionKind
from .sites import AttentionSite as AttentionSite
from .sites import Feature as Feature
from .sites import FeatureSite as FeatureSite
from .sites import LayerSite as LayerSite
from .sites import Place as Place
from .sites import ResNetSite as ResNetSite
from .sites import Role as Role
from .sites import Rows as Rows
from .sites import TransformerSite as TransformerSite
from .sites import UNetSites as UNetSites
from .token_spans import TokenSpans as TokenSpans

WeightEdit = Callable[[Tensor], Tensor]  # original weight -> weight to compute with, same shape


@dataclass(frozen=True, slots=True)
class FactoredEdit:
    """A weight edit that a layer's output can have instead: (W + BA) x = W x + B (A x).

    While it learns a host may add the residual and never make the sum of the weights: no gradient
    of the weight's size, and no second copy of the weight for the backward pass.
    """

    weight: WeightEdit
    residual: Callable[[Tensor, Tensor], Tensor]  # a layer's input, output -> output with B (A x)

    def __call__(self, original: Tensor) -> Tensor:
        return self.weight(original)


class Progress(Protocol):
    """Receives the progress of a long run."""

    def __call__(
        self, step: int, total: int, message: str = "", preview: Tensor | None = None
    ) -> None:
        """Report progress; `preview` is an image [H, W, 3], 0..1. Raises if the user cancelled."""
        ...


def no_progress(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
    """Ignores every report."""


def part_of(whole: Progress, done: int, of: int, name: str, each: int = 1) -> Progress:
    """For one part of a longer stretch: its steps come after `done` and count `each`."""

    def progress(step: int, total: int, message: str = "", preview: Tensor | None = None) -> None:
        whole(done + step * each, of, name or message, preview)

    return progress


class Host(Protocol):
    """A base model: UNet, text encoders and VAE, in ComfyUI or in diffusers."""

    @property
    def sites(self) -> UNetSites: ...

    @property
    def noise_path(self) -> NoisePath:
        """The model's mixture of picture and noise, and the meaning of its predictions."""
        ...

    @property
    def encoders(self) -> Mapping[str, int]:
        """Text encoder -> width of its token vectors."""
        ...

    @property
    def latent_channels(self) -> int: ...

    @property
    def pixels_per_latent(self) -> int:
        """H / h, 8 for Stable Diffusion."""
        ...

    @property
    def device(self) -> torch.device:
        """Where `predict` computes and expects its tensors."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """Precision of a forward pass inside the UNet."""
        ...

    @property
    def fingerprint(self) -> str:
        """Family and shapes of the base model, as stored in a concept."""
        ...

    @property
    def origin(self) -> str:
        """What the model's file or folder is called; "" where nobody knows."""
        ...

    def predict(
        self,
        latent: Tensor,
        timesteps: Tensor,
        prompts: Sequence[Prompt],
        edits: Sequence[UNetEdit] = (),
        conditional: Sequence[bool] | None = None,
    ) -> Tensor:
        """The network's own prediction, [B, C, h, w] float32; `noise_path` gives its meaning.

        Differentiable in `latent`, in the contexts and in trained weights wherever they require
        gradients and grad mode is on.

        Args:
            latent: [B, C, h, w] x_t of scaled latents.
            timesteps: [B] the path's t, integers 0..T-1 where levels are numbered.
            prompts: one per row, or a single one for all rows.
            edits: active in this pass only.
            conditional: per row, False for rows of a negative prompt; all True by default.

        Raises:
            StopForward: an edit ended the pass; all hooks are removed.
        """
        ...

    def tokenize(self, text: str) -> Tokens:
        """BPE ids of a text, without start, end and padding."""
        ...

    def encode_prompt(self, text: str, handles: HandleVectors | None = None) -> Prompt:
        """Encode a prompt of any length; differentiable in the handle vectors.

        `<name>` in the text becomes the vectors of handle `<name>`; other words stay words.
        """
        ...

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        """Token vectors [n, width] of a word per encoder, one row for each of its BPE tokens."""
        ...

    def token_table(self, encoder: str) -> Tensor:
        """[V, width] vectors of all tokens of a text encoder; detached."""
        ...

    def encode_image(self, image: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] (mean of the VAE posterior) of images [B, H, W, 3], 0..1."""
        ...

    def decode_latent(self, latent: Tensor) -> Tensor:
        """Images [B, H, W, 3], 0..1, on the CPU."""
        ...

    def weight(self, name: str) -> Tensor:
        """Original weight by canonical name; detached, never patched. Do not write into it."""
        ...

    def weight_shape(self, name: str) -> tuple[int, ...]:
        """Shape of `weight`; copies nothing, also where a model is quantised or out of memory."""
        ...

    def weight_names(self) -> list[str]:
        """Canonical names of every weight and bias of UNet and text encoders."""
        ...

    def edited(
        self, weights: Mapping[str, WeightEdit], *, trainable: bool, checkpointing: bool = False
    ) -> AbstractContextManager[None]:
        """Compute with edited weights (canonical name -> edit) inside the context.

        With `trainable` the edits are called on every use, so gradients reach their parameters, and
        forward passes may run under autograd (in ComfyUI: outside of inference mode). Without it
        they are called once. `checkpointing` recomputes activations in the backward pass.
        On exit, also through an exception, the model is unchanged, bit for bit.
        """
        ...


def latent_size(host: Host, size_px: Sequence[int]) -> tuple[int, int]:
    """(h, w) of the latents of pictures of (H, W)."""
    height, width = size_px
    return height // host.pixels_per_latent, width // host.pixels_per_latent
