"""A training step of Break-A-Scene, ours beside plain fine-tuning and the official recipe.

The official recipe is a plain transcription from its description: every attention is computed in
full, the probabilities of all layers, self and cross, stay alive for the backward pass; pictures
pass through the VAE at every step; all weights of UNet and text encoder are trained, the whole
token table with them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness.models import picture_side
from harness.results import Result
from harness.subject import Options
from torch import Tensor, nn

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.attention.site_selection import sites_to_read
from conceptloom.concepts.handles import HandleParameters, initial_handles
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    TokenPhase,
    WeightPhase,
)
from conceptloom.methods.break_a_scene.dataset import SceneDataset, UnionSample
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import Events, LoopConfig
from conceptloom.training.loop import run as run_loop
from conceptloom.training.losses import masked_loss

from .official import (
    NAMES,
    PRIOR_PROMPT,
    WORDS,
    Draw,
    EveryProbability,
    NewWords,
    draw_for,
    goal_of,
    make_pictures,
    prompt_of,
    scene_of,
    signed,
)
from .steps import (
    Comparison,
    Losses,
    Make,
    Promise,
    Setting,
    Variant,
    add_step_options,
    compare,
    step_by_step,
)

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


def official(setting: Setting) -> Iterator[Losses]:
    """The official recipe, transcribed."""
    image, masks, class_image = make_pictures(picture_side(setting.host))
    on_device = (t.to(setting.device) for t in (image, masks, class_image))
    recipe = OfficialRecipe(setting.host, *on_device)
    scene, step = scene_of(image, masks), 0
    while True:
        draw = draw_for(step, scene, setting.latent_size, setting.device)
        yield recipe.step(draw, setting.autocast())
        step += 1


def plain(setting: Setting) -> Iterator[Losses]:
    """Fine-tuning of UNet, text encoders and handles: fast attention, cached latents, no maps."""
    host = setting.host
    image, masks, class_image = make_pictures(picture_side(setting.host))
    scene = scene_of(image, masks)
    material = SceneDataset(host, scene, 4)
    class_latent = host.encode_image(class_image[None])
    handles = HandleParameters(initial_handles(host, scene.words))
    modules = [host.unet, *(encoder.model for encoder in host._encoders)]
    for module in modules:
        module.requires_grad_(True)
    parameters = [*handles.parameters(), *(p for m in modules for p in m.parameters())]
    optimizer = torch.optim.AdamW(parameters, lr=2e-6, weight_decay=1e-2)
    step = 0
    while True:
        draw = draw_for(step, scene, setting.latent_size, setting.device)
        samples = [UnionSample(0, draw.mirrored, draw.names)]
        noise = torch.cat([draw.noise, draw.class_noise])
        timesteps = torch.cat([draw.timestep, draw.class_timestep])
        with setting.autocast():
            prompts = [
                host.encode_prompt(prompt_of(draw.names), handles.vectors()),
                host.encode_prompt(PRIOR_PROMPT),
            ]
            latent = torch.cat([material.latents(samples), class_latent])
            noisy = host.noise_path.add_noise(latent, noise, timesteps)
            predicted = host.predict(noisy, timesteps, prompts)
        seen, target = material.unions(samples), host.noise_path.target(latent, noise, timesteps)
        terms = {
            "diffusion": masked_loss(predicted[:1], target[:1], seen),
            "prior": masked_loss(predicted[1:], target[1:], torch.ones_like(seen)),
        }
        torch.stack(list(terms.values())).sum().backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield {name: float(term.detach()) for name, term in terms.items()}
        step += 1


def ours(scope: Scope, *, checkpointing: bool = False) -> Make:
    """Our recipe in our loop, as a user runs it."""
    steps = 10**5  # more than anybody waits for
    phases = {
        "token_phase": TokenPhase(steps=steps if scope is Scope.HANDLES else 0),
        "weight_phase": WeightPhase(steps=0 if scope is Scope.HANDLES else steps, scope=scope),
    }
    config = BreakASceneConfig(checkpointing=checkpointing, **phases)

    def make(setting: Setting) -> Iterator[Losses]:
        image, masks, class_image = make_pictures(picture_side(setting.host))
        recipe = BreakAScene(setting.host, scene_of(image, masks), config)
        recipe.class_latents = setting.host.encode_image(class_image[None])
        return step_by_step(
            lambda on_step: run_loop(recipe, LoopConfig(save_every=0), Events(on_step=on_step))
        )

    return make


def forward(*, capturing: bool) -> Make:
    """A forward pass of two rows, with or without the maps of two words."""

    def make(setting: Setting) -> Iterator[Losses]:
        host = setting.host
        image, masks, _ = make_pictures(picture_side(setting.host))
        handles = HandleParameters(initial_handles(host, scene_of(image, masks).words))
        sites = sites_to_read(host.sites, setting.latent_size[1:])
        with torch.no_grad():
            prompt = host.encode_prompt(prompt_of(NAMES), handles.vectors())
        latent = torch.randn(2, *setting.latent_size, device=setting.device)
        timesteps = torch.tensor([200, 700], device=setting.device)
        length = len(prompt.tokens)
        queries = [TokenQuery(1, prompt.find_handle(name), length) for name in NAMES]
        while True:
            with torch.no_grad():
                capture = AttentionCapture(sites)
                host.predict(latent, timesteps, [prompt], [capture] if capturing else [])
                if capturing:
                    capture.maps(queries)
            yield {}

    return make


VARIANTS = {
    "official": Variant("official recipe, transcribed", official, casts=True),
    "full": Variant("ours, full scope", ours(Scope.FULL)),
    "plain": Variant("plain fine-tuning, no attention loss", plain, casts=True),
    "kv": Variant("ours, cross-attention K/V", ours(Scope.CROSS_ATTENTION_KV)),
    "low-rank": Variant("ours, low-rank 8", ours(Scope.LOW_RANK)),
    "handles": Variant("ours, handles only", ours(Scope.HANDLES)),
    "checkpointed": Variant(
        "ours, full scope, checkpointing", ours(Scope.FULL, checkpointing=True), default=False
    ),
    "forward": Variant("forward pass", forward(capturing=False)),
    "maps": Variant("forward pass with maps of two words", forward(capturing=True)),
}

OURS = "full"
NARROW = (
    "the timed UNet has eight heads of 8 channels: attention and its backward pass are four fifths "
    "of a step there, whatever learns, and only the rest can get smaller"
)
COMPARISON = Comparison(
    module="speed.break_a_scene",
    step="one picture and one class picture a step, two concepts",
    variants=VARIANTS,
    # The official recipe takes turns with ours alone: not every machine holds it and all others.
    groups=(
        ("official", OURS),
        ("plain", OURS, "kv", "low-rank", "handles", "checkpointed"),
        ("forward", "maps"),
    ),
    bridge=OURS,
    notes="""\
