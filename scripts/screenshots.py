"""Run workflows in ComfyUI's editor and keep what it then looks like. See make-screenshots."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

from browser import Chromium, missing
from editor import Editor
from headless import ROOT, HeadlessComfyUI
from PIL import Image

WORKFLOWS, DOCS = ROOT / "workflows", ROOT / "docs" / "screenshots"
WIDTH_PX, LIMIT = 1600, 3000  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("only", nargs="+", help="these workflows, by the start of their names")
    parser.add_argument("--language", nargs="+", default=["en"], help="of the editor: en, ko, ...")
    options = parser.parse_args()
    if missing():
        raise SystemExit(f"install {' and '.join(missing())}")
    DOCS.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="conceptloom-screenshots-") as base,
        HeadlessComfyUI(options.comfyui, Path(base)) as server,
        Chromium() as chromium,
    ):
        editor = Editor(server, chromium)
        for language in options.language:
            editor.reopen({"Comfy.Locale": language})
            for path in sorted(WORKFLOWS.glob("*.json")):
                if path.name.startswith(tuple(options.only)):
                    take(server, editor, path, Path(base) / "screenshot.png", language)


def take(server: HeadlessComfyUI, editor: Editor, path: Path, png: Path, language: str) -> None:
    """The workflow after a run, as docs/screenshots/editor-<name>.jpg, or -<name>-ko.jpg."""
    editor.load(json.loads(path.read_text(encoding="utf-8")), path.stem)
    before = len(server.get("/history"))
    editor.queue()
    until = time.monotonic() + LIMIT
    while len(server.get("/history")) == before:
        if time.monotonic() > until:
            raise SystemExit(f"{path.stem} still runs after {LIMIT} s")
        time.sleep(1)
    (done,) = [run for run in list(server.get("/history").values())[before:]]
    if done["status"]["status_str"] != "success":
        raise SystemExit(f"{path.stem} failed:\n{server.log[-2000:]}")
    editor.screenshot(png)
    suffix = "" if language == "en" else f"-{language}"
    with Image.open(png) as shot:
        small = shot.convert("RGB")
        small.thumbnail((WIDTH_PX, WIDTH_PX), Image.Resampling.LANCZOS)
        small.save(DOCS / f"editor-{path.stem}{suffix}.jpg", quality=80)
    print(path.stem, language, flush=True)


if __name__ == "__main__":
    main()
