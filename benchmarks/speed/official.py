"""What official recipes share, and CLiC's guided transfer, transcribed; the scene of all steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.ports import NoisePath, Prompt
from conceptloom.methods.break_a_scene import BreakASceneConfig
from conceptloom.methods.break_a_scene.dataset import draw_samples
from conceptloom.samplers.blended import BlendConfig, sample_blended
from conceptloom.samplers.sigmas import output_at
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.training.loop import step_generator

NAMES, WORDS = ("first-one", "second-one"), ("mug", "cat")
PREFIX, PRIOR_PROMPT = BreakASceneConfig().prompt_prefix, BreakASceneConfig().class_images.prompt


@dataclass(frozen=True, slots=True)
class Draw:
    """All that is random in one step."""

    names: tuple[str, ...]
    mirrored: bool
    noise: Tensor
    timestep: Tensor
    class_noise: Tensor
    class_timestep: Tensor


def make_pictures(pixels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Picture [H, W, 3], masks [2, H, W], and a class picture [H, W, 3]."""
    generator = torch.Generator().manual_seed(1)
    image, class_image = torch.rand(2, pixels, pixels, 3, generator=generator)
    masks = torch.zeros(2, pixels, pixels)
    masks[0, pixels // 8 : pixels // 2, pixels // 8 : pixels // 2] = 1
    masks[1, pixels // 3 : -pixels // 8, pixels // 2 : -pixels // 8] = 1
    return image, masks, class_image


def scene_of(image: Tensor, masks: Tensor) -> ConceptScene:
    """A scene of the first concepts, as many as there are masks [n, H, W]."""
    names = NAMES[: len(masks)]
    named = {name: [mask] for name, mask in zip(names, masks, strict=True)}
    return make_scene([image], named, dict(zip(names, WORDS, strict=False)))


def prompt_of(names: tuple[str, ...]) -> str:
    return PREFIX + " and ".join(f"<{name}>" for name in names)


def draw_for(step: int, scene: ConceptScene, size: tuple[int, ...], device: str) -> Draw:
    """What `BreakAScene.losses` draws in this step, in its order."""
    config, generator = BreakASceneConfig(), step_generator(0, step)
    (sample,) = draw_samples(scene, config, 1, generator)
    noise, timestep = _noised(size, generator)
    torch.randint(1, (1,), generator=generator)  # which class picture
    class_noise, class_timestep = _noised(size, generator)
    tensors = (noise, timestep, class_noise, class_timestep)
    return Draw(sample.names, sample.mirrored, *(t.to(device) for t in tensors))


def _noised(size: tuple[int, ...], generator: torch.Generator) -> tuple[Tensor, Tensor]:
    noise = torch.randn(1, *size, generator=generator)
    return noise, torch.randint(1000, (1,), generator=generator)


RATE = 0.01  # of Adam


class EveryProbability:
    """Attention with its probabilities in memory.

    Args:
        keep: given those of cross-attention, [B heads, N, K].
        start_detached: no gradient through key and value of the start token.
    """

    def __init__(
        self, keep: Callable[[Tensor], object] | None = None, *, start_detached: bool = False
    ) -> None:
        self._keep, self._start_detached = keep, start_detached

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        crosses = encoder_hidden_states is not None
        context = encoder_hidden_states if crosses else hidden
        key, value = attn.to_k(context), attn.to_v(context)
        if crosses and self._start_detached:
            key, value = _without_start(key), _without_start(value)
        query, key, value = map(attn.head_to_batch_dim, (attn.to_q(hidden), key, value))
        probs = attn.get_attention_scores(query, key)  # [B heads, N, K]
        if crosses and self._keep is not None:
            self._keep(probs)
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(probs, value)))


def _without_start(projected: Tensor) -> Tensor:
    """[B, K, C]"""
    return torch.cat([projected[:, :1].detach(), projected[:, 1:]], dim=1)


class NewWords:
    """Rows at the end of a text encoder's token table, and prompts that use them.

    Args:
        names: as prompts call them, in angle brackets.
        words: whose rows the new ones begin with.
    """

    def __init__(self, host: DiffusersHost, names: Sequence[str], words: Sequence[str]) -> None:
        (encoder,) = host._encoders
        self.text, self._tokenizer = encoder.model, encoder.tokenizer
        table = self.text.get_input_embeddings().weight.data
        starts = [self._pieces(word)[0] for word in words]
        rows = torch.cat([table, table[starts]])
        self.text.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
        self.ids = {name: len(table) + i for i, name in enumerate(names)}

    def _pieces(self, word: str) -> list[int]:
        return list(self._tokenizer(word, add_special_tokens=False)["input_ids"])

    def encoded(self, text: str) -> list[int]:
        """The 77 tokens of a prompt."""
        found, tokenizer = [self._tokenizer.bos_token_id], self._tokenizer
        for word in text.split():
            name = word.strip("<>")
            known = name in self.ids and word != name
            found += [self.ids[name]] if known else self._pieces(word)
        return [*found, tokenizer.eos_token_id, *[tokenizer.pad_token_id] * (76 - len(found))]


