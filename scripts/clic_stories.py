"""CLiC's example workflow: learn an ornament, carry it over, draw new objects with it."""

from __future__ import annotations

from workflow_graph import Graph, Node, Output

GREEN, BLUE, VIOLET = "#3f5f3f", "#3f4f6f", "#5a4a6a"
HANDLE = "my-ornament"
SOURCE, SOURCE_SHAPE, TARGET, TARGET_SHAPE = "yellow square", "square", "green circle", "circle"
SETTINGS = {"steps": 30, "cfg": 3.0, "scheduler": "ddim_uniform", "seed": 3}
PX = 64  # side of a TinyWorld picture


def carry_an_ornament(graph: Graph) -> Graph:
    """One object with an ornament -> a word; the word -> another object's part, and new objects."""
    graph.note(
        "## Carry a detail from one object to another\n\n"
        "Press **Run**. The trainer learns the marked ornament of one object in its context "
        "(preset *TinyWorld CLiC quick*, minutes on a laptop's CPU). Then it is drawn on the bare "
        "part of another object: everything outside of the mask stays, pixel by pixel. *RoI "
        "Matching* finds that place by itself, and *Two-Stage Generation* draws new objects that "
        "carry the ornament.\n\n"
        "**Your own pictures:** replace the two *TinyWorld Ornament* by *Load Image* with masks, "
        "*TinyWorld Checkpoint* by *Load Checkpoint*, and choose the preset *CLiC* (SD 1.5, 12 GB) "
        "or *CLiC low-rank* (SDXL); 50 steps and start 15 to 20 suit them.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    source = graph.node(
        "ConceptLoomTinyWorldOrnament", (60, 580), (300, 210), "The ornament",
        object=SOURCE, ornament="bullseye", seed=1,
    )  # fmt: skip
    target = graph.node(
        "ConceptLoomTinyWorldOrnament", (60, 850), (300, 210), "Another object",
        object=TARGET, ornament="none", seed=101,
    )  # fmt: skip
    scene = graph.node(
        "ConceptLoomConceptScene", (400, 430), (340, 520),
        images=source[0], masks__mask0=source[1], concepts=f"{HANDLE}: circle",
    )  # fmt: skip
    trainer = graph.node(
        "ConceptLoomCrossAttentionLossTrainer", (800, 80), (440, 980),
        model=base[0], clip=base[1], vae=base[2], scene=scene[0],
        preset="TinyWorld CLiC quick", preset__object_word=SOURCE_SHAPE, name="ornament",
        preview_every=0, preview_steps=20, preview_cfg=3.0,
    )  # fmt: skip
    _transfer(graph, base, trainer, target)
    _match(graph, base, trainer, source, target)
    _generate(graph, base, trainer)
    graph.group("1. An ornament, and where it should go", 40, 360, 720, 720, GREEN)
    graph.group("2. Learn", 780, 10, 480, 1070, VIOLET)
    graph.group("3. Carry it over", 1290, 10, 1140, 560, BLUE)
    graph.group("4. Find the place automatically", 1290, 600, 760, 480, BLUE)
    graph.group("5. New objects that carry it", 2470, 10, 1060, 1070, BLUE)
    return graph


def _transfer(graph: Graph, base: Node, trainer: Node, target: Node) -> None:
    guided = graph.node(
        "ConceptLoomCrossAttentionGuidance", (1310, 80), (300, 240),
        model=trainer[1], clip=trainer[2], mask=target[1], words=f"<{HANDLE}>", steps=18,
    )  # fmt: skip
    edit = graph.node(
        "ConceptLoomMaskedBlendedEdit", (1650, 80), (360, 470),
        model=guided[0], clip=guided[1], vae=base[2], image=target[0], mask=target[1],
        prompts=f"a {TARGET_SHAPE} with <{HANDLE}> style", start=9, feather_px=1, **SETTINGS,
    )  # fmt: skip
    _show(graph, "Carried over", edit[0], (2050, 80), (360, 380))


def _match(graph: Graph, base: Node, trainer: Node, source: Node, target: Node) -> None:
    matched = graph.node(
        "ConceptLoomRoIMatching", (1310, 670), (340, 390),
        model=base[0], clip=base[1], vae=base[2], concept=trainer[0], source=source[0],
        source_mask=source[1], targets=target[0], object_word="object", steps=60, rate=5e-3,
        read_steps=20,
    )  # fmt: skip
    _show(graph, "The place that was found", matched[2], (1690, 670), (340, 390))


def _generate(graph: Graph, base: Node, trainer: Node) -> None:
    texts = {
        "First steps": (base[1], f"a photo of a {TARGET_SHAPE}"),
        "Then": (trainer[2], f"a photo of a {TARGET_SHAPE}, with <{HANDLE}> style"),
        "Negative": (trainer[2], ""),
    }
    encoded = [
        graph.node("CLIPTextEncode", (2490, 80 + 190 * i), (300, 120), title, clip=clip, text=text)
        for i, (title, (clip, text)) in enumerate(texts.items())
    ]
    empty = graph.node(
        "EmptyLatentImage", (2490, 650), (300, 120), width=PX, height=PX, batch_size=4
    )
    drawn = graph.node(
        "ConceptLoomTwoStageGeneration", (2830, 80), (300, 400),
        base_model=base[0], model=trainer[1], base_positive=encoded[0][0], positive=encoded[1][0],
        negative=encoded[2][0], latent_image=empty[0], base_steps=5, sampler_name="ddim",
        **SETTINGS,
    )  # fmt: skip
    decoded = graph.node("VAEDecode", (2830, 540), (160, 60), samples=drawn[0], vae=base[2])
    _show(graph, "New objects", decoded[0], (3170, 80), (340, 400))


def _show(
    graph: Graph, title: str, images: Output, at: tuple[int, int], size: tuple[int, int]
) -> None:
    graph.node("PreviewImage", at, size, title, images=images)
