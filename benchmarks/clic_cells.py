"""Cells (pair, seed, variant): learned, carried over, kept on disk, judged by the oracle."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from clic_plan import HANDLE, MEASURES, PAIRS, VARIANTS, WORDS, Cells, DetailBudget, Pair, config_of
from numpy.typing import NDArray
from quality_cells import is_finished
from quality_runs import NO_PREVIEW, keep
from safetensors.torch import load_file
from torch import Tensor

from conceptloom.attention.capture import read_attention
from conceptloom.cli.demo.judge import as_image, mean
from conceptloom.concepts.concept import stacked
from conceptloom.host.ports import Host
from conceptloom.methods.clic import learn_detail
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.masks import composited
from conceptloom.scenes.scene import make_scene
from conceptloom.tinyworld.measures import localisation
from conceptloom.tinyworld.oracle import likeness, load_oracle
from conceptloom.tinyworld.planes import iou


def learned_cell(
    host: Host, pair: Pair, budget: DetailBudget, seed: int, variant: str
) -> dict[str, Tensor]:
    """Learn one cell and carry the ornament over: pictures, and how well the word looks."""
    taught, bare, config = pair.taught, pair.bare, config_of(pair, budget, seed, variant)
    mark = torch.from_numpy(taught.masks[1])
    scene = make_scene(
        [as_image(taught.image)], {HANDLE: [mark]}, {HANDLE: WORDS.get(pair.ornament, "square")}
    )
    stack = stacked([(learn_detail(host, scene, config, previews=NO_PREVIEW).concept, 1.0)])
    source = as_image(bare.image)[None]
    place = torch.from_numpy(bare.masks[1])
    latent = host.encode_image(source)
    with host.edited(stack.edits, trainable=False), torch.no_grad():
        prompt = host.encode_prompt(config.prompt_of(HANDLE), stack.handles)
        heat = read_attention(
            host, host.encode_image(as_image(taught.image)[None]), prompt, [f"<{HANDLE}>"]
        )
        told = config.prompt_of(HANDLE).replace(pair.source, pair.target)
        edit = host.encode_prompt(told, stack.handles)
        negative = host.encode_prompt("")
    drawn = edit_latents(
        host,
        latent,
        [Region(edit, place)],
        negative,
        EditConfig(
            steps=budget.sampling_steps, cfg=budget.cfg, blend=BlendConfig(start=budget.start)
        ),
        weights=stack.edits,
        seed=1000 * seed,
        rows=budget.pictures,
    )
    return {
        "pictures": (host.decode_latent(drawn) * 255).round().byte(),
        "rebuilt": (host.decode_latent(latent) * 255).round().byte(),
        "auc": torch.tensor(localisation(heat[f"<{HANDLE}>"], mark).auc),
    }


class OrnamentJudge:
    """Compares what stands in a target place with the taught ornament, and with the others."""

    def __init__(self) -> None:
        self.oracle = load_oracle()
        self.references = {
            pair.ornament: self.oracle.reference(pair.taught.image, pair.taught.masks[1])
            for pair in PAIRS
        }

    def judged(self, kept: dict[str, Tensor], pair: Pair) -> dict[str, list[float]]:
        """What the oracle says, one number a picture (and one for the attention)."""
        found: dict[str, list[float]] = {measure.key: [] for measure in MEASURES}
        bare = pair.bare
        whole, place = (torch.from_numpy(mask) for mask in bare.masks)
        source, rebuilt = as_image(bare.image)[None], kept["rebuilt"].float() / 255
        # Without an ornament the place looks like its object: that counts as one more answer.
        nothing = self.oracle.reference(bare.image, place)
        references = {**self.references, "nothing": nothing}
        outside = place == 0
        for picture in kept["pictures"].float() / 255:
            seen = self.oracle.describe(picture, place)
            scores = {name: likeness(seen, views) for name, views in references.items()}
            found["right"].append(float(max(scores, key=scores.__getitem__) == pair.ornament))
            found["likeness"].append(scores[pair.ornament])
            found["outside"].append(float((picture - rebuilt[0]).abs()[outside].mean()))
            pasted = composited(picture[None], source, place, 0)
            found["pasted"].append(float((pasted - source).abs()[0][outside].max()))
            masks = [thing.mask for thing in self.oracle.find(picture)]
            found["shape"].append(max((iou(mask, whole > 0.5) for mask in masks), default=0.0))
        found["auc"].append(float(kept["auc"]))
        return found


def all_cells(n_seeds: int) -> Iterator[tuple[Pair, int, str]]:
    """Whole rounds first: after any number of them the variants can be compared."""
    for seed in range(n_seeds):
        for pair in PAIRS:
            for variant in VARIANTS:
                yield pair, seed, variant


def file_of(folder: Path, pair: Pair, seed: int, variant: str) -> Path:
    """Where a cell is kept."""
    name = f"{pair.name} {seed} {variant}.safetensors".replace(" ", "-").replace("'", "")
    return folder / name


def finished(folder: Path, n_seeds: int, key: str) -> Cells:
    """Cells of this very budget and model that are there, as the present oracle sees them."""
    judge, cells = OrnamentJudge(), Cells()
    for pair, seed, variant in all_cells(n_seeds):
        path = file_of(folder, pair, seed, variant)
        if is_finished(path, key):
            cells[pair.name, seed, variant] = judge.judged(load_file(path), pair)
    return cells


SCALE = 2  # of the sheet


def sheet(folder: Path, key: str) -> NDArray[np.uint8]:
    """A row for each pair: taught, bare, and the first picture of every variant, pasted.

    Of the first seed; grey where a cell is not finished.
    """
    rows: list[Tensor] = []
    for pair in PAIRS:
        bare = pair.bare
        source, place = as_image(bare.image), torch.from_numpy(bare.masks[1])
        row = [as_image(pair.taught.image), source]
        for variant in VARIANTS:
            path = file_of(folder, pair, 0, variant)
            if is_finished(path, key):
                drawn = load_file(path)["pictures"][:1].float() / 255
                row.append(composited(drawn, source[None], place, 1)[0])
            else:
                row.append(torch.full_like(source, 0.5))
        rows.append(torch.cat(row, dim=1))
    pixels = (torch.cat(rows).clamp(0, 1) * 255).round().byte().numpy()
    return pixels.repeat(SCALE, axis=0).repeat(SCALE, axis=1)


def compute(
    host: Host, budget: DetailBudget, n_seeds: int, folder: Path, key: str, part: tuple[int, int]
) -> None:
    """Every cell that is not there yet.

    Args:
        part: (k, n) takes every n-th pair and seed, from the k-th on, with all its variants.
    """
    folder.mkdir(parents=True, exist_ok=True)
    judge = OrnamentJudge()
    every = [(cell, file_of(folder, *cell)) for cell in all_cells(n_seeds)]
    own = [row for i, row in enumerate(every) if i // len(VARIANTS) % part[1] == part[0] - 1]
    todo = [(cell, path) for cell, path in own if not is_finished(path, key)]
    for number, ((pair, seed, variant), path) in enumerate(todo, 1):
        began = time.process_time()
        kept = learned_cell(host, pair, budget, seed, variant)
        keep(path, kept, {"key": key})
        found = judge.judged(kept, pair)
        told = ", ".join(f"{name} {mean(values):.3f}" for name, values in found.items())
        spent = time.process_time() - began
        print(f"{number}/{len(todo)} {pair.name}, seed {seed}, {variant}: {told}; ", end="")
        print(f"{spent:.0f} s of CPU", flush=True)
