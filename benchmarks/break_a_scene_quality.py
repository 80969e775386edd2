"""What each part of Break-A-Scene is good for, measured on TinyWorld by an oracle.

    .venv/bin/python benchmarks/break_a_scene_quality.py --quick
    .venv/bin/python benchmarks/break_a_scene_quality.py

Learns scenes of two and three unseen objects with the whole method and with one part switched off
in turn, draws with what was learned, and writes a table to `docs/results/`. A cell (scene, seed,
variant) that is finished stands in a file below `runs/` and is not computed again; stop and start
as you like. `--report` writes the page from what is there.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path

import torch

from conceptloom.cli.measures import Judge, as_image, mean, word_localisation
from conceptloom.cli.models import open_host
from conceptloom.cli.presets import TINYWORLD
from conceptloom.host.ports import Host
from conceptloom.methods.break_a_scene import BreakASceneConfig, ClassImages, learn_scene
from conceptloom.samplers.ddim import sample_ddim, seeded_noise
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.tinyworld.world import Scene
from conceptloom.training.adapters import Scope
from conceptloom.training.checkpoints import model_digest
from conceptloom.training.concept import stacked
from conceptloom.training.previews import PreviewConfig
from conceptloom.training.scene import make_scene

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "break_a_scene_quality.md"
CELLS = ROOT / "runs" / "break_a_scene_quality"
HELD_OUT_SEED = 101  # arrangement of the objects that no training picture has


@dataclass(frozen=True, slots=True)
class Lesson:
    """A scene to learn, and where its objects are drawn afterwards."""

    objects: tuple[str, ...]
    seed: int
    background: str
    elsewhere: tuple[str, str]

    @property
    def name(self) -> str:
        return " ".join(self.objects)

    @property
    def handles(self) -> list[str]:
        return [f"my-{name}" for name in self.objects]

    @property
    def truth(self) -> Scene:
        return concept_scene(list(self.objects), self.seed, self.background)


LESSONS = (
    Lesson(("swirl", "robot"), 3, "grass", ("black", "beach")),
    Lesson(("mug", "flower"), 4, "beach", ("gray", "sky")),
    Lesson(("face", "pinwheel", "mushroom"), 5, "bricks", ("white", "grass")),
    Lesson(("bullseye", "fish"), 6, "sky", ("black", "bricks")),
    Lesson(("twotone", "house", "moon"), 7, "gray", ("beach", "night")),
)


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a cell is."""

    token_steps: int
    weight_steps: int
    scope: str
    weight_rate: float
    batch_size: int
    class_images: int
    pictures: int  # for each prompt
    sampling_steps: int


FULL = Budget(100, 250, Scope.FULL.value, 2e-4, 3, 24, 4, 25)
QUICK = Budget(50, 70, Scope.LOW_RANK.value, 1e-3, 2, 0, 1, 16)

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


@dataclass(frozen=True, slots=True)
class Measure:
    """A column of the table."""

    key: str
    title: str
    meaning: str
    is_better_high: bool = True


MEASURES = (
    Measure("alone", "identity alone", "share of pictures of one word that show its object"),
    Measure("together", "identity together", "the same, per word, where all words are asked for"),
    Measure("likeness", "likeness", "cosine of the oracle's description with the taught object"),
    Measure("iou", "attention IoU", "of the word's map with the exact mask, unseen arrangement"),
    Measure(
        "auc", "attention AUC", "chance that a point inside is looked at more than one outside"
    ),
    Measure("leak", "leakage", "share of pictures with a learned object too much", False),
    Measure("background", "background", "share of pictures on the background that was asked for"),
)
# What the paper's ablation says that each part is for (Sec. 5.2), in our measures.
SERVES = {
    "without phase 1": ("background",),
    "without masked loss": ("background",),
    "without attention loss": ("alone", "together", "iou"),
    "without union sampling": ("together",),
}


def config_of(budget: Budget, seed: int, variant: str) -> BreakASceneConfig:
    """The settings of a cell."""
    base = TINYWORLD.config
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
        seed=seed,
    )
    return VARIANTS[variant](whole)


