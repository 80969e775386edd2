"""Every language of locales/ says everything, in its own words, in a form the editor can read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SCRIPT = {"ko": "[\uac00-\ud7a3]", "zh": "[\u4e00-\u9fff]", "ja": "[\u3041-\u30ff\u4e00-\u9fff]"}
SYNTAX = set("{}|@")  # of the editor's translator
# What is code in a sentence: handles, folders, values of lists.
CODE = re.compile(r"<[\w-]+>|models/[\w/-]+|output/[\w/-]+|kaiming|gaussian|oracle|ddim_uniform")


def node_words(root: Path, language: str) -> dict[str, Any]:
    return json.loads((root / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))


def leaves(tree: dict[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{above}{name}.")
        else:
            yield above + name, value


def test_there_is_a_language_for_each_translation(root: Path):
    told = {path.parent.name for path in (root / "locales").glob("*/nodeDefs.json")}
    assert told == {"en", *SCRIPT}
    assert {path.name for path in (root / "scripts" / "translations").iterdir()} == set(SCRIPT)


def test_no_language_says_more_or_less(root: Path):
    said = {language: set(dict(leaves(node_words(root, language)))) for language in ("en", *SCRIPT)}
    assert said["ko"] == said["zh"] == said["ja"]
    assert said["en"] <= said["ko"]
    # English leaves out a tooltip only: one that the translator would garble
    assert all(key.endswith(".tooltip") for key in said["ko"] - said["en"])


@pytest.mark.parametrize("language", ["en", *SCRIPT])
def test_the_editor_reads_every_word_as_it_stands(root: Path, language: str):
    for key, text in leaves(node_words(root, language)):
        assert text.strip() == text != "", key
        assert not SYNTAX & set(text), f"{key}: {text}"


@pytest.mark.parametrize("language", SCRIPT)
def test_every_sentence_is_in_its_language(root: Path, language: str):
    script = re.compile(SCRIPT[language])
    for key, text in leaves(node_words(root, language)):
        if key.endswith((".tooltip", ".description")):
            assert script.search(text), f"{key}: {text}"


@pytest.mark.parametrize("language", SCRIPT)
def test_what_has_to_be_typed_is_not_translated(root: Path, language: str):
    translated = node_words(root, language)
    for key, text in leaves(node_words(root, "en")):
        there = dict(leaves(translated))[key] if CODE.search(text) else ""
        for code in CODE.findall(text):
            assert code in there, f"{key} lost {code}: {there}"
