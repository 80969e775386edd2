"""What LAG is good for, measured on TinyWorld by an oracle: identity, background, the other object.

    .venv/bin/python benchmarks/residuals_quality.py --quick
    .venv/bin/python benchmarks/residuals_quality.py

Learns unseen objects with Personalized Residuals from pictures on one background each, draws them
on others, alone, beside a plain object and two stacked, with LAG, without it (as plain LoRAs) and
with the base model alone, and writes a table to `docs/results/`. What is finished (a concept, the
pictures of a cell) stands below `runs/` and is not made again; `--report` writes the page from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from conceptloom.attention.lag import LagConfig
from conceptloom.cli.measures import as_image, mean
from conceptloom.cli.models import open_host
from conceptloom.cli.residuals_run import TINYWORLD_RESIDUALS
from conceptloom.host.ports import Host
from conceptloom.methods.personalized_residuals import Localised, learn_residuals, sample_lag
from conceptloom.samplers.ddim import seeded_noise
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.oracle import load_oracle
from conceptloom.tinyworld.shapes import BACKGROUNDS
from conceptloom.training.checkpoints import model_digest
from conceptloom.training.concept import Concept
from conceptloom.training.concept_file import load_concept, save_concept
from conceptloom.training.previews import PreviewConfig

ROOT = Path(__file__).resolve().parent.parent
PAGE, CELLS = ROOT / "docs" / "results" / "residuals_quality.md", ROOT / "runs" / "residuals"
# object, class word, background of its pictures, where it is drawn
LESSONS = {
    "bullseye": ("circle", "grass", ("black", "beach")),
    "split": ("square", "beach", ("gray", "grass")),
    "pinwheel": ("square", "bricks", ("white", "sky")),
    "twotone": ("circle", "sky", ("black", "bricks")),
    "flower": ("star", "gray", ("beach", "night")),
    "swirl": ("circle", "night", ("grass", "white")),
}
PAIRS = (("bullseye", "split"), ("twotone", "pinwheel"), ("swirl", "flower"))
OTHER = ("blue", "triangle")  # the plain object beside a concept
VARIANTS = {
    "LAG": LagConfig(),
    "plain LoRA": LagConfig(localised=False),
    "base model": LagConfig(strength=0.0),
}
MEASURES = {
    "likeness": "cosine of the oracle's description with the taught object, best object found",
    "identity": "share of pictures in which the oracle takes it for the taught object",
    "background": "share of pictures on the background that was asked for",
    "changed": "mean change of pixels (0..255) against the base model's picture of the same noise, "
    "where neither shows an object",
    "other": f"share of pictures beside a {' '.join(OTHER)} that show one",
    "both": "two stacked concepts: share of concepts that are recognised",
    "leaked": "two stacked concepts: share of pictures in which one of them shows twice",
}


@dataclass(frozen=True, slots=True)
class Budget:
    """How much work a cell is."""

    steps: int
    images: int
    pictures: int  # for each prompt and background
    sampling_steps: int


FULL, QUICK = Budget(TINYWORLD_RESIDUALS.steps, 4, 4, 25), Budget(60, 3, 1, 12)


def learned(host: Host, name: str, seed: int, budget: Budget, folder: Path) -> Concept:
    """A concept from the folder, or taught now."""
    path = folder / f"{name}-{seed}.concept.safetensors"
    if path.is_file():
        return load_concept(path)
    word, background, _ = LESSONS[name]
    truths = [concept_scene([name], 10 * seed + i, background) for i in range(budget.images)]
    concept = learn_residuals(
        host,
        [as_image(truth.image) for truth in truths],
        f"my-{name}",
        word,
        replace(TINYWORLD_RESIDUALS, steps=budget.steps, seed=seed),
        previews=PreviewConfig(steps=1, cfg=1.0),
    ).concept
    save_concept(concept, path)
    return concept


def drawn(host: Host, names: Sequence[str], concepts: Sequence[Concept], seed: int, budget: Budget):
    """Pictures [n, H, W, 3], 0..255, by "variant/prompt/background"."""
    told = [f"a <my-{name}> {LESSONS[name][0]}" for name in names]
    texts = {"together": " and ".join(told)}
    if len(names) == 1:
        texts = {"alone": told[0], "beside": f"{told[0]} and a {' '.join(OTHER)}"}
    found: dict[str, torch.Tensor] = {}
    for kind, text in texts.items():
        for place in LESSONS[names[0]][2]:
            noise = seeded_noise(host, 1000 + seed, budget.pictures, (64, 64))
            for variant, config in VARIANTS.items():
                given = [Localised(concept=concept, config=config) for concept in concepts]
                prompt = [f"a photo of {text} {BACKGROUNDS[place]}"]
                latent = sample_lag(
                    host, given, prompt, noise, steps=budget.sampling_steps, cfg=3.0
                )
                image = (host.decode_latent(latent) * 255).round().byte()
                found[f"{variant}/{kind}/{place}"] = image.contiguous()
    return found


def judged(names: Sequence[str], kept: Mapping[str, torch.Tensor]) -> dict[str, dict[str, float]]:
    """Variant -> measure -> mean over the pictures of a cell."""
    oracle, references = load_oracle(), references_of(names)
    rows: dict[str, dict[str, list[float]]] = {
        variant: {measure: [] for measure in MEASURES} for variant in VARIANTS
    }
    for key, images in kept.items():
        variant, kind, place = key.split("/")
        into = rows[variant]
        for image, plain in zip(images, kept[f"base model/{kind}/{place}"], strict=True):
            verdicts = [oracle.identity(image, references, name) for name in names]
            if kind == "together":
                into["both"] += [float(verdict.right) for verdict in verdicts]
                into["leaked"].append(float(bool(oracle.leaked(image, references, names))))
                continue
            into["likeness"].append(verdicts[0].similarity)
            into["identity"].append(float(verdicts[0].right))
            into["background"].append(float(oracle.background(image) == place))
            into["changed"].append(background_change(oracle, image, plain))
            if kind == "beside":
                seen = [(f.colour, f.shape) for f in oracle.find(image)]
                into["other"].append(float(OTHER in seen))
    return {v: {m: mean(values) for m, values in row.items() if values} for v, row in rows.items()}


def references_of(names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What every unseen object of the world looks like; the others are distractors."""
    truths = {name: concept_scene([name], seed=7) for name in [*names, *CONCEPTS]}
    return {name: load_oracle().reference(t.image, t.masks[0]) for name, t in truths.items()}


