"""A real ComfyUI without a window: its own process, its own folders, a free port."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
STARTS_WITHIN = 900  # seconds; a busy machine is slow to import torch


class HeadlessComfyUI:
    """Starts on entering, ends on leaving.

    Args:
        comfyui: folder of ComfyUI.
        base: folder for models, input, output and custom_nodes; the pack is linked into it.
        python: ComfyUI's own Python; the one that runs this by default.
    """

    def __init__(self, comfyui: Path, base: Path, python: str = sys.executable) -> None:
        self.comfyui, self.base, self._python = comfyui, base, python
        self.port = _free_port()
        self._process: subprocess.Popen | None = None

    @property
    def pid(self) -> int | None:
        """Of the server's process, while it runs."""
        return self._process.pid if self._process is not None else None

    @property
    def log(self) -> str:
        """What the server printed so far."""
        return (self.base / "server.log").read_text(encoding="utf-8", errors="replace")

    def __enter__(self) -> HeadlessComfyUI:
        for folder in ("custom_nodes", "models", "input", "output", "user"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)
        link = self.base / "custom_nodes" / "conceptloom"
        if not link.exists():
            link.symlink_to(ROOT, target_is_directory=True)
        command = [self._python, str(self.comfyui / "main.py"), "--cpu", "--disable-api-nodes"]
        command += ["--base-directory", str(self.base), "--port", str(self.port)]
        command += ["--database-url", "sqlite:///:memory:"]
        with open(self.base / "server.log", "wb") as log:
            self._process = subprocess.Popen(
                command, cwd=self.comfyui, stdout=log, stderr=subprocess.STDOUT, env=_environment()
            )
        try:
            self._wait_until_up()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def _wait_until_up(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        while time.monotonic() < until:
            if self._process is None or self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended at once:\n{self.log[-3000:]}")
            try:
                self.get("/queue")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.5)
        raise RuntimeError(f"ComfyUI did not come up:\n{self.log[-3000:]}")

    def get(self, path: str) -> Any:
        """The JSON answer of a route."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, data: Any) -> Any:
        """The JSON answer of a route, also when it refuses."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            json.dumps(data).encode(),
            {"Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            text = error.read()
        return json.loads(text) if text else None

    def queue(self, graph: dict[str, Any]) -> str:
        """Queue API JSON; gives its prompt id."""
        answer = self.post("/prompt", {"prompt": graph})
        if "prompt_id" not in answer or answer.get("node_errors"):
            raise RuntimeError(f"ComfyUI refuses the workflow: {json.dumps(answer, indent=1)}")
        return answer["prompt_id"]

    def wait(self, prompt_id: str, seconds: float) -> dict[str, Any]:
        """The history of a prompt, once it is over."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if history := self.get(f"/history/{prompt_id}"):
                return history[prompt_id]
            time.sleep(0.3)
        raise TimeoutError(f"still running after {seconds} s:\n{self.log[-2000:]}")

    def run(self, graph: dict[str, Any], seconds: float = 900) -> dict[str, Any]:
        """Queue API JSON and wait; gives node id -> what it shows.

        Raises:
            RuntimeError: a node failed; the message is what the user would see.
        """
        done = self.wait(self.queue(graph), seconds)
        for event, data in done["status"]["messages"]:
            if event == "execution_error":
                raise RuntimeError(f"{data['node_type']}: {data['exception_message']}")
        return done["outputs"]

    def file(self, entry: dict[str, str]) -> Path:
        """Where a picture lies that a node shows."""
        return self.base / entry["type"] / entry["subfolder"] / entry["filename"]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
