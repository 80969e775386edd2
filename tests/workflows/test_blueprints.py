"""The blueprints in subgraphs/: listed by the server, whole, and working once dragged in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from blueprint_graph import INPUTS, OUTPUTS, Blueprint
from blueprints import SUBGRAPHS, blueprints
from headless import HeadlessComfyUI
from story_parts import PX
from workflow_graph import Graph, Output

NAMES = sorted(path.stem for path in SUBGRAPHS.glob("*.json"))
FEW_STEPS = {
    "token_steps": 2, "weight_steps": 2, "prior_weight": 0.0, "prior_pictures": 0,
    "resolution_px": 0,
}  # fmt: skip


@pytest.fixture(scope="session")
def schemas(server: HeadlessComfyUI) -> dict[str, Any]:
    return server.get("/object_info")


@pytest.fixture
def built(schemas: dict[str, Any]) -> dict[str, Blueprint]:
    return {blueprint.name: blueprint for blueprint in blueprints(schemas)}


def test_the_server_offers_every_blueprint(server: HeadlessComfyUI):
    offered = server.get("/global_subgraphs")
    ours = {
        k: v for k, v in offered.items() if v["info"]["node_pack"] == "custom_nodes.conceptloom"
    }
    assert sorted(entry["name"] for entry in ours.values()) == NAMES
    for key, entry in ours.items():
        path = SUBGRAPHS / f"{entry['name']}.json"
        assert server.get(f"/global_subgraphs/{key}")["data"] == path.read_text(encoding="utf-8")


def test_the_files_are_what_the_script_builds(built: dict[str, Blueprint]):
    """Run scripts/make-blueprints when this fails."""
    assert sorted(built) == NAMES
    for name, blueprint in built.items():
        path = SUBGRAPHS / f"{name}.json"
        assert json.loads(path.read_text(encoding="utf-8")) == json.loads(
            json.dumps(blueprint.ui())
        )


@pytest.mark.parametrize("name", NAMES)
def test_every_link_has_two_ends_of_one_type(name: str, schemas: dict[str, Any]):
    (inside,) = json.loads((SUBGRAPHS / f"{name}.json").read_text())["definitions"]["subgraphs"]
    nodes = {node["id"]: node for node in inside["nodes"]}
    assert {node["type"] for node in nodes.values()} <= set(schemas)
    for link in inside["links"]:
        if link["origin_id"] == INPUTS:
            start = inside["inputs"][link["origin_slot"]]
            assert link["id"] in start["linkIds"]
        else:
            start = nodes[link["origin_id"]]["outputs"][link["origin_slot"]]
            assert link["id"] in start["links"]
        if link["target_id"] == OUTPUTS:
            end = inside["outputs"][link["target_slot"]]
            assert link["id"] in end["linkIds"]
        else:
            end = nodes[link["target_id"]]["inputs"][link["target_slot"]]
            assert end["link"] == link["id"]
        assert start["type"] == end["type"] == link["type"]


def dragged_in(graph: Graph, blueprint: Blueprint, **inputs: Any) -> dict[str, Any]:
    """API JSON of a graph with the blueprint's node in it, as comfy-cli would queue it.

    Inputs are outputs of the graph's nodes, or values of the blueprint's widgets.
    """
    conversion = pytest.importorskip("comfy_cli.workflow_to_api", reason="needs comfy-cli")
    workflow = graph.ui()
    number = workflow["last_node_id"] + 1
    node = blueprint.node(number, (0, 0), (300, 300))
    widgets = iter(range(len(blueprint.inputs)))
    for slot, socket in enumerate(node["inputs"]):
        value = inputs.pop(socket["name"].replace(" ", "_"), None)
        place = next(widgets) if "widget" in socket else None
        if isinstance(value, Output):
            link = len(workflow["links"]) + 1
            workflow["links"].append(
                [link, value.node.id, value.slot, number, slot, socket["type"]]
            )
            socket["link"] = link
        elif value is not None:
            assert place is not None
            node["widgets_values"][place] = value
    assert not inputs
    workflow["nodes"].append(node)
    workflow["definitions"] = {"subgraphs": [blueprint.definition()]}
    return conversion.convert_ui_to_api(workflow, graph.schemas)


def by_kind(prompt: dict[str, Any], kind: str) -> dict[str, Any]:
    (found,) = [node for node in prompt.values() if node["class_type"] == f"ConceptLoom{kind}"]
    return found["inputs"]


def world(graph: Graph) -> tuple[dict[str, Output], dict[str, Output]]:
    """The model and a picture with two objects."""
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (0, 0), (240, 90))
    scene = graph.node("ConceptLoomTinyWorldScene", (0, 200), (270, 150), objects="mug1, fish2")
    return (
        {"model": base[0], "clip": base[1], "vae": base[2]},
        {"image": scene[0], "mask": scene[1]},
    )


def test_one_picture_becomes_a_concept_file(
    server: HeadlessComfyUI, schemas: dict[str, Any], built: dict[str, Blueprint]
):
    graph = Graph(schemas)
    base, picture = world(graph)
    prompt = dragged_in(
        graph, built["Learn concepts from one picture"], **base,
        image=picture["image"], masks=picture["mask"],
        concepts="one: mug\ntwo: fish", name="blueprint", overwrite=True,
    )  # fmt: skip
    trainer = by_kind(prompt, "CrossAttentionLossTrainer")
    assert trainer["name"] == by_kind(prompt, "SaveConcept")["name"] == "blueprint"
    trainer |= {f"preset.{knob}": value for knob, value in FEW_STEPS.items()}
    trainer |= {"preview_every": 0, "preview_steps": 2}
    server.run(prompt)
    assert (server.base / "models" / "concepts" / "blueprint.safetensors").is_file()


def test_two_concepts_come_into_one_picture(
    server: HeadlessComfyUI, schemas: dict[str, Any], built: dict[str, Blueprint]
):
    graph = Graph(schemas)
    base, picture = world(graph)
    concepts = []
    for name in ("one", "two"):
        only = graph.node("ConceptLoomTinyWorldScene", (0, 0), (270, 150), objects="mug1")
        scene = graph.node(
            "ConceptLoomConceptScene", (0, 0), (360, 560),
            images=only[0], masks__mask0=only[1], concepts=f"{name}: mug",
        )  # fmt: skip
        few = {f"preset__{knob}": value for knob, value in FEW_STEPS.items()}
        trainer = graph.node(
            "ConceptLoomCrossAttentionLossTrainer", (0, 0), (440, 950), **base, scene=scene[0],
            preset="Break-A-Scene K/V", name=name, preview_every=0, preview_steps=2, **few,
        )  # fmt: skip
        concepts.append(trainer[0])
    halves = []
    for x in (0, PX // 2):
        half = {"value": 1.0, "width": PX // 2, "height": PX}
        black = graph.node("SolidMask", (0, 0), (200, 100), value=0.0, width=PX, height=PX)
        white = graph.node("SolidMask", (0, 0), (200, 100), **half)
        halves.append(graph.node(
            "MaskComposite", (0, 0), (200, 100),
            destination=black[0], source=white[0], x=x, y=0, operation="add",
        )[0])  # fmt: skip
    prompt = dragged_in(
        graph, built["Weave two concepts"], **base, image=picture["image"],
        concept_1=concepts[0], concept_2=concepts[1], mask_1=halves[0], mask_2=halves[1],
        sentence="a photo of a mug and a fish", words="mug\nfish", steps=4,
    )  # fmt: skip
    assert by_kind(prompt, "InvertTemplate")["prompt"] == by_kind(prompt, "Regions")["sentence"]
    woven = next(key for key, node in prompt.items() if "WeaveConcepts" in node["class_type"])
    prompt["shown"] = {"class_type": "PreviewImage", "inputs": {"images": [woven, 0]}}
    shown = server.run(prompt)
    assert Path(server.file(shown["shown"]["images"][0])).is_file()
