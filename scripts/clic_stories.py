"""CLiC's example workflows: learn an ornament, carry it over, find its place, draw new objects."""

from __future__ import annotations

from story_parts import BLUE, GREEN, PREVIEW, PX, VIOLET, batched, show, widgets_of
from workflow_graph import Graph, Node, Output

from conceptloom.methods.registry import settings_of_preset
from conceptloom.tinyworld.presets import RATE_OF_SCOPE
from conceptloom.training.adapters import Scope

HANDLE = "my-spiral"
ORNAMENT, WORD = "spiral", "circle"  # what it is, and the word that it starts from
SOURCE = {"object": "red mug", "ornament": ORNAMENT, "background": "white", "seed": 5}
TARGETS = (
    {"object": "blue vase", "ornament": "none", "background": "sky", "seed": 105},
    {"object": "green teapot", "ornament": "none", "background": "gray", "seed": 108},
    {"object": "yellow mug", "ornament": "none", "background": "grass", "seed": 109},
)
LEARNED = "spiral-tinyworld.safetensors"  # shipped in workflows/concepts
SETTINGS = {"steps": 20, "cfg": 3.0, "scheduler": "ddim_uniform", "seed": 3}
TRAINER = {"name": ORNAMENT, "preview_every": 0, **PREVIEW}
PRESET, SMALL_PRESET = "TinyWorld CLiC quick", "CLiC low-rank"
SMALL = {"scope": Scope.LOW_RANK, "weight_rate": RATE_OF_SCOPE[Scope.LOW_RANK], "rank": 8}


