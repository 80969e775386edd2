"""Results of a batch on disk: one folder per job, complete or absent."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..concepts.paths import write_atomically
from ..errors import StorageError
from .jobs import Job

DONE = "job.json"  # written last: where it stands, all other files stand, too
TABLE = "results.csv"
COLUMNS = ("title", "kind", "folder", "attempts", "seconds", "key")


class ResultStore:
    """Stores results and finds those of earlier runs.

    Args:
        root: folder of the batch.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, job: Job) -> Path:
        """The folder for the files of a job."""
        return self.root / job.folder

    def has(self, job: Job) -> bool:
        """Whether a job's result is complete."""
        folder = self.folder(job)
        try:
            record = json.loads((folder / DONE).read_text(encoding="utf-8"))
            is_its = record["key"] == job.key
            return is_its and all((folder / name).is_file() for name in record["files"])
        except (OSError, ValueError, KeyError, TypeError):
            return False

    def keep(self, job: Job, files: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
        """Write a result, with `about` as its description.

        Raises:
            StorageError: the file cannot be written, or a worker named a file outside its folder.
        """
        folder = self.folder(job)
        for name, data in files.items():
            inner = PurePosixPath(name)
            if inner.is_absolute() or ".." in inner.parts:
                raise StorageError(f"A worker returned a file {name!r} outside its folder.")
            write_atomically(folder / inner, [data])
        record = {"title": job.title, "kind": job.kind.value, "folder": job.folder, "key": job.key}
        record |= {"spec": dict(job.spec), "files": sorted(files), **about}
        write_atomically(folder / DONE, [json.dumps(record, indent=1).encode()])

    def file(self, job: Job, name: str) -> Path:
        """A file of a finished job."""
        return self.folder(job) / name

    def write_table(self, jobs: Sequence[Job]) -> Path:
        """One line for each finished job, in the order of the plan."""
        text = io.StringIO()
        lines = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
        lines.writeheader()
        for job in jobs:
            if self.has(job):
                lines.writerow(json.loads((self.folder(job) / DONE).read_text(encoding="utf-8")))
        write_atomically(self.root / TABLE, [text.getvalue().encode()])
        return self.root / TABLE
