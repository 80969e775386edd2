"""TinyWorld as the quality benchmarks use it: pictures of their tasks, what the judge finds."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from harness.experiment import Experiment, add_options, perform
from harness.results import Result
from harness.subject import Options
from numpy.typing import ArrayLike
from torch import Tensor

from conceptloom.cli.models import open_host
from conceptloom.concepts.fingerprints import model_digest
from conceptloom.host.ports import Host
from conceptloom.tinyworld.captions import Word, article
from conceptloom.tinyworld.concepts import alike_member, concept_scene
from conceptloom.tinyworld.judge.judge import Found, load_judge
from conceptloom.tinyworld.ornaments import OrnamentScene, ornament_scene
from conceptloom.tinyworld.presets import SIZE
from conceptloom.tinyworld.scenes import Placed, Scene, render

from .tasks import TEMPLATE_WORDS, DetailTask, SceneTask, WeaveTask

PICTURE = (SIZE, SIZE)
# Places of 2 and 3 objects in a template: (x, y, radius) in the picture's unit.
SPOTS = {
    2: ((0.28, 0.42, 0.22), (0.73, 0.6, 0.22)),
    3: ((0.24, 0.3, 0.17), (0.76, 0.33, 0.17), (0.48, 0.77, 0.17)),
}
Run, Arguments = Callable[[Options], Result], Callable[[argparse.ArgumentParser], None]
BARE_SEED = 100  # added to a task's: the target is another object in another place


def open_model() -> Host:
    """The bundled model on a CPU."""
    return open_host(device="cpu")


def experiment_command(
    make: Callable[[Host, Options], Experiment], page: str, seeds: int = 3
) -> tuple[Run, Arguments]:
    """`run` and `arguments` of a subject that is one experiment on the bundled model.

    Args:
        make: the experiment with the budget that was asked for, and its folder.
        seeds: how many, unless options say so.
    """

    def run(options: Options) -> Result:
        host = open_model()
        return perform(make(host, options), options, page, model_digest(host))

    def arguments(parser: argparse.ArgumentParser) -> None:
        add_options(parser, seeds)

    return run, arguments


def scene_of(task: SceneTask) -> Scene:
    """The picture that a scene is learned from."""
    return concept_scene(task.objects, task.seed, task.background)


def taught_of(task: DetailTask) -> OrnamentScene:
    """The picture with the ornament, whose second mask marks it."""
    return ornament_scene(task.source, task.ornament, task.seed, task.source_background)


def bare_of(task: DetailTask) -> OrnamentScene:
    """The target before; its second mask says where the ornament belongs."""
    return _target(task, "")


def goal_of(task: DetailTask) -> OrnamentScene:
    """The target as it would be with the ornament."""
    return _target(task, task.ornament)


def _target(task: DetailTask, ornament: str) -> OrnamentScene:
    return ornament_scene(task.target, ornament, task.seed + BARE_SEED, task.target_background)


def sentence_of(task: WeaveTask) -> str:
    """A template's caption: all of its known objects, and the place."""
    parts = [article(TEMPLATE_WORDS[concept]) for concept in task.concepts]
    return f"a photo of {', '.join(parts[:-1])} and {parts[-1]} {task.place}"


def template_of(task: WeaveTask, seed: int) -> Scene:
    """Members of the concepts' classes in other colours, as alike in form as training shows them;
    moved a little by the seed."""
    rng = np.random.default_rng(seed)
    things = [
        Placed(
            what=alike_member(name, TEMPLATE_WORDS[name], rng),
            x=x + float(rng.uniform(-0.02, 0.02)),
            y=y + float(rng.uniform(-0.02, 0.02)),
            radius=radius,
        )
        for name, (x, y, radius) in zip(task.concepts, SPOTS[len(task.concepts)], strict=True)
    ]
    words = tuple(Word(text=word) for word in sentence_of(task).split())
    return render(things, task.background, rng, words=words)


def found_in(image: ArrayLike | Tensor) -> list[Found]:
    """Objects of a picture [H, W, 3], the largest first, with masks [H, W]."""
    height, width = np.shape(image)[:2]
    found = load_judge().find(image)
    return [replace(one, mask=_at(one.mask, height, width)) for one in found]


def _at(mask: Tensor, height: int, width: int) -> Tensor:
    large = torch.nn.functional.interpolate(mask[None, None].float(), (height, width))
    return large[0, 0] > 0.5


def handle_of(name: str) -> str:
    """The handle of a held-out member."""
    return f"my-{name}"
