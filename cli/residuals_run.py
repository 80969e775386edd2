"""Trains residuals from the command line: run, result folder, clean stop."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..host.ports import Host
from ..methods.personalized_residuals import PersonalizedResidualsConfig, learn_residuals
from ..training.runner import TrainingResult
from ..viz.overlays import sample_strip
from ..viz.plots import loss_plot
from .cancelling import Cancelled, Stopped
from .progress import RunProgress
from .results import STATE, ResultFolder


def learn_into(
    out: Path,
    host: Host,
    images: Sequence[Tensor],
    handle: str,
    class_word: str,
    config: PersonalizedResidualsConfig,
    **more: Any,
) -> TrainingResult:
    """Learn a concept and leave the results in a folder.

    `concept.safetensors`, `losses.csv`, `losses.png`, `samples.png`, `attention.png`, and
    `timeline.png` when previews were drawn. The states of the run are below `state/`; the same
    call goes on from there.

    Args:
        more: captions, loop and previews of `learn_residuals`.

    Raises:
        Stopped: the user pressed Ctrl-C.
        ConceptLoomError: see `errors`.
    """
    results, inputs = ResultFolder(out), (host, images, handle, class_word, config)
    more |= {"folder": out / STATE, "path_of": results.path_of}
    try:
        with RunProgress(out / "preview.png") as progress:
            learned = learn_residuals(*inputs, progress=progress, **more)
    except Cancelled as cancelled:
        raise Stopped(results.stopped_note(cancelled)) from cancelled
    results.check_saved(learned.concept, learned.path, learned.trouble)
    results.write_losses(learned.history)
    samples = None
    if learned.samples is not None:
        prompts = list(learned.concept.prompts) * len(learned.samples)
        samples = sample_strip(list(learned.samples), prompts[: len(learned.samples)])
    pictures = {
        "losses": loss_plot(learned.history),
        "samples": samples,
        "attention": learned.overlay,
        "timeline": learned.timeline,
    }
    for name, picture in pictures.items():
        results.write_picture(name, picture)
    return learned
