"""The methods at real sizes, each from the beginning to the end of what its paper times, and beside
them plain training, plain sampling and a plain look at a prior.

Plain training is ordinary fine-tuning of the same weights on as many rows: float32 weights under
autocast, fast attention, cached latents, mean squared error, AdamW. Nothing of a method is in it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from harness.stage_timer import Stages
from torch import nn

from conceptloom.attention.local_setup import local_setup
from conceptloom.concepts.concept import Concept, Diff, LowRank, weight_edits
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.break_a_scene import (
    BreakAScene,
    BreakASceneConfig,
    ClassImages,
    TokenPhase,
    WeightPhase,
)
from conceptloom.methods.clic import PAPER_LOOP, CLiC, CLiCConfig
from conceptloom.methods.concept_weaver import (
    BankConfig,
    InversionConfig,
    RegionSpec,
    WeaveConfig,
    make_regions,
    make_template,
    weave,
)
from conceptloom.methods.concept_weaver.bank import BankRecipe
from conceptloom.methods.conceptlab import (
    OFFICIAL_LOOP,
    ConceptLab,
    ConceptLabConfig,
    NegativesConfig,
    SamplingContext,
)
from conceptloom.methods.conceptlab.checkpoint_gallery import CheckpointGallery
from conceptloom.methods.personalized_residuals import (
    Localised,
    PersonalizedResidualsConfig,
    sample_lag,
)
from conceptloom.methods.personalized_residuals.dataset import make_dataset
from conceptloom.methods.personalized_residuals.recipe import RESIDUALS, PersonalizedResiduals
from conceptloom.rng import sample_noise
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.class_images import class_latents_of
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.training.adapters import LOW_RANK_SCOPES, Scope, rank_for, scope_weight_names
from conceptloom.training.loop import run, step_generator
from conceptloom.training.phases import TOKENS, WEIGHTS
from conceptloom.training.recipe import Events, LoopConfig, LoopState
from conceptloom.training.runner import ConceptRecipe, loop_for
from conceptloom.vision.ports import PriorSampling

from .conceptlab import NEGATIVES, kandinsky_space
from .local import PROMPT, lora_of
from .official import NAMES, WORDS, make_pictures, scene_of
from .steps import unfrozen

CLASS_ROWS = 4  # class images that are drawn at once
SENTENCE = f"a photo of a {WORDS[0]} and a {WORDS[1]}"
SAMPLING_STEPS = 50  # of every drawing
# stages of sampling
TEMPLATE, WEAVING, DRAWING, DECODING = "template", "weaving", "drawing", "decoding"
STEP, HANDLE = "step", "handle"
PLAIN_STEPS = 20


@dataclass(frozen=True, slots=True)
class Task:
    """What a part works with.

    Attributes:
        side: of its pictures, in pixels.
        most: training steps of a phase; 0 makes all of them.
        sampling_steps: of every drawing.
    """

    host: Any
    stages: Stages
    side: int
    most: int = 0
    sampling_steps: int = SAMPLING_STEPS

    def steps(self, planned: int) -> int:
        """How many of the planned steps are made."""
        return min(planned, self.most) if self.most else planned


def learn(
    task: Task, recipe: ConceptRecipe, planned: Mapping[str, int], loop: LoopConfig | None = None
) -> LoopState:
    """A recipe's whole training, and the concept made from it; no states and no previews.

    Args:
        planned: name of a phase -> its steps when it is whole.
    """
    names, stages = [phase.name for phase in recipe.phases()], task.stages
    for name, steps in planned.items():
        stages.plan(name, steps)
    events = Events(on_step=lambda row: stages.step(names[int(row["phase"])]))
    loop = loop_for(task.host, loop, seed=0, accumulation=1)
    state = run(recipe, replace(loop, save_every=0), events)
    with stages.single("concept"):
        recipe.concept(state.history, None)
    return state


def break_a_scene(
    task: Task, scope: Scope = Scope.FULL, *, draw: int = 0, checkpointing: bool = False
) -> LoopState:
    """Both phases, with class images drawn by the model itself.

    Args:
        draw: class images; 0 is the official number.
    """
    image, masks, _ = make_pictures(task.side)
    tokens, weights, classes = TokenPhase(), WeightPhase(scope=scope), ClassImages()
    config = BreakASceneConfig(
        token_phase=replace(tokens, steps=task.steps(tokens.steps)),
        weight_phase=replace(weights, steps=task.steps(weights.steps)),
        checkpointing=checkpointing,
    )
    stages, count = task.stages, draw or classes.draw
    with stages.single("preparing"):
        recipe = BreakAScene(task.host, scene_of(image, masks), config)
    stages.plan("class images", -(-count // CLASS_ROWS))
    recipe.class_latents = class_latents_of(
        task.host,
        classes.prompt,
        min(count, CLASS_ROWS * task.steps(count)),
        recipe.size_px,
        steps=task.sampling_steps,
        cfg=classes.cfg,
        rows=CLASS_ROWS,
        progress=lambda *_: stages.step("class images"),
    )
    return learn(task, recipe, {TOKENS: tokens.steps, WEIGHTS: weights.steps})


def clic(task: Task) -> None:
    """Learning a detail."""
    _learn_detail(task, CLiC, CLiCConfig(), PAPER_LOOP)


def bank(task: Task) -> None:
    """Learning a concept that can be woven."""
    _learn_detail(task, BankRecipe, BankConfig())


def _learn_detail(
    task: Task, kind: Callable[..., ConceptRecipe], planned: Any, loop: LoopConfig | None = None
) -> None:
    """One concept of a picture, by a method that has weights' phase alone."""
    image, masks, _ = make_pictures(task.side)
    phase = planned.weight_phase
    config = replace(planned, weight_phase=replace(phase, steps=task.steps(phase.steps)))
    with task.stages.single("preparing"):
        recipe = kind(task.host, scene_of(image, masks[:1]), config)
    learn(task, recipe, {WEIGHTS: phase.steps}, loop)


