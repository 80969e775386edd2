"""The demo's story as one HTML page with its pictures inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from ..tinyworld.oracle import Localisation
from ..training.palette import as_ink, blend, concept_colours
from ..training.paths import write_atomically
from ..training.plots import loss_plot
from ..training.scene_preview import scene_preview
from .measures import Verdict, mean
from .page_template import PAGE
from .picture_files import png_bytes
from .story import Shot, Story

SHOWN_PX = 192  # pictures of 64 px are enlarged to this, so that no browser smears them
_HANDLE = re.compile(r"&lt;([A-Za-z0-9_-]+)&gt;")


def write_page(story: Story, path: Path) -> Path:
    """Write the page, whole or not at all. The same story gives the same bytes.

    Raises:
        StorageError: the disk would not take it.
    """
    write_atomically(path, [page_of(story, path.parent).encode("utf-8")])
    return path


def page_of(story: Story, folder: Path) -> str:
    """The page as text; `folder` is where it will lie."""
    plot, learned = story.plot, story.learned
    handles = [f"<{name}>" for name in plot.handles]
    config = plot.settings.config
    n_apart = len(plot.handles) * len(plot.alone_on)
    n_together = len(plot.together_on)
    apart = story.shots[:n_apart]
    together = story.shots[n_apart : n_apart + n_together]
    neighbour = story.shots[n_apart + n_together :]
    height, width = story.truth.image.shape[:2]
    latents = (height // _PIXELS_PER_LATENT, width // _PIXELS_PER_LATENT)
    timeline = learned.timeline if learned.timeline is not None else learned.samples[0]
    return PAGE.substitute(
        colours=_styles(plot.handles),
        lead=(
            "ConceptLoom was shown one picture of things that its model has no words for, and "
            "learned one word for each. Everything on this page was drawn and measured on this "
            "computer, with a small model that comes with the pack."
        ),
        scene_text=_told(
            "This is all that it gets: a picture, a mask for each object, and for each a plain "
            f"word to start from: {_listed(list(dict.fromkeys(plot.words)))}. The words to be "
            f"learned are {_listed(handles)}."
        ),
        scene=_figure(scene_preview(story.scene, latents), "The picture and its masks.")
        + _shot(story.before[0], "Before: what the model draws without the new words."),
        learning_text=_told(
            f"Break-A-Scene in two phases: {config.token_phase.steps} steps in which only the "
            f"words learn, then {config.weight_phase.steps} steps in which the model learns with "
            "them. Each step sees a random choice of the objects, and only what lies under their "
            "masks; a second loss pulls the attention of each word onto its own object."
        ),
        timeline=_figure(timeline, "The same noise and prompts at every preview."),
        learning=_figure(
            learned.overlay,
            "Where each word looks in the picture it was learned from. The outline is the mask.",
        )
        + _figure(loss_plot(learned.history), "The losses; the dashed line starts phase two."),
        apart_text="Each word alone, on backgrounds that were not in the picture. " + _MARKS,
        apart="".join(_shot(shot) for shot in apart),
        together_text="Both words in one prompt.",
        together="".join(_shot(shot) for shot in together),
        neighbour_text=_told(
            f"Learned words stand in a prompt like any other: here beside {escape(plot.neighbour)}."
        ),
        neighbour="".join(_shot(shot) for shot in neighbour),
        maps_text=(
            "Attention of each word over pictures that it drew itself, darker where it does not "
            "look. A map that sits on its own object is what makes the methods to come possible: "
            "edit here, and nowhere else."
        ),
        maps="".join(_figure(overlay, _told(escape(prompt))) for prompt, overlay in story.maps),
        figures_text=(
            "The world of this model is drawn by a program, so an oracle can say what is in a "
            "picture. Identity is judged strictly, among all 16 unseen objects of that world: a "
            "model as small as this gets colours, pattern and place of an unseen object, but "
            "seldom its exact outline."
        ),
        figures=_table(story),
        go_on_text=_told(
            f"The concept lies in <code>{escape(story.concept.name)}</code> beside this page. "
            "Draw with it, look into it, or teach your own:"
        ),
        commands=_commands(story, folder),
    )


_PIXELS_PER_LATENT = 4  # of TinyWorld
_MARKS = (
    "A tick means that an oracle found every object that was asked for, and no learned object "
    "too much; a cross means that it did not."
)


def _styles(handles: Sequence[str]) -> str:
    """Each handle in the colour that it has in the pictures, legible on light and on dark."""
    lines: list[str] = []
    for name, colour in concept_colours(handles).items():
        light, dark = as_ink(colour), blend(colour, (255, 255, 255), 0.45)
        lines.append(f".h-{name} {{ color: rgb{light}; }}")
        lines.append(f"@media (prefers-color-scheme: dark) {{ .h-{name} {{ color: rgb{dark}; }} }}")
    return "\n".join(lines)


def _told(html: str) -> str:
    """Escaped text with the handles in their colours."""
    return _HANDLE.sub(r'<span class="handle h-\1">&lt;\1&gt;</span>', html)


def _listed(words: Sequence[str]) -> str:
    return " and ".join(escape(word) for word in words)


def _image(image: Tensor, alt: str) -> str:
    data = base64.b64encode(png_bytes(_enlarged(image))).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{escape(alt, quote=True)}">'


def _enlarged(image: Tensor) -> Tensor:
    longest = max(image.shape[:2])
    if longest >= SHOWN_PX:
        return image
    size = [SHOWN_PX * side // longest for side in image.shape[:2]]
    grown = F.interpolate(image.movedim(-1, 0)[None].float(), size, mode="bicubic")
    return grown[0].movedim(0, -1).clamp(0, 1)


def _figure(image: Tensor, caption: str) -> str:
    return f"<figure>{_image(image, _plain(caption))}<figcaption>{caption}</figcaption></figure>"


def _plain(html: str) -> str:
    return re.sub(r"<[^>]*>", "", html).replace("&lt;", "<").replace("&gt;", ">")


def _shot(shot: Shot, caption: str = "") -> str:
    text = caption or _told(escape(shot.prompt))
    verdicts: list[Verdict | None] = list(shot.verdicts) or [None] * len(shot.images)
    cells = "".join(
        f'<div class="cell">{_image(image, shot.prompt)}{_mark(verdict)}</div>'
        for image, verdict in zip(shot.images, verdicts, strict=True)
    )
    return f'<figure><div class="pair">{cells}</div><figcaption>{text}</figcaption></figure>'


def _mark(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.is_right:
        return '<span class="mark" title="as asked">&#10003;</span>'
    missing = [f"<{name}>" for name, found in verdict.identities.items() if not found.right]
    told = ["not found: " + ", ".join(missing)] if missing else []
    if verdict.leaked:
        told.append("too much: " + ", ".join(f"<{name}>" for name in verdict.leaked))
    return f'<span class="mark no" title="{escape("; ".join(told), quote=True)}">&#10007;</span>'


def _table(story: Story) -> str:
    heads = (
        "word",
        "identity alone",
        "identity together",
        "likeness",
        "attention, taught picture",
        "attention, unseen picture",
    )
    rows = [_row(story, name) for name in story.plot.handles]
    head = "".join(f"<th>{text}</th>" for text in heads)
    every = [(shot, verdict) for shot in story.shots for verdict in shot.verdicts]
    clean = sum(not verdict.leaked for _, verdict in every)
    places = sum(verdict.background == shot.background for shot, verdict in every)
    return (
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        f'<p class="quiet">No leak (no learned object that was not asked for): {clean} of '
        f"{len(every)} pictures. Background as asked: {places} of {len(every)}. Likeness is the "
        "cosine of the oracle's description with the taught object, 1 at best and 0.6 or more for "
        "the same one. Attention is the IoU of the word's map with the object's exact mask, and "
        "in brackets the chance that a point inside is looked at more than one outside; the unseen "
        "picture shows the objects in other places on another background.</p>"
    )


def _row(story: Story, name: str) -> str:
    of_name = [
        (len(shot.asked), verdict.identities[name])
        for shot in story.shots
        for verdict in shot.verdicts
        if name in verdict.identities
    ]
    alone = [identity.right for count, identity in of_name if count == 1]
    together = [identity.right for count, identity in of_name if count > 1]
    likeness = mean([identity.similarity for _, identity in of_name])
    cells = [
        _told(f"&lt;{name}&gt;"),
        f"{sum(alone)} of {len(alone)}",
        f"{sum(together)} of {len(together)}",
        f"{likeness:.2f}",
        _looked(story.taught[name]),
        _looked(story.unseen[name]),
    ]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _looked(scores: Localisation) -> str:
    return f"{scores.iou:.2f} ({scores.auc:.2f})"


def _commands(story: Story, folder: Path) -> str:
    file = folder / story.concept.name
    first, second = (f"<{name}>" for name in story.plot.handles[:2])
    lines = [
        f"conceptloom sample -c {file} -p 'a photo of {first} and {second} on a brick wall'",
        f"conceptloom inspect {file}",
        "conceptloom train -i picture.png --mask my-mug=mug.png:cup --mask my-cat=cat.png:cat",
    ]
    return escape("\n".join(lines))
