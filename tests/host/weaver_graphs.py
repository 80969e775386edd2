"""Graphs of Concept Weaver's nodes, and what to feed them."""

from __future__ import annotations

import asyncio
import importlib
import sys
from typing import Any

import nodes
import torch
from executor import Executor, Result, given, node, pack_nodes
from tiny_models import Graph, graph_of

SIDE, STEPS = 64, 3
SENTENCE = "a photo of a cup and a toy"
MODEL = {"model": given("model"), "clip": given("clip")}
MODELS = {**MODEL, "vae": given("vae")}
IMAGE = torch.rand(1, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))
MASKS = torch.zeros(2, SIDE, SIDE)
MASKS[0, 8:-8, 4:28] = 1
MASKS[1, 8:-8, 36:60] = 1


def pack(name: str) -> Any:
    """A module of the pack as ComfyUI loaded it: its classes are not those of `conceptloom`."""
    root = sys.modules[pack_nodes()["ConceptLoomRegions"].__module__].__package__.rpartition(".")[0]
    return importlib.import_module(f"{root}.{name}")


_concepts: dict[tuple[str, str, str], Any] = {}


def concept(family: str, name: str, parts: str = ".attn2.to_k.weight") -> Any:
    """The same object every time, so that ComfyUI's cache knows it."""
    if (family, name, parts) not in _concepts:
        _concepts[family, name, parts] = random_concept(graph_of(family), name, parts)
    return _concepts[family, name, parts]


def random_concept(models: Graph, name: str, parts: str) -> Any:
    """Of the pack's own class, with changes of all weights whose names end so."""
    host = pack("host.comfyui.host").ComfyHost(models.model, models.clip, models.vae)
    concepts = pack("concepts.concept")
    generator = torch.Generator().manual_seed(len(name))
    weights = {
        weight: concepts.Diff(0.3 * torch.randn(host.weight(weight).shape, generator=generator))
        for weight in host.weight_names()
        if weight.endswith(parts)
    }
    vectors = {e: torch.randn(1, width, generator=generator) for e, width in host.encoders.items()}
    return concepts.Concept(
        handles={name: vectors}, weights=weights, base=host.fingerprint, method="test"
    )


def values_of(family: str = "sd1", **more: Any) -> dict[str, Any]:
    models = graph_of(family)
    return {
        "model": models.model,
        "clip": models.clip,
        "vae": models.vae,
        "image": IMAGE,
        "masks": MASKS,
        "cup": concept(family, "my-cup"),
        "toy": concept(family, "my-toys"),
        **more,
    }


def graph(**changes: dict[str, Any]) -> dict[str, dict]:
    """Template (1), regions (2), fuser (3); `changes` replace inputs of them by their names."""
    inputs: dict[str, dict[str, Any]] = {
        "invert": {
            **MODELS, "image": given("image"), "prompt": SENTENCE, "steps": STEPS,
            "scheduler": "ddim_uniform", "refinements": 0, "keep": "RAM", "resnet_until": 0.8,
            "attention_until": 0.5, "resnet_blocks": "", "attention_blocks": "",
        },
        "regions": {
            "concepts__concept0": given("cup"), "concepts__concept1": given("toy"),
            "masks__mask0": given("masks"), "sentence": SENTENCE, "words": "cup\ntoy",
            "background": "", "dilate": 0.05, "priority": "first", "template": ["1", 0],
        },
        "fuse": {
            **MODEL, "template": ["1", 0], "regions": ["2", 0], "suppression": 0.2,
            "negative": "blurry", "resnet_until": 0.8, "attention_until": 0.5,
        },
    }  # fmt: skip
    for name, change in changes.items():
        inputs[name] |= change
        inputs[name] = {k: v for k, v in inputs[name].items() if v is not None}
    return {
        "1": node("InvertTemplate", **inputs["invert"]),
        "2": node("Regions", **inputs["regions"]),
        "3": node("RegionFeatureFuser", **inputs["fuse"]),
    }


def sampler(cfg: float = 3.0, kind: str = "euler", **links: Any) -> dict[str, dict]:
    """ComfyUI's own SamplerCustom on what the fuser gives, as nodes 4 and 5."""
    inputs = {
        "model": ["3", 0], "positive": ["3", 1], "negative": ["3", 2], "latent_image": ["3", 3],
        "sigmas": ["3", 4], "sampler": ["4", 0], "add_noise": False, "noise_seed": 0, "cfg": cfg,
    }  # fmt: skip
    return {
        "4": {"class_type": "KSamplerSelect", "inputs": {"sampler_name": kind}},
        "5": {"class_type": "SamplerCustom", "inputs": inputs | links},
    }


def with_core_nodes() -> None:
    """The samplers that a user connects."""
    if "SamplerCustom" not in nodes.NODE_CLASS_MAPPINGS:
        asyncio.run(nodes.init_builtin_extra_nodes())


def run(executor: Executor, family: str = "sd1", **changes: Any) -> Result:
    values = changes.pop("values", {})
    wanted = {"template": ["1", 0], "regions": ["2", 0], "model": ["3", 0]}
    return executor.run(graph(**changes), values_of(family, **values), **wanted)


def woven(executor: Executor, family: str = "sd1", **changes: Any) -> Result:
    values, how = changes.pop("values", {}), changes.pop("sampler", {})
    with_core_nodes()
    every = {**graph(**changes), **sampler(**how)}
    return executor.run(every, values_of(family, **values), latent=["5", 0], out=["5", 1])
