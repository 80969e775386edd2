"""The variants of a training step of Break-A-Scene that are timed."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from base_model import picture_side
from draws import NAMES, PRIOR_PROMPT, draw_for, make_pictures, prompt_of, scene_of
from official_recipe import OfficialRecipe
from stepping import Losses, Make, Setting, Variant, step_by_step
from torch import nn

from conceptloom.attention.maps import AttentionCapture, TokenQuery
from conceptloom.attention.site_selection import sites_to_read
from conceptloom.concepts.handles import HandleParameters, initial_handles
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    TokenPhase,
    WeightPhase,
)
from conceptloom.methods.break_a_scene.dataset import SceneDataset
from conceptloom.methods.break_a_scene.union_sampling import UnionSample
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import Events, LoopConfig, run
from conceptloom.training.losses import masked_loss


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
    steps = 10**6
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
            lambda on_step: run(recipe, LoopConfig(save_every=0), Events(on_step=on_step))
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
