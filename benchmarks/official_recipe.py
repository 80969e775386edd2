"""A plain transcription of how Break-A-Scene trains, from its description, for comparison.

Every attention is computed in full: the probabilities of all layers, self and cross, are made and
stay alive for the backward pass. Pictures pass through the VAE at every step. All weights of UNet
and text encoder are trained, the whole token table with them.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from draws import NAMES, PRIOR_PROMPT, WORDS, Draw, prompt_of
from torch import Tensor, nn

from conceptloom.host.diffusers import DiffusersHost

MAPS = 16  # side of the maps that are compared with masks
KEPT = 32**2  # larger maps are computed but not kept


class EveryProbability:
    """Attention with its probabilities in memory."""

    def __init__(self, kept: dict[str, list[Tensor]], arm: str) -> None:
        self.kept, self.arm = kept, arm

    def __call__(
        self, attn: Any, hidden: Tensor, encoder_hidden_states: Tensor | None = None, **_: object
    ) -> Tensor:
        context = hidden if encoder_hidden_states is None else encoder_hidden_states
        query = attn.head_to_batch_dim(attn.to_q(hidden))
        key = attn.head_to_batch_dim(attn.to_k(context))
        value = attn.head_to_batch_dim(attn.to_v(context))
        probs = attn.get_attention_scores(query, key)  # [B heads, N, K]
        if encoder_hidden_states is not None and probs.shape[1] <= KEPT:
            self.kept.setdefault(self.arm, []).append(probs[probs.shape[0] // 2 :])
        return attn.to_out[0](attn.batch_to_head_dim(torch.bmm(probs, value)))


class OfficialRecipe:
    """One step at a time; the class picture stands first in the batch."""

    def __init__(
        self, host: DiffusersHost, image: Tensor, masks: Tensor, class_image: Tensor
    ) -> None:
        self.unet, self.vae, self.schedule = host.unet, host.vae, host.schedule
        (encoder,) = host._encoders
        self.text, self.tokenizer = encoder.model, encoder.tokenizer
        self.image, self.class_image = _signed(image), _signed(class_image)
        self.masks = masks[:, None].to(image.device)  # [concepts, 1, H, W]
        self.kept: dict[str, list[Tensor]] = {}
        self.unet.set_attn_processor(
            {
                name: EveryProbability(self.kept, name.split("_")[0])
                for name in self.unet.attn_processors
            }
        )
        self.new_ids = self._add_tokens()
        for module in (self.unet, self.text):
            module.requires_grad_(True)
        self.parameters = [*self.unet.parameters(), *self.text.parameters()]
        self.optimizer = torch.optim.AdamW(self.parameters, lr=2e-6, weight_decay=1e-2)

    def _add_tokens(self) -> list[int]:
        table = self.text.get_input_embeddings()
        first = table.weight.shape[0]
        starts = [self._pieces(word)[0] for word in WORDS]
        rows = torch.cat([table.weight.data, table.weight.data[starts]])
        self.text.set_input_embeddings(nn.Embedding.from_pretrained(rows, freeze=False))
        return list(range(first, first + len(starts)))

    def _pieces(self, word: str) -> list[int]:
        return list(self.tokenizer(word, add_special_tokens=False)["input_ids"])

    def _ids(self, text: str) -> list[int]:
        ids = [self.tokenizer.bos_token_id]
        for word in text.split():
            name = word.strip("<>")
            known = name in NAMES and word != name
            ids += [self.new_ids[NAMES.index(name)]] if known else self._pieces(word)
        return [*ids, self.tokenizer.eos_token_id, *[self.tokenizer.pad_token_id] * (76 - len(ids))]

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
        ids = [self._ids(PRIOR_PROMPT), self._ids(prompt_of(draw.names))]
        context = self.text(torch.tensor(ids, device=latent.device))[0]
        noisy = self.schedule.add_noise(latent, noise, timesteps)
        predicted = self.unet(noisy, timesteps, context).sample.float()

        goal = self._goal(latent, noise, timesteps)

        seen = F.interpolate(masks.amax(dim=0, keepdim=True), latent.shape[-2:])
        targets = F.interpolate(masks, (MAPS, MAPS))[:, 0]
        every = [m for arm in ("up", "down") for m in self.kept[arm] if m.shape[1] == MAPS**2]
        mean = torch.cat([m.reshape(-1, MAPS, MAPS, m.shape[-1]) for m in every]).mean(dim=0)
        attention = torch.zeros((), device=latent.device)
        for name, target in zip(draw.names, targets, strict=True):
            heat = mean[..., ids[1].index(self.new_ids[NAMES.index(name)])].float()
            attention = attention + F.mse_loss(heat / heat.max(), target)
        return {
            "diffusion": F.mse_loss(predicted[1:] * seen, goal[1:] * seen),
            "prior": F.mse_loss(predicted[:1], goal[:1]),
            "attention": 0.01 * attention,
        }

    def _goal(self, latent: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the model is to predict: the noise, or v of Salimans & Ho 2022."""
        if not self.schedule.predicts_velocity:
            return noise
        alpha_bar = self.schedule.at(timesteps).view(-1, 1, 1, 1)
        return alpha_bar**0.5 * noise - (1 - alpha_bar) ** 0.5 * latent


def _signed(image: Tensor) -> Tensor:
    """[1, 3, H, W], -1..1."""
    return image.movedim(-1, 0)[None] * 2 - 1
