"""Break-A-Scene: what each part contributes, judged by TinyWorld's judge.

Learns scenes of two held-out members with the whole method and with one part switched off
in turn, and draws each on other backgrounds, alone and with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from harness.experiment import Cell, Experiment, Found, budget_of, folder_of
from harness.results import Section
from harness.statistics import Cells, Expectation, Measure, compared
from harness.store import NO_PREVIEW, as_bytes, as_floats
from harness.subject import Options
from torch import Tensor

from conceptloom.cli.demo.judge import as_image, word_localisation
from conceptloom.concepts.concept import stacked
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene import BreakASceneConfig, learn_scene
from conceptloom.methods.break_a_scene.spec import ON_TINYWORLD
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.scenes.scene import ConceptScene, make_scene, with_background
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.judge.named import SceneJudge
from conceptloom.tinyworld.presets import CFG
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.training.adapters import Scope

from . import world
from .tasks import BACKGROUND_WORDS, SCENES, SceneTask

PAGE = "break_a_scene_quality"

# The surroundings are a concept too (paper Sec. 4.2): nothing else tells where an object ends,
# since the masked loss sees nothing of what is outside.
SURROUNDINGS = "my-surroundings"
HELD_OUT_SEED = 101  # arrangement of the objects that no training picture has


@dataclass(frozen=True, slots=True)
class SceneBudget:
    """How much work a cell is."""

    token_steps: int
    weight_steps: int
    scope: str
    weight_rate: float
    batch_size: int
    class_images: int
    surroundings: bool  # learn them too, as one more concept
    pictures: int  # for each prompt
    sampling_steps: int


def budgets() -> dict[str, SceneBudget]:
    """The full one is what TinyWorld learns scenes with."""
    preset = ON_TINYWORLD
    tokens, weights = preset.token_phase, preset.weight_phase
    full = SceneBudget(
        tokens.steps, weights.steps, weights.scope.value, weights.learning_rate, preset.batch_size,
        preset.class_images.draw, True, 4, 25,
    )  # fmt: skip
    short = replace(
        full, token_steps=tokens.steps * 2 // 3, weight_steps=weights.steps * 4 // 5,
        batch_size=min(3, preset.batch_size), pictures=1, sampling_steps=16,
    )  # fmt: skip
    quick = replace(
        full, token_steps=1, weight_steps=1, scope=Scope.CROSS_ATTENTION_KV.value, batch_size=1,
        pictures=1, sampling_steps=1,
    )  # fmt: skip
    return {"full": full, "short": short, "quick": quick}


Change = Callable[[BreakASceneConfig], BreakASceneConfig]


def without_phase_1(config: BreakASceneConfig) -> BreakASceneConfig:
    """All steps in phase 2, so that every variant makes as many."""
    steps = config.token_phase.steps + config.weight_phase.steps
    return replace(
        config,
        token_phase=replace(config.token_phase, steps=0),
        weight_phase=replace(config.weight_phase, steps=steps),
    )


VARIANTS: dict[str, Change] = {
    "whole method": lambda config: config,
    "without phase 1": without_phase_1,
    "without masked loss": lambda config: replace(config, masked_loss=False),
    "without attention loss": lambda config: replace(config, attention_weight=0.0),
    "without union sampling": lambda config: replace(config, union_sampling=False),
}
WHOLE = "whole method"
MEASURES = (
    Measure("alone", "identity alone", "share of pictures of one word that show its object"),
    Measure("together", "identity together", "the same, per word, where all words are asked for"),
    Measure(
        "nearest",
        "nearest",
        "share of words whose object is the likest of 16 of its class, however unlike",
    ),
    Measure("likeness", "likeness", "cosine of the judge's description with the taught member"),
    Measure("iou", "attention IoU", "of the word's map with the exact mask, unseen arrangement"),
    Measure(
        "auc", "attention AUC", "chance that a point inside is looked at more than one outside"
    ),
    Measure("leak", "leakage", "share of pictures with a learned object too much", False),
    Measure("background", "background", "share of pictures on the background that was asked for"),
)
# What the paper's ablation (Sec. 5.2) says that each part is for, in our measures.
SERVES = {
    "without phase 1": ("background",),
    "without masked loss": ("background",),
    "without attention loss": ("alone", "together", "nearest", "iou"),
    "without union sampling": ("together", "nearest"),
}
EXPECTATIONS = [
    Expectation(f"The {variant.removeprefix('without ')} helps", WHOLE, variant, key)
    for variant, keys in SERVES.items()
    for key in keys
]


def config_of(budget: SceneBudget, seed: int, variant: str) -> BreakASceneConfig:
    """The settings of a cell."""
    base = ON_TINYWORLD
    whole = replace(
        base,
        token_phase=replace(base.token_phase, steps=budget.token_steps),
        weight_phase=replace(
            base.weight_phase,
            steps=budget.weight_steps,
            scope=Scope(budget.scope),
            learning_rate=budget.weight_rate,
        ),
        batch_size=budget.batch_size,
        prior_weight=base.prior_weight if budget.class_images else 0.0,
        class_images=replace(base.class_images, draw=budget.class_images),
        seed=seed,
    )
    return VARIANTS[variant](whole)


def scene_of(task: SceneTask, *, surroundings: bool) -> ConceptScene:
    """The scene of a task; the surroundings of its objects may be one more concept."""
    truth = world.scene_of(task)
    masks = [[torch.from_numpy(mask)] for mask in truth.masks]
    words = {h: CONCEPTS[name] for h, name in zip(task.handles, task.objects, strict=True)}
    scene = make_scene([as_image(truth.image)], dict(zip(task.handles, masks, strict=True)), words)
    if not surroundings:
        return scene
    return with_background(scene, SURROUNDINGS, BACKGROUND_WORDS[task.background])


def asked_of(task: SceneTask) -> list[tuple[str, ...]]:
    """The handles of every prompt: each alone, then all together."""
    return [*((name,) for name in task.handles), tuple(task.handles)]


class SceneExperiment(Experiment):
    """Cells are (scene, seed, variant)."""

    variants = rows = tuple(VARIANTS)
    whole, measures, expectations = WHOLE, MEASURES, EXPECTATIONS

    def __init__(self, host: Host, budget: SceneBudget, folder: Path, seeds: int) -> None:
        super().__init__(folder, seeds)
        self.host, self.budget = host, budget
        self.tasks = {task.name: task for task in SCENES}
        self.things = tuple(self.tasks)

    def config(self, cell: Cell) -> BreakASceneConfig:
        return config_of(self.budget, cell.seed, cell.variant)

    def key(self, cell: Cell) -> str:
        return repr(self.config(cell))

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Pictures by "prompt/background", and how well the words find their objects."""
        host, budget, task = self.host, self.budget, self.tasks[cell.thing]
        scene = scene_of(task, surroundings=budget.surroundings)
        learned = learn_scene(host, scene, self.config(cell), previews=NO_PREVIEW)
        stack = stacked([(learned.concept, 1.0)])
        kept: dict[str, Tensor] = {}
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            for number, names in enumerate(asked_of(task)):
                kept |= self._drawn(task, names, number, cell.seed, stack.handles)
            unseen = concept_scene(task.objects, HELD_OUT_SEED, task.elsewhere[0])
            places = word_localisation(host, stack.handles, task.handles, unseen)
        kept["iou"] = torch.tensor([scores.iou for scores in places.values()])
        kept["auc"] = torch.tensor([scores.auc for scores in places.values()])
        return kept, {}

    def _drawn(
        self, task: SceneTask, names: tuple[str, ...], number: int, seed: int, handles: Mapping
    ) -> dict[str, Tensor]:
        """One prompt on every other background, from the same noise for all variants."""
        host, budget, places = self.host, self.budget, task.elsewhere
        words = " and ".join(f"<{name}>" for name in names)
        noise = seeded_noise(host, 1000 * seed + number, budget.pictures, world.PICTURE)
        prompts = [
            host.encode_prompt(f"a photo of {words} {BACKGROUNDS[place]}", handles)
            for place in places
            for _ in noise
        ]
        latent = sample_ddim(
            host, prompts, host.encode_prompt(""), noise.repeat(len(places), 1, 1, 1),
            steps=budget.sampling_steps, cfg=CFG,
        )  # fmt: skip
        images = as_bytes(host.decode_latent(latent)).split(budget.pictures)
        return {f"{number}/{place}": part for place, part in zip(places, images, strict=True)}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        task, found = self.tasks[cell.thing], {measure.key: list[float]() for measure in MEASURES}
        judge = SceneJudge(dict(zip(task.handles, task.objects, strict=True)))
        for number, names in enumerate(asked_of(task)):
            kind = "alone" if len(names) == 1 else "together"
            for place in task.elsewhere:
                for image in as_floats(kept[f"{number}/{place}"]):
                    verdict = judge.look(image, names)
                    for name, identity in verdict.identities.items():
                        found[kind].append(float(identity.right))
                        found["nearest"].append(float(identity.nearest == name))
                        found["likeness"].append(identity.similarity)
                    found["leak"].append(float(bool(verdict.leaked)))
                    found["background"].append(float(verdict.background == place))
        found["iou"], found["auc"] = kept["iou"].tolist(), kept["auc"].tolist()
        return {cell.variant: found}

    def about(self) -> list[str]:
        budget = self.budget
        told = (
            f"{len(self.things)} scenes ({'; '.join(self.things)}) of members that the base model "
            f"has never seen, {self.seeds} seeds. Steps: {budget.token_steps} + "
            f"{budget.weight_steps}, batch {budget.batch_size}, scope {budget.scope} at "
            f"{budget.weight_rate:g}, class images: {budget.class_images}. For every prompt "
            f"{budget.pictures} picture(s) on each of two backgrounds that differ from the taught "
            f"one, {budget.sampling_steps} DDIM steps; the variants share their noise. Without "
            "phase 1 all steps go to phase 2."
        )
        if budget.surroundings:
            told += (
                " The surroundings are learned too, as a concept that no prompt asks for "
                "(Sec. 4.2)."
            )
        return [told]

    def more_sections(self, cells: Cells) -> list[Section]:
        """What a part makes worse beyond two standard errors."""
        told: list[str] = []
        for variant in SERVES:
            gains = [(measure, compared(cells, WHOLE, variant, measure)) for measure in MEASURES]
            worse = [
                f"{m.title} ({one.gain:+.2f})" for m, one in gains if one.is_sure and one.gain < 0
            ]
            if worse:
                told.append(f"* The {variant.removeprefix('without ')} costs {', '.join(worse)}.")
        return [Section(heading="What parts cost", text="\n".join(told))] if told else []


def experiment_of(host: Host, options: Options) -> SceneExperiment:
    """The experiment with its budget and folder."""
    budget = budget_of(options, budgets())
    folder = folder_of(PAGE, model_digest(host), asdict(budget))
    experiment = SceneExperiment(host, budget, folder, options.seeds)
    if options.quick:
        experiment.things, experiment.seeds = experiment.things[:1], 1
    return experiment


run, arguments = world.experiment_command(experiment_of, PAGE)