def carry_an_ornament(graph: Graph) -> Graph:
    """One object with an ornament -> a word; the word -> another object's part."""
    graph.note(
        "## Transfer a detail from one object to another\n\n"
        "Press **Run**. The trainer learns the masked ornament of one object in its "
        "context (preset *TinyWorld CLiC quick*, two minutes on a laptop's CPU). Then "
        "the ornament is drawn on the bare part of another object; every pixel "
        "outside the mask stays exact. *Cross-Attention Guidance* moves the word "
        "into the mask; a negative `eta` moves it out.\n\n"
        "**Your own pictures:** replace the two *TinyWorld Ornament* nodes with "
        "*Load Image* and masks, and *TinyWorld Checkpoint* with *Load Checkpoint*. "
        "Choose the preset *CLiC* (SD 1.5, 12 GB) or *CLiC low-rank* (SDXL), with 50 "
        "steps and a start of 15 to 20.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    source, target = _ornament(graph, 580, SOURCE), _ornament(graph, 850, TARGETS[0])
    scene = _scene(graph, source, source[1])
    trainer = _trainer(graph, base, scene)
    guided = graph.node(
        "ConceptLoomCrossAttentionGuidance", (1310, 80), (300, 240),
        model=trainer[1], clip=trainer[2], mask=target[1], words=f"<{HANDLE}>", steps=12,
    )  # fmt: skip
    edit = graph.node(
        "ConceptLoomMaskedBlendedEdit", (1650, 80), (360, 470),
        model=guided[0], clip=guided[1], vae=base[2], image=target[0], mask=target[1],
        prompts=f"a photo of a {TARGETS[0]['object']} and <{HANDLE}>", start=0, feather_px=1,
        **SETTINGS,
    )  # fmt: skip
    show(graph, "Taught", source[0], (1310, 600), (300, 360))
    show(graph, "Before", target[0], (1650, 600), (300, 360))
    show(graph, "Carried over", edit[0], (2050, 80), (360, 380))
    graph.group("1. The ornament and its target", 40, 360, 720, 740, GREEN)
    graph.group("2. Learn", 780, 10, 480, 1090, VIOLET)
    graph.group("3. Transfer it", 1290, 10, 1140, 980, BLUE)
    return graph


def learn_an_ornament(graph: Graph) -> Graph:
    """One object with an ornament -> a small concept file, and a look at what the loss saw."""
    graph.note(
        "## Learn an ornament in its context\n\n"
        "Press **Run**. A mask marks a detail of an object. *Soft Mask Builder* "
        "shows the weights of the loss: full weight on the detail, a quarter on the "
        "rest of the object. The trainer learns a name for the detail (preset *CLiC "
        "low-rank*, with higher learning rates for the bundled model), and *Save "
        "Concept* saves it. The next two workflows load such a file.\n\n"
        "**Your own picture:** replace *TinyWorld Ornament* with *Load Image* and a "
        "mask, replace *TinyWorld Checkpoint* with *Load Checkpoint*, select the "
        "preset again, and write the object that carries the detail into "
        "`object_word`.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    source = _ornament(graph, 580, SOURCE)
    soft = graph.node(
        "ConceptLoomSoftMaskBuilder", (60, 850), (300, 380), mask=source[1], vae=base[2]
    )
    small = settings_of_preset(PRESET).changed(SMALL)
    widgets = widgets_of(small, settings_of_preset(SMALL_PRESET), without=TRAINER)
    trainer = _trainer(
        graph, base, _scene(graph, source, soft[1]), SMALL_PRESET, preview_every=100,
        **{f"preset__{name}": value for name, value in widgets.items()},
    )  # fmt: skip
    graph.node(
        "ConceptLoomSaveConcept", (1310, 80), (320, 130),
        concept=trainer[0], name=ORNAMENT, overwrite=True,
    )  # fmt: skip
    graph.node("PreviewAny", (1310, 270), (320, 260), "Report", source=trainer[8])
    show(graph, "Samples", trainer[3], (1310, 590), (320, 420))
    show(graph, "Attention of the word", trainer[5], (1690, 80), (420, 420))
    show(graph, "Loss", trainer[6], (1690, 560), (420, 420))
    graph.group("1. A detail and the weights of the loss", 40, 360, 720, 900, GREEN)
    graph.group("2. Learn", 780, 10, 480, 1090, VIOLET)
    graph.group("3. Results", 1290, 10, 840, 1090, BLUE)
    return graph


def match_regions(graph: Graph) -> Graph:
    """A concept and its picture -> masks on other pictures, and the ornament drawn under one."""
    graph.note(
        "## Find the place for the ornament\n\n"
        "*RoI Matching* takes the learned name, trains a second one on the detail's "
        "place on its own object, and looks for that place on pictures without the "
        "detail. It outputs a MASK and a heat map for each picture. The first mask "
        "goes straight into *Masked Blended Edit*, so you paint nothing by hand.\n\n"
        "**Your own:** load a concept trained with *CLiC* and its picture with the "
        "mask, and connect a batch of photographs of the same kind of object. 500 "
        "steps find the place more reliably than the few steps of this example; "
        "`threshold` sets the size of the masks.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    concept = graph.node("ConceptLoomLoadConcept", (60, 580), (300, 130), concept_name=LEARNED)
    source = _ornament(graph, 770, SOURCE)
    targets = [_ornament(graph, 430 + 270 * i, values, 400) for i, values in enumerate(TARGETS)]
    batch = batched(graph, [target[0] for target in targets], (760, 430))
    matched = graph.node(
        "ConceptLoomRoIMatching", (1060, 80), (340, 420),
        model=base[0], clip=base[1], vae=base[2], concept=concept[0], source=source[0],
        source_mask=source[1], targets=batch, object_word=SOURCE["object"], steps=80, rate=5e-3,
        read_steps=10,
    )  # fmt: skip
    show(graph, "Attention of the place", matched[2], (1440, 80), (420, 420))
    masks = graph.node("MaskToImage", (1900, 80), (220, 60), mask=matched[0])
    show(graph, "Their masks", masks[0], (1900, 200), (340, 300))
    known = graph.node(
        "ConceptLoomApplyConcept", (1060, 640), (260, 130),
        model=base[0], clip=base[1], concept=concept[0],
    )  # fmt: skip
    first = graph.node("ImageFromBatch", (1060, 830), (260, 100), image=batch, length=1)
    one = graph.node("ImageFromBatch", (1060, 990), (260, 100), "First mask", image=masks[0])
    place = graph.node("ImageToMask", (1060, 1150), (260, 80), image=one[0])
    edit = graph.node(
        "ConceptLoomMaskedBlendedEdit", (1380, 640), (360, 470),
        model=known[0], clip=known[1], vae=base[2], image=first[0], mask=place[0],
        prompts=f"a photo of a {TARGETS[0]['object']} and <{HANDLE}>", start=0, feather_px=1,
        **SETTINGS,
    )  # fmt: skip
    show(graph, "Drawn there", edit[0], (1780, 640), (360, 420))
    graph.group("1. A learned ornament, and other objects", 40, 360, 980, 880, GREEN)
    graph.group("2. Its place on each of them", 1040, 10, 1220, 520, BLUE)
    graph.group("3. Draw it there", 1040, 570, 1220, 690, VIOLET)
    return graph


def new_objects(graph: Graph) -> Graph:
    """A concept -> new objects that carry it, laid out by the base model first."""
    graph.note(
        "## Draw new objects with the ornament\n\n"
        "*Two-Stage Generation* draws the first steps with the base model and the "
        "later ones with the concept, so that the object keeps its own shape. First "
        "row: the concept from the first step on (`base_steps` 0). Second row: the "
        "concept after 4 steps of the base model. Third row: the base model alone. "
        "All rows use the same noise.\n\n"
        "**Your own:** load your concept and its checkpoint, and name the object in "
        "both prompts. The paper uses 5 base steps of 50; more base steps weaken the "
        "concept.",
        (40, 40), (520, 290),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    concept = graph.node("ConceptLoomLoadConcept", (60, 580), (300, 130), concept_name=LEARNED)
    known = graph.node(
        "ConceptLoomApplyConcept", (60, 770), (300, 130),
        model=base[0], clip=base[1], concept=concept[0],
    )  # fmt: skip
    plain = f"a photo of a {TARGETS[0]['object']}"
    texts = {
        "First steps": (base[1], plain),
        "Then": (known[1], f"{plain} and <{HANDLE}>"),
        "Negative": (known[1], ""),
    }
    encoded = [
        graph.node("CLIPTextEncode", (420, 430 + 180 * i), (300, 120), title, clip=clip, text=text)
        for i, (title, (clip, text)) in enumerate(texts.items())
    ]
    empty = graph.node("EmptyLatentImage", (60, 960), (300, 120), width=PX, height=PX, batch_size=4)
    stages = {"The concept alone": 0, "In two stages": 4, "The base model": SETTINGS["steps"]}
    for row, (title, base_steps) in enumerate(stages.items()):
        top = 80 + 540 * row
        drawn = graph.node(
            "ConceptLoomTwoStageGeneration", (800, top), (300, 400), title,
            base_model=base[0], model=known[0], base_positive=encoded[0][0],
            positive=encoded[1][0], negative=encoded[2][0], latent_image=empty[0],
            base_steps=base_steps, sampler_name="ddim", **SETTINGS,
        )  # fmt: skip
        decoded = graph.node("VAEDecode", (1140, top), (160, 60), samples=drawn[0], vae=base[2])
        show(graph, f"New objects, {base_steps} base steps", decoded[0], (1340, top), (360, 420))
    graph.group("1. A learned ornament, and prompts", 40, 360, 700, 740, GREEN)
    graph.group("2. New objects", 780, 10, 940, 1640, BLUE)
    return graph


def _ornament(graph: Graph, top: int, values: dict[str, object], left: int = 60) -> Node:
    """A TinyWorld object with an ornament, or with its part left bare."""
    bare = values["ornament"] == "none"
    return graph.node(
        "ConceptLoomTinyWorldOrnament", (left, top), (300, 210),
        "Another object" if bare else "The ornament", **values,
    )  # fmt: skip


def _scene(graph: Graph, source: Node, mask: Output) -> Node:
    return graph.node(
        "ConceptLoomConceptScene", (400, 430), (340, 520),
        images=source[0], masks__mask0=mask, concepts=f"{HANDLE}: {WORD}",
    )  # fmt: skip


def _trainer(graph: Graph, base: Node, scene: Node, preset: str = PRESET, **knobs: object) -> Node:
    return graph.node(
        "ConceptLoomCrossAttentionLossTrainer", (800, 80), (440, 1000),
        model=base[0], clip=base[1], vae=base[2], scene=scene[0],
        preset=preset, preset__object_word=SOURCE["object"], **(TRAINER | knobs),
    )  # fmt: skip