def measured(
    host: Host, lesson: Lesson, budget: Budget, seed: int, variant: str, judge: Judge
) -> dict[str, list[float]]:
    """Learn one cell and measure it; one number per handle, or per picture."""
    truth = lesson.truth
    masks = [[torch.from_numpy(mask)] for mask in truth.masks]
    scene = make_scene(
        [as_image(truth.image)],
        dict(zip(lesson.handles, masks, strict=True)),
        dict.fromkeys(lesson.handles, "object"),
    )
    learned = learn_scene(
        host,
        scene,
        config_of(budget, seed, variant),
        class_images=ClassImages(draw=budget.class_images, steps=20, cfg=3.0),
        previews=PreviewConfig(steps=1, cfg=1.0, prompts=("a photo of an object",)),
    )
    stack = stacked([(learned.concept, 1.0)])
    found: dict[str, list[float]] = {measure.key: [] for measure in MEASURES}
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        asked_of = [(name,) for name in lesson.handles] + [tuple(lesson.handles)]
        for number, asked in enumerate(asked_of):
            words = " and ".join(f"<{name}>" for name in asked)
            for background in lesson.elsewhere:
                prompt = f"a photo of {words} {BACKGROUNDS[background]}"
                images = drawn(host, prompt, stack.handles, budget, 1000 * seed + number)
                for image in images:
                    verdict = judge.look(image, asked)
                    kind = "alone" if len(asked) == 1 else "together"
                    for identity in verdict.identities.values():
                        found[kind].append(float(identity.right))
                        found["likeness"].append(identity.similarity)
                    found["leak"].append(float(bool(verdict.leaked)))
                    found["background"].append(float(verdict.background == background))
        unseen = concept_scene(list(lesson.objects), HELD_OUT_SEED, lesson.elsewhere[0])
        places = word_localisation(host, stack.handles, lesson.handles, unseen)
    found["iou"] = [scores.iou for scores in places.values()]
    found["auc"] = [scores.auc for scores in places.values()]
    return found


def drawn(
    host: Host, prompt: str, handles: object, budget: Budget, noise_seed: int
) -> torch.Tensor:
    """Pictures [n, H, W, 3]; the same noise for every variant."""
    encoded, negative = host.encode_prompt(prompt, handles), host.encode_prompt("")
    noise = seeded_noise(host, noise_seed, budget.pictures, (64, 64))
    latent = sample_ddim(host, [encoded], negative, noise, steps=budget.sampling_steps, cfg=3.0)
    return host.decode_latent(latent)


# ---------------------------------------------------------------- cells, kept as they finish


def all_cells(n_seeds: int) -> Iterator[tuple[Lesson, int, str]]:
    """Whole rounds first: after any number of them the variants can be compared."""
    for seed in range(n_seeds):
        for lesson in LESSONS:
            for variant in VARIANTS:
                yield lesson, seed, variant


def finished(path: Path, key: str) -> dict[tuple[str, int, str], dict[str, list[float]]]:
    """Cells of this very budget and model that are there already."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    return {
        (row["lesson"], row["seed"], row["variant"]): row["found"]
        for row in rows
        if row["key"] == key
    }


def compute(host: Host, budget: Budget, n_seeds: int, path: Path, key: str) -> None:
    """Every cell that is not there yet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    done = finished(path, key)
    judges: dict[str, Judge] = {}
    todo = [c for c in all_cells(n_seeds) if (c[0].name, c[1], c[2]) not in done]
    for number, (lesson, seed, variant) in enumerate(todo, 1):
        began, cpu = time.monotonic(), time.process_time()
        if lesson.name not in judges:
            judges[lesson.name] = Judge(lesson.truth, lesson.handles)
        found = measured(host, lesson, budget, seed, variant, judges[lesson.name])
        seconds, cpu = time.monotonic() - began, time.process_time() - cpu
        row = {"key": key, "lesson": lesson.name, "seed": seed, "variant": variant}
        with path.open("a") as file:
            file.write(json.dumps({**row, "found": found, "seconds": seconds, "cpu": cpu}) + "\n")
        told = ", ".join(f"{name} {mean(values):.2f}" for name, values in found.items())
        print(f"{number}/{len(todo)} {lesson.name}, seed {seed}, {variant}: {told}; ", end="")
        print(f"{seconds:.0f} s, {cpu:.0f} s of CPU", flush=True)


# ---------------------------------------------------------------- the page


def cell_means(cells: dict, variant: str, measure: str) -> dict[tuple[str, int], float]:
    """(lesson, seed) -> mean of a measure."""
    return {
        (lesson, seed): mean(found[measure])
        for (lesson, seed, name), found in cells.items()
        if name == variant
    }


