"""A worker that is a headless ComfyUI server: runs workflows in API form through its routes."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import requests

from ...errors import InputError
from .jobs import WORKFLOW, Kind

LOOKS_EVERY = 0.5  # seconds
ANSWERS_WITHIN = 60  # seconds, for one request; a workflow itself may take as long as it needs
Graph = dict[str, Any]


class ServerLost(Exception):
    """The server does not answer; another one may."""


class ComfyUIWorker:
    """One server, one workflow at a time.

    Args:
        address: such as http://127.0.0.1:8188.
    """

    kinds = (Kind.WORKFLOW,)

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    def perform(
        self, kind: Kind, key: str, spec: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Run a workflow; gives every picture that it saves, by name.

        Raises:
            InputError: the workflow is none, or a node of it fails.
            ServerLost: the server is gone.
        """
        graph = with_values(parsed_graph(files[WORKFLOW]), spec["values"])
        for name, data in files.items():
            if name != WORKFLOW:
                upload = {"image": (name, data)}
                self._asked("post", "/upload/image", files=upload, data={"overwrite": "true"})
        answer = self._asked("post", "/prompt", json={"prompt": graph}).json()
        if "prompt_id" not in answer:
            raise InputError(f"ComfyUI refuses the workflow: {json.dumps(answer)[:2000]}")
        return self._collected(self._finished(answer["prompt_id"]))

    def _finished(self, prompt_id: str) -> dict[str, Any]:
        while True:
            history = self._asked("get", f"/history/{prompt_id}").json()
            if prompt_id in history:
                break
            time.sleep(LOOKS_EVERY)
        for event, data in history[prompt_id]["status"]["messages"]:
            if event == "execution_error":
                raise InputError(f"{data['node_type']}: {data['exception_message'].strip()}")
            if event == "execution_interrupted":
                raise ServerLost(f"{self._address}: somebody stopped the workflow")
        return history[prompt_id]["outputs"]

    def _collected(self, outputs: Mapping[str, Any]) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        for node, shown in sorted(outputs.items()):
            for picture in shown.get("images", ()):
                if picture["type"] == "output":  # and not a preview
                    content = self._asked("get", "/view", params=picture).content
                    found[f"{node}-{picture['filename']}"] = content
        return found

    def _asked(self, verb: str, route: str, **given: Any) -> requests.Response:
        try:
            answer = requests.request(verb, self._address + route, timeout=ANSWERS_WITHIN, **given)
        except requests.RequestException as error:
            raise ServerLost(f"{self._address} does not answer: {error}") from error
        if answer.status_code >= 500:
            raise ServerLost(f"{self._address}{route} answers {answer.status_code}")
        return answer


def parsed_graph(data: bytes) -> Graph:
    """A workflow in API form: node id -> class_type and inputs.

    Raises:
        InputError: it is not JSON, or in the form that the editor saves.
    """
    try:
        graph = json.loads(data)
    except ValueError as error:
        raise InputError(f"The workflow is not JSON: {error}.") from error
    is_api = isinstance(graph, dict) and all(
        isinstance(node, dict) and "class_type" in node for node in graph.values()
    )
    if not is_api:
        raise InputError(
            "The workflow is not in API form; save it with Workflow > Export (API) and name that."
        )
    return graph


def with_values(graph: Graph, values: Mapping[str, Any]) -> Graph:
    """A copy with some inputs replaced.

    Args:
        values: "NODE.INPUT", such as "7.seed", -> value.

    Raises:
        InputError: the workflow has no such input, or something is wired to it.
    """
    changed = json.loads(json.dumps(graph))
    for place, value in values.items():
        node, _, name = place.partition(".")
        inputs = changed.get(node, {}).get("inputs", {})
        if name not in inputs or isinstance(inputs[name], list):
            known = ", ".join(
                f"{n}.{i}"
                for n, each in graph.items()
                for i, given in each["inputs"].items()
                if not isinstance(given, list)
            )
            raise InputError(f"The workflow has no value {place!r} to set; it has {known}.")
        inputs[name] = value
    return changed
