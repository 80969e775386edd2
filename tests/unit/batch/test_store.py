"""Results are whole or not there, and stay inside their folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from conceptloom.batch.jobs import Job, JobKind
from conceptloom.batch.store import DONE, ResultStore
from conceptloom.errors import StorageError

JOB = Job(JobKind.DRAW, "A <my-mug>, on the grass! 7", {"seed": 7})
ABOUT = {"attempts": 1, "seconds": 0.5}


def test_a_result_counts_only_when_all_of_it_is_there(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    assert not store.has(JOB)
    store.keep(JOB, {"picture.png": b"x"}, ABOUT)
    assert store.has(JOB)
    assert store.file(JOB, "picture.png").read_bytes() == b"x"
    store.file(JOB, "picture.png").unlink()
    assert not store.has(JOB)
    store.keep(JOB, {"picture.png": b"x"}, ABOUT)
    (store.folder(JOB) / DONE).write_text("{half")
    assert not store.has(JOB)


def test_folders_are_readable_and_differ_by_what_was_asked(tmp_path: Path) -> None:
    other = Job(JobKind.DRAW, JOB.title, {"seed": 8})
    assert JOB.folder.startswith("a-my-mug-on-the-grass-7-")
    assert other.folder != JOB.folder


@pytest.mark.parametrize("name", ["../outside", "/absolute", "a/../../b"])
def test_a_worker_cannot_write_elsewhere(name: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="outside its folder"):
        ResultStore(tmp_path / "batch").keep(JOB, {name: b""}, ABOUT)


def test_the_table_lists_what_is_done_in_the_order_of_the_plan(tmp_path: Path) -> None:
    store = ResultStore(tmp_path)
    second = Job(JobKind.DRAW, "second", {})
    for job in (second, JOB):
        store.keep(job, {}, ABOUT)
    lines = (
        store.write_table([JOB, Job(JobKind.DRAW, "not done", {}), second]).read_text().splitlines()
    )
    assert lines[0] == "title,kind,folder,attempts,seconds,key"
    assert [line.rsplit(",", 5)[0].strip('"') for line in lines[1:]] == [JOB.title, "second"]
