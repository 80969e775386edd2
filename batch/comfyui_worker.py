"""A worker that is a headless ComfyUI server: runs workflows in API form through its routes."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Mapping
from typing import Any

import requests

from ..errors import InputError
from .jobs import WORKFLOW, JobKind, ServerClosed, ServerLost

LOOKS_EVERY = 0.5  # seconds
ANSWERS_WITHIN = 60  # seconds, for one request; a workflow itself may take as long as it needs
Graph = dict[str, Any]


class ComfyUIWorker:
    """One server, one workflow at a time.

    Args:
        address: such as http://127.0.0.1:8188.
    """

    kinds = (JobKind.WORKFLOW,)

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")

    def perform(
        self, kind: JobKind, key: str, spec: Mapping[str, Any], files: Mapping[str, bytes]
    ) -> dict[str, bytes]:
        """Run a workflow; returns every picture that it saves, by name.

        If an earlier worker left it in the server's queue, wait for it and do not queue it again.

        Raises:
            InputError: it is not a workflow, or one of its nodes fails.
            ServerLost: the server stopped responding; ServerClosed: it never responded.
        """
        graph = with_values(parsed_graph(files[WORKFLOW]), spec["values"])
        prompt_id = str(uuid.UUID(key[:32]))
        try:
            is_queued = self._is_queued(prompt_id)
        except ServerLost as error:
            raise ServerClosed(str(error)) from error
        if not is_queued:
            self._queue(graph, prompt_id, files)
        while self._is_queued(prompt_id):
            time.sleep(LOOKS_EVERY)
        return self._collected(self._finished(prompt_id))

    def _queue(self, graph: Graph, prompt_id: str, files: Mapping[str, bytes]) -> None:
        for name, data in files.items():
            if name != WORKFLOW:
                upload = {"image": (name, data)}
                self._asked("post", "/upload/image", files=upload, data={"overwrite": "true"})
        request = {"prompt": graph, "prompt_id": prompt_id}
        answer = self._asked("post", "/prompt", refuses=True, json=request).json()
        if "prompt_id" not in answer:
            raise InputError(f"ComfyUI rejects the workflow: {json.dumps(answer)[:2000]}")

    def _is_queued(self, prompt_id: str) -> bool:
        """Whether a workflow runs, or waits for others."""
        answer = self._asked("get", "/queue")
        try:
            queue = answer.json()
            return any(
                entry[1] == prompt_id for entry in queue["queue_running"] + queue["queue_pending"]
            )
        except (ValueError, KeyError, TypeError) as error:
            raise ServerLost(
                f"{self._address} is not a ComfyUI server: {answer.text[:80]!r}"
            ) from error

    def _finished(self, prompt_id: str) -> dict[str, Any]:
        """The results of a finished workflow."""
        entry = self._asked("get", f"/history/{prompt_id}").json().get(prompt_id)
        if entry is None:  # a server that restarts forgets its queue; a user may empty it
            raise ServerLost(f"{self._address} dropped the workflow from its queue")
        for event, data in entry["status"]["messages"]:
            if event == "execution_error":
                raise InputError(f"{data['node_type']}: {data['exception_message'].strip()}")
            if event == "execution_interrupted":
                raise ServerLost(f"{self._address}: the workflow was interrupted")
        return entry["outputs"]

    def _collected(self, outputs: Mapping[str, Any]) -> dict[str, bytes]:
        files: dict[str, bytes] = {}
        for node, output in sorted(outputs.items()):
            for picture in output.get("images", ()):
                if picture["type"] == "output":  # and not a preview
                    content = self._asked("get", "/view", params=picture).content
                    files[f"{node}-{picture['filename']}"] = content
        return files

    def _asked(
        self, verb: str, route: str, *, refuses: bool = False, **options: Any
    ) -> requests.Response:
        """The answer of a route; with `refuses`, an error answer gives the reason."""
        try:
            answer = requests.request(
                verb, self._address + route, timeout=ANSWERS_WITHIN, **options
            )
        except requests.RequestException as error:
            raise ServerLost(f"{self._address} does not answer: {error}") from error
        if answer.status_code >= 500:
            raise ServerLost(f"{self._address}{route} answers {answer.status_code}")
        if answer.status_code >= 400 and not refuses:
            message = f"answers {answer.status_code}: {answer.text[:200]}"
            raise InputError(f"{self._address}{route} {message}")
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
        InputError: the workflow has no such input, or the input is connected.
    """
    changed = json.loads(json.dumps(graph))
    for place, value in values.items():
        node, _, name = place.partition(".")
        inputs = changed.get(node, {}).get("inputs", {})
        if name not in inputs or isinstance(inputs[name], list):
            known = ", ".join(
                f"{n}.{i}"
                for n, each in graph.items()
                for i, each_value in each["inputs"].items()
                if not isinstance(each_value, list)
            )
            raise InputError(f"The workflow has no value {place!r} to set; it has {known}.")
        inputs[name] = value
    return changed
