"""Break-A-Scene in the demo: concepts and a background from one picture, drawn in new places."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...scenes.scene import ConceptScene
from ...tinyworld.concepts import concept_scene
from ...tinyworld.judge.judge import load_judge
from ...tinyworld.judge.lineup import LINEUP
from ...viz.plots import loss_plot
from ...viz.scene_preview import scene_preview
from .break_a_scene_run import DemoConfig, DemoRun, DrawnPrompt, learn_and_draw, taught_scene
from .judge import mean
from .story import DemoContext, DemoSample, Figure, Section, Story, Table


def tell(context: DemoContext, config: DemoConfig) -> Story:
    """Learn the scene, draw each word apart and all together."""
    truth = concept_scene(list(config.objects), config.scene_seed, config.background)
    scene = taught_scene(truth, config)
    run = learn_and_draw(context, config, truth, scene)
    return _story(config, scene, run, context.host.pixels_per_latent)


def _story(config: DemoConfig, scene: ConceptScene, run: DemoRun, pixels_per_latent: int) -> Story:
    learned, phases = run.learned, config.settings.config
    handles = " and ".join(f"<{name}>" for name in config.handles)
    words = " and ".join(dict.fromkeys(config.words))
    picture = scene.images[0].image
    latents = (picture.shape[0] // pixels_per_latent, picture.shape[1] // pixels_per_latent)
    n_apart = len(config.handles) * len(config.alone_on)
    figures = [one.figure() for one in run.drawn]
    apart, together = figures[:n_apart], figures[n_apart:]
    timeline = learned.timeline
    assert timeline is not None  # the demo asks for previews
    return Story(
        "break_a_scene",
        "Break-A-Scene: several concepts from one picture",
        scene.names,
        [
            Section(
                "One picture, one mask for each object",
                "The training data: one picture, a mask for each object, and a plain word to "
                f"start from for each ({words}). The model has seen many of each class, but never "
                f"these. The words to learn are {handles}. The area "
                f"outside the masks becomes <{config.surroundings}>, because nothing else shows "
                "the model where an object ends.",
                [
                    Figure.of(
                        scene_preview(scene, latents), "The picture and its masks", is_wide=True
                    ),
                    Figure(
                        "Before training: drawings without the new words",
                        [DemoSample(image) for image in run.before],
                        is_wide=True,
                    ),
                ],
            ),
            Section(
                "Learning",
                f"The first phase ({phases.token_phase.steps} steps) trains only the words, the "
                f"second ({phases.weight_phase.steps} steps) the words and the model. Each step "
                "uses a random subset of the words and only the areas under their masks. A "
                "second loss fits the attention of each word to its own mask, and a third "
                "preserves pictures that the model drew before.",
                [
                    Figure.of(
                        timeline, "Previews, each with the same noise and prompts", is_wide=True
                    ),
                    Figure.of(
                        learned.overlay,
                        "Attention of each word on the training picture; the outline is the mask",
                        is_wide=True,
                    ),
                    Figure.of(
                        loss_plot(learned.history),
                        "The losses; the dashed line starts the second phase",
                        is_wide=True,
                    ),
                ],
            ),
            Section(
                "Apart, painted into pictures of other places",
                "Each word alone, drawn where its object stood, in pictures without any: every "
                "step restores the picture around the mask. Such a short training also learns the "
                "arrangement of the objects; without a mask, the model would often draw the other "
                "one beside it.",
                apart,
            ),
            Section("Together", "Both words in one prompt, without masks.", together),
            Section(
                "Attention of the words on the new drawings",
                "Attention of each word on the model's own drawings; dark areas get none. The "
                "methods below use such maps to restrict edits to a region.",
                run.maps,
            ),
            Section(
                "The figures",
                f"The judge tells each object from {LINEUP - 1} others of its class: other "
                "held-out members, and members that differ from it in one or two things.",
                table=_table(config, run),
                meaning=_meaning(run.drawn),
                commands=_commands(config, run.concept),
            ),
        ],
        [
            Figure.of(picture, "One picture"),
            *(figure.one() for figure in (*apart[:: len(config.alone_on)], together[0])),
        ],
    )


def _table(config: DemoConfig, run: DemoRun) -> Table:
    heads = (
        "word",
        "identity alone",
        "identity together",
        "likeness",
        "attention, training picture",
        "attention, unseen picture",
    )
    return Table(heads, [_row(run, name) for name in config.handles])


def _row(run: DemoRun, name: str) -> list[str]:
    of_name = [
        (len(one.asked), verdict.identities[name])
        for one in run.drawn
        for verdict in one.verdicts
        if name in verdict.identities
    ]
    alone = [identity.right for count, identity in of_name if count == 1]
    together = [identity.right for count, identity in of_name if count > 1]
    likeness = mean([identity.similarity for _, identity in of_name])
    scores = (run.taught[name], run.unseen[name])
    return [
        f"<{name}>",
        f"{sum(alone)} of {len(alone)}",
        f"{sum(together)} of {len(together)}",
        f"{likeness:.2f}",
        *(f"{score.iou:.2f} ({score.auc:.2f})" for score in scores),
    ]


def _meaning(drawn: Sequence[DrawnPrompt]) -> str:
    every = [(one, verdict) for one in drawn for verdict in one.verdicts]
    clean = sum(not verdict.leaked for _, verdict in every)
    places = sum(verdict.background == one.background for one, verdict in every)
    return (
        f"No leak (no learned object without its word in the prompt): {clean} of {len(every)} "
        f"pictures. Requested background: {places} of {len(every)}. Likeness is the cosine of "
        "the judge's description with the object: 1 at best, "
        f"{load_judge().calibration.same:.2f} or more for the same object. Attention is the IoU "
        "of the word's map with the object's exact mask and, in brackets, the probability that a "
        "point inside gets more attention than a point outside; the unseen picture shows the "
        "objects in other places on another background."
    )


def _commands(config: DemoConfig, concept: Path) -> str:
    first, second = (f"<{name}>" for name in config.handles[:2])
    return (
        f"conceptloom sample -c {concept} -p 'a photo of {first} and {second} on a brick wall'\n"
        f"conceptloom inspect {concept}\n"
        "conceptloom train -i picture.png --mask my-mug=mug.png:cup --mask my-cat=cat.png:cat \\\n"
        "  --background my-room:room"
    )
