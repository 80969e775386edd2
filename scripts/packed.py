"""comfy-test on the packed archive, in a ComfyUI of its own. See test-packed."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from headless import ROOT, HeadlessComfyUI

REPORTS = ROOT / "runs" / "comfy-test"
# What comfy-test wants to find in the pack and users have no use for.
BESIDE = ("comfy-test.toml", "scripts/packed_hook.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    options, passed_on = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="conceptloom-packed-") as temporary:
        base = Path(temporary)
        pack = base / "custom_nodes" / "conceptloom"
        unpack(pack)
        route = ROOT / "scripts" / "validate_route"
        shutil.copytree(route, base / "custom_nodes" / route.name)
        with HeadlessComfyUI(options.comfyui, base) as server:
            # Else the page restores the workflow before, and on a busy machine only after
            # comfy-test has loaded the next one: that would run the first twice.
            server.post("/settings/Comfy.Workflow.Persist", False)
            done = comfy_test(pack, server, options.comfyui, passed_on)
            ran = successes(server)
    passed = {workflow["name"] for report in REPORTS.rglob("results.json")
              for workflow in json.loads(report.read_text())["workflows"]
              if workflow["status"] == "pass"}  # fmt: skip
    print(f"ComfyUI ran {len(ran)} workflows to their end: {', '.join(sorted(ran)) or 'none'}")
    if passed - ran:
        sys.exit(f"passed, and yet they never ran: {', '.join(sorted(passed - ran))}")
    sys.exit(done)


def successes(server: HeadlessComfyUI) -> set[str]:
    """The workflows that ended well, told by the kinds of their numbered nodes."""

    def kinds(graph: dict[str, Any]) -> dict[str, str]:
        return {number: node["class_type"] for number, node in graph.items()}

    runs = server.get("/history").values()
    ended = [kinds(run["prompt"][2]) for run in runs if run["status"]["status_str"] == "success"]
    return {path.stem for path in (ROOT / "workflows" / "api").glob("*.json")
            if kinds(json.loads(path.read_text(encoding="utf-8"))) in ended}  # fmt: skip


def unpack(pack: Path) -> None:
    """What `comfy node pack` makes of the tracked files, and what comfy-test needs besides."""
    subprocess.run([sys.executable, "-m", "comfy_cli", "--skip-prompt", "node", "pack"],
                   cwd=ROOT, check=True, env=environment({"DO_NOT_TRACK": "1"}))  # fmt: skip
    archive = ROOT / "node.zip"
    print(f"{archive.stat().st_size / 2**20:.1f} MiB packed")
    with zipfile.ZipFile(archive) as packed:
        packed.extractall(pack)
    archive.unlink()
    for name in BESIDE:
        (pack / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, pack / name)


def comfy_test(pack: Path, server: HeadlessComfyUI, comfyui: Path, passed_on: list[str]) -> int:
    """Run it on a server that is up; gives its exit status."""
    shutil.rmtree(REPORTS, ignore_errors=True)
    REPORTS.mkdir(parents=True)
    log = REPORTS / "server.log"  # where it looks for import errors
    log.symlink_to(server.base / "server.log")
    command = [sys.executable, "-m", "comfy_test", "run"]
    command += ["--server-url", f"http://127.0.0.1:{server.port}", *passed_on]
    try:
        return subprocess.run(command, cwd=pack, env=environment({
            "COMFY_TEST_LOGS_DIR": str(REPORTS),
            "PYTHONPATH": str(comfyui),  # its instantiation level imports folder_paths
        })).returncode  # fmt: skip
    finally:
        log.unlink()
        shutil.copy(server.base / "server.log", log)


def environment(more: dict[str, str]) -> dict[str, str]:
    """Without the current folder on the path: this pack has a nodes/ as ComfyUI has."""
    return {**os.environ, "PYTHONSAFEPATH": "1", **more}


if __name__ == "__main__":
    main()