def mean_map(kept: Sequence[Tensor], token: int, size: tuple[int, int]) -> Tensor:
    """Where a word looks: mean over heads and layers.

    Args:
        kept: probabilities [heads, N, K] of square layers.

    Returns:
        [1, 1, h, w], not stretched.
    """
    maps = []
    for probs in kept:
        side = round(probs.shape[1] ** 0.5)
        heat = probs[..., token].float().mean(dim=0).reshape(1, 1, side, side)
        maps.append(F.interpolate(heat, size, mode="bilinear", align_corners=False))
    return torch.cat(maps).mean(dim=0, keepdim=True)


def signed(image: Tensor) -> Tensor:
    """[H, W, 3] of 0..1 as the VAE takes it: [1, 3, H, W], -1..1."""
    return image.movedim(-1, 0)[None].contiguous() * 2 - 1


def goal_of(path: NoisePath, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the model is to predict: the noise, or v of Salimans & Ho 2022."""
    if path.name == "eps":
        return noise
    alpha, sigma = (number.view(-1, 1, 1, 1) for number in path.coefficients(timesteps))
    return alpha * noise - sigma * latent


class OfficialTransfer:
    """CLiC's transfer from its description: draws under a mask, guided in every step.

    A guided step passes both rows of classifier-free guidance through the whole UNet with a
    gradient, every attention in full; compares the word's map in the row of the prompt with ones;
    and takes one step of a fresh Adam on the latents. Then both rows pass once more, without a
    gradient. Left out, in its favour: gradients of the UNet's weights, and the picture that their
    program decodes at every step.

    Args:
        token: place of the word in the prompt.
    """

    def __init__(
        self, host: DiffusersHost, prompt: Prompt, negative: Prompt, token: int, cfg: float
    ) -> None:
        self._host, self._prompts, self._token, self._cfg = host, [negative, prompt], token, cfg
        self._kept: list[Tensor] = []

    def run(self, source: Tensor, mask: Tensor, steps: int, seed: int = 0) -> Tensor:
        """Latents [1, C, h, w].

        Args:
            source: [1, C, h, w] clean latents of the picture.
            mask: [1, 1, h, w], 1 = drawn anew.
        """
        unet, generator = self._host.unet, torch.Generator().manual_seed(seed)
        before = unet.attn_processors
        unet.set_attn_processor(
            {
                name: EveryProbability(partial(self._keep, name.startswith("up_blocks")))
                for name in before
            }
        )
        try:
            with self._host.edited({}, trainable=True):  # no gradients of weights
                return sample_blended(
                    self._denoised,
                    source,
                    mask,
                    self._host.noise_path.levels(steps).tolist(),
                    lambda: torch.randn(source.shape, generator=generator).to(source),
                    BlendConfig(start=0),
                    frame=self._host.noise_path,
                    before_step=self._guided,
                )
        finally:
            unet.set_attn_processor(before)

    def _keep(self, is_read: bool, probs: Tensor) -> None:
        if is_read and torch.is_grad_enabled():
            self._kept.append(probs[probs.shape[0] // 2 :])

    def _outputs(self, latent: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
        """Without and with the prompt."""
        both = output_at(self._host, latent.repeat(2, 1, 1, 1), sigma, self._prompts)
        return both[:1], both[1:]

    def _guided(self, latent: Tensor, sigma: float, step: int) -> Tensor:
        scale = (1 + sigma**2) ** 0.5
        moving = (latent / scale).requires_grad_(True)
        optimizer = torch.optim.Adam([moving], lr=RATE)
        with torch.enable_grad():
            self._outputs(moving * scale, sigma)
            heat = mean_map(self._kept, self._token, (latent.shape[-2], latent.shape[-1]))
            F.mse_loss(heat, torch.ones_like(heat)).backward()
        optimizer.step()
        self._kept.clear()
        return moving.detach() * scale

    def _denoised(self, latent: Tensor, sigma: float, step: int) -> Tensor:
        plain, prompted = self._outputs(latent, sigma)
        output = plain + self._cfg * (prompted - plain)
        return self._host.noise_path.denoised_at(latent, output, sigma)
