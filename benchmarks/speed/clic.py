"""A training step of CLiC, ours beside plain fine-tuning and the official recipe.

The official recipe is a plain transcription from its description: every attention is computed in
full, and the maps of all words are kept for the layers of the up arm. The picture and its region on
grey pass through the VAE at every step, and through the UNet one after the other, with the same
noise and timestep. Queries, keys, values and outputs of cross-attention are trained, and the row of
the new word in the token table.

Left out, in its favour, is what their program computes and does not use: gradients of all other
weights, the text encoding of one more word, sorted copies of the maps. Left out so that losses can
be compared: half precision in them, the VAE's random sample, other colours at every step.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from harness.models import picture_side
from harness.results import Result
from harness.subject import Options
from torch import Tensor, nn

from conceptloom.concepts.handles import HandleParameters, initial_handles
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.clic import (
    OFFICIAL,
    OFFICIAL_LOOP,
    PAPER_LOOP,
    CLiC,
    CLiCConfig,
    as_custom_diffusion,
)
from conceptloom.rng import bernoulli, randint
from conceptloom.scenes.scene import ConceptScene
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import Events, LoopConfig, step_generator
from conceptloom.training.loop import run as run_loop

from .official import (
    NAMES,
    WORDS,
    EveryProbability,
    NewWords,
    goal_of,
    make_pictures,
    mean_map,
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
    unfrozen,
)

NAME, WORD = NAMES[0], WORDS[0]
# Colours stay as they are: the others would have to draw the very same brightness.
SAME_FOR_ALL = {"object_word": WORDS[1], "brightness": 0.0}
CONFIG = replace(OFFICIAL, **SAME_FOR_ALL)


@dataclass(frozen=True, slots=True)
class DetailDraw:
    """All that is random in one step; both branches have the same noise and timestep."""

    mirrored: bool
    roi_prompt: str
    noise: Tensor
    timestep: Tensor


def make_detail(pixels: int) -> tuple[Tensor, Tensor]:
    """Picture [H, W, 3] and the mask [H, W] of its detail."""
    image, masks, _ = make_pictures(pixels)
    return image, masks[0]


def detail_scene(image: Tensor, mask: Tensor) -> ConceptScene:
    return scene_of(image, mask[None])


def draw_detail(step: int, size: tuple[int, ...], device: str) -> DetailDraw:
    """What `CLiC.losses` draws in this step, in its order."""
    generator = step_generator(0, step)
    randint(1, generator)  # which picture
    mirrored = bernoulli(CONFIG.flip, generator)
    randint(1, generator)  # which of its copies
    randint(1, generator)  # which concept
    prompts = CONFIG.roi_prompts_of(NAME)
    roi_prompt = prompts[randint(len(prompts), generator)]
    noise = torch.randn(1, *size, generator=generator)
    timestep = torch.randint(1000, (1,), generator=generator)
    return DetailDraw(mirrored, roi_prompt, noise.to(device), timestep.to(device))


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
    endless = replace(config, weight_phase=replace(config.weight_phase, steps=10**5))

    def make(setting: Setting) -> Iterator[Losses]:
        image, mask = make_detail(picture_side(setting.host))
        recipe = CLiC(setting.host, detail_scene(image, mask), endless)
        settings = replace(loop, save_every=0)
        return step_by_step(lambda on_step: run_loop(recipe, settings, Events(on_step=on_step)))

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

OURS = "official-form"
COMPARISON = Comparison(
    module="speed.clic",
    step="one picture and its region alone a step, one concept",
    variants=VARIANTS,
    # The official recipe takes turns with ours alone: not every machine holds it and all others.
    groups=(("official", OURS), ("plain", "content", OURS, "paper-form")),
    bridge=OURS,
    notes="""\
*plain* is fine-tuning of the same weights, cross-attention's and the handle, on the whole picture
alone: half the rows of CLiC, no maps. *official* is a plain transcription of the official recipe,
without what its program computes in vain. Both forms of ours pass picture and region through the
UNet side by side; altered copies of the picture are encoded before the first step, which is not in
these figures, where the official recipe encodes picture and region at every step.""",
    promises=(
        Promise(
            says="A step of the official recipe takes longer than ours of the same form",
            variant="official",
            beside=OURS,
            at_least=1,
        ),
    ),
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_step_options(parser, COMPARISON)


def run(options: Options) -> Result:
    """Take the steps."""
    return compare(COMPARISON, options)
