"""Personalized Residuals in the demo: one object, with LAG, everywhere, and without."""

from __future__ import annotations

from torch import Tensor

from ...attention.lag_config import LagConfig
from ...attention.lag_maps import LagMaps
from ...methods.personalized_residuals import Localised, residuals_of, sample_lag
from ...samplers.ddim import seeded_noise
from ...tinyworld.concepts import CONCEPTS
from ...tinyworld.judge.lineup import LINEUP
from ...tinyworld.judge.named import SceneJudge, Verdict
from ...tinyworld.presets import SIZE
from ...tinyworld.shapes import BACKGROUNDS
from ...viz.lag_overlays import masks_picture
from ...viz.overlays import sample_strip
from .judge import mean
from .story import DemoContext, DemoSample, Figure, Section, Story, Table
from .teaching import N_PICTURES, handle_of, learned_member, taught_pictures

OBJECT = "house2"  # of `tinyworld.concepts`
WORD, NAME = CONCEPTS[OBJECT], handle_of(OBJECT)
TAUGHT_ON, DRAWN_ON = "grass", "beach"
COUNT, STEPS = 3, 16
CFG = 5.0  # likeness, mean of three pictures: 0.77 at 2, 0.84 at 3, 0.85 at 5
LOCALISED = "with LAG"
VARIANTS = {
    LOCALISED: LagConfig(),
    "everywhere, like a LoRA": LagConfig(localised=False),
    "base model": LagConfig(strength=0.0),
}


def tell(context: DemoContext) -> Story:
    """Learn from pictures that share a background, then ask for another one."""
    host = context.host
    context.say(f"Personalized Residuals: learning <{NAME}> from pictures {BACKGROUNDS[TAUGHT_ON]}")
    taught = taught_pictures(context, OBJECT, TAUGHT_ON)
    concept = learned_member(context, OBJECT, TAUGHT_ON)
    context.say("Personalized Residuals: the same noise with LAG, everywhere, and without")
    text = f"a photo of a <{NAME}> {WORD} {BACKGROUNDS[DRAWN_ON]}"
    noise, maps = seeded_noise(host, 1000 + context.seed, COUNT, (SIZE, SIZE)), LagMaps()
    drawn = {
        variant: host.decode_latent(
            sample_lag(
                host,
                [Localised(concept=concept, config=config)],
                [text],
                noise,
                steps=STEPS,
                cfg=CFG,
                on_masks=maps if config.localised and config.strength else None,
                progress=context.progress,
            )
        )
        for variant, config in VARIANTS.items()
    }
    judge = SceneJudge({NAME: OBJECT})
    seen = {way: [judge.look(image, [NAME]) for image in images] for way, images in drawn.items()}
    averaged = maps.averaged((SIZE, SIZE))  # [pictures, 1, SIZE, SIZE]
    mask = masks_picture(averaged[0], [NAME], drawn[LOCALISED][0])
    numbers = sum(up.numel() + down.numel() for up, down in residuals_of(concept).values())
    figures = {
        variant: [
            Figure(variant, [_sample(variant, image, one)])
            for image, one in zip(images, seen[variant], strict=True)
        ]
        for variant, images in drawn.items()
    }
    section = Section(
        "",
        f"<{NAME}> is learned from {N_PICTURES} pictures, all {BACKGROUNDS[TAUGHT_ON]}: no masks, "
        f"no class pictures, {numbers:,} parameters. When a plain LoRA draws it "
        f"{BACKGROUNDS[DRAWN_ON]}, the old background comes along. LAG uses the word's attention "
        "above its median as a mask in every block and applies the residual only there. A tick "
        f"means that the judge tells <{NAME}> from {LINEUP - 1} others of its class, on the "
        "requested background.",
        [
            Figure.of(
                sample_strip([*taught, mask], [*["taught"] * N_PICTURES, "mask, mean of blocks"]),
                f"Training pictures of <{NAME}>, and the masks of LAG",
                is_wide=True,
            ),
            *(figure for row in figures.values() for figure in row),
        ],
        Table(
            ("sampling", "recognised", "likeness", "requested background"),
            [
                (
                    variant,
                    f"{sum(one.identities[NAME].right for one in samples)} of {COUNT}",
                    f"{mean([one.identities[NAME].similarity for one in samples]):.2f}",
                    f"{sum(one.background == DRAWN_ON for one in samples)} of {COUNT}",
                )
                for variant, samples in seen.items()
            ],
        ),
        "Likeness is the cosine of the judge's description with the object, 1 at best. "
        "The three variants share their noise, so the residuals cause every difference.",
        "conceptloom train-residuals -i cat1.png -i cat2.png --handle my-cat --class cat\n"
        "conceptloom sample -c runs/my-cat/concept.safetensors -p 'a <my-cat> cat on grass' --lag",
    )
    title = "Personalized Residuals: applied only where the object appears"
    cover = [Figure.of(taught[0], "Taught"), *(row[0] for row in list(figures.values())[:2])]
    return Story("personalized_residuals", title, [NAME], [section], cover)


def _sample(variant: str, image: Tensor, seen: Verdict) -> DemoSample:
    """The variants without LAG are there for comparison and are not judged."""
    is_right = seen.is_right(DRAWN_ON) if variant == LOCALISED else None
    return DemoSample(image, is_right, seen.summary(DRAWN_ON))
