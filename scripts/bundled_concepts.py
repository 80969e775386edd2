"""The concepts and LoRA files that the workflows load, learned again. See make-bundled-concepts."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from clic_stories import HANDLE as MARK
from clic_stories import LEARNED as ORNAMENT
from clic_stories import PRESET as CLIC
from clic_stories import SMALL, SOURCE
from clic_stories import WORD as MARK_WORD
from conceptlab_stories import CATEGORY, INVENTED, ON_WHITE
from conceptlab_stories import HANDLE as CREATURE
from conceptlab_stories import TEACHING as INVENTING
from local_stories import SUBJECTS as LORAS
from torch import Tensor
from weaver_stories import BANK, TAUGHT_ON
from workflow_loras import write_lora
from workflow_stories import LEARNED, PRESET, SCENE_SEED, TAUGHT

from conceptloom.cli.laboratory import on_host
from conceptloom.concepts.concept import Change, Concept, Diff, LowRank
from conceptloom.concepts.concept_file import save_concept
from conceptloom.concepts.low_rank import closest_low_rank
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.methods.conceptlab import invent
from conceptloom.methods.personalized_residuals import learn_residuals
from conceptloom.methods.registry import settings_of_folder, settings_of_preset
from conceptloom.scenes.scene import ConceptScene, make_scene
from conceptloom.tinyworld.concepts import CONCEPTS, concept_scene
from conceptloom.tinyworld.ornaments import ornament_scene
from conceptloom.training.method_spec import TINYWORLD, RunSettings

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
RANKS = (8, 4, 2)  # of the changes that are kept
LARGEST = 2_000_000  # bytes of a concept
QUICK = 10  # --quick takes one step of so many
NO_PREVIEWS = {"preview_every": 0, "preview_steps": 1}

Makes = Callable[[DiffusersHost, int], Concept]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", default=[""], help="files, by the start of the name")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps, to try it")
    options = parser.parse_args()
    torch.set_num_threads(1)  # the same bytes on every machine of a kind
    host, part = DiffusersHost.tinyworld(), QUICK if options.quick else 1
    for file, make in concepts().items():
        if file.startswith(tuple(options.only)):
            tell(file, lambda file=file, make=make: write(make(host, part), file))
    for name, (thing, trigger, words) in LORAS.items():
        if name.startswith(tuple(options.only)):
            path = WORKFLOWS / "loras" / f"{name}.safetensors"
            tell(path.name, lambda p=path, s=(thing, trigger, words): write_lora(host, p, *s, part))


def concepts() -> dict[str, Makes]:
    """Name of the file -> what learns it; the workflow of the same subject learns the same."""
    woven = {file: _learns_member(name) for name, file in BANK.items()}
    return {LEARNED: two_objects, ORNAMENT: ornament, **woven, INVENTED: invention}


def two_objects(host: DiffusersHost, part: int) -> Concept:
    """Both objects of workflow 1's picture."""
    names = [name for name, _ in TAUGHT.values()]
    truth = concept_scene(names, SCENE_SEED)
    masks = {h: [torch.from_numpy(m)] for h, m in zip(TAUGHT, truth.masks, strict=True)}
    scene = make_scene([picture(truth)], masks, {h: word for h, (_, word) in TAUGHT.items()})
    return learned(host, scene, settings_of_preset(PRESET), part)


def ornament(host: DiffusersHost, part: int) -> Concept:
    """The emblem of workflow 7, in a small file."""
    taught = ornament_scene(
        SOURCE["object"], SOURCE["ornament"], SOURCE["seed"], SOURCE["background"]
    )
    scene = make_scene(
        [picture(taught)], {MARK: [torch.from_numpy(taught.masks[1])]}, {MARK: MARK_WORD}
    )
    settings = settings_of_preset(CLIC).changed({**SMALL, "object_word": SOURCE["object"]})
    return learned(host, scene, settings, part)


def _learns_member(name: str) -> Makes:
    def make(host: DiffusersHost, part: int) -> Concept:
        """One object from pictures on several backgrounds (Personalized Residuals)."""
        settings = settings_of_folder("personalized_residuals", TINYWORLD).changed(NO_PREVIEWS)
        scenes = [concept_scene([name], 2 + i, place) for i, place in enumerate(TAUGHT_ON)]
        config = replace(settings.config, steps=max(1, settings.config.steps // part))
        pictures, word = [picture(scene) for scene in scenes], CONCEPTS[name]
        made = learn_residuals(
            host, pictures, f"my-{word}", word, config, loop=settings.loop,
            previews=settings.previews,
        ).concept  # fmt: skip
        return replace(made, thumbnail=pictures[0])

    return make


def invention(host: DiffusersHost, part: int) -> Concept:
    """The creature of workflow 13."""
    laboratory = on_host(host, TINYWORLD, TINYWORLD)
    start = settings_of_folder("conceptlab")
    widgets = INVENTING | {
        "initialiser_word": CATEGORY, "forbidden": "object", "gallery": ON_WHITE,
        "steps": max(1, INVENTING["steps"] // part),
    }  # fmt: skip
    config = replace(start.config, positives=(CATEGORY,))
    settings = replace(start, config=config).changed(widgets)
    made = invent(
        laboratory.space, CREATURE, laboratory.defaults.fitted(settings.config),
        image_generator=laboratory.image_generator, questions=laboratory.questions,
        loop=settings.loop,
    )  # fmt: skip
    return (
        made.concept if made.samples is None else replace(made.concept, thumbnail=made.samples[0])
    )


def learned(host: DiffusersHost, scene: ConceptScene, settings: RunSettings, part: int) -> Concept:
    """What a preset learns of a scene."""
    steps = {
        "token_steps": max(1, settings.config.token_phase.steps // part),
        "weight_steps": max(1, settings.config.weight_phase.steps // part),
    }
    concept = settings.changed({**NO_PREVIEWS, **steps}).learn(host, scene).concept
    return replace(concept, thumbnail=scene.images[0].image)


def picture(scene: Any) -> Tensor:
    """[H, W, 3], 0..1"""
    return torch.from_numpy(scene.image.astype(np.float32) / 255)


def write(concept: Concept, file: str) -> None:
    """A concept with changes of the largest small rank that the repository has room for."""
    path = WORKFLOWS / "concepts" / file
    for rank in RANKS:
        path.unlink(missing_ok=True)
        weights = {name: cut(change, rank) for name, change in concept.weights.items()}
        save_concept(replace(concept, weights=weights), path)
        if path.stat().st_size <= LARGEST:
            return
    raise SystemExit(f"{file} has {path.stat().st_size:,} bytes at rank {RANKS[-1]}")


def cut(change: Change, rank: int) -> Change:
    """The nearest change of a rank; biases and changes of a smaller rank stay."""
    if isinstance(change, LowRank) and change.up.shape[1] > rank:
        whole = change.scale * change.up @ change.down.flatten(1)
        return closest_low_rank(whole.unflatten(1, change.down.shape[1:]), rank)[0]
    if isinstance(change, Diff) and change.tensor.ndim > 1:
        return closest_low_rank(change.tensor, rank)[0]
    return change


def tell(name: str, work: Callable[[], None]) -> None:
    began = time.monotonic()
    work()
    print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
