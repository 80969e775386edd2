"""Clocks, memory and the machine, as every benchmark reads them.

Also imported by processes under ComfyUI's Python: nothing but the standard library at the top.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

LIBRARIES = ("torch", "diffusers", "transformers")


def settle(device: str) -> None:
    """Wait until a GPU has done what it was told."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()


def clock_for(device: str) -> Callable[[], float]:
    """Seconds: the CPU's own time where it computes, else wall time after the GPU is done."""
    if device == "cpu":
        return time.process_time
    from torch.utils.benchmark.utils.timer import timer

    return timer


def memory(device: str, *, start: bool = False) -> int:
    """Bytes in use at the start, after that the peak since then; a GPU's where it computes."""
    if device != "cpu":
        import torch

        if start:
            torch.cuda.reset_peak_memory_stats()
            return torch.cuda.memory_allocated()
        return torch.cuda.max_memory_allocated()
    if start:
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak of making the model
        except OSError:
            sys.stderr.write("the peak of making the model cannot be reset here\n")
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["VmRSS" if start else "VmHWM"].split()[0]) * 1024


def processor(device: str) -> str:
    """Name of the GPU, or of the CPU and its number of cores."""
    if device != "cpu":
        import torch

        return torch.cuda.get_device_name()
    name = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            name = line.split(":", 1)[1].strip()
            break
    return f"{name}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Python and the libraries that compute."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load_average() -> float:
    """Of the last five minutes."""
    return os.getloadavg()[1]
