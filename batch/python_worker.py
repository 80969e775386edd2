"""A worker in plain Python: learns concepts and draws pictures through diffusers."""

from __future__ import annotations

import getpass
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..cli.drawing import Drawing, draw, load_concepts, natural_size, parsed_size
from ..cli.models import TINYWORLD, open_host
from ..cli.options import Precision
from ..cli.picture_files import save_drawn
from ..cli.results import CONCEPT
from ..cli.scene_files import scene_from_folder
from ..cli.training_run import settings_from_options, train
from ..concepts.concept import stacked
from ..concepts.paths import write_atomically
from ..host.ports import Host
from .jobs import JobKind

CFG, TINYWORLD_CFG = 7.5, 3.0  # as `conceptloom sample` draws
KEPT = (CONCEPT, "losses.csv", "losses.png", "samples.png", "attention.png", "scene.png")


def workplace(key: str) -> Path:
    """Working folder of a job: in the machine's temporary folder, for this user alone."""
    return Path(tempfile.gettempdir()) / f"conceptloom-batch-{getpass.getuser()}" / key


class PythonWorker:
    """Keeps its model between jobs; half-learned concepts stay on its machine's disk."""

    kinds = (JobKind.LEARN, JobKind.DRAW)

    def __init__(self, device: str = "auto") -> None:
        self._device = device
        self._host: tuple[tuple[Any, ...], Host] | None = None

    def perform(
        self, kind: JobKind, key: str, spec: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Do a job; returns its result files by name.

        Raises:
            ConceptLoomError: the job is invalid; a retry would not help.
        """
        place = workplace(key)
        for name, data in files.items():
            write_atomically(place / "given" / name, [data])
        made = (self._learn if kind is JobKind.LEARN else self._draw)(spec, place)
        shutil.rmtree(place, ignore_errors=True)
        return made

    def _learn(self, spec: Mapping[str, Any], place: Path) -> dict[str, bytes]:
        host = self._opened(spec)
        settings = settings_from_options(spec["settings"], spec["model"], method=spec["method"])
        out = place / "learned"  # its state/ outlives a killed worker: the next one goes on
        train(host, scene_from_folder(place / "given"), settings, out)
        there = [name for name in KEPT if (out / name).is_file()]  # pictures only if asked for
        return {name: (out / name).read_bytes() for name in there}

    def _draw(self, spec: Mapping[str, Any], place: Path) -> dict[str, bytes]:
        host = self._opened(spec)
        options = [
            ":".join(map(str, [place / "given" / name, *rest])) for name, *rest in spec["concepts"]
        ]
        stack = stacked(load_concepts(host, options))
        usual = TINYWORLD_CFG if spec["model"] == TINYWORLD else CFG
        settings = Drawing(
            negative=spec["negative"],
            seed=spec["seed"],
            steps=spec["steps"],
            cfg=spec["cfg"] or usual,
            size_px=parsed_size(spec["size"]) if spec["size"] else natural_size(host),
        )
        drawn = draw(host, [spec["prompt"]], stack, settings)
        (file,) = save_drawn(drawn, [spec["prompt"]], settings, place / "picture.png")
        return {"picture.png": file.read_bytes()}

    def _opened(self, spec: Mapping[str, Any]) -> Host:
        key = (spec["model"], spec["layout"], spec["precision"])
        if self._host is None or self._host[0] != key:
            self._host = None  # the old model's memory first
            model, layout, precision = key
            host = open_host(
                model,
                layout=Path(layout) if layout else None,
                device=self._device,
                precision=Precision(precision),
            )
            self._host = key, host
        return self._host[1]
