"""Beside what the methods are measured: plain training, plain drawing, a plain look at a prior.

Plain training is ordinary fine-tuning of the same weights on as many rows: float32 weights under
autocast, fast attention, cached latents, mean squared error, AdamW. Nothing of a method is in it.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial

import torch
import torch.nn.functional as F
from at_scale_parts import SENTENCE, Task
from at_scale_plan import DRAWING
from draws import make_pictures
from random_prior import NEGATIVES, kandinsky_space
from stepping import unfrozen
from torch import nn

from conceptloom.methods.conceptlab import (
    OFFICIAL_LOOP,
    ConceptLab,
    ConceptLabConfig,
    NegativesConfig,
    SamplingContext,
)
from conceptloom.methods.conceptlab.checkpoint_gallery import CheckpointGallery
from conceptloom.rng import sample_noise
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import run, step_generator
from conceptloom.training.recipe import Events
from conceptloom.vision.ports import PriorSampling

STEP, HANDLE = "step", "handle"
PLAIN_STEPS = 20


def plain_training(task: Task, scope: Scope, rows: int, dtype: torch.dtype) -> None:
    """Steps of plain fine-tuning of the weights that a scope covers; the host holds float32.

    Args:
        dtype: of autocast.
    """
    host, stages = task.host, task.stages
    parameters = unfrozen(host, scope)
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True)
    image, _, _ = make_pictures(task.side)
    latent = host.encode_image(image[None]).expand(rows, -1, -1, -1)
    stages.plan(STEP, PLAIN_STEPS)
    for step in range(task.steps(PLAIN_STEPS)):
        noise, timesteps = sample_noise(host, latent, step_generator(0, step))
        casts = dtype is not torch.float32
        with torch.autocast(host.device.type, dtype) if casts else nullcontext():
            with torch.set_grad_enabled(scope is Scope.FULL):
                prompt = host.encode_prompt(SENTENCE)
            noisy = host.noise_path.add_noise(latent, noise, timesteps)
            predicted = host.predict(noisy, timesteps, [prompt])
        F.mse_loss(predicted, host.noise_path.target(latent, noise, timesteps)).backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        stages.step(STEP)


def plain_drawing(task: Task) -> None:
    """A picture drawn without any method."""
    host, stages = task.host, task.stages
    noise = seeded_noise(host, 0, 1, (task.side, task.side))
    stages.plan(DRAWING, task.sampling_steps)
    sample_ddim(
        host,
        [host.encode_prompt(SENTENCE)],
        host.encode_prompt(""),
        noise,
        steps=task.sampling_steps,
        progress=lambda *_: stages.step(DRAWING),
    )


def conceptlab(task: Task) -> None:
    """Inventing with a list of negatives of the size that a run ends with; nobody is asked."""
    planned = ConceptLabConfig(negatives=NegativesConfig(start=NEGATIVES, every=0))
    config = ConceptLabConfig(negatives=planned.negatives, steps=task.steps(planned.steps))
    stages = task.stages
    with stages.single("preparing"):
        space = kandinsky_space(task.host)
        recipe = ConceptLab(space, "new", config, SamplingContext(CheckpointGallery({}, None)), {})
    stages.plan(HANDLE, planned.steps)
    run(recipe, OFFICIAL_LOOP, Events(on_step=lambda row: stages.step(HANDLE)))


def plain_prior(task: Task) -> None:
    """What every step of ConceptLab asks of the prior, without a gradient."""
    space, stages = kandinsky_space(task.host), task.stages
    imagine = partial(space.imagine, SENTENCE, {}, sampling=PriorSampling())
    stages.plan(STEP, PLAIN_STEPS)
    for step in range(task.steps(PLAIN_STEPS)):
        with torch.no_grad():
            imagine(generator=step_generator(0, step))
        stages.step(STEP)
