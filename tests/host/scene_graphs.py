"""Graphs that teach a random model two squares with Break-A-Scene, in a few short steps."""

from __future__ import annotations

from typing import Any

import torch
from executor import Executor, Result, given, node
from tiny_models import Graph

SIDE = 32
MODEL_LINKS = {"model": given("model"), "clip": given("clip"), "vae": given("vae")}
QUICK = {
    "preset": "TinyWorld quick",
    "preset__resolution_px": 0,  # small pictures stay small
    "preset__token_steps": 3,
    "preset__weight_steps": 3,
    "preset__prior_pictures": 1,
    "preset__prior_sampling_steps": 1,
    "preset__batch_size": 1,
    "name": "test-run",
    "seed": 0,
    "preview_every": 0,
    "preview_prompts": "a photo of <my-mug>",
    "preview_steps": 1,
    "preview_cfg": 1.0,
}


def masks(count: int = 2, side: int = SIDE) -> torch.Tensor:
    """Squares beside each other, [n, side, side]."""
    found, step = torch.zeros(count, side, side), side // count
    for i in range(count):
        found[i, 4:-4, i * step + 2 : (i + 1) * step - 2] = 1
    return found


def image(side: int = SIDE, count: int = 1, channels: int = 3) -> torch.Tensor:
    return torch.rand(count, side, side, channels, generator=torch.Generator().manual_seed(0))


IMAGE, MASKS = image(), masks()  # the same objects every time, so that ComfyUI's cache knows them


def knows(clip: Any, handle: str) -> bool:
    """Whether a CLIP takes a handle for a vector and not for letters."""
    return any(isinstance(token, torch.Tensor) for token, _ in clip.tokenize(handle)["l"][0])


def scene(images: Any = "image", concepts: str = "my-mug: cup\nmy-toy: toy", **inputs: Any) -> dict:
    inputs = {"masks__mask0": given("masks"), "background": "", **inputs}
    return node("ConceptScene", images=given(images), concepts=concepts, **inputs)


def make_scene(executor: Executor, picture: Any, rows: Any, **inputs: Any) -> Result:
    graph = {"1": scene(**inputs)}
    return executor.run(graph, {"image": picture, "masks": rows}, scene=["1", 0], handles=["1", 2])


def train(executor: Executor, models: Graph, **inputs: Any) -> Result:
    """A short run on a random model; the inputs replace those of QUICK."""
    graph = {
        "1": scene(concepts=inputs.pop("concepts", "my-mug: cup\nmy-toy: toy")),
        "2": node(
            "CrossAttentionLossTrainer", **MODEL_LINKS, scene=["1", 0], **{**QUICK, **inputs}
        ),
    }
    outputs = ["concept", "model", "clip", "samples", "timeline", "attention", "plot"]
    outputs += ["map", "told"]
    wanted = {name: ["2", i] for i, name in enumerate(outputs)}
    return executor.run(graph, {**values_of(models), "image": IMAGE, "masks": MASKS}, **wanted)


def values_of(models: Graph) -> dict[str, Any]:
    return {"model": models.model, "clip": models.clip, "vae": models.vae}


def apply(executor: Executor, models: Graph, concept: Any, strength: float = 1.0) -> Result:
    inputs = {"model": given("model"), "clip": given("clip"), "concept": given("concept")}
    graph = {"1": node("ApplyConcept", **inputs, strength=strength)}
    values = {**values_of(models), "concept": concept}
    return executor.run(graph, values, model=["1", 0], clip=["1", 1])
