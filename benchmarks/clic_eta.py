"""Guidance from strong removal to strong pull: does the concept follow its eta?

    .venv/bin/python benchmarks/clic_eta.py --quick
    .venv/bin/python benchmarks/clic_eta.py

Learns ornaments of TinyWorld with CLiC, carries each onto the bare part of another object with
every eta of cross-attention guidance, same seeds for all, and measures what came: how much the word
is attended to under the mask, and how like the ornament it looks to the oracle. Learned concepts
stand below `runs/clic_eta/` and are not learned again.
"""

from __future__ import annotations

import argparse
import hashlib
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from conceptloom.attention.reading import read_attention
from conceptloom.cli.models import open_host
from conceptloom.cli.presets import Method, Preset, settings_of
from conceptloom.host.ports import Host
from conceptloom.methods.clic import learn_detail
from conceptloom.samplers.blended import BlendConfig
from conceptloom.samplers.editing import EditConfig, Region, edit_latents
from conceptloom.samplers.guidance import GuidanceConfig
from conceptloom.samplers.masks import composited
from conceptloom.tinyworld.oracle import likeness, load_oracle
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.tinyworld.world import Scene
from conceptloom.training.checkpoints import model_digest
from conceptloom.training.concept import Concept, stacked
from conceptloom.training.concept_file import load_concept, save_concept
from conceptloom.training.pictures import sample_strip
from conceptloom.training.recipe import LoopConfig
from conceptloom.training.scene import make_scene

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "results" / "clic_eta.md"
KEPT = ROOT / "runs" / "clic_eta"
ETAS = (-0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2)
QUICK_ETAS = (-0.2, -0.05, 0.0, 0.05, 0.2)
HANDLE = "my-ornament"
STEPS, START, GUIDED = 50, 15, 30  # CLiC's official code
ATTENTION_SEED = 11  # of the noise that pictures are read through


@dataclass(frozen=True, slots=True)
class Pair:
    """An ornament on one object, and another object to carry it to."""

    ornament: str
    source: str
    target: str
    word: str  # that the concept starts from

    def scenes(self, seed: int) -> tuple[Scene, Scene]:
        """Source with the ornament, target without; masks are [object, ornament's place]."""
        return (
            ornament_scene(self.source, self.ornament, seed=1),
            ornament_scene(self.target, "", seed=seed + 100),
        )


PAIRS = (
    Pair("bullseye", "yellow square", "green circle", "circle"),
    Pair("split", "red circle", "blue square", "square"),
    Pair("pinwheel", "blue circle", "yellow square", "square"),
    Pair("twotone", "green square", "red circle", "circle"),
    Pair("swirl", "purple square", "orange square", "circle"),
)


def tensor(scene: Scene) -> Tensor:
    return torch.from_numpy(scene.image.astype(np.float32) / 255)


def object_of(words: str) -> str:
    """The shape alone: "yellow square" -> "square"."""
    return words.split()[-1]


def learned(host: Host, pair: Pair, steps: int, folder: Path) -> Concept:
    """The ornament, learned once by CLiC."""
    file = folder / f"{pair.ornament}-{object_of(pair.source)}-{steps}.safetensors"
    if file.is_file():
        return load_concept(file)
    source, _ = pair.scenes(0)
    mask = torch.from_numpy(source.masks[1]).float()
    scene = make_scene([tensor(source)], {HANDLE: [mask]}, {HANDLE: pair.word})
    wanted = {"weight_steps": steps, "object_word": object_of(pair.source), "preview_steps": 1}
    settings = settings_of(Preset.TINYWORLD, wanted, Method.CLIC)
    found = learn_detail(
        host, scene, settings.config, loop=LoopConfig(weight_decay=0.0), previews=settings.previews
    )
    save_concept(found.concept, file)
    return found.concept


@dataclass(frozen=True, slots=True)
class Reading:
    """One edited picture."""

    attention: float  # mean probability of the word under the mask
    identity: float  # best cosine with the ornament's reference
    outside: float  # largest change of a pixel outside of the mask
    picture: Tensor


