"""`conceptloom demo`: the story on TinyWorld, from a picture to a page."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from .cancelling import Cancelled, Stopped
from .console import say
from .models import open_host
from .page import write_page
from .presets import Preset, settings_of
from .progress import RunProgress
from .story import Plot, tell

PAGE = "index.html"


def run_demo(
    out: Path,
    *,
    token_steps: int | None = None,
    weight_steps: int | None = None,
    seed: int = 0,
    plot: Plot | None = None,
) -> Path:
    """Tell the story and write its page; returns where. A plot brings its own steps and seed.

    On the CPU with one thread: a model of this size is not faster with more, and the same machine
    gives the same page whatever else it does.

    Raises:
        Stopped: the user pressed Ctrl-C.
    """
    if plot is None:
        wanted = {"token_steps": token_steps, "weight_steps": weight_steps, "seed": seed}
        plot = Plot(settings=settings_of(Preset.TINYWORLD, wanted))
    threads, began = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)
    try:
        host = open_host(device="cpu")
        with RunProgress(out / "preview.png") as progress:
            story = tell(host, plot, out, progress, say)
    except Cancelled as cancelled:
        raise Stopped(
            f"Stopped after step {cancelled.step} of {cancelled.total}; the same command goes on "
            "from there."
        ) from cancelled
    finally:
        torch.set_num_threads(threads)
    page = write_page(story, out / PAGE)
    say(f"Told in {time.monotonic() - began:.0f} s.")
    return page