*plain* is fine-tuning of the same weights without attention loss; *official* is a plain
transcription of the official recipe.

On a CPU and preset 35m, attention and its backward pass are about four fifths of a step of ours,
whatever is trained, which leaves the smaller scopes little to save. K/V need no gradient below the
first cross-attention; low-rank goes back through the self-attention before it too, one of the five
dearest.""",

    promises=(
        Promise(says="A step of the official recipe takes at least 3 of ours",
                variant="official", beside="full", at_least=3),
        Promise(says="Full scope: at most 1.05 of plain fine-tuning", variant="full",
                beside="plain", at_most=1.05),
        Promise(says="K/V: at most 0.8 of plain fine-tuning", variant="kv", beside="plain",
                at_most=0.8),
        Promise(says="Low rank: at most 0.8 of plain fine-tuning", variant="low-rank",
                beside="plain", at_most=0.8, why=NARROW),
        Promise(says="Maps: at most 1.03 of a forward pass", variant="maps", beside="forward",
                at_most=1.03),
    ),
    memory_share=0.25,
)  # fmt: skip


def arguments(parser: argparse.ArgumentParser) -> None:
    add_step_options(parser, COMPARISON)


def run(options: Options) -> Result:
    """Take the steps."""
    return compare(COMPARISON, options)