def edited(
    host: Host, pair: Pair, concept: Concept, seed: int, etas: Sequence[float], steps: int
) -> list[Reading]:
    """The target of a pair with every eta, from the same noise."""
    source, target = pair.scenes(seed)
    stack, oracle = stacked([(concept, 1.0)]), load_oracle()
    reference = oracle.reference(source.image, source.masks[1])
    mask, image = torch.from_numpy(target.masks[1]).float(), tensor(target)
    text = f"a {object_of(pair.target)} with <{HANDLE}> style"
    readings: list[Reading] = []
    for eta in etas:
        with host.edited(stack.edits, trainable=False), torch.no_grad():
            prompt = host.encode_prompt(text, stack.handles)
            negative = host.encode_prompt("")
        config = EditConfig(
            steps=steps,
            cfg=3.0,
            blend=BlendConfig(start=START * steps // STEPS),
            guidance=GuidanceConfig(eta=eta, steps=GUIDED * steps // STEPS),
        )
        region = Region(prompt, mask, (f"<{HANDLE}>",))
        latent = edit_latents(
            host, host.encode_image(image[None]), [region], negative, config,
            weights=stack.edits, seed=seed,
        )  # fmt: skip
        picture = composited(host.decode_latent(latent), image[None], mask, 0)[0]
        with host.edited(stack.edits, trainable=False):
            heat = read_attention(
                host, latent, prompt, [f"<{HANDLE}>"], level=1, seed=ATTENTION_SEED
            )[f"<{HANDLE}>"]
        inside = torch.nn.functional.interpolate(mask[None, None], heat.shape, mode="area")[0, 0]
        change = (picture - image).abs().amax(dim=-1)[mask == 0].max()
        readings.append(
            Reading(
                float((heat * inside).sum() / inside.sum()),
                likeness(oracle.describe(picture, mask), reference),
                float(change),
                picture,
            )
        )
    return readings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one pair, one seed, short runs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=PAGE)
    options = parser.parse_args()
    torch.set_num_threads(1)
    host = open_host(device="cpu")
    digest = model_digest(host)
    folder = KEPT / hashlib.sha256(digest.encode()).hexdigest()[:12]
    pairs, seeds = (PAIRS[:1], 1) if options.quick else (PAIRS, options.seeds)
    etas, steps, learning = (QUICK_ETAS, 20, 60) if options.quick else (ETAS, STEPS, 300)
    rows: list[list[Reading]] = []
    for pair in pairs:
        concept = learned(host, pair, learning, folder)
        for seed in range(seeds):
            rows.append(edited(host, pair, concept, seed, etas, steps))
            told = ", ".join(f"{r.attention:.4f}/{r.identity:.2f}" for r in rows[-1])
            print(f"{pair.ornament} on a {pair.target}, seed {seed}: {told}", flush=True)
    sheet = options.out.with_suffix(".jpg")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    strip = sample_strip(
        [reading.picture for row in rows[::seeds] for reading in row],
        [f"eta {eta:g}" for _ in rows[::seeds] for eta in etas],
    )
    pixels = (strip.clamp(0, 1) * 255).round().byte().numpy()
    Image.fromarray(pixels).save(sheet, quality=90)
    command = "python benchmarks/clic_eta.py" + (" --quick" if options.quick else "")
    options.out.write_text(page(rows, etas, pairs, steps, learning, command, sheet.name), "utf-8")
    print(f"wrote {options.out}")


def page(
    rows: Sequence[Sequence[Reading]], etas: Sequence[float], pairs: Sequence[Pair], steps: int,
    learning: int, command: str, sheet: str,
) -> str:  # fmt: skip
    def mean(kind: str, column: int) -> float:
        return statistics.mean(getattr(row[column], kind) for row in rows)

    def rises(kind: str) -> str:
        values = [mean(kind, column) for column in range(len(etas))]
        alone = sum(
            all(getattr(a, kind) <= getattr(b, kind) for a, b in pairwise(row)) for row in rows
        )
        word = "rises" if values == sorted(values) else "**does not rise**"
        return f"{word} with eta in the mean, and in {alone} of {len(rows)} series by itself"

    lines = [
        "# Guidance: does the concept follow its eta?",
        "",
        f"Written by `{command}` on {date.today():%d %B %Y}: {len(rows)} series ({len(pairs)} "
        f"pairs of TinyWorld), CLiC with {learning} steps of handle and weights after 60 of the "
        f"handle, {steps} sampling steps of which the first {GUIDED * steps // STEPS} are guided, "
        "sign rule, the mask as target.",
        "",
        "| eta | attention under the mask | likeness to the ornament | change outside |",
        "|--:|--:|--:|--:|",
    ]
    for column, eta in enumerate(etas):
        outside = max(row[column].outside for row in rows)
        lines.append(
            f"| {eta:g} | {mean('attention', column):.4f} | {mean('identity', column):.3f} | "
            f"{outside:g} |"
        )
    lines += [
        "",
        f"Attention under the mask {rises('attention')}.",
        f"Likeness {rises('identity')}.",
        "",
        f"![From removal to pull]({sheet})",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
