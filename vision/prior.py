"""A diffusion prior: from a prompt to the embedding of a picture, with the gradient back.

Source: ConceptLab's code, coach.py:186-236 and kandinsky2/model/prior.py:336-384. The networks are
diffusers' PriorTransformer and transformers' CLIP encoders; Kandinsky 2.1, 2.2 and Karlo have them.

Differs from the official code: the pooled text feature of each row is read at its own end token. In
training theirs takes the conditional row's position for both rows, which is padding in the other;
in sampling it takes the placeholder's, whose id is the highest (vision/text_side.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..concepts.fingerprints import modules_digest
from ..errors import UnsupportedModelError
from ..host.ports import HandleVectors, Tokens
from .offload import OffloadedModules
from .ports import PriorSampling
from .text_side import EncodedText, TextSide

# OpenAI's CLIP, and every encoder that followed it.
_MEAN, _STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class DiffusionPrior:
    """A prior with its encoders as a `ConceptSpace`.

    Args:
        text: the text encoder that the prior was trained with.
        prior: diffusers' PriorTransformer; it predicts the clean embedding.
        scheduler: diffusers' UnCLIPScheduler of the prior.
        vision: CLIPVisionModelWithProjection, or None where no picture is ever looked at.
        constraints: another text encoder for constraints, texts -> [n, D]; Kandinsky 2.1 has one.
        fingerprint: of the model that a handle belongs to.
        offloaded: of all those networks.
    """

    def __init__(
        self,
        *,
        text: TextSide,
        prior: Any,
        scheduler: Any,
        vision: Any = None,
        constraints: Any = None,
        fingerprint: str,
        offloaded: OffloadedModules,
    ) -> None:
        if scheduler.config.prediction_type != "sample":
            raise UnsupportedModelError(
                f"The prior predicts {scheduler.config.prediction_type!r}; ConceptLoom supports "
                "priors that predict the embedding itself ('sample'), like Kandinsky's and "
                "Karlo's."
            )
        self.text, self.prior, self.scheduler = text, prior, scheduler
        self.vision, self._constraints = vision, constraints
        self.fingerprint, self._offloaded = fingerprint, offloaded
        self.digest = modules_digest(fingerprint, offloaded.modules)
        self._fixed: dict[str, EncodedText] = {}

    @property
    def encoders(self) -> Mapping[str, int]:
        return self.text.encoders

    @property
    def device(self) -> torch.device:
        return self._offloaded.device

    @property
    def dtype(self) -> torch.dtype:
        return self.prior.dtype

    @property
    def width(self) -> int:
        """D of the embeddings."""
        return int(self.prior.config.embedding_dim)

    def tokenize(self, text: str) -> Tokens:
        return self.text.tokenize(text)

    def word_vectors(self, word: str) -> dict[str, Tensor]:
        return self.text.word_vectors(word)

    @contextmanager
    def computing(self) -> Iterator[None]:
        self._offloaded.onload()
        with self.text.computing(), torch.enable_grad():
            yield

    def imagine(
        self, text: str, handles: HandleVectors, generator: torch.Generator, sampling: PriorSampling
    ) -> Tensor:
        self._offloaded.onload()
        rows = [self.text.encode(text, handles)]
        if sampling.guidance != 1:
            rows.append(self._fixed_text(sampling.negative))
        conditions = _side_by_side(rows, self.prior)
        self.scheduler.set_timesteps(sampling.steps)
        timesteps = [int(t) for t in self.scheduler.timesteps]
        # Drawn in float32 on the CPU, whatever computes: the same numbers everywhere.
        noisy = torch.randn((1, self.width), generator=generator).to(self.device)
        for i, timestep in enumerate(timesteps):
            denoised = self._denoised(noisy, timestep, conditions, sampling)
            following = timesteps[i + 1] if i + 1 < len(timesteps) else None
            noisy = self.scheduler.step(
                denoised, timestep, noisy, prev_timestep=following, generator=generator
            ).prev_sample
        return self.prior.post_process_latents(noisy)[0].float()

    def _denoised(
        self,
        noisy: Tensor,
        timestep: int,
        conditions: tuple[Tensor, Tensor, Tensor],
        sampling: PriorSampling,
    ) -> Tensor:
        """[1, D] the clean embedding as the prior sees it, with classifier-free guidance."""

        def predicted(x: Tensor, pooled: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
            return self.prior(
                x.to(self.dtype),
                timestep=timestep,
                proj_embedding=pooled,
                encoder_hidden_states=hidden,
                attention_mask=mask,
            ).predicted_image_embedding.float()

        rows = noisy.expand(conditions[0].shape[0], -1)
        if sampling.checkpointing and torch.is_grad_enabled():
            both = checkpoint(predicted, rows, *conditions, use_reentrant=False)
        else:
            both = predicted(rows, *conditions)
        assert isinstance(both, Tensor)
        if both.shape[0] == 1:
            return both
        with_text, without = both.chunk(2)
        return without + sampling.guidance * (with_text - without)

    @torch.no_grad()
    def _fixed_text(self, text: str) -> EncodedText:
        """A prompt that never changes, encoded once."""
        if text not in self._fixed:
            self._fixed[text] = self.text.encode(text, {})
        return self._fixed[text]

    @torch.no_grad()
    def meanings(self, texts: Sequence[str]) -> Tensor:
        self._offloaded.onload()
        if self._constraints is not None:
            embeddings = self._constraints(texts)
        else:
            embeddings = torch.cat([self.text.encode(text, {}).pooled for text in texts])
        return functional.normalize(embeddings.float(), dim=-1).to(self.device)

    @torch.no_grad()
    def look_at(self, images: Tensor) -> Tensor:
        return functional.normalize(self._seen(cut_square(images, self._side)), dim=-1)

    @torch.no_grad()
    def blank(self) -> Tensor:
        """[1, D] embedding of no picture, which decoders take for "unconditional"."""
        return self._seen(torch.zeros(1, 3, self._side, self._side))

    @property
    def _side(self) -> int:
        if self.vision is None:
            raise UnsupportedModelError(
                "This prior has no image encoder, so it cannot encode pictures; put the folder "
                "image_encoder next to the prior, in diffusers format."
            )
        return int(self.vision.config.image_size)

    def _seen(self, pixels: Tensor) -> Tensor:
        self._offloaded.onload()
        inputs = pixels.to(self.device, self.vision.dtype)
        return self.vision(pixel_values=inputs).image_embeds.float()

    def offload(self) -> None:
        self._offloaded.offload()


def _side_by_side(rows: Sequence[EncodedText], prior: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Pooled, hidden and mask of several prompts as one batch, in the prior's precision."""
    device, dtype = prior.device, prior.dtype
    size = int(prior.config.num_embeddings)
    return (
        torch.cat([row.pooled for row in rows]).to(device, dtype),
        torch.cat([row.hidden[:, :size] for row in rows]).to(device, dtype),
        torch.cat([row.mask[:, :size] for row in rows]).to(device),
    )


def cut_square(
    images: Tensor,
    side: int,
    *,
    shorter: int = 0,
    mean: Sequence[float] = _MEAN,
    std: Sequence[float] = _STD,
) -> Tensor:
    """[n, 3, side, side] pictures [n, H, W, 3] scaled, cut from the middle and standardised.

    Args:
        shorter: px that the shorter side is scaled to before the cut; 0 is `side`, CLIP's way.
        mean, std: CLIP's, or those of another encoder.
    """
    pixels = images[..., :3].movedim(-1, 1).float()
    height, width = pixels.shape[-2:]
    shortest = min(height, width)  # whole px, rounded down, as torchvision and transformers do
    size = (shorter or side) * height // shortest, (shorter or side) * width // shortest
    if size != (height, width):
        pixels = functional.interpolate(pixels, size, mode="bicubic", antialias=True)
    top, left = (size[0] - side) // 2, (size[1] - side) // 2
    pixels = pixels[..., top : top + side, left : left + side].clamp(0, 1)
    centre, spread = (torch.tensor(values).view(1, 3, 1, 1).to(pixels) for values in (mean, std))
    return (pixels - centre) / spread
