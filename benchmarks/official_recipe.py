"""A plain transcription of how Break-A-Scene trains, from its description, for comparison.

Every attention is computed in full: the probabilities of all layers, self and cross, are made and
stay alive for the backward pass. Pictures pass through the VAE at every step. All weights of UNet
and text encoder are trained, the whole token table with them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from draws import NAMES, PRIOR_PROMPT, WORDS, Draw, prompt_of
from official_parts import EveryProbability, NewWords, goal_of, signed
from torch import Tensor, nn

from conceptloom.host.diffusers import DiffusersHost

MAPS = 16  # side of the maps that are compared with masks
KEPT = 32**2  # larger maps are computed but not kept


class OfficialRecipe:
    """One step at a time; the class picture stands first in the batch."""

    def __init__(
        self, host: DiffusersHost, image: Tensor, masks: Tensor, class_image: Tensor
    ) -> None:
        self.unet, self.vae, self.noise_path = host.unet, host.vae, host.noise_path
        self.words = NewWords(host, NAMES, WORDS)
        self.image, self.class_image = signed(image), signed(class_image)
        self.masks = masks[:, None].to(image.device)  # [concepts, 1, H, W]
        self.kept: dict[str, list[Tensor]] = {}
        self.unet.set_attn_processor(
            {
                name: EveryProbability(partial(self._keep, name.split("_")[0]))
                for name in self.unet.attn_processors
            }
        )
        for module in (self.unet, self.words.text):
            module.requires_grad_(True)
        self.parameters = [*self.unet.parameters(), *self.words.text.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=2e-6, weight_decay=1e-2)

    def _keep(self, arm: str, probs: Tensor) -> None:
        if probs.shape[1] <= KEPT:
            self.kept.setdefault(arm, []).append(probs[probs.shape[0] // 2 :])

    def step(self, draw: Draw, autocast: Any) -> dict[str, float]:
        self.kept.clear()
        with autocast:
            terms = self._losses(draw)
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return {name: float(term.detach()) for name, term in terms.items()}

    def _losses(self, draw: Draw) -> dict[str, Tensor]:
        image, masks = self.image, self.masks[[NAMES.index(name) for name in draw.names]]
        if draw.mirrored:
            image, masks = image.flip(-1), masks.flip(-1)
        pictures = torch.cat([self.class_image, image])
        with torch.no_grad():  # the mean, where they draw a sample: so that losses can be compared
            latent = self.vae.encode(pictures.to(self.vae.dtype)).latent_dist.mean.float()
            latent = latent * self.vae.config.scaling_factor
        noise = torch.cat([draw.class_noise, draw.noise])
        timesteps = torch.cat([draw.class_timestep, draw.timestep])
        ids = [self.words.encoded(text) for text in (PRIOR_PROMPT, prompt_of(draw.names))]
        context = self.words.text(torch.tensor(ids, device=latent.device))[0]
        noisy = self.noise_path.add_noise(latent, noise, timesteps)
        predicted = self.unet(noisy, timesteps, context).sample.float()

        goal = goal_of(self.noise_path, latent, noise, timesteps)

        seen = F.interpolate(masks.amax(dim=0, keepdim=True), latent.shape[-2:])
        targets = F.interpolate(masks, (MAPS, MAPS))[:, 0]
        every = [m for arm in ("up", "down") for m in self.kept[arm] if m.shape[1] == MAPS**2]
        mean = torch.cat([m.reshape(-1, MAPS, MAPS, m.shape[-1]) for m in every]).mean(dim=0)
        attention = torch.zeros((), device=latent.device)
        for name, target in zip(draw.names, targets, strict=True):
            heat = mean[..., ids[1].index(self.words.ids[name])].float()
            attention = attention + F.mse_loss(heat / heat.max(), target)
        return {
            "diffusion": F.mse_loss(predicted[1:] * seen, goal[1:] * seen),
            "prior": F.mse_loss(predicted[:1], goal[:1]),
            "attention": 0.01 * attention,
        }
