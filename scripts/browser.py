"""Chromium without a window, driven through chromedriver by the W3C's WebDriver protocol.

The standard library is enough for the little that the browser tests ask of it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

STARTS_WITHIN, ANSWERS_WITHIN = 180, 600  # seconds; a busy machine paints slowly


def missing() -> list[str]:
    """The programs that this needs and that are not installed."""
    return [name for name in ("chromium", "chromedriver") if not shutil.which(name)]


class Chromium:
    """Starts on entering, ends on leaving.

    Args:
        size: of the window, in CSS pixels.
        language: that the page is asked to speak, such as ko.
    """

    def __init__(self, size: tuple[int, int] = (1920, 1200), language: str = "en") -> None:
        self._size, self._language = size, language
        self._driver: subprocess.Popen | None = None
        self._session = ""

    def __enter__(self) -> Chromium:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self._address = f"http://127.0.0.1:{port}"
        self._driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            self._wait_until_up()
            self._session = "/session/" + self._ask("/session", self._wishes())["sessionId"]
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._session:
            self._call("DELETE", self._session)
        if self._driver is not None:
            self._driver.terminate()
            self._driver.wait(20)

    def _wishes(self) -> dict[str, Any]:
        arguments = [
            "--headless=new", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--window-size={},{}".format(*self._size), f"--lang={self._language}",
            # The page's own errors are what we want to hear of, not those of the outside world.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]  # fmt: skip
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            arguments.append("--no-sandbox")  # Chromium refuses to run as root with it
        options = {"args": arguments, "prefs": {"intl.accept_languages": self._language}}
        return {
            "capabilities": {
                "alwaysMatch": {
                    "browserName": "chrome",
                    "goog:chromeOptions": options,
                    "goog:loggingPrefs": {"browser": "ALL"},
                    "timeouts": {"script": ANSWERS_WITHIN * 1000},
                }
            }
        }

    def _wait_until_up(self) -> None:
        until = time.monotonic() + STARTS_WITHIN
        while True:
            try:
                self._call("GET", "/status")
                return
            except (urllib.error.URLError, ConnectionError):
                if time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def open(self, address: str) -> None:
        """Go to a page and wait until it is loaded."""
        self._ask(f"{self._session}/url", {"url": address})

    def run(self, script: str, *arguments: Any) -> Any:
        """Run JavaScript in the page, with `await`; gives what it returns.

        Raises:
            RuntimeError: what the script threw.
        """
        whole = f"""
            const done = arguments[arguments.length - 1];
            const work = async (...given) => {{ {script} }};
            work(...[...arguments].slice(0, -1)).then(
                value => done({{value}}), error => done({{error: String(error.stack || error)}}));
        """
        answer = self._ask(
            f"{self._session}/execute/async", {"script": whole, "args": list(arguments)}
        )
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer.get("value")

    def wait(self, script: str, seconds: float = 120) -> None:
        """Wait until a JavaScript expression is true."""
        until = time.monotonic() + seconds
        while not self.run(f"return Boolean({script})"):
            if time.monotonic() > until:
                raise TimeoutError(f"still not after {seconds} s: {script}")
            time.sleep(0.3)

    def complaints(self) -> list[str]:
        """The errors that the page wrote to its console since the last call."""
        entries = self._ask(f"{self._session}/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]

    def screenshot(self, path: Path) -> None:
        """What the window shows, as PNG."""
        data = self._call("GET", f"{self._session}/screenshot")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(data))

    def _ask(self, path: str, data: Any) -> Any:
        return self._call("POST", path, data)

    def _call(self, method: str, path: str, data: Any = None) -> Any:
        request = urllib.request.Request(
            self._address + path,
            None if data is None else json.dumps(data).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        try:
            with urllib.request.urlopen(request, timeout=ANSWERS_WITHIN) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            said = json.loads(error.read())["value"]
            raise RuntimeError(f"{said['error']}: {said['message']}") from None
