"""The variants of a training step of CLiC that are timed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
import torch.nn.functional as F
from base_model import picture_side
from clic_draws import CONFIG, NAME, SAME_FOR_ALL, detail_scene, draw_detail, make_detail
from official_clic import DECAY, RATE, OfficialClic
from stepping import Losses, Make, Setting, Variant, step_by_step, unfrozen
from torch import nn

from conceptloom.concepts.handles import HandleParameters, initial_handles
from conceptloom.methods.clic import (
    OFFICIAL_LOOP,
    PAPER_LOOP,
    CLiC,
    CLiCConfig,
    as_custom_diffusion,
)
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import Events, LoopConfig, run


def official(setting: Setting) -> Iterator[Losses]:
    """The official recipe, transcribed."""
    image, mask = (t.to(setting.device) for t in make_detail(picture_side(setting.host)))
    recipe, step = OfficialClic(setting.host, image, mask), 0
    while True:
        draw = draw_detail(step, setting.latent_size, setting.device)
        yield recipe.step(draw, setting.autocast())
        step += 1


def plain(setting: Setting) -> Iterator[Losses]:
    """Fine-tuning of cross-attention and handle on the whole picture: fast attention, cached
    latents, one row, mean squared error."""
    host = setting.host
    image, mask = make_detail(picture_side(host))
    latents = {flips: host.encode_image(_mirrored(image, flips)[None]) for flips in (False, True)}
    handles = HandleParameters(initial_handles(host, detail_scene(image, mask).words))
    parameters = [*handles.parameters(), *unfrozen(host, Scope.CROSS_ATTENTION)]
    for parameter in parameters:
        parameter.data = parameter.data.float()  # also where all else is in half precision
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=DECAY)
    step = 0
    while True:
        draw = draw_detail(step, setting.latent_size, setting.device)
        latent, path = latents[draw.mirrored], host.noise_path
        noisy = path.add_noise(latent, draw.noise, draw.timestep)
        with setting.autocast():
            prompt = host.encode_prompt(CONFIG.prompt_of(NAME), handles.vectors())
            predicted = host.predict(noisy, draw.timestep, [prompt])
        loss = F.mse_loss(predicted, path.target(latent, draw.noise, draw.timestep))
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield {"diffusion": float(loss.detach())}
        step += 1


def _mirrored(image: torch.Tensor, flips: bool) -> torch.Tensor:
    return image.flip(1) if flips else image


def ours(config: CLiCConfig, loop: LoopConfig) -> Make:
    """Our recipe in our loop, as a user runs it."""
    endless = replace(config, weight_phase=replace(config.weight_phase, steps=10**6))

    def make(setting: Setting) -> Iterator[Losses]:
        image, mask = make_detail(picture_side(setting.host))
        recipe = CLiC(setting.host, detail_scene(image, mask), endless)
        settings = replace(loop, save_every=0)
        return step_by_step(lambda on_step: run(recipe, settings, Events(on_step=on_step)))

    return make


PAPER = CLiCConfig(**SAME_FOR_ALL)
VARIANTS = {
    "official": Variant("official recipe, transcribed", official),
    "official-form": Variant("ours, the official form", ours(CONFIG, OFFICIAL_LOOP)),
    "paper-form": Variant("ours, the paper's form (the preset)", ours(PAPER, PAPER_LOOP)),
    "content": Variant(
        "ours as plain Custom Diffusion", ours(as_custom_diffusion(CONFIG), OFFICIAL_LOOP)
    ),
    "plain": Variant("plain fine-tuning, one pass, no attention loss", plain),
}
