"""The demo's story as one HTML page with its pictures inside."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from ..tinyworld.measures import Localisation
from ..training.paths import write_atomically
from ..training.plots import loss_plot
from ..training.scene_preview import scene_preview
from .chapters import Chapter, Picture
from .measures import Verdict, mean
from .page_parts import figure, listed, mark, marked_figure, picture, styles, table, told
from .page_template import PAGE
from .story import Shot, Story


def write_page(story: Story, chapters: Sequence[Chapter], path: Path) -> Path:
    """Write the page, whole or not at all. The same story gives the same bytes.

    Raises:
        StorageError: the disk would not take it.
    """
    write_atomically(path, [page_of(story, chapters, path.parent).encode("utf-8")])
    return path


def page_of(story: Story, chapters: Sequence[Chapter], folder: Path) -> str:
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
        colours=styles(story.scene.names),
        lead=(
            "ConceptLoom was shown one picture of things that its model has no words for, and "
            "learned one word for each. Everything on this page was drawn and measured on this "
            "computer, with a small model that comes with the pack."
        ),
        scene_text=told(
            "This is all that it gets: a picture, a mask for each object, and for each a plain "
            f"word to start from: {listed(list(dict.fromkeys(plot.words)))}. The words to be "
            f"learned are {listed(handles)}. What no mask covers is learned too, as "
            f"{listed([f'<{plot.surroundings}>'])}: nothing else tells where an object ends."
        ),
        scene=figure(scene_preview(story.scene, latents), "The picture and its masks.")
        + _shot(story.before[0], "Before: what the model draws without the new words."),
        learning_text=told(
            f"Break-A-Scene in two phases: {config.token_phase.steps} steps in which only the "
            f"words learn, then {config.weight_phase.steps} steps in which the model learns with "
            "them. Each step sees a random choice of the words, and only what lies under their "
            "masks; a second loss pulls the attention of each word onto its own mask, and a third "
            "holds the model to pictures that it drew before."
        ),
        timeline=figure(timeline, "The same noise and prompts at every preview."),
        learning=figure(
            learned.overlay,
            "Where each word looks in the picture it was learned from. The outline is the mask.",
        )
        + figure(loss_plot(learned.history), "The losses; the dashed line starts phase two."),
        apart_text="Each word alone, on backgrounds that were not in the picture. " + _MARKS,
        apart="".join(_shot(shot) for shot in apart),
        together_text="Both words in one prompt.",
        together="".join(_shot(shot) for shot in together),
        neighbour_text=told(
            f"Learned words stand in a prompt like any other: here beside {escape(plot.neighbour)}."
        ),
        neighbour="".join(_shot(shot) for shot in neighbour),
        maps_text=(
            "Attention of each word over pictures that it drew itself, darker where it does not "
            "look. A map that sits on its own object is what makes the methods to come possible: "
            "edit here, and nowhere else."
        ),
        maps="".join(figure(overlay, told(escape(prompt))) for prompt, overlay in story.maps),
        figures_text=(
            "The world of this model is drawn by a program, so an oracle can say what is in a "
            "picture. Identity is judged strictly, among all 16 unseen objects of that world: "
            "nearly right is wrong."
        ),
        figures=_table(story),
        chapters="".join(_chapter(number, each) for number, each in enumerate(chapters, 8)),
        go_on_text=told(
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


def _shot(shot: Shot, caption: str = "") -> str:
    verdicts: list[Verdict | None] = list(shot.verdicts) or [None] * len(shot.images)
    cells = [
        picture(image, shot.prompt) + _mark(verdict)
        for image, verdict in zip(shot.images, verdicts, strict=True)
    ]
    return marked_figure(cells, caption or told(escape(shot.prompt)))


def _mark(verdict: Verdict | None) -> str:
    if verdict is None:
        return mark(None)
    missing = [f"<{name}>" for name, found in verdict.identities.items() if not found.right]
    why = ["not found: " + ", ".join(missing)] if missing else []
    if verdict.leaked:
        why.append("too much: " + ", ".join(f"<{name}>" for name in verdict.leaked))
    return mark(verdict.is_right, "; ".join(why))


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
    every = [(shot, verdict) for shot in story.shots for verdict in shot.verdicts]
    clean = sum(not verdict.leaked for _, verdict in every)
    places = sum(verdict.background == shot.background for shot, verdict in every)
    return (
        f"{table(heads, rows)}"
        f'<p class="quiet">No leak (no learned object that was not asked for): {clean} of '
        f"{len(every)} pictures. Background as asked: {places} of {len(every)}. Likeness is the "
        "cosine of the oracle's description with the taught object, 1 at best and 0.6 or more for "
        "the same one. Attention is the IoU of the word's map with the object's exact mask, and "
        "in brackets the chance that a point inside is looked at more than one outside; the unseen "
        "picture shows the objects in other places on another background.</p>"
    )


def _row(story: Story, name: str) -> list[str]:
    of_name = [
        (len(shot.asked), verdict.identities[name])
        for shot in story.shots
        for verdict in shot.verdicts
        if name in verdict.identities
    ]
    alone = [identity.right for count, identity in of_name if count == 1]
    together = [identity.right for count, identity in of_name if count > 1]
    likeness = mean([identity.similarity for _, identity in of_name])
    return [
        told(f"&lt;{name}&gt;"),
        f"{sum(alone)} of {len(alone)}",
        f"{sum(together)} of {len(together)}",
        f"{likeness:.2f}",
        _looked(story.taught[name]),
        _looked(story.unseen[name]),
    ]


def _looked(scores: Localisation) -> str:
    return f"{scores.iou:.2f} ({scores.auc:.2f})"


def _chapter(number: int, chapter: Chapter) -> str:
    wide = [each for each in chapter.pictures if each.is_wide]
    small = [each for each in chapter.pictures if not each.is_wide]
    html = [f"<h2>{number}. {escape(chapter.title)}</h2>", f"<p>{told(escape(chapter.text))}</p>"]
    for kind, pictures in (("two wide", wide), ("grid", small)):
        if pictures:
            html.append(f'<div class="{kind}">{"".join(map(_captioned, pictures))}</div>')
    if chapter.table:
        rows = [[told(escape(cell)) for cell in row] for row in chapter.table.rows]
        heads = [escape(head) for head in chapter.table.heads]
        html.append(f'<div class="scroll">{table(heads, rows)}</div>')
    if chapter.meaning:
        html.append(f'<p class="quiet">{told(escape(chapter.meaning))}</p>')
    if chapter.command:
        html.append(f"<pre><code>{escape(chapter.command)}</code></pre>")
    return "\n".join(html) + "\n"


def _captioned(each: Picture) -> str:
    cell = picture(each.image, each.caption) + mark(each.is_right, "not as asked")
    return marked_figure([cell], told(escape(each.caption)))


def _commands(story: Story, folder: Path) -> str:
    file = folder / story.concept.name
    first, second = (f"<{name}>" for name in story.plot.handles[:2])
    lines = [
        f"conceptloom sample -c {file} -p 'a photo of {first} and {second} on a brick wall'",
        f"conceptloom inspect {file}",
        "conceptloom train -i picture.png --mask my-mug=mug.png:cup --mask my-cat=cat.png:cat \\\n"
        "  --background my-room:room",
    ]
    return escape("\n".join(lines))
