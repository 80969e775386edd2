"""ComfyUI's own executor in this process: prompts as the API takes them, values in and out.

The pack is loaded by ComfyUI's loader, by path, so its classes are not those of `conceptloom`.
"""

from __future__ import annotations

import asyncio
import copy
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import execution
import nodes

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "ConceptLoom"


class _AnyType(str):
    """Fits every socket."""

    def __ne__(self, other: object) -> bool:
        return False


_given: dict[str, Any] = {}
_kept: dict[str, Any] = {}


class Given:
    """A test's value as a node's output."""

    RETURN_TYPES = (_AnyType("*"),)
    FUNCTION = "give"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"key": ("STRING", {})}}

    @classmethod
    def IS_CHANGED(cls, key):
        return id(_given[key])

    def give(self, key):
        return (_given[key],)


class Keep:
    """A node's output for the test to look at."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    CATEGORY = "test"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"value": (_AnyType("*"), {}), "key": ("STRING", {})}}

    def keep(self, value, key):
        _kept[key] = value
        return {}


@dataclass
class Result:
    """What came of one prompt."""

    messages: list[tuple[str, dict]]
    values: dict[str, Any] = field(default_factory=dict)
    refused: dict[str, Any] = field(default_factory=dict)  # node errors before anything ran

    @property
    def error(self) -> str:
        """What a user is shown; empty when all went well."""
        for event, data in self.messages:
            if event == "execution_error":
                return data["exception_message"].strip()
        for node in self.refused.values():
            return "{message}: {details}".format(**node["errors"][0])
        return ""

    @property
    def kind(self) -> str:
        """Name of the exception's class."""
        for event, data in self.messages:
            if event == "execution_error":
                return data["exception_type"].rpartition(".")[2]
        return ""

    @property
    def was_cancelled(self) -> bool:
        return any(event == "execution_interrupted" for event, _ in self.messages)

    @property
    def executed(self) -> set[str]:
        return {data["node"] for event, data in self.messages if event == "executing"}


class StubServer:
    """All that the executor asks of a server."""

    client_id: str | None = "test"
    last_node_id: str | None = None

    def __init__(self) -> None:
        self.sent: list[tuple[str, Any]] = []

    def send_sync(self, event: str, data: Any, sid: str | None = None) -> None:
        self.sent.append((event, data))


class Executor:
    """Runs graphs as ComfyUI does, with its cache between them."""

    _numbers = itertools.count()

    def __init__(self) -> None:
        load_pack()
        self.server = StubServer()
        sizes = {"lru": 0, "ram": 0.0, "ram_inactive": 0.0}
        self._executor = execution.PromptExecutor(
            self.server, cache_type=execution.CacheType.CLASSIC, cache_args=sizes
        )

    def run(
        self, graph: dict[str, dict], values: dict[str, Any] | None = None, **wanted: list
    ) -> Result:
        """Execute a prompt.

        Args:
            graph: API JSON; `given("image")` as an input takes `values["image"]`.
            wanted: name -> [node, output] of what to give back.
        """
        _given.update(values or {})
        _kept.clear()
        graph = copy.deepcopy(graph)  # the executor writes into it
        for key in values or {}:
            graph[f"given-{key}"] = {"class_type": "TestGiven", "inputs": {"key": key}}
        for key, link in wanted.items():
            keep = {"value": link, "key": key}
            graph[f"keep-{key}"] = {"class_type": "TestKeep", "inputs": keep}
        prompt_id = f"test-{next(self._numbers)}"
        valid = asyncio.run(execution.validate_prompt(prompt_id, graph, None))
        if not valid[0]:
            return Result([], refused=valid[3])
        self.server.sent.clear()
        extra = {"client_id": "test"}
        self._executor.execute(graph, prompt_id, extra, valid[2])
        executing = [sent for sent in self.server.sent if sent[0] == "executing"]
        return Result([*self._executor.status_messages, *executing], dict(_kept), valid[3])


def given(key: str) -> list:
    """A link to a value that the test hands over."""
    return [f"given-{key}", 0]


def node(kind: str, **inputs: Any) -> dict:
    """One of our nodes in API JSON; dots of dynamic inputs are written as two underscores."""
    flat = {name.replace("__", "."): value for name, value in inputs.items()}
    return {"class_type": PREFIX + kind, "inputs": flat}


def load_pack() -> None:
    """Load the pack and the test's two nodes once."""
    nodes.NODE_CLASS_MAPPINGS.update({"TestGiven": Given, "TestKeep": Keep})
    if f"{PREFIX}ConceptScene" not in nodes.NODE_CLASS_MAPPINGS:
        loaded = asyncio.run(nodes.load_custom_node(str(ROOT)))
        assert loaded, "ComfyUI could not load the pack; see its log"


def pack_nodes() -> dict[str, Any]:
    """Id -> class, as ComfyUI knows them."""
    load_pack()
    return {k: v for k, v in nodes.NODE_CLASS_MAPPINGS.items() if k.startswith(PREFIX)}
