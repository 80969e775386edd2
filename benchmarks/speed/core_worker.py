"""The processes of `speed core` inside of ComfyUI: timed runs, and edits under a mask on TinyWorld.

Every way to edit gets the same pictures, masks, prompts and seeds; the judge says whether the
requested thing is there, and what changes elsewhere.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace as Options
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.interleaved import tell
from harness.machine import memory, settle, versions

from .comfyui import ComfySession, models_of, start_comfyui, values_of
from .core_graphs import GROUPS, Graph, given, ksampler, link, masked_latent, node, ours, prompts
from .core_graphs import Run as Drawn

QUALITY = "quality"  # the worker that edits

# what is there and where, what is drawn in its place
TASKS = (
    ("red mug", "white", "blue ball"),
    ("green house", "gray", "red castle"),
    ("blue fish", "black", "yellow cat"),
    ("yellow ball", "grass", "purple mushroom"),
    ("purple robot", "beach", "green umbrella"),
    ("orange boat", "sky", "red bird"),
    ("cyan vase", "bricks", "pink teapot"),
    ("pink car", "night", "orange fish"),
)
MASKS = ("hard", "soft")
STEPS, CFG, FEATHER_PX = 16, 3.0, 1
GROWN_PX, SOFT_PX = 6, 33  # of the box around a thing; of the ramp at its edge
SHOWN = 3  # tasks in the picture


@dataclass(frozen=True, slots=True)
class Way:
    """One way to edit, as a user wires it."""

    title: str
    sampler: str = ""  # "" is ours
    is_differential: bool = False


WAYS = (
    Way("Masked Blended Edit"),
    Way("Set Latent Noise Mask, euler", "euler"),
    Way("Set Latent Noise Mask, euler_ancestral", "euler_ancestral"),
    Way("Differential Diffusion, euler", "euler", True),
    Way("Differential Diffusion, euler_ancestral", "euler_ancestral", True),
)


@dataclass(frozen=True, slots=True)
class Score:
    """One edited picture; differences are of 255 and outside of the mask."""

    way: str
    mask: str  # one of MASKS
    follows: bool  # the judge finds colour and class that the prompt asks for
    change: float  # mean
    most: float
    most_pasted: float  # after the source is put back around the mask


def edit(way: Way, text: str, seed: int) -> Graph:
    """A graph whose nodes "decoded" and "pasted" hold the picture without and with compositing."""
    if not way.sampler:
        models = {name: given(name) for name in ("model", "clip", "vae", "image")}
        edited = ours(
            "MaskedBlendedEdit", **models, mask=given("mask 0"), prompts=text, seed=seed,
            steps=STEPS, cfg=CFG, scheduler="normal", start=0, feather_px=FEATHER_PX,
        )  # fmt: skip
        return {"pasted": edited, "decoded": decoded(link("pasted", 1))}
    run = Drawn(seed, STEPS, CFG)
    model = link("differential") if way.is_differential else given("model")
    graph = {
        **prompts(text, given("clip")),
        **masked_latent(),
        "drawn": ksampler(
            run, model=model, latent_image=link("masked"), sampler_name=way.sampler
        ),
        "decoded": decoded(link("drawn")),
        "pasted": node(
            "ImageCompositeMasked", destination=given("image"), source=link("decoded"),
            mask=given("mask 0"),
        ),
    }  # fmt: skip
    if way.is_differential:
        graph["differential"] = node("DifferentialDiffusion", model=given("model"))
    return graph


def decoded(latent: list) -> dict:
    return node("VAEDecode", samples=latent, vae=given("vae"))


def scored_edits(stage: ComfySession, seeds: int, sheet: Path) -> list[dict[str, Any]]:
    """Scores of every way, mask, task and seed; and a picture of some of them."""
    import torch
    from weaver_graphs import pack

    loaded = {"checkpoint": ours("TinyWorldCheckpoint")}
    wanted = {name: link("checkpoint", i) for i, name in enumerate(("model", "clip", "vae"))}
    stage.values = stage.run(loaded, **wanted)
    judge = pack("tinyworld.judge.judge").load_judge()
    scores: list[Score] = []
    rows: list[torch.Tensor] = []
    for number, (image, mask, task) in enumerate(_pictures()):
        text, asked = _prompt(task), task[2]
        for kind, plane in zip(MASKS, (mask, _softened(mask)), strict=True):
            stage.values |= {"image": image[None], "mask 0": plane[None]}
            outside, row = plane == 0, [image, plane[..., None].expand_as(image)]
            for way in WAYS:
                for seed in range(seeds):
                    graph = edit(way, text, seed)
                    found = stage.run(graph, decoded=link("decoded"), pasted=link("pasted"))
                    drawn, pasted = found["decoded"][0], found["pasted"][0]
                    apart = 255 * (drawn - image).abs()[outside]
                    score = Score(
                        way.title,
                        kind,
                        asked in [f"{one.colour} {one.kind}" for one in judge.find(pasted)],
                        float(apart.mean()),
                        float(apart.max()),
                        float(255 * (pasted - image).abs()[outside].max()),
                    )
                    scores.append(score)
                    row += [drawn] * (not seed)
            if number < SHOWN:
                rows.append(torch.cat(row, dim=1))
    _save(torch.cat(rows), sheet)
    return [asdict(score) for score in scores]


def _pictures() -> Iterator[tuple[Any, Any, tuple[str, str, str]]]:
    """Picture [H, W, 3], mask [H, W] of the box around its thing, and the task."""
    import torch
    from weaver_graphs import pack

    scene_of = pack("tinyworld.concepts").concept_scene
    for seed, task in enumerate(TASKS):
        scene = scene_of([task[0]], seed, task[1])
        image = torch.from_numpy(scene.image).float() / 255
        thing = torch.from_numpy(scene.masks[0]) > 0.5
        mask = torch.zeros(thing.shape)
        lines, columns = (thing.any(dim=d).nonzero() for d in (1, 0))
        first = [max(int(n.min()) - GROWN_PX, 0) for n in (lines, columns)]
        last = [int(n.max()) + 1 + GROWN_PX for n in (lines, columns)]
        mask[first[0] : last[0], first[1] : last[1]] = 1
        yield image, mask, task


def _softened(mask: Any) -> Any:
    """The mask with a ramp on its inside; what is black stays black."""
    import torch.nn.functional as F

    blurred = F.avg_pool2d(mask[None, None], SOFT_PX, 1, SOFT_PX // 2, count_include_pad=False)
    return (2 * blurred[0, 0] - 1).clamp(0, 1) * mask


def _prompt(task: tuple[str, str, str]) -> str:
    from weaver_graphs import pack

    thing = pack("tinyworld.captions").article(task[2])
    return f"a photo of {thing} {pack('tinyworld.shapes').BACKGROUNDS[task[1]]}"


def _save(sheet: Any, path: Path) -> None:
    from PIL import Image

    pixels = (sheet.clamp(0, 1) * 255).round().byte().numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=88)


def work(options: Options) -> None:
    """Make a run for every line that comes in, and tell what it took."""
    start_comfyui(options.device)
    if options.worker == QUALITY:
        tell(scores=scored_edits(ComfySession(), options.seeds, Path(options.sheet)))
        return
    group, _, name = options.worker.partition("/")
    variant, count = GROUPS[group].variants[name], GROUPS[group].count
    import torch

    session = ComfySession()
    with torch.inference_mode():  # as loader nodes do
        session.values = values_of(models_of(options), options.latent)
    before = memory(options.device, start=True)
    for number, _ in enumerate(sys.stdin):
        run = Drawn(seed=number, steps=options.steps, cfg=options.cfg, count=count)
        wall, cpu = time.perf_counter(), time.process_time()
        session.draw(variant, run)
        settle(options.device)
        tell(
            seconds=time.perf_counter() - wall,
            cpu=time.process_time() - cpu,
            peak=memory(options.device) - before,
            versions=versions(),
        )
