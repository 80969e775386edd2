"""A subgraph blueprint: one node to drag onto the canvas, with a whole graph inside."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import Any

from workflow_graph import Graph, Node, Output

# Ids that ComfyUI's editor gives to the two ends of a subgraph.
INPUTS, OUTPUTS = -10, -20
SLOT_PX, END_PX = 20, 160
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "https://registry.comfy.org/nodes/conceptloom")


@dataclass(frozen=True)
class Port:
    """One input or output of the blueprint's node; a widget when it has a value."""

    name: str
    kind: str
    value: Any = None
    source: Output | None = None  # of an output

    @property
    def is_widget(self) -> bool:
        return self.value is not None


@dataclass
class Blueprint:
    """A graph with an outside.

    Args:
        name: of the blueprint and its file.
        description, aliases: what the editor's search shows and looks in.
        schemas: what the server answers to /object_info.
    """

    name: str
    description: str
    aliases: list[str]
    schemas: dict[str, Any]
    inputs: list[Port] = field(default_factory=list)
    outputs: list[Port] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.graph = Graph(self.schemas)
        self._outside = Node(INPUTS, "", (0, 0), (0, 0), "", {}, {}, {"output": []})

    def takes(self, name: str, kind: str, value: Any = None) -> Output:
        """An input, to connect nodes to; one value may go to several."""
        self.inputs.append(Port(name, kind, value))
        self._outside.schema["output"].append(kind)
        return self._outside[len(self.inputs) - 1]

    def gives(self, name: str, source: Output) -> None:
        """An output."""
        self.outputs.append(Port(name, source.node.schema["output"][source.slot], source=source))

    def node(self, id: int, at: tuple[int, int], size: tuple[int, int]) -> dict[str, Any]:
        """The node that stands for all of it, with nothing connected."""
        widgets = [port for port in self.inputs if port.is_widget]
        return {
            "id": id,
            "type": self.id,
            "title": self.name,
            "pos": list(at),
            "size": list(size),
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [
                {"name": port.name, "type": port.kind, "link": None}
                | ({"widget": {"name": port.name}} if port.is_widget else {})
                for port in self.inputs
            ],
            "outputs": [
                {"name": port.name, "type": port.kind, "links": None} for port in self.outputs
            ],
            "properties": {"proxyWidgets": [["-1", port.name] for port in widgets]},
            "widgets_values": [port.value for port in widgets],
        }

    def ui(self) -> dict[str, Any]:
        """The file in subgraphs/."""
        return {
            "id": _id(self.name, "workflow"),
            "revision": 0,
            "last_node_id": 1,
            "last_link_id": 0,
            "nodes": [self.node(1, (0, 0), (360, 300))],
            "links": [],
            "groups": [],
            "definitions": {"subgraphs": [self.definition()]},
            "config": {},
            "extra": {
                "BlueprintDescription": self.description,
                "BlueprintSearchAliases": self.aliases,
            },
            "version": 0.4,
        }

    @property
    def id(self) -> str:
        return _id(self.name, "subgraph")

    def definition(self) -> dict[str, Any]:
        """The graph inside."""
        inside = self.graph.ui()
        links = [
            dict(zip(("id", "origin_id", "origin_slot", "target_id", "target_slot", "type"),
                     link, strict=True))
            for link in inside["links"]
        ]  # fmt: skip
        for slot, port in enumerate(self.outputs):
            source = port.source
            assert source is not None
            link = len(links) + 1
            links.append(
                {"id": link, "origin_id": source.node.id, "origin_slot": source.slot,
                 "target_id": OUTPUTS, "target_slot": slot, "type": port.kind}
            )  # fmt: skip
            drawn = inside["nodes"][source.node.id - 1]["outputs"][source.slot]
            drawn["links"] = [*(drawn["links"] or []), link]
        left = min(node.at[0] for node in self.graph.nodes) - 2 * END_PX
        right = max(node.at[0] + node.size[0] for node in self.graph.nodes) + END_PX
        top = min(node.at[1] for node in self.graph.nodes)
        return {
            "id": self.id,
            "version": 1,
            "state": {
                "lastGroupId": len(inside["groups"]),
                "lastNodeId": inside["last_node_id"],
                "lastLinkId": len(links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.name,
            "category": "ConceptLoom",
            "description": self.description,
            "inputNode": {"id": INPUTS, "bounding": _end(left, top, self.inputs)},
            "outputNode": {"id": OUTPUTS, "bounding": _end(right, top, self.outputs)},
            "inputs": [
                _slot(port, left + END_PX, top, i, [
                    link["id"] for link in links
                    if (link["origin_id"], link["origin_slot"]) == (INPUTS, i)
                ])
                for i, port in enumerate(self.inputs)
            ],
            "outputs": [
                _slot(port, right, top, i, [
                    link["id"] for link in links
                    if (link["target_id"], link["target_slot"]) == (OUTPUTS, i)
                ])
                for i, port in enumerate(self.outputs)
            ],
            "widgets": [],
            "nodes": inside["nodes"],
            "groups": inside["groups"],
            "links": links,
            "extra": {},
        }  # fmt: skip


def _end(left: int, top: int, ports: list[Port]) -> list[int]:
    return [left, top, END_PX, (len(ports) + 1) * SLOT_PX]


def _slot(port: Port, left: int, top: int, number: int, links: list[int]) -> dict[str, Any]:
    return {
        "id": _id(port.name, port.kind, str(number)),
        "name": port.name,
        "type": port.kind,
        "linkIds": links,
        "pos": [left, top + (number + 1) * SLOT_PX],
    }


def _id(*parts: str) -> str:
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))
