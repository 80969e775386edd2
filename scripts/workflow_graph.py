"""A workflow written once, as the JSON of ComfyUI's editor and as the one of its API."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from workflow_layout import Box, height_of, settle, widen

WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
DYNAMIC_COMBO, AUTOGROW = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
# ComfyUI's editor adds a widget of its own behind these: what becomes of the number after a run.
SEEDS = {"seed", "noise_seed"}


@dataclass(frozen=True)
class Output:
    """One output of a node, to connect others to."""

    node: Node
    slot: int


@dataclass
class Node:
    """One node: where it stands, what its widgets say, what it is connected to."""

    id: int
    kind: str
    at: tuple[int, int]
    size: tuple[int, int]
    title: str
    widgets: dict[str, Any]
    links: dict[str, Output]
    schema: dict[str, Any]

    def __getitem__(self, slot: int) -> Output:
        return Output(self, slot)


@dataclass
class Graph:
    """Nodes, groups and notes of one story.

    Args:
        schemas: what the server answers to /object_info.
    """

    schemas: dict[str, Any]
    nodes: list[Node] = field(default_factory=list)
    groups: list[dict[str, Any]] = field(default_factory=list)
    notes: list[dict[str, Any]] = field(default_factory=list)

    def node(
        self,
        kind: str,
        at: tuple[int, int],
        size: tuple[int, int],
        title: str = "",
        /,
        **inputs: Any,
    ) -> Node:
        """A node; an input is a widget's value or an output. Two underscores stand for a dot."""
        named = {name.replace("__", "."): value for name, value in inputs.items()}
        links = {n: value for n, value in named.items() if isinstance(value, Output)}
        widgets = {n: value for n, value in named.items() if n not in links}
        schema = self.schemas[kind]
        node = Node(
            len(self.nodes) + 1,
            kind,
            at,
            size,
            title or schema["display_name"],
            widgets,
            links,
            schema,
        )
        unknown = set(named) - {name for name, _ in _inputs(schema, widgets, links)}
        if unknown:
            raise KeyError(f"{kind} has no {', '.join(sorted(unknown))}")
        self.nodes.append(node)
        return node

    def group(self, title: str, left: int, top: int, width: int, height: int, colour: str) -> None:
        """A coloured frame around nodes."""
        box = [left, top, width, height]
        self.groups.append(
            {"id": len(self.groups) + 1, "title": title, "bounding": box, "color": colour,
             "font_size": 24, "flags": {}}
        )  # fmt: skip

    def note(self, text: str, at: tuple[int, int], size: tuple[int, int]) -> None:
        """A text on the canvas, as Markdown."""
        # Code is drawn blue on the note's brown: hard to read. Bold is not.
        readable = re.sub(r"`([^`]+)`", lambda code: f"**{code[1]}**".replace("<", r"\<"), text)
        self.notes.append({"text": readable, "at": at, "size": size})

    def api(self) -> dict[str, Any]:
        """What POST /prompt takes."""
        return {
            str(node.id): {
                "inputs": {
                    name: [str(node.links[name].node.id), node.links[name].slot]
                    if name in node.links
                    else _value(node, name, spec)
                    for name, spec in _inputs(node.schema, node.widgets, node.links)
                    if name in node.links or _is_widget(spec)
                },
                "class_type": node.kind,
                "_meta": {"title": node.title},
            }
            for node in self.nodes
        }

    def ui(self) -> dict[str, Any]:
        """What the editor opens."""
        links: list[list[Any]] = []
        outgoing: dict[tuple[int, int], list[int]] = {}
        drawn = []
        for node in self.nodes:
            sockets = []
            for name, spec in _inputs(node.schema, node.widgets, node.links):
                if name not in node.links and (_is_widget(spec) or _is_autogrow_slot(name, node)):
                    continue
                link = None
                if name in node.links:
                    link, source = len(links) + 1, node.links[name]
                    kind = source.node.schema["output"][source.slot]
                    links.append([link, source.node.id, source.slot, node.id, len(sockets), kind])
                    outgoing.setdefault((source.node.id, source.slot), []).append(link)
                socket = {"name": name, "type": _type(spec), "link": link}
                if _is_widget(spec):
                    socket["widget"] = {"name": name}
                sockets.append(socket)
            drawn.append((node, sockets))
        nodes = [_drawn(node, sockets, outgoing, i) for i, (node, sockets) in enumerate(drawn)]
        first = len(self.nodes) + 1
        nodes += [_drawn_note(first + i, note) for i, note in enumerate(self.notes)]
        groups = _with_room(nodes, [node for node, _ in drawn], self.groups)
        return {
            "id": "00000000-0000-4000-8000-000000000000",
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": groups,
            "config": {},
            "extra": {"ds": {"scale": 0.7, "offset": [60, 120]}},
            "version": 0.4,
        }


