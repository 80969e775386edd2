"""A subject of the benchmark: what it is called, its options, and the function that runs it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

from .results import Result

Options = argparse.Namespace


@dataclass(frozen=True)
class Subject:
    """One benchmark: a module of its own in the folder of its kind.

    The module has `arguments(parser)` for its options, `run(options)`, which measures and returns
    the result; `is_usual(options)` where the repository's own result is not that of the defaults.

    Attributes:
        kind, name: its words on the command line.
        page: name of its result and its page.
        needs: what it needs beyond this repository, for the index.
    """

    kind: str
    name: str
    page: str
    title: str
    needs: str = ""

    @property
    def command(self) -> str:
        return f"python benchmarks/run.py {self.kind} {self.name}"

    @property
    def module(self) -> Any:
        """Imported when it is needed, with all that it needs."""
        return import_module(f"{self.kind}.{self.name}")

    def parse(self, arguments: Sequence[str]) -> Options:
        """Its options."""
        about = (self.module.__doc__ or "").partition("\n\n")[0]
        parser = argparse.ArgumentParser(prog=self.command, description=about)
        self.module.arguments(parser)
        return parser.parse_args(arguments)

    def run(self, options: Options) -> Result:
        """What it finds, with its page and title."""
        found = self.module.run(options)
        title, page = found.title or self.title, found.page or self.page
        return replace(found, title=title, page=page)

    def is_usual(self, options: Options) -> bool:
        """Whether these options make the repository's own result.

        They do where they are the defaults, but for those that only say how long to measure, or
        what is measured already.
        """
        if self.kind == "similarity":  # of real networks, whichever they are
            return getattr(options, "checkpoint", True) is not None
        check = getattr(self.module, "is_usual", None)
        if check is not None:
            return check(options)
        usual = vars(self.parse([]))
        return all(vars(options)[name] == usual[name] for name in usual if name not in DURATION)


DURATION = ("rounds", "seconds", "threads", "label", "report", "quick", "gates")

SUBJECTS = (
    Subject(
        "speed", "break_a_scene", "break_a_scene_step", "Break-A-Scene: time and memory of a step"
    ),
    Subject("speed", "clic", "clic_step", "CLiC: time and memory of a step"),
    Subject(
        "speed",
        "residuals",
        "residuals_step",
        "Personalized Residuals: a step compared with core Train LoRA",
    ),
    Subject(
        "speed", "conceptlab", "conceptlab_step", "ConceptLab: a step with and without caching"
    ),
    Subject("speed", "blended", "blended_cost", "Blended sampling and guidance: cost"),
    Subject("speed", "lag", "lag_cost", "LAG: cost"),
    Subject("speed", "local", "local_cost", "Localised LoRAs: cost"),
    Subject("speed", "local_sdxl", "local_sdxl", "Localised LoRAs: full-size SDXL"),
    Subject("speed", "local_zimage", "local_zimage", "Localised LoRAs: full-size Z-Image"),
    Subject("speed", "anima", "full_size_anima", "Full-size Anima: training, localised LoRAs"),
    Subject("speed", "weave", "weave_cost", "Concept Weaver: cost"),
    Subject("speed", "core", "beside_core", "Our nodes compared with core ComfyUI's"),
    Subject(
        "speed", "scaling", "scaling", "Time and memory by image size, rank and number of concepts"
    ),
    Subject(
        "speed",
        "gpu",
        "gpu",
        "All models and methods on one GPU, in nine minutes",
        " (needs a GPU; not run yet)",
    ),
    Subject("quality", "tinyworld", "tinyworld", "TinyWorld: the bundled model and its presets"),
    Subject(
        "quality",
        "break_a_scene",
        "break_a_scene_quality",
        "Break-A-Scene: what each part contributes",
    ),
    Subject("quality", "clic", "clic_quality", "CLiC: what each part contributes"),
    Subject("quality", "clic_eta", "clic_eta", "CLiC: effect of the guidance strength eta"),
    Subject("quality", "clic_matching", "clic_matching", "CLiC: accuracy of RoI Matching"),
    Subject(
        "quality",
        "lag",
        "residuals_quality",
        "LAG: identity, background and leaks onto other objects",
    ),
    Subject(
        "quality",
        "residuals",
        "residuals_ablations",
        "Personalized Residuals: rank, scope, class word, class pictures, LAG's settings",
    ),
    Subject(
        "quality",
        "local_lora",
        "local_lora_quality",
        "Localised LoRAs: several characters in one picture, beside other ways",
    ),
    Subject("quality", "weave", "weave_quality", "Concept Weaver: what each part contributes"),
    Subject("quality", "conceptlab", "conceptlab_quality", "ConceptLab: novelty of the inventions"),
    Subject(
        "similarity",
        "scenes",
        "similarity_break_a_scene",
        "CLIP and DINO similarity by the papers' protocols, Break-A-Scene's ablations, costs",
        " (needs a checkpoint; not run yet)",
    ),
    Subject(
        "similarity",
        "clic",
        "similarity_clic",
        "CLiC on pairs of real pictures: the detail, and what is around it",
        " (needs a checkpoint; not run yet)",
    ),
    Subject(
        "similarity",
        "weave",
        "similarity_weave",
        "Concept Weaver: CLIP of the sentence, CLIP and DINO of every region, seconds",
        " (needs a checkpoint; not run yet)",
    ),
    Subject(
        "similarity",
        "conceptlab",
        "similarity_conceptlab",
        "ConceptLab: similarity to the category, distance to members, the nearest noun",
        " (needs Kandinsky; not run yet)",
    ),
    Subject("claims", "torture", "torture", "Robustness: bad input, faults, torn files"),
    Subject("claims", "all", "claims", "All claims and their results"),
)


def subject_of(kind: str, name: str) -> Subject:
    """The subject of these words.

    Raises:
        SystemExit: there is none.
    """
    named = {subject.name: subject for subject in SUBJECTS if subject.kind == kind}
    if name not in named:
        raise SystemExit(f"No {kind} {name}; there are {', '.join(named)}.")
    return named[name]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every subject takes."""
    parser.add_argument("--quick", action="store_true", help="as little as shows that it runs")
    parser.add_argument(
        "--label", default="", help="write the result as PAGE@LABEL: of another model or machine"
    )


UNSHOWN = ("--part", "--label", "--gates")  # with a value
UNSHOWN_FLAGS = ("--report",)


def command_line(subject: Subject, arguments: Sequence[str]) -> str:
    """What to type for the same figures.

    Args:
        arguments: behind the subject's name.
    """
    told, skip = [], False
    for word in arguments:
        if skip:
            skip = False
        elif word in UNSHOWN:
            skip = True
        elif word not in UNSHOWN_FLAGS and not word.startswith(tuple(f"{o}=" for o in UNSHOWN)):
            told.append(word)
    return " ".join([subject.command, shlex.join(told)]).strip()
