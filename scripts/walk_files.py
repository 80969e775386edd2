"""Lists the files of the pack with a function that runs in a command of conceptloom.

    .venv/bin/python scripts/walk_files.py sample -p "a photo of <my-mug>" -c my-mug.safetensors

Files that are only imported do not count, nor do functions that run while one is imported.
"""

from __future__ import annotations

import inspect
import sys
from collections import defaultdict
from pathlib import Path
from types import CodeType, FrameType

import conceptloom
from conceptloom.cli.app import main

ROOT = Path(conceptloom.__file__).parent


def walk() -> dict[Path, set[str]]:
    """File -> names of its functions that ran in the command of `sys.argv`."""
    ran: set[CodeType] = set()

    def enter(frame: FrameType, event: str, arg: object) -> None:
        code = frame.f_code
        is_function = code.co_flags & inspect.CO_OPTIMIZED  # and no body of a module or class
        is_ours = is_function and code.co_filename.startswith(str(ROOT))
        if is_ours and code not in ran and not _is_importing(frame):
            ran.add(code)

    sys.settrace(enter)
    try:
        main()
    except SystemExit:
        pass
    finally:
        sys.settrace(None)
    files: dict[Path, set[str]] = defaultdict(set)
    for code in ran:
        files[Path(code.co_filename).relative_to(ROOT)].add(code.co_name)
    return files


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module or class of the pack is being made below this frame."""
    while frame is not None and frame.f_code.co_name != "walk":
        code = frame.f_code
        if not code.co_flags & inspect.CO_OPTIMIZED and code.co_filename.startswith(str(ROOT)):
            return True
        frame = frame.f_back
    return False


if __name__ == "__main__":
    files = walk()
    for file, names in sorted(files.items()):
        print(f"{file}: {', '.join(sorted(names))}")
    print(f"{len(files)} files")