def background_change(oracle: Any, image: torch.Tensor, plain: torch.Tensor) -> float:
    objects = [found.mask for each in (image, plain) for found in oracle.find(each)]
    empty = ~torch.stack([*objects, torch.zeros(64, 64, dtype=torch.bool)]).any(dim=0)
    change = (image.float() - plain.float()).abs().mean(dim=-1)
    return float(change[empty].mean()) if bool(empty.any()) else float("nan")


def cells(n_seeds: int, quick: bool) -> Iterator[tuple[tuple[str, ...], int]]:
    names = list(LESSONS)[:2] if quick else list(LESSONS)
    for seed in range(n_seeds):
        yield from (((name,), seed) for name in names)
        yield from ((pair, seed) for pair in (PAIRS[:1] if quick else PAIRS))


def compute(host: Host, options: argparse.Namespace, budget: Budget, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for names, seed in cells(options.seeds, options.quick):
        path = cell_path(folder, names, seed)
        if path.is_file():
            continue
        began = time.process_time()
        concepts = [learned(host, name, seed, budget, folder) for name in names]
        kept = drawn(host, names, concepts, seed, budget)
        beside = path.with_suffix(".part")
        save_file(kept, beside)
        beside.replace(path)
        told = judged(names, kept)
        print(f"{' + '.join(names)}, seed {seed}: {time.process_time() - began:.0f} s of CPU")
        for variant, row in told.items():
            print(" ", variant, {m: round(v, 2) for m, v in row.items()}, flush=True)


def cell_path(folder: Path, names: Sequence[str], seed: int) -> Path:
    return folder / f"{'+'.join(names)}-{seed}.pictures.safetensors"


def page(options: argparse.Namespace, budget: Budget, folder: Path, digest: str) -> str:
    """The results as Markdown."""
    found = {
        (names, seed): judged(names, load_file(path))
        for names, seed in cells(options.seeds, options.quick)
        if (path := cell_path(folder, names, seed)).is_file()
    }
    quick = " --quick" if options.quick else ""
    lines = [
        "# LAG on TinyWorld: identity, background and the other object",
        "",
        f"    python benchmarks/residuals_quality.py{quick}",
        "",
        f"{date.today()}, {platform.machine()}, torch {torch.__version__.split('+')[0]}, one CPU "
        f"thread; base model {digest[:12]}; {len(found)} cells (concept or pair, seed), "
        f"{options.seeds} seed(s). {budget.steps} steps from {budget.images} picture(s) on one "
        f"background, {budget.pictures} picture(s) for every prompt on each of two others, "
        f"{budget.sampling_steps} DDIM steps; the variants share their noise.",
        "",
        "Mean ± standard deviation over the cells; below, LAG against the plain LoRA of the same "
        "cell ± standard error.",
        "",
        "| variant | " + " | ".join(MEASURES) + " |",
        "|---|" + "---|" * len(MEASURES),
    ]
    for variant in VARIANTS:
        columns = [[c[variant][m] for c in found.values() if m in c[variant]] for m in MEASURES]
        lines.append(f"| {variant} | " + " | ".join(map(spread, columns)) + " |")
    gains = [
        [c["LAG"][m] - c["plain LoRA"][m] for c in found.values() if m in c["LAG"]]
        for m in MEASURES
    ]
    lines.append("| LAG - plain LoRA | " + " | ".join(map(gain, gains)) + " |")
    lines += ["", *(f"* {name}: {meaning}." for name, meaning in MEASURES.items())]
    return "\n".join(lines) + "\n"


def spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else "-"
    return f"{mean(values):.2f} ± {statistics.stdev(values):.2f}"


def gain(values: Sequence[float]) -> str:
    """Bold beyond two standard errors."""
    if len(values) < 2:
        return f"{values[0]:+.2f}" if values else "-"
    error = statistics.stdev(values) / len(values) ** 0.5
    text = f"{mean(values):+.2f} ± {error:.2f}"
    return f"**{text}**" if abs(mean(values)) > 2 * error else text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two concepts, minutes and not hours")
    parser.add_argument("--seeds", type=int, default=0, help="3, or 1 with --quick")
    parser.add_argument("--report", action="store_true", help="write the page, compute nothing")
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 3)
    torch.set_num_threads(1)
    budget = QUICK if options.quick else FULL
    host = open_host(device="cpu")
    digest = model_digest(host)
    settings = [digest, asdict(budget), asdict(TINYWORLD_RESIDUALS)]
    folder = CELLS / hashlib.sha256(json.dumps(settings).encode()).hexdigest()[:12]
    if not options.report:
        compute(host, options, budget, folder)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(page(options, budget, folder, digest), encoding="utf-8")
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
