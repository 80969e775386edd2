"""The jobs of a batch. A job's key is a hash of everything that its result depends on."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

from .. import __version__
from ..cli.models import check_files
from ..cli.scene_files import files_of_scene
from ..cli.training_run import settings_from_options
from .content import digest_of, digest_of_model
from .plan import Plan, WorkflowRow, applied_concept

CONCEPT = "concept.safetensors"
WORKFLOW = "workflow.json"


class ServerLost(Exception):
    """A worker's server or process stopped responding; another worker may do the job."""


class ServerClosed(ServerLost):
    """It did not respond before the job began, so the job is not the cause."""


class JobKind(str, Enum):
    """What a job does."""

    LEARN = "learn"
    DRAW = "draw"
    WORKFLOW = "workflow"


@dataclass(frozen=True)
class Job:
    """One piece of work, small enough to repeat if its worker dies."""

    kind: JobKind
    title: str
    spec: Mapping[str, Any]  # JSON: what to do
    files: Mapping[str, Path] = field(default_factory=dict)  # name for the worker -> file here
    needs: Mapping[str, Job] = field(default_factory=dict)  # name for the worker -> whose concept

    @cached_property
    def key(self) -> str:
        """64 hexadecimal digits; equal for equal results.

        Raises:
            InputError: a file does not exist.
        """
        parts = {
            "version": __version__,
            "kind": self.kind.value,
            "spec": self.spec,
            "files": {name: digest_of(path) for name, path in sorted(self.files.items())},
            "needs": {name: job.key for name, job in sorted(self.needs.items())},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def folder(self) -> str:
        """The folder of its results, below that of the batch."""
        readable = re.sub(r"[^A-Za-z0-9]+", "-", self.title).strip("-").lower()[:60]
        return f"{readable}-{self.key[:12]}"


def jobs_of(plan: Plan, root: Path) -> list[Job]:
    """All jobs of a plan, prerequisites first.

    Args:
        root: folder of the plan; its file names are relative to it.

    Raises:
        InputError: a file of the plan does not exist.
        ConfigError: a setting of a concept is invalid.
        ModelError: the base model's file and its layout disagree.
    """
    check_files(plan.model, plan.layout)
    model = {
        "model": plan.model,
        "layout": str(plan.layout) if plan.layout else None,
        # for the key alone: workers open both by their names
        "digests": [digest_of_model(str(p)) for p in (plan.model, plan.layout) if p],
        "precision": plan.precision.value,
    }
    learning: dict[str, Job] = {}
    ready: dict[str, Path] = {}
    for name, row in plan.concepts.items():
        if row.file is not None:
            ready[name] = root / row.file
            continue
        assert row.scene is not None
        settings_from_options(row.settings, plan.model, method=row.method)  # wrong ones stop here
        spec = {**model, "method": row.method, "settings": row.settings}
        files = _scene_files(root / row.scene)
        learning[name] = Job(JobKind.LEARN, f"learn {name}", spec, files)
    every = [*learning.values()]
    every += _drawings(plan, model, learning, ready)
    for row in plan.workflows:
        every += _workflows(row, root)
    return every


def _drawings(
    plan: Plan, model: Mapping[str, Any], learning: Mapping[str, Job], ready: Mapping[str, Path]
) -> Iterator[Job]:
    for row in plan.pictures:
        concepts = [applied_concept(option) for option in row.concepts]
        files = {f"{name}.safetensors": ready[name] for name, *_ in concepts if name in ready}
        known = [name for name, *_ in concepts if name in learning]
        needs = {f"{name}.safetensors": learning[name] for name in known}
        for prompt, setting, seed in product(row.prompts, row.settings, row.seeds):
            spec = {
                **model,
                "prompt": prompt,
                "seed": seed,
                "concepts": [
                    [f"{name}.safetensors", strength, *filter(None, [new_name])]
                    for name, strength, new_name in concepts
                ],
                **setting.model_dump(),
            }
            overrides = setting.model_dump(exclude_defaults=True)
            summary = " ".join(f"{name} {value}" for name, value in overrides.items())
            yield Job(JobKind.DRAW, f"{prompt} {seed} {summary}".strip(), spec, files, needs)


def _workflows(row: WorkflowRow, root: Path) -> Iterator[Job]:
    files = {WORKFLOW: root / row.file, **{n: root / path for n, path in row.images.items()}}
    for chosen in product(*row.values.values()):
        values = dict(zip(row.values, chosen, strict=True))
        summary = " ".join(f"{place} {value}" for place, value in values.items())
        yield Job(JobKind.WORKFLOW, f"{row.file.stem} {summary}".strip(), {"values": values}, files)


def _scene_files(folder: Path) -> dict[str, Path]:
    """Name for the worker -> local file; other files in the folder are ignored."""
    return {path.relative_to(folder).as_posix(): path for path in files_of_scene(folder)}
