"""Ornaments of TinyWorld learned by CLiC once, for every benchmark that only uses them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import torch
from clic_plan import HANDLE, WORDS, DetailBudget, Pair, config_of
from quality_runs import NO_PREVIEW

from conceptloom.cli.demo.judge import as_image
from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.methods.clic import learn_detail
from conceptloom.scenes.scene import make_scene

KEPT = Path(__file__).resolve().parent.parent / "runs" / "clic_ornaments"


def taught_mask(pair: Pair) -> torch.Tensor:
    """[H, W] where the ornament is in the taught picture."""
    return torch.from_numpy(pair.taught.masks[1])


def learned_ornament(host: Host, pair: Pair, budget: DetailBudget, seed: int = 0) -> Concept:
    """The ornament of a pair, by the whole method; learned once, then read from `runs/`."""
    config = config_of(pair, budget, seed, "whole method")
    key = json.dumps([model_digest(host), pair.name, asdict(config)], default=str)
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    file = KEPT / f"{pair.ornament}-{digest}.safetensors"
    if file.is_file():
        return load_concept(file)
    scene = make_scene(
        [as_image(pair.taught.image)],
        {HANDLE: [taught_mask(pair)]},
        {HANDLE: WORDS.get(pair.ornament, "square")},
    )
    found = learn_detail(host, scene, config, previews=NO_PREVIEW)
    file.parent.mkdir(parents=True, exist_ok=True)
    save_concept(found.concept, file)
    return found.concept