def _inputs(
    schema: dict[str, Any], widgets: dict[str, Any], links: dict[str, Output]
) -> list[tuple[str, Any]]:
    """Name and spec of every input that a node shows with these values, in the editor's order."""
    entries: list[tuple[str, Any]] = []
    for part in ("required", "optional"):
        for name, spec in schema["input"].get(part, {}).items():
            if spec[0] == AUTOGROW:
                parts = spec[1]["template"]["input"].values()  # the slots are required, or not
                template = next(slot for part in parts for slot in part.values())
                slots = [
                    f"{name}.{spec[1]['template']['prefix']}{i}"
                    for i in range(spec[1]["template"]["max"])
                ]
                used = sum(slot in links for slot in slots)
                entries += [(slot, template) for slot in slots[: used + 1]]
                continue
            entries.append((name, spec))
            if spec[0] == DYNAMIC_COMBO:
                key = widgets.get(name, spec[1]["options"][0]["key"])
                option = next(o for o in spec[1]["options"] if o["key"] == key)
                for kind in ("required", "optional"):
                    specs = option["inputs"].get(kind, {})
                    entries += [(f"{name}.{sub}", sub_spec) for sub, sub_spec in specs.items()]
    return entries


def _is_autogrow_slot(name: str, node: Node) -> bool:
    return (
        "." in name
        and node.schema["input"]["required"].get(name.split(".")[0], [""])[0] == AUTOGROW
    )


def _type(spec: Any) -> str:
    return "COMBO" if isinstance(spec[0], list) else spec[0]


def _is_widget(spec: Any) -> bool:
    return _type(spec) in {*WIDGETS, DYNAMIC_COMBO}


def _value(node: Node, name: str, spec: Any) -> Any:
    """What a widget says: what was asked for, else its default."""
    if name in node.widgets:
        return node.widgets[name]
    options = spec[1] if len(spec) > 1 else {}
    if spec[0] == DYNAMIC_COMBO:
        return options["options"][0]["key"]
    if "default" in options:
        return options["default"]
    if spec[0] == "STRING":
        return ""
    return (spec[0] if isinstance(spec[0], list) else options["options"])[0]


def _drawn(
    node: Node, sockets: list[dict], outgoing: dict[tuple[int, int], list[int]], order: int
) -> dict[str, Any]:
    values: list[Any] = []
    for name, spec in _inputs(node.schema, node.widgets, node.links):
        if _is_widget(spec):
            values.append(_value(node, name, spec))
            options = spec[1] if len(spec) > 1 else {}
            if spec[0] == "INT" and options.get("control_after_generate", name in SEEDS):
                values.append("fixed")
    outputs = [
        {"name": name, "type": kind, "links": outgoing.get((node.id, slot)) or None}
        for slot, (name, kind) in enumerate(
            zip(node.schema["output_name"], node.schema["output"], strict=True)
        )
    ]
    drawn: dict[str, Any] = {
        "id": node.id,
        "type": node.kind,
        "pos": list(node.at),
        "size": list(node.size),
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": sockets,
        "outputs": outputs,
        "properties": {"Node name for S&R": node.kind},
        "widgets_values": values,
    }
    if node.title != node.schema["display_name"]:
        drawn["title"] = node.title
    return drawn


def _with_room(
    drawn: list[dict[str, Any]], nodes: list[Node], groups: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Gives nodes and notes the room that the editor takes; gives the frames around them."""
    boxes = [Box(*node["pos"], *node["size"]) for node in drawn]
    for box, ui, node in zip(boxes, drawn, nodes, strict=False):  # the notes have what they need
        entries = _inputs(node.schema, node.widgets, node.links)
        widgets = [(_type(spec), spec[1] if len(spec) > 1 else {}) for _, spec in entries
                   if _is_widget(spec)]  # fmt: skip
        needed = height_of(len(ui["inputs"]) + 1, len(ui["outputs"]), widgets,
                           has_badge=node.kind.startswith("ConceptLoom"))  # fmt: skip
        box.height = max(box.height, needed)
    frames = settle(boxes, widen(boxes, groups))
    for ui, box in zip(drawn, boxes, strict=True):
        ui["pos"], ui["size"] = [box.x, box.y], [box.width, box.height]
    return frames


def _drawn_note(number: int, note: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": number,
        "type": "MarkdownNote",
        "pos": list(note["at"]),
        "size": list(note["size"]),
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": [],
        "outputs": [],
        "title": "Read me",
        "properties": {},
        "widgets_values": [note["text"]],
        "color": "#432",
        "bgcolor": "#653",
    }
