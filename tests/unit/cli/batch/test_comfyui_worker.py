"""Values are put into a workflow; a server that is gone is not the workflow's fault."""

from __future__ import annotations

import json

import pytest

from conceptloom.cli.batch.comfyui_worker import (
    ComfyUIWorker,
    ServerLost,
    parsed_graph,
    with_values,
)
from conceptloom.cli.batch.jobs import Kind
from conceptloom.errors import InputError

GRAPH = {
    "3": {"class_type": "KSampler", "inputs": {"seed": 0, "model": ["4", 0]}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}},
}


def test_values_replace_inputs_and_leave_the_workflow_as_it_was() -> None:
    before = json.dumps(GRAPH)
    changed = with_values(GRAPH, {"3.seed": 5, "6.text": "b"})
    assert (changed["3"]["inputs"]["seed"], changed["6"]["inputs"]["text"]) == (5, "b")
    assert json.dumps(GRAPH) == before


@pytest.mark.parametrize("place", ["3.model", "3.sed", "9.seed", "seed"])
def test_a_value_that_is_not_there_or_is_wired_is_refused(place: str) -> None:
    with pytest.raises(InputError, match=r"it has 3\.seed, 6\.text"):
        with_values(GRAPH, {place: 1})


@pytest.mark.parametrize("data", [b"{", b"[]", b'{"nodes": []}'])
def test_only_workflows_in_api_form_are_taken(data: bytes) -> None:
    with pytest.raises(InputError, match=r"JSON|API form"):
        parsed_graph(data)


def test_a_server_that_does_not_answer_is_lost() -> None:
    worker = ComfyUIWorker("http://127.0.0.1:1")
    files = {"workflow.json": json.dumps(GRAPH).encode()}
    with pytest.raises(ServerLost, match="does not answer"):
        worker.perform(Kind.WORKFLOW, "0", {"values": {}}, files)
