"""Runs the parts of the demo on TinyWorld; writes page and figures after each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from ..cancelling import Cancelled, Stopped
from ..console import say
from ..models import open_host
from ..progress import RunProgress
from . import break_a_scene, clic, conceptlab, residuals, weaver
from .break_a_scene_run import DemoConfig, demo_settings
from .figures import write_figures
from .page import write_page
from .story import DemoContext, Story, Teller

PAGE, FIGURES = "index.html", "figures.json"
LATER_STORIES: tuple[Teller, ...] = (clic.tell, residuals.tell, weaver.tell, conceptlab.tell)


def run_demo(
    out: Path,
    *,
    token_steps: int | None = None,
    weight_steps: int | None = None,
    seed: int = 0,
    is_short: bool = False,
) -> Path:
    """Run the stories and write their page and figures into `out`; returns the page.

    A short demo is Break-A-Scene's story alone. Cancelling a later story keeps the page with the
    stories before it.

    A single CPU thread: more do not make a model of this size faster, and the same machine then
    gives the same page whatever else it does.

    Raises:
        Stopped: the user pressed Ctrl-C.
    """
    overrides = {"token_steps": token_steps, "weight_steps": weight_steps}
    values = {name: value for name, value in overrides.items() if value is not None}
    config = DemoConfig(settings=demo_settings(values | {"seed": seed}))
    first: Teller = partial(break_a_scene.tell, config=config)
    threads, began = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(1)
    try:
        with RunProgress(out / "preview.png") as progress:
            context = DemoContext(open_host(device="cpu"), out, progress, say, seed)
            page = _run_stories(context, [first] if is_short else [first, *LATER_STORIES])
    finally:
        torch.set_num_threads(threads)
    say(f"Finished in {time.monotonic() - began:.0f} s.")
    return page


def _run_stories(context: DemoContext, tellers: Sequence[Teller]) -> Path:
    stories: list[Story] = []
    seconds: list[float] = []
    page = context.folder / PAGE
    try:
        for tell in tellers:
            began = time.monotonic()
            story = tell(context)
            stories.append(story)
            seconds.append(time.monotonic() - began)
            right, total = story.as_asked
            context.say(
                f"{story.title.partition(':')[0]}: {right} of {total} pictures as asked, "
                f"{seconds[-1]:.0f} s"
            )
            write_page(stories, page)
            write_figures(stories, seconds, context.folder / FIGURES)
    except Cancelled as cancelled:
        rest = f"{page} contains the finished parts." if stories else "the same command resumes."
        raise Stopped(
            f"Stopped after step {cancelled.step} of {cancelled.total}; {rest}"
        ) from cancelled
    return page
