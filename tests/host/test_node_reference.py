"""docs/nodes.md is what scripts/make-locales makes of the nodes as they are now."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from executor import pack_nodes

sys.path.append(str(Path(__file__).resolve().parents[2] / "scripts"))

import node_reference


@pytest.fixture(scope="module")
def schemas() -> dict[str, Any]:
    found = {node_id: node.GET_NODE_INFO_V1() for node_id, node in pack_nodes().items()}
    return json.loads(json.dumps(found))


def test_the_reference_is_not_stale(schemas: dict[str, Any]):
    """Run scripts/make-locales when this fails."""
    assert node_reference.REFERENCE.read_text(encoding="utf-8") == node_reference.reference(schemas)


def test_every_node_and_every_input_is_in_it(schemas: dict[str, Any]):
    text = node_reference.reference(schemas)
    for node_id, schema in schemas.items():
        begin = text.index(f"### [{schema['display_name']}](../web/docs/{node_id}.md)")
        section = text[begin:].partition("\n##")[0]
        groups = schema["input_order"]  # also of hidden inputs
        names = [*groups.get("required", []), *groups.get("optional", [])]
        assert not [name for name in names if f"| `{name}`" not in section], node_id


def test_only_short_lists_of_words_are_spelt_out():
    """Files differ from one machine to the next."""
    files = ["a.safetensors", "folder/b.safetensors"]
    assert node_reference._kind("COMBO", {"options": files}) == ("a file", "")
    assert node_reference._kind("COMBO", {"options": []}) == ("choice", "")
    assert node_reference._kind("COMBO", {"options": [*"abcdefghi"]}) == ("choice", "")
    assert node_reference._kind("COMBO", {"options": ["a", "b|c"]})[0] == "choice: a; b\\|c"
