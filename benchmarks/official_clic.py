"""A plain transcription of how CLiC trains, from its description, for comparison.

Every attention is computed in full, and the maps of all words are kept for the layers of the up
arm. The picture and its region on grey pass through the VAE at every step, and through the UNet
one after the other, with the same noise and timestep. Queries, keys, values and outputs of
cross-attention are trained, and the row of the new word in the token table.

Left out, in its favour, is what their program computes and does not use: gradients of all other
weights, the text encoding of one more word, sorted copies of the maps. Left out so that losses can
be compared: half precision in them, the VAE's random sample, other colours at every step.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from clic_draws import CONFIG, NAME, WORD, DetailDraw
from official_parts import EveryProbability, NewWords, goal_of, mean_map, signed
from torch import Tensor, nn

from conceptloom.host.diffusers import DiffusersHost

WEIGHTS = {"context": 0.5, "attention": 0.25, "roi": 0.25}
OUTSIDE = 0.25  # weight of what lies around the region
FAINT = 0.05  # mask values below it lie around the region
RATE, DECAY = 1e-5, 0.1


class OfficialClic:
    """One step at a time.

    Args:
        image: [H, W, 3], 0..1.
        mask: [H, W] of the detail, 0..1.
    """

    def __init__(self, host: DiffusersHost, image: Tensor, mask: Tensor) -> None:
        self.unet, self.vae, self.noise_path = host.unet, host.vae, host.noise_path
        self.words = NewWords(host, [NAME], [WORD])
        self.image, self.mask = signed(image), mask[None, None]
        self.kept: list[Tensor] = []
        self.unet.set_attn_processor(
            {
                name: EveryProbability(
                    self.kept.append if name.startswith("up_blocks") else None, start_detached=True
                )
                for name in self.unet.attn_processors
            }
        )
        self.unet.requires_grad_(False)
        self.words.text.requires_grad_(False).float()  # also where the UNet is in half precision
        self.table = self.words.text.get_input_embeddings().weight
        attentions = [m for name, m in self.unet.named_modules() if name.endswith("attn2")]
        self.parameters = [self.table, *(p for m in attentions for p in m.float().parameters())]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.parameters, lr=RATE, weight_decay=DECAY)

    def step(self, draw: DetailDraw, autocast: Any) -> dict[str, float]:
        with autocast:
            terms = self.losses(draw)
        torch.stack(list(terms.values())).sum().backward()
        assert self.table.grad is not None
        self.table.grad[: self.words.ids[NAME]] = 0
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(term.detach()) for name, term in terms.items()}

    def losses(self, draw: DetailDraw) -> dict[str, Tensor]:
        """The three terms, weighted."""
        image, mask = self.image, self.mask
        if draw.mirrored:
            image, mask = image.flip(-1), mask.flip(-1)
        prompt = self.words.encoded(CONFIG.prompt_of(NAME))
        whole, region = self._encoded(image), self._encoded(image * mask)  # 0 is grey
        mask = F.interpolate(mask, whole.shape[-2:], mode="bilinear")

        self.kept.clear()
        context_error = self._squared_error(whole, prompt, draw)
        token, (height, width) = prompt.index(self.words.ids[NAME]), mask.shape[-2:]
        heat = mean_map(self.kept, token, (height, width))
        heat = heat - heat.min()
        roi_error = self._squared_error(region, self.words.encoded(draw.roi_prompt), draw)

        weights = F.pad(torch.where(mask < FAINT, OUTSIDE, mask)[..., 1:-1, 1:-1], (1, 1, 1, 1))
        terms = {
            "context": _per_weight(context_error, weights),
            "attention": F.mse_loss(heat / heat.max(), mask),
            "roi": _per_weight(roi_error, mask),
        }
        return {name: WEIGHTS[name] * term for name, term in terms.items()}

    def _encoded(self, pixels: Tensor) -> Tensor:
        with torch.no_grad():
            latent = self.vae.encode(pixels.to(self.vae.dtype)).latent_dist.mean.float()
        return latent * self.vae.config.scaling_factor

    def _squared_error(self, latent: Tensor, prompt: list[int], draw: DetailDraw) -> Tensor:
        """[1, C, h, w]"""
        context = self.words.text(torch.tensor([prompt], device=latent.device))[0]
        noisy = self.noise_path.add_noise(latent, draw.noise, draw.timestep)
        predicted = self.unet(noisy, draw.timestep, context).sample.float()
        return (predicted - goal_of(self.noise_path, latent, draw.noise, draw.timestep)).square()


def _per_weight(error: Tensor, weights: Tensor) -> Tensor:
    """Channels are summed."""
    return (error * weights).sum() / (weights.sum() + 1e-10)
