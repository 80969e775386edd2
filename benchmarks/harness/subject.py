"""A subject of the benchmark: what it is called, its options, and the function that runs it."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module

from .results import Result

Options = argparse.Namespace
# kind -> name on the command line -> module with `SUBJECT`
SUBJECTS: Mapping[str, Mapping[str, str]] = {
    "speed": {
        "break_a_scene": "speed.break_a_scene",
        "clic": "speed.clic",
        "residuals": "speed.residuals",
        "conceptlab": "speed.conceptlab",
        "blended": "speed.blended",
        "lag": "speed.lag",
        "local": "speed.local",
        "weave": "speed.weave",
        "core": "speed.core",
        "scaling": "speed.scaling",
        "real": "speed.real",
    },
    "quality": {
        "break_a_scene": "quality.break_a_scene",
        "clic": "quality.clic",
        "clic_eta": "quality.clic_eta",
        "clic_matching": "quality.clic_matching",
        "lag": "quality.lag",
        "residuals": "quality.residuals",
        "weave": "quality.weave",
        "conceptlab": "quality.conceptlab",
    },
    "similarity": {
        "scenes": "similarity.scenes",
        "clic": "similarity.clic",
        "weave": "similarity.weave",
        "conceptlab": "similarity.conceptlab",
    },
    "claims": {
        "torture": "claims.torture",
        "tinyworld": "claims.tinyworld",
        "all": "claims.all",
    },
}


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One benchmark.

    Attributes:
        kind, name: its words on the command line.
        page: name of its result and its page.
        about: one line, for the list of subjects and for --help.
        options: adds its own options.
        run: measures, and returns the result.
        is_usual: whether these options make the repository's own result.
        needs: what it needs beyond this repository, for the index.
    """

    kind: str
    name: str
    page: str
    title: str
    about: str
    run: Callable[[Options], Result]
    options: Callable[[argparse.ArgumentParser], None] = lambda parser: None
    is_usual: Callable[[Options], bool] = lambda options: True
    needs: str = ""

    @property
    def command(self) -> str:
        return f"python benchmarks/run.py {self.kind} {self.name}"


def load_subject(kind: str, name: str) -> Subject:
    """Import a subject's module, with all that it needs."""
    return import_module(SUBJECTS[kind][name]).SUBJECT


def all_subjects() -> list[Subject]:
    """Every subject, in the order of the list."""
    return [load_subject(kind, name) for kind, names in SUBJECTS.items() for name in names]


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """What every subject takes."""
    parser.add_argument("--quick", action="store_true", help="as little as shows that it runs")
    parser.add_argument(
        "--label", default="", help="write the result as PAGE@LABEL: of another model or machine"
    )


UNSHOWN = ("--part", "--label")  # with a value
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