def told(values: Sequence[float]) -> str:
    """Mean and standard deviation over the cells."""
    spread = statistics.stdev(values) if len(values) > 1 else float("nan")
    return f"{mean(values):.2f} ± {spread:.2f}"


def compared(cells: dict, variant: str, measure: Measure) -> tuple[float, float, int]:
    """By how much the whole method is better: mean and standard error over the same cells."""
    whole, other = (cell_means(cells, name, measure.key) for name in (WHOLE, variant))
    sign = 1 if measure.is_better_high else -1
    gains = [sign * (whole[key] - other[key]) for key in whole if key in other]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    return mean(gains), error, len(gains)


def page(cells: dict, budget: Budget, n_seeds: int, command: str, digest: str) -> str:
    """The results as Markdown."""
    wanted = len(LESSONS) * len(VARIANTS) * n_seeds
    lines = [
        "# Break-A-Scene on TinyWorld: what each part is good for",
        "",
        f"    {command}",
        "",
        f"{date.today()}, {platform.machine()}, torch {torch.__version__.split('+')[0]}, one CPU "
        f"thread; base model {digest[:12]}. {len(cells)} of {wanted} cells are finished"
        + ("." if len(cells) >= wanted else "; the same command goes on with the rest."),
        "",
        f"{len(LESSONS)} scenes ({'; '.join(lesson.name for lesson in LESSONS)}) of objects that "
        f"the base model has no words for, {n_seeds} seeds. Steps: {budget.token_steps} + "
        f"{budget.weight_steps}, batch {budget.batch_size}, scope {budget.scope} at "
        f"{budget.weight_rate:g}, class images: {budget.class_images}. For every prompt "
        f"{budget.pictures} picture(s) on each of two backgrounds that differ from the taught one, "
        f"{budget.sampling_steps} DDIM steps; the variants share their noise. Without phase 1 all "
        "steps go to phase 2.",
        "",
        "Mean ± standard deviation over the cells (scene, seed).",
        "",
        "| variant | cells | " + " | ".join(measure.title for measure in MEASURES) + " |",
        "|---|---|" + "---|" * len(MEASURES),
    ]
    for variant in VARIANTS:
        columns = [list(cell_means(cells, variant, m.key).values()) for m in MEASURES]
        if columns[0]:
            figures = " | ".join(told(values) for values in columns)
            lines.append(f"| {variant} | {len(columns[0])} | {figures} |")
    lines += ["", *(f"* {m.title}: {m.meaning}." for m in MEASURES)]
    lines += ["", "## Does the whole method win?", ""]
    lines += [
        "Against each variant, on the measure that the paper's ablation (Sec. 5.2) says the part "
        "serves: mean gain of the whole method over the same cells, ± standard error.",
        "",
        "| part switched off | measure | gain | verdict |",
        "|---|---|---|---|",
    ]
    for variant, keys in SERVES.items():
        for measure in (m for m in MEASURES if m.key in keys):
            gain, error, count = compared(cells, variant, measure)
            if count:
                verdict = verdict_of(gain, error)
                name = variant.removeprefix("without ")
                lines.append(
                    f"| {name} | {measure.title} | {gain:+.2f} ± {error:.2f} | {verdict} |"
                )
    lines += ["", "## Every measure against every variant", ""]
    lines += [
        "Gain of the whole method, positive = the whole method is better, ± standard error.",
        "",
        "| part switched off | " + " | ".join(m.title for m in MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for variant in SERVES:
        gains = [compared(cells, variant, m) for m in MEASURES]
        if gains[0][2]:
            figures = " | ".join(f"{gain:+.2f} ± {error:.2f}" for gain, error, _ in gains)
            lines.append(f"| {variant.removeprefix('without ')} | {figures} |")
    return "\n".join(lines) + "\n"


def verdict_of(gain: float, error: float) -> str:
    """Plain words; two standard errors count as sure."""
    if gain > 2 * error:
        return "the whole method is better"
    if gain < -2 * error:
        return "**the whole method is worse**"
    if gain > 0:
        return "better, but within the spread"
    return "**not better** (within the spread)"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="an hour of one core, not a night")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="write the page, compute nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    key = json.dumps([digest, asdict(budget)])
    path = CELLS / ("quick.jsonl" if options.quick else "full.jsonl")
    if not options.report:
        compute(host, budget, options.seeds, path, key)
    command = "python benchmarks/break_a_scene_quality.py" + (" --quick" if options.quick else "")
    text = page(finished(path, key), budget, options.seeds, command, digest)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(text, encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
