"""The files in workflows/ fit the nodes, each other, and ComfyUI's template browser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from headless import ROOT, HeadlessComfyUI
from PIL import Image
from workflow_graph import AUTOGROW
from workflow_stories import stories

WORKFLOWS = ROOT / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
UI_ONLY = {"MarkdownNote", "Note", "Reroute"}


@pytest.fixture(scope="session")
def schemas(server: HeadlessComfyUI) -> dict[str, Any]:
    return server.get("/object_info")


def ui(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / f"{name}.json").read_text(encoding="utf-8"))


def api(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def test_every_workflow_has_all_its_files():
    assert len(NAMES) >= 3
    assert sorted(path.stem for path in (WORKFLOWS / "api").glob("*.json")) == NAMES
    for name in NAMES:
        with Image.open(WORKFLOWS / f"{name}.jpg") as thumbnail:
            assert min(thumbnail.size) >= 256


def test_the_template_browser_lists_them(server: HeadlessComfyUI):
    assert sorted(server.get("/api/workflow_templates")["conceptloom"]) == NAMES


def test_help_pages_are_served(server: HeadlessComfyUI, schemas: dict[str, Any]):
    import urllib.request

    ids = [name for name in schemas if name.startswith("ConceptLoom")]
    assert len(ids) >= 10
    for node_id in ids:
        address = f"http://127.0.0.1:{server.port}/extensions/conceptloom/docs/{node_id}.md"
        with urllib.request.urlopen(address, timeout=30) as page:
            assert page.read().startswith(b"# ")


@pytest.mark.parametrize("name", NAMES)
def test_the_files_are_what_the_script_builds(name: str, schemas: dict[str, Any]):
    """Run scripts/make-workflow-assets --json-only when this fails."""
    graph = stories(schemas)[name]
    assert api(name) == json.loads(json.dumps(graph.api()))
    built = json.loads(json.dumps(graph.ui()))
    assert ui(name)["groups"] == built["groups"]
    assert [drawn(node) for node in ui(name)["nodes"]] == [drawn(node) for node in built["nodes"]]


def drawn(node: dict[str, Any]) -> tuple[Any, ...]:
    """What does not depend on the version of ComfyUI."""
    return node["type"], node["pos"], node["size"], node["widgets_values"], node.get("title")


@pytest.mark.parametrize("name", NAMES)
def test_every_node_and_widget_exists(name: str, schemas: dict[str, Any]):
    for node in ui(name)["nodes"]:
        if node["type"] in UI_ONLY:
            continue
        assert node["type"] in schemas, node["type"]
        if node["type"].startswith("ConceptLoom"):  # core nodes gain outputs between versions
            assert [o["type"] for o in node["outputs"]] == schemas[node["type"]]["output"]
    for number, node in api(name).items():
        schema = schemas[node["class_type"]]["input"]
        known = {**schema.get("required", {}), **schema.get("optional", {})}
        for given in node["inputs"]:
            assert given.split(".")[0] in known, f"node {number} has no {given}"
        for needed, spec in schema.get("required", {}).items():
            if spec[0] == AUTOGROW and spec[1]["template"]["min"] == 0:
                continue  # sockets that grow, and none of them has to be connected
            assert any(given.split(".")[0] == needed for given in node["inputs"]), needed


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_are_one_workflow(name: str, schemas: dict[str, Any]):
    """comfy-cli reads the editor's form as the editor itself would queue it."""
    conversion = pytest.importorskip("comfy_cli.workflow_to_api", reason="needs comfy-cli")
    converted = conversion.convert_ui_to_api(ui(name), schemas)
    assert {n: (v["class_type"], v["inputs"]) for n, v in converted.items()} == {
        n: (v["class_type"], v["inputs"]) for n, v in api(name).items()
    }


@pytest.mark.parametrize("name", NAMES)
def test_links_join_sockets_of_one_type(name: str):
    workflow = ui(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, slot, target, socket, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[source]["outputs"][slot]["type"] == kind
        assert nodes[target]["inputs"][socket]["link"] == link
        assert nodes[target]["inputs"][socket]["type"] in (kind, "*")


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_lie_on_each_other(name: str):
    boxes = [(n["type"], *n["pos"], *n["size"]) for n in ui(name)["nodes"]]
    for i, (kind, x, y, w, h) in enumerate(boxes):
        for other, ox, oy, ow, oh in boxes[:i]:
            apart = x >= ox + ow or ox >= x + w or y - 30 >= oy + oh or oy - 30 >= y + h
            assert apart, f"{kind} lies on {other}"


def test_nothing_of_this_machine_is_in_them():
    for path in WORKFLOWS.rglob("*.json"):
        text = path.read_text(encoding="utf-8")
        assert str(ROOT) not in text
        assert str(Path.home()) not in text
