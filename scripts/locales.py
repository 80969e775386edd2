"""Build locales/ and docs/nodes.md from schemas and scripts/translations/. See make-locales."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headless import ROOT, HeadlessComfyUI

LOCALES, TRANSLATIONS = ROOT / "locales", ROOT / "scripts" / "translations"
LANGUAGES = tuple(sorted(path.name for path in TRANSLATIONS.iterdir() if path.is_dir()))
PREFIX = "ConceptLoom"
DYNAMIC_COMBO, AUTOGROW = "COMFY_DYNAMICCOMBO_V3", "COMFY_AUTOGROW_V3"
# The editor's translator reads these as its own syntax and would swallow what they hold.
SYNTAX = set("{}|@")


@dataclass
class Socket:
    """One input or output: its id, and what its tooltip says in each option that shows it."""

    name: str
    number: str = ""  # of a slot that grows: its name is a word and this
    tooltips: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(self.tooltips)


@dataclass
class Words:
    """A node in English."""

    display_name: str
    description: str
    inputs: dict[str, Socket] = field(default_factory=dict)
    outputs: dict[str, Socket] = field(default_factory=dict)


def words_of(schemas: dict[str, Any]) -> dict[str, Words]:
    """Node id -> its words, from what the server answers to /object_info."""
    nodes = {}
    for node_id in sorted(name for name in schemas if name.startswith(PREFIX)):
        schema = schemas[node_id]
        words = nodes[node_id] = Words(schema["display_name"], schema["description"])
        for path, number, tooltip in _inputs(schema["input"]):
            # One key for all options of a combo, with dots as underscores: so the editor asks.
            key = (path + number).replace(".", "_")
            name = path.rpartition(".")[2]
            _tell(words.inputs.setdefault(key, Socket(name, number)), tooltip)
        for slot, (name, tooltip) in enumerate(
            zip(schema["output_name"], schema["output_tooltips"], strict=True)
        ):
            _tell(words.outputs.setdefault(str(slot), Socket(name)), tooltip)
    return nodes


def _tell(socket: Socket, tooltip: str) -> None:
    if tooltip not in socket.tooltips:
        socket.tooltips.append(tooltip)


def _inputs(groups: dict[str, Any], above: str = "") -> Iterator[tuple[str, str, str]]:
    """Path, number of a slot that grows, and tooltip of every input, those of options included."""
    inputs = {**groups.get("required", {}), **groups.get("optional", {})}
    for name, spec in inputs.items():
        options = spec[1] if len(spec) > 1 else {}
        if spec[0] == AUTOGROW:
            template = options["template"]
            ((_, slot),) = [i for part in template["input"].values() for i in part.items()]
            for number in range(template["max"]):
                yield f"{above}{name}.{template['prefix']}", str(number), slot[1]["tooltip"]
            continue
        yield above + name, "", options["tooltip"]
        if spec[0] == DYNAMIC_COMBO:
            for option in options["options"]:
                yield from _inputs(option["inputs"], f"{above}{name}.")


def in_english(words: dict[str, Words]) -> dict[str, Any]:
    """locales/en/nodeDefs.json. What the translator would garble stays with the schema's own."""

    def drawn(sockets: dict[str, Socket]) -> dict[str, Any]:
        return {
            key: {"name": socket.name + socket.number}
            | ({} if "\n" in socket.text or SYNTAX & set(socket.text) else {"tooltip": socket.text})
            for key, socket in sockets.items()
        }

    return {
        node_id: {
            "display_name": node.display_name,
            "description": node.description,
            "inputs": drawn(node.inputs),
            "outputs": drawn(node.outputs),
        }
        for node_id, node in words.items()
    }


@dataclass
class Translation:
    """locales/<language>/nodeDefs.json, and what is wrong with the catalogue behind it.

    `missing` is English that has no translation: new, or changed. `unused` is what translates
    nothing any more; a changed sentence shows up in both.
    """

    nodes: dict[str, Any]
    missing: list[str]
    unused: list[str]


def translate(words: dict[str, Words], language: str) -> Translation:
    """What is missing is left out, so that the editor shows it in English."""
    names, texts = (_catalogue(language, part) for part in ("names", "texts"))
    missing, used = [], set()

    def look_up(table: dict[str, str], part: str, english: str) -> str | None:
        if english not in table:
            missing.append(f"{part}: {english}")
            return None
        used.add((part, english))
        return table[english]

    def drawn(sockets: dict[str, Socket], place: str) -> dict[str, Any]:
        return {
            key: _present(
                name=_named(socket, f"{place}.{key}.name"),
                tooltip=look_up(texts, "texts", socket.text),
            )
            for key, socket in sockets.items()
        }

    def _named(socket: Socket, place: str) -> str | None:
        if place in names["here"]:
            return look_up(names["here"], "here", place)
        name = look_up(names["sockets"], "sockets", socket.name + "#" * bool(socket.number))
        return name and name.replace("#", socket.number)

    nodes = {
        node_id: _present(
            display_name=look_up(names["nodes"], "nodes", node.display_name),
            description=look_up(texts, "texts", node.description),
            inputs=drawn(node.inputs, f"{node_id}.inputs"),
            outputs=drawn(node.outputs, f"{node_id}.outputs"),
        )
        for node_id, node in words.items()
    }
    tables = {"texts": texts, **{part: names[part] for part in ("nodes", "sockets", "here")}}
    unused = [f"{p}: {k}" for p, table in tables.items() for k in table if (p, k) not in used]
    return Translation(nodes, sorted(set(missing)), unused)


def _present(**parts: Any) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part is not None}


def _catalogue(language: str, part: str) -> dict[str, Any]:
    return json.loads((TRANSLATIONS / language / f"{part}.json").read_text(encoding="utf-8"))


def files(schemas: dict[str, Any]) -> tuple[dict[Path, Any], list[str]]:
    """Every file of locales/ with what belongs into it, and all that is wrong."""
    words = words_of(schemas)
    content = {LOCALES / "en" / "nodeDefs.json": in_english(words)}
    wrong = []
    for language in LANGUAGES:
        translation = translate(words, language)
        content[LOCALES / language / "nodeDefs.json"] = translation.nodes
        # The menu's folders; the names of methods stay as they are.
        categories = {"nodeCategories": _catalogue(language, "names")["categories"]}
        content[LOCALES / language / "main.json"] = categories
        wrong += [f"{language}: not translated: {english}" for english in translation.missing]
        wrong += [f"{language}: translates nothing: {english}" for english in translation.unused]
    return content, wrong


def main() -> None:
    from node_reference import REFERENCE, reference

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="conceptloom-locales-") as base,
        HeadlessComfyUI(options.comfyui, Path(base)) as server,
    ):
        schemas = server.get("/object_info")
    content, wrong = files(schemas)
    REFERENCE.write_text(reference(schemas), encoding="utf-8")
    for path, data in content.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print("\n".join(wrong), file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
