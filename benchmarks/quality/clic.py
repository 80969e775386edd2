"""CLiC: what each part contributes, judged by TinyWorld's judge.

Learns unseen ornaments on one object and carries each over to a part of another object, with the
whole method and with one part switched off in turn.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

import torch
from harness.experiment import Cell, Experiment, Found, budget_of, folder_of
from harness.results import RUNS, Claim, bound
from harness.statistics import Cells, Expectation, Measure
from harness.store import NO_PREVIEW, as_bytes, as_floats, kept_concept, short_digest
from harness.subject import Options
from torch import Tensor

from conceptloom.attention.capture import read_attention
from conceptloom.cli.demo.judge import as_image
from conceptloom.concepts.concept import Concept, stacked
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.clic import (
    CLiCConfig,
    Form,
    as_break_a_scene_loss,
    as_custom_diffusion,
    learn_detail,
)
from conceptloom.methods.clic.spec import PAPER, on_tinyworld
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.masks import composited
from conceptloom.scenes.scene import make_scene
from conceptloom.tinyworld.judge.judge import load_judge
from conceptloom.tinyworld.judge.lineup import LINEUP, Lineup
from conceptloom.tinyworld.judge.named import ornament_identity, ornament_lineup
from conceptloom.tinyworld.measures import localisation
from conceptloom.tinyworld.planes import iou
from conceptloom.tinyworld.presets import CFG

from . import world
from .tasks import DETAILS, DetailTask
from .world import bare_of, found_in, goal_of, taught_of

PAGE = "clic_quality"

PRESET, LOOP = on_tinyworld(CLiCConfig()), PAPER.loop
HANDLE, WORD = "my-mark", "circle"  # and what it starts from


@dataclass(frozen=True, slots=True)
class DetailBudget:
    """How much work a cell is."""

    token_steps: int
    weight_steps: int
    pictures: int  # for each pair
    sampling_steps: int
    start: int = (
        0  # of them skipped; a quarter, as on photographs, leaves too much of the bare part
    )
    cfg: float = CFG


def budgets() -> dict[str, DetailBudget]:
    """The full one is what TinyWorld learns details with."""
    tokens, weights = PRESET.token_phase.steps, PRESET.weight_phase.steps
    return {
        "full": DetailBudget(tokens, weights, 4, 25),
        "short": DetailBudget(tokens, weights * 2 // 5, 3, 14),
        "quick": DetailBudget(1, 1, 1, 1),
    }


Change = Callable[[CLiCConfig], CLiCConfig]


def in_the_official_form(config: CLiCConfig) -> CLiCConfig:
    """The same weights, with l_context and l_RoI as the code computes them."""
    return replace(config, context_form=Form.OFFICIAL, roi_form=Form.OFFICIAL)


VARIANTS: dict[str, Change] = {
    "whole method": lambda config: config,
    "without l_att": lambda config: replace(config, attention_weight=0.0),
    "without l_context": lambda config: replace(config, context_weight=0.0),
    "without l_RoI": lambda config: replace(config, roi_weight=0.0),
    "Break-A-Scene's loss": as_break_a_scene_loss,
    "Custom Diffusion": as_custom_diffusion,
    "official form": in_the_official_form,
}
WHOLE = "whole method"
MEASURES = (
    Measure(
        "right",
        "identity",
        "share of pictures that the judge takes for the target with the "
        f"ornament, of {LINEUP} that differ in the ornament alone",
    ),
    Measure("likeness", "likeness", "cosine of the target with what it is like with the ornament"),
    Measure(
        "outside",
        "change outside",
        "mean difference, 0..1, to the decoded source, no pasting",
        False,
    ),
    Measure("pasted", "with pasting", "largest difference outside the mask after it", False),
    Measure("shape", "shape kept", "overlap of the object with the target's, as the judge sees it"),
    Measure("auc", "attention AUC", "chance that a point of the taught mask is looked at more"),
)
# What the paper's ablation says that each part is for (Sec. 4, Fig. 9), in our measures.
SERVES = {
    "without l_att": ("auc", "shape"),
    "without l_context": ("likeness", "shape"),
    "without l_RoI": ("likeness", "right"),
    "Break-A-Scene's loss": ("likeness", "right"),
    "Custom Diffusion": ("likeness", "auc"),
}
CLAIMS = {
    "without l_att": "l_att ties the word to its place",
    "without l_context": "l_context makes the detail fit its object",
    "without l_RoI": "l_RoI brings the detail's likeness",
    "Break-A-Scene's loss": "a soft mask with l_RoI beats a hard mask",
    "Custom Diffusion": "the three losses beat the plain one",
}
EXPECTATIONS = [
    Expectation(CLAIMS[variant], WHOLE, variant, key)
    for variant, keys in SERVES.items()
    for key in keys
]


def taught_mask(task: DetailTask) -> Tensor:
    """[H, W] where the ornament is in the taught picture."""
    return torch.from_numpy(taught_of(task).masks[1])


@cache
def lineup_of(task: DetailTask) -> Lineup:
    """The target with its ornament, among others that differ in that alone."""
    return ornament_lineup(goal_of(task).bearer)


def config_of(task: DetailTask, budget: DetailBudget, seed: int, variant: str) -> CLiCConfig:
    """The settings of a cell."""
    whole = replace(
        PRESET,
        token_phase=replace(PRESET.token_phase, steps=budget.token_steps),
        weight_phase=replace(PRESET.weight_phase, steps=budget.weight_steps),
        object_word=task.source,
        seed=seed,
    )
    return VARIANTS[variant](whole)


def learn(host: Host, task: DetailTask, config: CLiCConfig) -> Concept:
    """The ornament of a task."""
    scene = make_scene(
        [as_image(taught_of(task).image)],
        {HANDLE: [taught_mask(task)]},
        {HANDLE: WORD},
    )
    return learn_detail(host, scene, config, loop=LOOP, previews=NO_PREVIEW).concept


def learned_ornament(host: Host, task: DetailTask, budget: DetailBudget) -> Concept:
    """The same by the whole method, once for every benchmark that only uses it."""
    config = config_of(task, budget, 0, WHOLE)
    key = short_digest([model_digest(host), task.name, asdict(config)])
    path = RUNS / "clic_ornaments" / f"{task.ornament}-{key}.safetensors"
    return kept_concept(path, lambda: learn(host, task, config))


class DetailExperiment(Experiment):
    """Cells are (pair of source and target, seed, variant)."""

    variants = rows = tuple(VARIANTS)
    whole, measures, expectations, digits = WHOLE, MEASURES, EXPECTATIONS, 3

    def __init__(self, host: Host, budget: DetailBudget, folder: Path, seeds: int) -> None:
        super().__init__(folder, seeds)
        self.host, self.budget = host, budget
        self.tasks = {task.name: task for task in DETAILS}
        self.things = tuple(self.tasks)

    def config(self, cell: Cell) -> CLiCConfig:
        return config_of(self.tasks[cell.thing], self.budget, cell.seed, cell.variant)

    def key(self, cell: Cell) -> str:
        return repr(self.config(cell))

    def make(self, cell: Cell) -> tuple[dict[str, Tensor], dict[str, str]]:
        """Learn one cell and carry the ornament over: pictures, and how well the word looks."""
        host, budget, task = self.host, self.budget, self.tasks[cell.thing]
        config, taught, bare = self.config(cell), taught_of(task), bare_of(task)
        stack = stacked([(learn(host, task, config), 1.0)])
        latent, place = host.encode_image(as_image(bare.image)[None]), bare.masks[1]
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            words = config.prompt_of(HANDLE)
            prompt = host.encode_prompt(words, stack.handles)
            taught_latent = host.encode_image(as_image(taught.image)[None])
            heat = read_attention(host, taught_latent, prompt, [f"<{HANDLE}>"])[f"<{HANDLE}>"]
            edit = host.encode_prompt(words.replace(task.source, task.target), stack.handles)
            negative = host.encode_prompt("")
        drawn = edit_latents(
            host,
            latent,
            [Region(edit, torch.from_numpy(place))],
            negative,
            EditConfig(
                steps=budget.sampling_steps, cfg=budget.cfg, blend=BlendConfig(start=budget.start)
            ),
            weights=stack.edits,
            seed=1000 * cell.seed,
            rows=budget.pictures,
        )
        auc = localisation(heat, taught_mask(task)).auc
        return {
            "pictures": as_bytes(host.decode_latent(drawn)),
            "rebuilt": as_bytes(host.decode_latent(latent)),
            "auc": torch.tensor(auc),
        }, {}

    def judge(self, cell: Cell, kept: Mapping[str, Tensor]) -> dict[str, Found]:
        """Tells the target with the ornament from others, and measures what changes around it."""
        task, found = self.tasks[cell.thing], {measure.key: list[float]() for measure in MEASURES}
        bare, goal = bare_of(task), goal_of(task).bearer
        whole, place = (torch.from_numpy(mask) for mask in bare.masks)
        source, rebuilt = as_image(bare.image)[None], as_floats(kept["rebuilt"])
        outside = place == 0
        for picture in as_floats(kept["pictures"]):
            pasted = composited(picture[None], source, place, 0)
            seen = load_judge().describe(pasted[0], whole)
            identity = ornament_identity([seen], goal, lineup_of(task))
            found["right"].append(float(identity.right))
            found["likeness"].append(identity.similarity)
            found["outside"].append(float((picture - rebuilt[0]).abs()[outside].mean()))
            found["pasted"].append(float((pasted - source).abs()[0][outside].max()))
            masks = [thing.mask for thing in found_in(picture)]
            found["shape"].append(max((iou(mask, whole > 0.5) for mask in masks), default=0.0))
        found["auc"].append(float(kept["auc"]))
        return {cell.variant: found}

    def about(self) -> list[str]:
        budget = self.budget
        return [
            f"{len(self.things)} pairs of a source and a target ({'; '.join(self.things)}), "
            f"{self.seeds} seeds. The base model has never seen the ornaments; the "
            "target is another object, and its mask says where the ornament belongs. Steps: "
            f"{budget.token_steps} + {budget.weight_steps}, batch {PRESET.batch_size}, every "
            f"weight at {PRESET.weight_phase.learning_rate:g} (cross-attention alone, as in the "
            "paper, gets an ornament's colours but not its pattern in so many steps of this model; "
            f"the losses are the paper's). {budget.pictures} pictures a pair, blended, "
            f"{budget.sampling_steps} steps of which {budget.start} are skipped, eta 1, guidance "
            f"{budget.cfg:g}, no attention guidance, so that only the losses are "
            "compared; the variants share their noise."
        ]

    def more_claims(self, cells: Cells) -> list[Claim]:
        changed = [max(found["pasted"]) for (_, _, row), found in cells.items() if row == WHOLE]
        says = "Nothing changes outside of the mask, with pasting"
        return [bound(says, max(changed), at_most=0)] if changed else []

    def sheet(self) -> tuple[Tensor, int, str]:
        """A row for each pair; grey where a cell is not finished."""
        rows: list[Tensor] = []
        for task in self.tasks.values():
            bare = bare_of(task)
            source, place = as_image(bare.image), torch.from_numpy(bare.masks[1])
            row = [as_image(taught_of(task).image), source]
            for variant in VARIANTS:
                kept = self.kept(Cell(task.name, 0, variant))
                if kept is None:
                    row.append(torch.full_like(source, 0.5))
                else:
                    drawn = as_floats(kept["pictures"][:1])
                    row.append(composited(drawn, source[None], place, 1)[0])
            rows.append(torch.cat(row, dim=1))
        caption = "A pair a row: taught, bare, then each variant in the table's order, pasted"
        return torch.cat(rows), 2, caption


def experiment_of(host: Host, options: Options) -> DetailExperiment:
    """The experiment with its budget and folder."""
    budget = budget_of(options, budgets())
    folder = folder_of(PAGE, model_digest(host), asdict(budget))
    experiment = DetailExperiment(host, budget, folder, options.seeds)
    if options.quick:
        experiment.things, experiment.seeds = experiment.things[:1], 1
    return experiment


run, arguments = world.experiment_command(experiment_of, PAGE)
