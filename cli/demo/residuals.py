"""Personalized Residuals in the demo: one object, with LAG, everywhere, and without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from ...attention.lag_config import LagConfig
from ...attention.lag_maps import LagMaps
from ...concepts.concept_file import save_concept
from ...methods.personalized_residuals import Localised, learn_residuals, residuals_of, sample_lag
from ...methods.personalized_residuals.spec import ON_TINYWORLD
from ...samplers.ddim import seeded_noise
from ...tinyworld.concepts import CONCEPTS, concept_scene
from ...tinyworld.oracle import load_oracle
from ...tinyworld.shapes import BACKGROUNDS
from ...training.previews import PreviewConfig
from ...viz.lag_overlays import masks_picture
from ...viz.overlays import sample_strip
from .judge import ELSEWHERE_SEED, as_image, mean
from .story import DemoContext, DemoSample, Figure, Section, Story, Table

OBJECT, WORD = "twotone", "circle"  # of `tinyworld.concepts`, and the class word
TAUGHT_ON, DRAWN_ON = "sky", "beach"
NAME = f"my-{OBJECT}"
N_PICTURES, COUNT, STEPS, CFG = 3, 3, 16, 3.0
LOCALISED = "with LAG"
VARIANTS = {
    LOCALISED: LagConfig(),
    "everywhere, like a LoRA": LagConfig(localised=False),
    "base model": LagConfig(strength=0.0),
}


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the oracle makes of a picture."""

    is_concept: bool
    likeness: float
    background: str

    @property
    def is_right(self) -> bool:
        """The object, where it was asked for."""
        return self.is_concept and self.background == DRAWN_ON


def tell(context: DemoContext) -> Story:
    """Learn from pictures that share a background, then ask for another one."""
    host = context.host
    context.say(f"Personalized Residuals: learning <{NAME}> from pictures {BACKGROUNDS[TAUGHT_ON]}")
    truths = [concept_scene([OBJECT], 10 * context.seed + i, TAUGHT_ON) for i in range(N_PICTURES)]
    taught = [as_image(truth.image) for truth in truths]
    concept = learn_residuals(
        host,
        taught,
        NAME,
        WORD,
        replace(ON_TINYWORLD, seed=context.seed),
        previews=PreviewConfig(steps=1, cfg=1.0),
        progress=context.progress,
    ).concept
    save_concept(concept, context.folder / f"{NAME}.safetensors")
    context.say("Personalized Residuals: the same noise with LAG, everywhere, and without")
    text = f"a photo of a <{NAME}> {WORD} {BACKGROUNDS[DRAWN_ON]}"
    noise, maps = seeded_noise(host, 1000 + context.seed, COUNT, (64, 64)), LagMaps()
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
    known = _references()
    seen = {name: [_seen(image, known) for image in images] for name, images in drawn.items()}
    averaged = maps.averaged((64, 64))  # [pictures, 1, 64, 64]
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
        f"means that the oracle recognises <{NAME}>, among {len(CONCEPTS)} unseen objects, on "
        "the requested background.",
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
                    f"{sum(one.is_concept for one in samples)} of {COUNT}",
                    f"{mean([one.likeness for one in samples]):.2f}",
                    f"{sum(one.background == DRAWN_ON for one in samples)} of {COUNT}",
                )
                for variant, samples in seen.items()
            ],
        ),
        "Likeness is the cosine of the oracle's description with the training object, 1 at best. "
        "The three variants share their noise, so the residuals cause every difference.",
        "conceptloom train-residuals -i cat1.png -i cat2.png --handle my-cat --class cat\n"
        "conceptloom sample -c runs/my-cat/concept.safetensors -p 'a <my-cat> cat on grass' --lag",
    )
    title = "Personalized Residuals: applied only where the object appears"
    cover = [Figure.of(taught[0], "Taught"), *(row[0] for row in list(figures.values())[:2])]
    return Story("personalized_residuals", title, [NAME], [section], cover)


def _sample(variant: str, image: Tensor, seen: _Seen) -> DemoSample:
    """The variants without LAG are there for comparison and are not judged."""
    is_judged = variant == LOCALISED
    summary = f"likeness {seen.likeness:.2f}, background {seen.background}"
    return DemoSample(image, seen.is_right if is_judged else None, summary)


def _references() -> dict[str, Tensor]:
    """All unseen objects of the world; the taught one has to be nearest."""
    references: dict[str, Tensor] = {}
    for name in CONCEPTS:
        known = concept_scene([name], seed=ELSEWHERE_SEED)
        references[name] = load_oracle().reference(known.image, known.masks[0])
    return references


def _seen(picture: Tensor, references: Mapping[str, Tensor]) -> _Seen:
    oracle = load_oracle()
    identity = oracle.identity(picture, references, OBJECT)
    return _Seen(identity.right, identity.similarity, oracle.background(picture))
