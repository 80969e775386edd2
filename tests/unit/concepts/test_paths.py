"""File names stay in their folder, and files appear whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from conceptloom.concepts import paths
from conceptloom.concepts.paths import confined_path, ensure_writable, write_atomically
from conceptloom.errors import ConceptFileError, StorageError

OUTSIDE = [
    "",
    ".",
    "..",
    "../mug",
    "a/../../mug",
    "a/../mug",
    "..\\mug",
    "a\\..\\..\\mug",
    "/etc/mug",
    "\\mug",
    "\\\\server\\share\\mug",
    "C:\\mug",
    "c:mug",
    "~/mug",
    "mug\0",
    "mug\0.safetensors",
    "mug\nmug",
    "mug:stream",
    "mug?",
    "m*g",
    "<mug>",
    'm"g',
    "m|g",
    "a//b",
    "mug/",
    " mug",
    "a /mug",
    "mug./x",
    ".hidden",
    ".safetensors",
    "con",
    "CON",
    "nul.safetensors",
    "kitchen/aux",
    "com1",
    "lpt9.x",
    "com\u00b9",
    "a" * 235,
    "\uac00" * 79,  # 237 bytes; 246 with the suffix are the most
    "mug\ud800",  # half a character, which no file system takes
]


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConceptFileError, match="my-mug"):
        confined_path(tmp_path, name, ".safetensors")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mug", "mug.safetensors"),
        ("mug.safetensors", "mug.safetensors"),
        ("Mug.SafeTensors", "Mug.SafeTensors"),
        ("mug.v2", "mug.v2.safetensors"),
        ("kitchen/mug", "kitchen/mug.safetensors"),
        ("kitchen\\mug", "kitchen/mug.safetensors"),
        ("my mug", "my mug.safetensors"),
        ("\u00c9toile", "\u00c9toile.safetensors"),
    ],
)
def test_plain_names_lie_in_the_folder(tmp_path: Path, name: str, expected: str) -> None:
    assert confined_path(tmp_path, name, ".safetensors") == tmp_path.resolve() / expected


@pytest.mark.parametrize("name", ["\uac00" * 75, "\uac00" * 78, "a" * 234])
def test_names_are_measured_in_bytes_and_what_is_accepted_can_be_written(
    tmp_path: Path, name: str
) -> None:
    path = confined_path(tmp_path, name, ".safetensors")
    write_atomically(path, [b"whole"])
    of_a_run = path.with_name(f"{name}-12345678.safetensors")  # `nodes.runs` names it so
    write_atomically(of_a_run, [b"whole"])
    assert path.read_bytes() == of_a_run.read_bytes() == b"whole"


def test_a_place_is_tried_and_left_as_it_was(tmp_path: Path) -> None:
    there = tmp_path / "mug.safetensors"
    there.write_bytes(b"old")
    ensure_writable(there)
    ensure_writable(tmp_path / "a" / "b" / "mug.safetensors")
    assert there.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [there]


@pytest.mark.parametrize(
    ("code", "told"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only")]
)
def test_a_place_that_takes_no_file_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, told: str
) -> None:
    def refused(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(paths, "open", refused, raising=False)
    with pytest.raises(StorageError, match=told):
        ensure_writable(tmp_path / "a" / "mug.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_name_that_the_disk_cannot_take_is_reported(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="too long"):
        ensure_writable(tmp_path / ("\uac00" * 90))
    with pytest.raises(StorageError, match="too long"):
        ensure_writable(tmp_path / ("\uac00" * 90) / "mug")


def test_a_linked_subfolder_takes_files(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "door").symlink_to(outside)
    write_atomically(confined_path(inside, "door/mug", ".safetensors"), [b"whole"])
    assert (outside / "mug.safetensors").read_bytes() == b"whole"
    with pytest.raises(ConceptFileError):
        confined_path(inside, "door/../mug", ".safetensors")


def test_a_linked_file_is_replaced_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "secret"
    inside.mkdir()
    outside.write_bytes(b"secret")
    (inside / "mug.safetensors").symlink_to(outside)
    write_atomically(confined_path(inside, "mug", ".safetensors"), [b"whole"])
    assert outside.read_bytes() == b"secret"
    assert (inside / "mug.safetensors").read_bytes() == b"whole"


def test_the_folder_itself_may_be_a_link(tmp_path: Path) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    assert confined_path(link, "mug", ".x") == real.resolve() / "mug.x"


def test_a_file_is_replaced_and_folders_are_made(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    write_atomically(path, [b"one"])
    write_atomically(path, [b"tw", memoryview(b"o")])
    assert path.read_bytes() == b"two"
    assert [p.name for p in path.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    path = tmp_path / "file"
    write_atomically(path, [b"old"])

    def fail(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(paths.os, "fsync", fail)
    with pytest.raises(StorageError, match="unchanged"):
        write_atomically(path, [b"new"])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_truly_full_disk_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = open
    monkeypatch.setattr(paths, "open", lambda path, mode: real("/dev/full", "wb"), raising=False)
    with pytest.raises(StorageError, match="disk is full"):
        write_atomically(tmp_path / "file", [b"x" * 100_000])
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_nothing(tmp_path: Path) -> None:
    def chunks():
        yield b"half"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", chunks())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StorageError, match="could not be written"):
        write_atomically(tmp_path / "file" / "x", [b""])
