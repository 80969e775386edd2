"""Files of concepts and the nodes: names that lead astray, foreign files, a full disk."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.cli_args
import folder_paths
import pytest
import utils.extra_config
from executor import Executor, given, node, pack_nodes

pytestmark = pytest.mark.usefixtures("folders")


@pytest.mark.parametrize("name", ["../out", "/tmp/out", "C:\\out", "a/../../out", "con", ""])
@pytest.mark.parametrize("kind", ["SaveConcept", "ExportConcept"])
def test_files_stay_in_their_folder(
    executor: Executor, learned: Any, folders: Path, kind: str, name: str
):
    more = {"rank": 8} if kind == "ExportConcept" else {}
    graph = {"1": node(kind, concept=given("concept"), name=name, overwrite=True, **more)}
    result = executor.run(graph, {"concept": learned})
    assert result.kind == "ConceptFileError"
    assert repr(name) in result.error
    assert not list(folders.rglob("*.safetensors"))


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "absent.safetensors"])
def test_only_listed_concepts_are_loaded(executor: Executor, folders: Path, name: str):
    (folders / "models" / "secret.safetensors").write_bytes(b"secret")
    result = executor.run({"1": node("LoadConcept", concept_name=name, rename="")}, it=["1", 0])
    assert "not in" in result.error or "There is no concept" in result.error


FILES = {
    "garbage": b"\xff" * 64,
    "a pickle": b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
    "nothing": b"",
    "a web page": b"<!DOCTYPE html><html></html>",
}


@pytest.mark.parametrize("case", FILES)
def test_foreign_files_are_refused(executor: Executor, folders: Path, case: str):
    (folders / "models/concepts/bad.safetensors").write_bytes(FILES[case])
    load = {"1": node("LoadConcept", concept_name="bad.safetensors", rename="")}
    result = executor.run(load, it=["1", 0])
    assert result.kind == "ConceptFileError"
    assert "bad.safetensors" in result.error


def test_files_are_not_replaced_unasked(executor: Executor, learned: Any, folders: Path):
    for kind, more in (("SaveConcept", {}), ("ExportConcept", {"rank": 8})):
        inputs = {"concept": given("concept"), "name": "mine", **more}
        first = executor.run({"1": node(kind, **inputs, overwrite=False)}, {"concept": learned})
        assert first.error == ""
        written = {path: path.stat().st_mtime_ns for path in folders.rglob("*.safetensors")}
        again = {
            "1": node(kind, **inputs, overwrite=False),
            "2": node("InspectConcept", concept=given("concept")),
        }
        executor = Executor()
        result = executor.run(again, {"concept": learned})
        assert "already exists" in result.error
        assert {path: path.stat().st_mtime_ns for path in written} == written


def test_looking_for_changes_reads_no_file_and_bears_links(
    folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """A concept of every weight is as large as its model, and every Run looks for changes."""
    file = folders / "models" / "concepts" / "mine.safetensors"
    file.write_bytes(b"before")
    stamp = pack_nodes()["ConceptLoomLoadConcept"].fingerprint_inputs

    def stamps() -> list[str]:
        return [stamp(name, rename) for name in (file.name, None) for rename in ("", None)]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"{path} was read"))
        before = stamps()
        assert before == stamps()
    file.write_bytes(b"afterwards")
    assert not set(before) & set(stamps())


def test_a_full_disk_leaves_what_was_there(
    executor: Executor, learned: Any, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    graph = {"1": node("SaveConcept", concept=given("concept"), name="mine", overwrite=True)}
    assert executor.run(graph, {"concept": learned}).error == ""
    path = folders / "models/concepts/mine.safetensors"
    before = path.read_bytes()

    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = Executor().run(graph, {"concept": learned})
    assert result.kind == "StorageError"
    assert "the disk is full" in result.error
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["mine.safetensors"]


def test_renaming_a_handle_that_is_not_there(executor: Executor, learned: Any):
    save = node("SaveConcept", concept=given("concept"), name="mug", overwrite=False)
    executor.run({"1": save}, {"concept": learned})
    load = node("LoadConcept", concept_name="mug.safetensors", rename="cup: mug")
    result = executor.run({"1": load}, it=["1", 0])
    assert "The concept has no handle <cup>; it has <my-mug>, <my-toy>" in result.error


@pytest.mark.parametrize(
    ("objects", "message"),
    [
        ("dragon", "unknown object 'dragon'; known are a class and a number"),
        ("", "it must be 1 to 3 names"),
        ("fish, mug1, car, boat2", "it must be 1 to 3 names"),
    ],
)
def test_objects_that_tinyworld_has_not(executor: Executor, objects: str, message: str):
    picture = node("TinyWorldScene", objects=objects, background="white", seed=0, size=64)
    assert message in executor.run({"1": picture}, it=["1", 0]).error


# Where new files go


@pytest.fixture
def extra_paths(
    executor: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """Starts the pack anew after an extra_model_paths.yaml of some sections was read."""

    def start(*sections: str) -> list[str]:
        file = tmp_path / "paths.yaml"
        file.write_text("\n".join(f"s{i}:\n{text}" for i, text in enumerate(sections)))
        monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
        monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"loras": (["/l"], set())})
        monkeypatch.setattr(comfy.cli_args.args, "extra_model_paths_config", [[str(file)]])
        utils.extra_config.load_extra_path_config(str(file))
        extension = sys.modules[pack_nodes()["ConceptLoomSaveConcept"].__module__]
        root = extension.__name__.rpartition(".")[0]
        sys.modules[f"{root}.concept_folders"].register_concept_folders()
        assert folder_paths.folder_names_and_paths["loras"] == (["/l"], set())
        return folder_paths.get_folder_paths("concepts")

    return start


def section(path: Path, *, default: bool) -> str:
    more = "  is_default: true\n" if default else ""
    return f"{more}  concepts: {path}\n"


@pytest.mark.parametrize("default", [False, True])
def test_extra_folders_take_new_files_only_when_they_are_the_default(
    extra_paths: Callable[..., list[str]], tmp_path: Path, default: bool
):
    """As ComfyUI has it for models that it knows itself."""
    share, other = tmp_path / "share", tmp_path / "other"
    own = str(tmp_path / "models" / "concepts")
    found = extra_paths(section(other, default=False), section(share, default=default))
    expected = [own, str(other), str(share)]
    if default:
        expected = [str(share), own, str(other)]
    assert found[:-1] == expected
    assert found[-1].endswith("workflows/concepts")


def test_a_linked_subfolder_of_the_concepts_takes_files(
    executor: Executor, learned: Any, folders: Path
):
    disk = folders / "disk"
    disk.mkdir()
    (folders / "models" / "concepts" / "big").symlink_to(disk)
    save = node("SaveConcept", concept=given("concept"), name="big/mug", overwrite=False)
    assert executor.run({"1": save}, {"concept": learned}).error == ""
    assert (disk / "mug.safetensors").is_file()
    load = node("LoadConcept", concept_name=os.path.join("big", "mug.safetensors"), rename="")
    loaded = executor.run({"1": load}, concept=["1", 0]).values["concept"]
    assert loaded.names == learned.names
