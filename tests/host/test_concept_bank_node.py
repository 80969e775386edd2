"""Concept Bank: a folder of concepts, listed and filtered."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import pytest
from executor import Executor, Result, node
from weaver_graphs import IMAGE, MODEL, concept, pack, values_of


@pytest.fixture
def concepts(folders: Path) -> Path:
    """The folder that concept files lie in."""
    return folders / "models" / "concepts"


def saved(folder: Path, name: str, **changes: Any) -> None:
    learned = replace(concept("sd1", "my-cup"), **changes)
    pack("concepts.concept_file").save_concept(learned, folder / name)
    folder_paths.filename_list_cache.clear()


def bank(executor: Executor, **inputs: Any) -> Result:
    every = {"folder": "", "filter": "", "pick": 1, **inputs}
    values = {k: v for k, v in values_of().items() if k in ("model", "clip")}
    wanted = {"concept": ["1", 0], "sheet": ["1", 1], "list": ["1", 2]}
    return executor.run({"1": node("ConceptBank", **every)}, values, **wanted)


def test_a_bank_lists_filters_and_hands_over(executor: Executor, concepts: Path):
    (concepts / "kitchen").mkdir()
    saved(concepts, "kitchen/cup.safetensors", thumbnail=IMAGE[0], words={"my-cup": "cup"})
    saved(concepts, "other.safetensors", base="another model", method="clic")
    (concepts / "broken.safetensors").write_bytes(b"nothing")
    folder_paths.filename_list_cache.clear()
    result = bank(executor)
    assert result.error == ""
    assert result.values["concept"].words == {"my-cup": "cup"}
    lines = result.values["list"].splitlines()
    assert lines[0].startswith("1  kitchen/cup.safetensors: <my-cup>, test, ")
    assert lines[1].startswith("2  other.safetensors: <my-cup>, clic, ")
    assert lines[2].startswith("not readable: ")
    assert result.values["sheet"].ndim == 4
    assert bank(executor, pick=2).values["concept"].method == "clic"
    assert bank(executor, filter="CLIC other").values["concept"].method == "clic"
    assert len(bank(executor, folder="kitchen").values["list"].splitlines()) == 1
    assert "other" not in bank(executor, **MODEL).values["list"]


def test_a_bank_says_when_there_is_nothing(executor: Executor, concepts: Path):
    assert "No concept in models/concepts matches" in bank(executor).error
    saved(concepts, "one.safetensors")
    assert "a number from 1 to 1" in bank(executor, pick=2).error
