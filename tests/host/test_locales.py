"""locales/ is what scripts/make-locales makes of the nodes as they are now."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from executor import pack_nodes

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import locales


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    found = {node_id: node.GET_NODE_INFO_V1() for node_id, node in pack_nodes().items()}
    return json.loads(json.dumps(found))


def test_everything_is_translated_and_nothing_is_stale(schemas: dict[str, Any]):
    """Mend scripts/translations and run scripts/make-locales when this fails."""
    _, wrong = locales.files(schemas)
    assert not wrong, "\n".join(wrong)


def test_the_files_are_what_the_script_builds(schemas: dict[str, Any]):
    content, _ = locales.files(schemas)
    assert set(locales.LOCALES.glob("*/*.json")) == set(content)
    for path, data in content.items():
        assert json.loads(path.read_text(encoding="utf-8")) == data, path.parent.name


def test_a_changed_sentence_is_missing_and_unused_at_once(schemas: dict[str, Any]):
    changed = json.loads(json.dumps(schemas))
    node = changed["ConceptLoomApplyConcept"]
    before, node["description"] = node["description"], "Something else."
    translation = locales.translate(locales.words_of(changed), "ko")
    assert translation.missing == ["texts: Something else."]
    assert translation.unused == [f"texts: {before}"]
    assert "description" not in translation.nodes["ConceptLoomApplyConcept"]


def test_an_input_in_many_places_has_each_tooltip_once(schemas: dict[str, Any]):
    words = locales.words_of(schemas)["ConceptLoomCrossAttentionLossTrainer"]
    assert len(words.inputs["preset_batch_size"].tooltips) == 1
    assert len(words.inputs["preset_attention_weight"].tooltips) == 2


def test_slots_that_grow_are_numbered(schemas: dict[str, Any]):
    regions = locales.translate(locales.words_of(schemas), "ko").nodes["ConceptLoomRegions"]
    assert regions["inputs"]["masks_mask15"]["name"] == "\ub9c8\uc2a4\ud06c15"
    assert "masks_mask16" not in regions["inputs"]
