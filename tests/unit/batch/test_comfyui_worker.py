"""Values are put into a workflow; a server that is gone is not the workflow's fault."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from conceptloom.batch import comfyui_worker
from conceptloom.batch.comfyui_worker import ComfyUIWorker, parsed_graph, with_values
from conceptloom.batch.jobs import JobKind, ServerClosed, ServerLost
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


KEY = "0123456789abcdef" * 4
PROMPT = str(uuid.UUID(KEY[:32]))
IDLE, BUSY = ({"queue_running": running, "queue_pending": []} for running in ([], [[0, PROMPT]]))
SAVED = {"filename": "a.png", "subfolder": "", "type": "output"}
DONE = {PROMPT: {"status": {"messages": []}, "outputs": {"3": {"images": [SAVED]}}}}


class Server(HTTPServer):
    """Answers every route with what was laid ready for it; the last answer stays."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.answers: dict[str, list[tuple[int, bytes]]] = {}
        self.asked: list[str] = []
        self.lay("/queue", IDLE)
        self.lay("/prompt", {"prompt_id": PROMPT})
        self.lay(f"/history/{PROMPT}", DONE)
        self.lay("/view", b"a picture")

    def lay(self, route: str, *answers: object, status: int = 200) -> None:
        told = [each if isinstance(each, bytes) else json.dumps(each).encode() for each in answers]
        self.answers[route] = [(status, each) for each in told]


class Answering(BaseHTTPRequestHandler):
    server: Server

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        route = self.path.partition("?")[0]
        self.server.asked.append(route)
        left = self.server.answers[route]
        status, told = left.pop(0) if len(left) > 1 else left[0]
        self.send_response(status)
        self.send_header("Content-Length", str(len(told)))
        self.end_headers()
        self.wfile.write(told)

    do_GET = do_POST = answer

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(comfyui_worker, "LOOKS_EVERY", 0.01)
    with Server() as found:
        thread = threading.Thread(target=found.serve_forever, daemon=True)
        thread.start()
        yield found
        found.shutdown()


def perform(address: str, **images: bytes) -> dict[str, bytes]:
    files = {"workflow.json": json.dumps(GRAPH).encode(), **images}
    return ComfyUIWorker(address).perform(JobKind.WORKFLOW, KEY, {"values": {}}, files)


def at(server: Server, **images: bytes) -> dict[str, bytes]:
    return perform(f"http://127.0.0.1:{server.server_port}", **images)


def test_a_workflow_is_waited_for_and_its_pictures_come_back(server: Server) -> None:
    server.lay("/queue", IDLE, BUSY, BUSY, IDLE)
    assert at(server) == {"3-a.png": b"a picture"}
    assert server.asked.count("/prompt") == 1


def test_what_a_killed_worker_left_in_the_queue_is_not_queued_again(server: Server) -> None:
    server.lay("/queue", BUSY, BUSY, IDLE)
    assert at(server) == {"3-a.png": b"a picture"}
    assert "/prompt" not in server.asked


def test_a_server_that_forgot_its_queue_is_lost_and_not_waited_for(server: Server) -> None:
    server.lay("/queue", IDLE, BUSY, IDLE)
    server.lay(f"/history/{PROMPT}", {})
    with pytest.raises(ServerLost, match="dropped the workflow"):
        at(server)


def test_a_picture_that_is_refused_or_gone_is_no_result(server: Server) -> None:
    server.lay("/upload/image", b"too large", status=413)
    with pytest.raises(InputError, match="/upload/image answers 413: too large"):
        at(server, given=b"a large picture")
    server.lay("/view", b"not found", status=404)
    with pytest.raises(InputError, match="/view answers 404"):
        at(server)


def test_a_workflow_that_is_refused_is_reported_in_the_servers_words(server: Server) -> None:
    server.lay("/prompt", {"error": {"message": "no such node"}}, status=400)
    with pytest.raises(InputError, match=r"rejects the workflow.*no such node"):
        at(server)


def test_a_server_that_does_not_answer_or_is_another_program_is_closed(server: Server) -> None:
    with pytest.raises(ServerClosed, match="does not answer"):
        perform("http://127.0.0.1:1")
    server.lay("/queue", b"<html>Please log in</html>")
    with pytest.raises(ServerClosed, match=r"is not a ComfyUI server.*log in"):
        at(server)