def transfer(task: Task) -> None:
    """A learned detail drawn into another picture, with guidance in the first 30 steps."""
    image, masks, _ = make_pictures(task.side)
    host, stages, steps = task.host, task.stages, task.sampling_steps
    concept = random_concept(host, 0, Scope.CROSS_ATTENTION)
    prompt = host.encode_prompt(f"a <{NAMES[0]}> {WORDS[0]}", concept.handles)
    blend = BlendConfig() if steps > BlendConfig().start else BlendConfig(start=0)
    with stages.single("preparing"):
        source = host.encode_image(image[None])
    stages.plan(DRAWING, steps - blend.start)
    edit_latents(
        host,
        source,
        [Region(prompt, masks[0], (f"<{NAMES[0]}>",))],
        host.encode_prompt(""),
        EditConfig(steps=steps, blend=blend, guidance=GuidanceConfig()),
        weights=weight_edits(concept),
        progress=lambda *_: stages.step(DRAWING),
    )


def residuals(task: Task) -> None:
    """Learning residuals from four pictures."""
    planned = PersonalizedResidualsConfig()
    config = replace(planned, steps=task.steps(planned.steps))
    images = list(
        torch.rand(4, task.side, task.side, 3, generator=torch.Generator().manual_seed(1))
    )
    lesson = make_dataset(images, NAMES[0], WORDS[0], prompt=config.prompt)
    with task.stages.single("preparing"):
        recipe = PersonalizedResiduals(task.host, lesson, config)
    learn(task, recipe, {RESIDUALS: planned.steps})


def localised(task: Task, count: int = 2) -> None:
    """A picture drawn with LoRAs of rank 16 on every linear layer, each in its own place."""
    host, stages, steps = task.host, task.stages, task.sampling_steps
    with stages.single("preparing"):
        setup = local_setup(host, [lora_of(host, number, 16) for number in range(count)])
        prompt, negative = setup.encode(PROMPT), setup.encode("")
        edit = setup.edit(steps, {PROMPT: prompt.tokens})
    stages.plan(DRAWING, steps)
    sample_ddim(
        host, [prompt], negative, seeded_noise(host, 0, 1, (task.side, task.side)), steps=steps,
        edits=[edit], progress=lambda *_: stages.step(DRAWING),
    )  # fmt: skip


def lag(task: Task) -> None:
    """A picture drawn with a residual where its concept is."""
    host, stages = task.host, task.stages
    concept = random_concept(host, 0, Scope.PROJ_OUT)
    noise = seeded_noise(host, 0, 1, (task.side, task.side))
    stages.plan(DRAWING, task.sampling_steps)
    sample_lag(
        host,
        [Localised(concept=concept)],
        [f"a photo of a <{NAMES[0]}> {WORDS[0]}"],
        noise,
        steps=task.sampling_steps,
        progress=lambda *_: stages.step(DRAWING),
    )


def weaving(task: Task) -> None:
    """A template inverted, and drawn again with two concepts in it."""
    image, masks, _ = make_pictures(task.side)
    host, stages, steps = task.host, task.stages, task.sampling_steps
    concepts = [random_concept(host, i, Scope.CROSS_ATTENTION_KV) for i in range(2)]
    region_specs = [
        RegionSpec(concept=concept, word=word, mask=mask)
        for concept, word, mask in zip(concepts, WORDS, masks, strict=True)
    ]
    with stages.single("preparing"):
        regions = make_regions(SENTENCE, region_specs)
        sigmas = host.noise_path.levels(steps)
    with stages.single(TEMPLATE):
        template = make_template(host, image[None], SENTENCE, sigmas, InversionConfig(steps=steps))
    stages.plan(WEAVING, steps)
    weave(host, template, regions, WeaveConfig(), progress=lambda *_: stages.step(WEAVING))
    stages.since(DECODING)


def random_concept(host: DiffusersHost, number: int, scope: Scope) -> Concept:
    """What a method would have learned, of its true size, by chance."""
    generator = torch.Generator().manual_seed(number)
    changes: dict[str, Diff | LowRank] = {}
    for name in scope_weight_names(host.weight_names(), scope):
        shape = host.weight(name).shape
        if scope in LOW_RANK_SCOPES:
            rank = rank_for(PersonalizedResidualsConfig().ratio, shape[0])
            up, down = (
                torch.randn(s, generator=generator) for s in ((shape[0], rank), (rank, shape[1]))
            )
            changes[name] = LowRank(0.01 * up, down)
        else:
            changes[name] = Diff(0.01 * torch.randn(shape, generator=generator))
    name, word = NAMES[number], WORDS[number]
    return Concept(
        handles={name: {key: rows[:1].cpu() for key, rows in host.word_vectors(word).items()}},
        weights=changes,
        base=host.fingerprint,
        method="random",
        recipe={"class_word": word},
        prompts=(f"a photo of a <{name}> {word}",),
        words={name: word},
    )


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
