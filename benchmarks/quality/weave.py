"""Concept Weaver: what each part contributes, judged by TinyWorld's judge.

Learns held-out members, each from pictures of its own; weaves 2 and 3 of them into templates of
known members of their classes, with the whole method, with one part switched off in turn, and
by other ways of combining concepts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from harness.experiment import Cell, Experiment, Found, budget_of, folder_of
from harness.results import Column, Row, Section, Table
from harness.statistics import Cells, Expectation, Measure, gain_table, means_of
from harness.store import NO_PREVIEW, as_bytes, as_floats, kept_concept
from harness.subject import Options
from torch import Tensor

from conceptloom.cli.demo.judge import as_image
from conceptloom.cli.demo.teaching import handle_of
from conceptloom.cli.demo.weaver import CONFIG, STEPS
from conceptloom.concepts.concept import Change, Concept, Diff, stacked
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.concept_weaver import (
    InversionConfig,
    Mixing,
    Regions,
    RegionSpec,
    Template,
    WeaveConfig,
    make_regions,
    make_template,
    weave,
)
from conceptloom.methods.concept_weaver.prompts import marked_word
from conceptloom.methods.personalized_residuals import learn_residuals
from conceptloom.methods.personalized_residuals.spec import ON_TINYWORLD as TEACHING
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene, region_prompt
from conceptloom.tinyworld.concepts import concept as member_of
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.lineup import LINEUP, TARGET
from conceptloom.tinyworld.judge.named import identity_of, lineup_of
from conceptloom.tinyworld.judge.scores import layout, likeness, mixing

from . import world
from .tasks import TEMPLATE_WORDS, WEAVES, WeaveTask


def merged_concept(concepts: Sequence[Concept]) -> Concept:
    """All concepts in one: differences add up; handles, their words and prompts join.

    Raises:
        InputError: two bring the same handle, or they were learned on different base models.
    """
    weights: dict[str, Diff] = {}
    for concept in concepts:
        for name, change in concept.weights.items():
            added = _whole(change)
            before = weights[name].tensor if name in weights else torch.zeros_like(added)
            weights[name] = Diff(before + added)
    return replace(
        concepts[0],
        handles=stacked([(concept, 1.0) for concept in concepts]).handles,
        weights=weights,
        prompts=tuple(prompt for concept in concepts for prompt in concept.prompts),
        words={name: word for concept in concepts for name, word in concept.words.items()},
    )


def _whole(change: Change) -> Tensor:
    """What is added to a weight, [out, in] where the change is of low rank."""
    if isinstance(change, Diff):
        return change.tensor
    return change.delta((change.up.shape[0], change.down[0].numel()))


def named_sentence(sentence: str, words: Mapping[str, str], merged: Concept) -> str:
    """A sentence in which every word that stands for a concept is called as the concept was taught.

    Args:
        words: handle -> its word of the sentence; a word that comes twice is taken in turn.
    """
    waiting: dict[str, list[str]] = {}
    for handle, word in words.items():
        waiting.setdefault(word.casefold(), []).append(marked_word(merged, handle, word))
    pattern = "|".join(re.escape(word) for word in sorted(waiting, key=len, reverse=True))

    def named(found: re.Match[str]) -> str:
        marked = waiting[found[0].casefold()]
        return marked.pop(0) if marked else found[0]

    return re.sub(rf"\b(?:{pattern})\b", named, sentence, flags=re.IGNORECASE)


PAGE = "weave_quality"

TAUGHT_ON, FIRST_SEED = ("white", "grass", "beach"), 2
GOOD_PSNR = 30  # decibel


@dataclass(frozen=True, slots=True)
class WeaveBudget:
    """How much work it is."""

    teaching_steps: int  # of every concept's training
    sampling_steps: int
    weaves: int  # the first so many


BUDGETS = {
    "full": WeaveBudget(TEACHING.steps, STEPS, 99),
    "short": WeaveBudget(30, 6, 2),
    "quick": WeaveBudget(1, 1, 1),
}
WHOLE = "whole method"
SUPPRESSING = "with suppression"
PLACE_ALONE = "background reads its place alone"
MERGED, MASKED = "merged concepts, one prompt", "merged concepts, masked conditioning"
VARIANTS: dict[str, WeaveConfig] = {
    WHOLE: CONFIG,
    "without injection": replace(CONFIG, resnet_until=0.0, attention_until=0.0),
    "without prompts of their own": CONFIG,
    SUPPRESSING: replace(CONFIG, suppression=0.2),
    PLACE_ALONE: CONFIG,
    "score mixing": replace(CONFIG, mixing=Mixing.SCORES),
    MERGED: CONFIG,
    MASKED: replace(CONFIG, resnet_until=0.0, attention_until=0.0, mixing=Mixing.SCORES),
}
NOTES = {
    PLACE_ALONE: 'its prompt is "a photo at the beach"; the paper\'s names all objects',
    "without prompts of their own": "every region reads one prompt with all names",
    "score mixing": "the paper's naive baseline: a pass for each concept",
    MERGED: "all differences added up in one model, all names in one prompt, same injection",
    MASKED: "the merged model, a prompt for each region, predictions mixed by masks: what core "
    "ComfyUI's Conditioning (Set Mask) does; no injection",
}
MEASURES = (
    Measure("likeness", "likeness", "cosine of what stands in a region with its own concept"),
    Measure(
        "identity",
        "identity",
        f"share of regions recognised as their own concept, of {LINEUP} of its class",
    ),
    Measure("mixing", "mixing", "share of regions that are nearer to another woven concept", False),
    Measure(
        "traits",
        "traits of others",
        "share of the colours, patterns and emblems by which two woven concepts differ that a "
        "region has from the other",
        False,
    ),
    Measure("layout", "layout", "IoU of the objects found with those of the template"),
    Measure("background", "background", "share of pictures that keep the template's background"),
)
EXPECTATIONS = (
    Expectation(
        "Injected features hold the template's layout", WHOLE, "without injection", "layout"
    ),
    Expectation(
        "A prompt of its own for every concept keeps looks apart",
        WHOLE,
        "without prompts of their own",
        "likeness",
    ),
    Expectation(
        "Suppressing the concept-free features brings concepts out", SUPPRESSING, WHOLE, "likeness"
    ),
    Expectation("Mixing features is better than mixing scores", WHOLE, "score mixing", "likeness"),
    Expectation(
        "... and what it draws keeps to the layout better", WHOLE, "score mixing", "layout"
    ),
    Expectation("Better than merged weights and one prompt", WHOLE, MERGED, "likeness"),
    Expectation("... with fewer concepts in a wrong place", WHOLE, MERGED, "mixing"),
    Expectation("Better than conditioning under masks", WHOLE, MASKED, "likeness"),
)


class WeaveExperiment(Experiment):
    """Cells are (template, arrangement, variant)."""

    variants = rows = tuple(VARIANTS)
    whole, measures, expectations, notes = WHOLE, MEASURES, EXPECTATIONS, NOTES

    def __init__(self, host: Host, budget: WeaveBudget, folder: Path, seeds: int) -> None:
        super().__init__(folder / "cells", seeds)
        self.host, self.budget, self.bank_folder = host, budget, folder
        self.tasks = {task.name: task for task in WEAVES[: budget.weaves]}
        self.things = tuple(self.tasks)
        self._bank: dict[str, Concept] = {}
        self._templates: dict[tuple[str, int], Template] = {}

    def key(self, cell: Cell) -> str:
        return repr([cell.variant, VARIANTS[cell.variant], "alike templates"])

    def concept(self, name: str) -> Concept:
        """A concept of one object, learned once, from pictures of it alone."""
        if name not in self._bank:
            path = self.bank_folder / f"{handle_of(name)}-{name}.safetensors"
            self._bank[name] = kept_concept(path, lambda: self._taught(name))
        return self._bank[name]

    def _taught(self, name: str) -> Concept:
        images = [
            as_image(concept_scene([name], seed, background).image)
            for seed, background in enumerate(TAUGHT_ON, FIRST_SEED)
        ]
        config = replace(TEACHING, steps=self.budget.teaching_steps)
        quick = replace(NO_PREVIEW, prompts=())
        return learn_residuals(
            self.host, images, handle_of(name), CONCEPTS[name], config, previews=quick
        ).concept

    def template(self, task: WeaveTask, seed: int) -> Template:
        """The inverted template of a task."""
        if (task.name, seed) not in self._templates:
            image = as_image(world.template_of(task, seed).image)[None]
            sigmas = self.host.noise_path.levels(self.budget.sampling_steps)
            self._templates[task.name, seed] = make_template(
                self.host, image, world.sentence_of(task), sigmas, InversionConfig()
            )
        return self._templates[task.name, seed]

    def regions(self, task: WeaveTask, seed: int, variant: str) -> Regions:
        """The regions of a cell; what is switched off shows in their prompts and concepts."""
        sentence = world.sentence_of(task)
        concepts = [self.concept(name) for name in task.concepts]
        plain = [TEMPLATE_WORDS[name] for name in task.concepts]
        merged = merged_concept(concepts)
        words = {c.names[0]: word for c, word in zip(concepts, plain, strict=True)}
        every = named_sentence(sentence, words, merged)
        region_specs = []
        masks = world.template_of(task, seed).masks
        for word, concept, mask in zip(plain, concepts, masks, strict=True):
            prompt, own = region_prompt(sentence, plain, word), concept
            if variant == "without prompts of their own":
                prompt, own = every, replace(concept, handles=merged.handles)
            elif variant in (MERGED, MASKED):
                own = merged
                prompt = every if variant == MERGED else prompt
            region_specs.append(
                RegionSpec(
                    concept=own, word=word, mask=torch.from_numpy(mask), handle=concept.names[0],
                    prompt=prompt,
                )
            )  # fmt: skip
        behind = None
        if variant == MERGED:
            behind = RegionSpec(concept=merged, word="", prompt=every)
        elif variant == PLACE_ALONE:
            behind = RegionSpec(concept=None, word="", prompt=f"a photo {task.place}")
        return make_regions(sentence, region_specs, behind)

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        task = self.tasks[cell.thing]
        template = self.template(task, cell.seed)
        regions = self.regions(task, cell.seed, cell.variant)
        image = weave(self.host, template, regions, VARIANTS[cell.variant]).image[0]
        return {"image": as_bytes(image), "psnr": torch.tensor(template.psnr)}, {}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        """Region by region; `psnr` is beside the measures."""
        task, image = self.tasks[cell.thing], as_floats(kept["image"])
        judge, masks = load_judge(), world.template_of(task, cell.seed).masks
        woven = {name: lineup_of(name).references[TARGET] for name in task.concepts}
        placed = layout(judge.find(image), masks)
        found: Found = {measure.key: [] for measure in MEASURES}
        for name, mask, standing in zip(task.concepts, masks, placed.objects, strict=True):
            there = standing or judge.describe(image, mask)
            identity = identity_of([there], name)
            nearest = max(woven, key=lambda n: likeness(there, woven[n]))
            others = [mixing(there, member_of(name), member_of(n)) for n in woven if n != name]
            found["likeness"].append(identity.similarity)
            found["identity"].append(float(identity.right))
            found["mixing"].append(float(nearest != name))
            found["traits"].append(float(np.mean(others)))
        found["layout"].append(placed.overlap)
        found["background"].append(float(judge.background(image) == task.background))
        return {cell.variant: {**found, "psnr": [float(kept["psnr"])]}}

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{len(self.things)} templates ({'; '.join(self.things)}), {self.seeds} "
            "arrangement(s). "
            f"Concepts: personalized residuals, {budget.teaching_steps} steps from "
            f"{len(TAUGHT_ON)} pictures, each alone; {budget.sampling_steps} sampling steps. "
            "TinyWorld is a small model of drawn things: it shows whether the parts do what they "
            "are there for, and nothing about photographs."
        ]

    def more_sections(self, cells: Cells) -> list[Section]:
        decibels = sorted(set(means_of(cells, WHOLE, "psnr")))
        sections = [
            Section(
                heading="Beside the whole method",
                text="Means over the cells and, in brackets, the gain of the whole method.",
                table=gain_table("beside", cells, WHOLE, VARIANTS, MEASURES, means=True),
            )
        ]
        if decibels:
            above = sum(value > GOOD_PSNR for value in decibels)
            told = (
                f"{above} of {len(decibels)} inverted templates come back with more than "
                f"{GOOD_PSNR} dB (PSNR, against what the autoencoder makes of the picture): "
                f"{decibels[0]:.1f} to {decibels[-1]:.1f} dB."
            )
            sections.append(Section(heading="The template comes back", text=told))
        return [*sections, Section(heading="By number of concepts", table=self._by_count(cells))]

    def _by_count(self, cells: Cells) -> Table:
        """Likeness and identity with 2 and 3 concepts."""
        counts = sorted({len(task.concepts) for task in self.tasks.values()})
        keys, rows = ("likeness", "identity"), list[Row]()
        for variant in VARIANTS:
            row: dict[str, object] = {"row": variant}
            for count in counts:
                mine = {
                    key: found
                    for key, found in cells.items()
                    if len(self.tasks[key[0]].concepts) == count
                }
                for key in keys:
                    means = means_of(mine, variant, key)
                    row[f"{count} {key}"] = float(np.mean(means)) if len(means) else None
            rows.append(row)
        titles = [(f"{n} {key}", f"{n}: {key}") for n in counts for key in keys]
        columns = [Column(key="row", title="variant", is_text=True)]
        columns += [Column(key=key, title=title) for key, title in titles]
        return Table(name="by count", columns=columns, rows=rows)


def experiment_of(host: Host, options: Options) -> WeaveExperiment:
    """The experiment with its budget and folder."""
    budget = budget_of(options, BUDGETS)
    folder = folder_of(PAGE, model_digest(host), asdict(budget))
    return WeaveExperiment(host, budget, folder, 1 if options.quick else options.seeds)


run, arguments = world.experiment_command(experiment_of, PAGE)
