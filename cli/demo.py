"""`conceptloom demo`: the stories on TinyWorld, from a picture to a page."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from .cancelling import Cancelled, Stopped
from .chapters import Chapter, Stage, tellers
from .console import say
from .models import open_host
from .page import write_page
from .presets import Preset, settings_of
from .progress import RunProgress
from .story import LEARNING, Plot, tell

PAGE = "index.html"


def run_demo(
    out: Path,
    *,
    token_steps: int | None = None,
    weight_steps: int | None = None,
    seed: int = 0,
    plot: Plot | None = None,
    is_short: bool = False,
) -> Path:
    """Tell the stories and write their page; returns where. A plot brings its own steps and seed.

    A short demo tells Break-A-Scene's story alone. Whoever stops a later story finds a page with
    those told before it.

    On the CPU with one thread: a model of this size is not faster with more, and the same machine
    gives the same page whatever else it does.

    Raises:
        Stopped: the user pressed Ctrl-C.
    """
    if plot is None:
        given = {"token_steps": token_steps, "weight_steps": weight_steps, "seed": seed}
        wanted = LEARNING | {name: value for name, value in given.items() if value is not None}
        plot = Plot(settings=settings_of(Preset.TINYWORLD, wanted))
    threads, began, page = torch.get_num_threads(), time.monotonic(), None
    torch.set_num_threads(1)
    try:
        host = open_host(device="cpu")
        with RunProgress(out / "preview.png") as progress:
            story = tell(host, plot, out, progress, say)
            page = write_page(story, (), out / PAGE)
            chapters: list[Chapter] = []
            stage = Stage(host, out, progress, say, seed)
            for tell_more in () if is_short else tellers():
                chapters.append(tell_more(stage))
                write_page(story, chapters, page)
    except Cancelled as cancelled:
        kept = f"{page} has the stories before." if page else "the same command goes on from there."
        raise Stopped(
            f"Stopped after step {cancelled.step} of {cancelled.total}; {kept}"
        ) from cancelled
    finally:
        torch.set_num_threads(threads)
    say(f"Told in {time.monotonic() - began:.0f} s.")
    return page
