"""docs/nodes.md, made from the nodes' schemas. scripts/make-locales writes it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from headless import ROOT

from locales import AUTOGROW, DYNAMIC_COMBO, PREFIX

REFERENCE = ROOT / "docs" / "nodes.md"
MOST_CHOICES = 8  # a longer list, such as of samplers, is not spelt out
FILE = ".safetensors"  # lists of files differ from one machine to the next
NONE = "(none found)"  # the only choice of a list whose folder is empty here
OPTIONAL, ADVANCED = "optional", "advanced"
INTRODUCTION = (
    "Written by `scripts/make-locales` from the nodes' schemas. The name of a node links to "
    "its help page, which the editor shows as well. *Advanced* inputs are hidden until you ask for "
    "them. [settings.md](settings.md) lists the settings of every preset."
)


def reference(schemas: dict[str, Any]) -> str:
    """The whole page, from what the server answers to /object_info."""
    ours = [name for name in schemas if name.startswith(PREFIX)]
    ours.sort(key=lambda name: (schemas[name]["category"], schemas[name]["display_name"]))
    parts = ["# Nodes", INTRODUCTION]
    for category, names in groupby(ours, key=lambda name: schemas[name]["category"]):
        parts.append(f"## {' > '.join(category.split('/'))}")
        for name in names:
            parts += _node(name, schemas[name])
    return "\n\n".join(parts) + "\n"


def _node(name: str, schema: dict[str, Any]) -> Iterator[str]:
    yield f"### [{schema['display_name']}](../web/docs/{name}.md)"
    yield _text(schema["description"])
    inputs = list(_inputs(schema["input"]))
    if inputs:
        yield _table(("Input", "Type", "Default", "Description"), inputs)
    outputs = [
        (f"`{label}`", str(kind), _text(tooltip or ""))
        for label, kind, tooltip in zip(
            schema["output_name"], schema["output"], schema["output_tooltips"], strict=True
        )
    ]
    if outputs:
        yield _table(("Output", "Type", "Description"), outputs)


def _inputs(groups: dict[str, Any]) -> Iterator[tuple[str, str, str, str]]:
    for group in ("required", "optional"):
        for name, spec in groups.get(group, {}).items():
            options = spec[1] if len(spec) > 1 else {}
            marks = [OPTIONAL] * (group == "optional") + [ADVANCED] * bool(options.get("advanced"))
            kind, default = _kind(spec[0], options)
            shown = ", ".join((kind, *(f"*{mark}*" for mark in marks)))
            yield _name(name, spec[0], options), shown, default, _text(options.get("tooltip", ""))


def _name(name: str, kind: Any, options: dict[str, Any]) -> str:
    if kind != AUTOGROW:
        return f"`{name}`"
    prefix = options["template"]["prefix"]
    return f"`{name}`: `{prefix}0`, `{prefix}1`, ..."


def _kind(kind: Any, options: dict[str, Any]) -> tuple[str, str]:
    """Type with what is possible, and default."""
    default = options.get("default")
    if kind == DYNAMIC_COMBO:
        return _choices([one["key"] for one in options["options"]]), ""
    if kind == AUTOGROW:
        template = options["template"]
        ((slot_type, _),) = [slot for part in template["input"].values() for slot in part.values()]
        return f"{slot_type}, up to {template['max']}", ""
    if kind == "COMBO" or isinstance(kind, list):
        choices = options.get("options", kind if isinstance(kind, list) else [])
        return _choices(choices), "" if default is None else _text(str(default))
    if kind in ("INT", "FLOAT") and "min" in options:
        return f"{kind}, {options['min']:g} to {_limit(options['max'])}", f"{default:g}"
    if kind == "BOOLEAN":
        return kind, "on" if default else "off"
    return str(kind), _text(default or "") if isinstance(default, str) else ""


def _limit(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _choices(choices: Iterable[Any]) -> str:
    words = [str(one) for one in choices]
    if any(word.endswith(FILE) for word in words):
        return "a file"
    if words == [NONE]:
        return "choice: what its folder holds"
    if not words or len(words) > MOST_CHOICES:
        return "choice"
    return f"choice: {'; '.join(_text(word) for word in words)}"


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _text(text: str) -> str:
    """On one line of a Markdown table."""
    return text.replace("<", "\\<").replace("|", "\\|").replace("\n", "; ").strip()
