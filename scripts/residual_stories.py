"""The stories of Personalized Residuals: training, with and without LAG, two in one picture."""

from __future__ import annotations

from collections.abc import Sequence

from story_parts import BLUE, DRAWING, GREEN, PX, RESIDUALS, VIOLET, batched, show
from workflow_graph import Graph, Node, Output

# object, its class, background of its pictures
BIRD = ("bird3", "bird", "sky")
BOAT, FLOWER = ("boat4", "boat", "beach"), ("flower2", "flower", "gray")
TEAPOT = ("teapot4", "teapot", "")  # each picture on another background
# background of each picture of one's own -> its caption
OWN = {
    "white": "a photo of a {} on a white background",
    "beach": "a photo of a {} at the beach",
    "sky": "a photo of a {} in the sky",
    "gray": "a photo of a {} on a gray background",
}
ELSEWHERE = "on the grass"  # where none of them was taken


def residuals_and_lag(graph: Graph) -> Graph:
    """A few pictures in the sky -> the object elsewhere, with LAG, as a plain LoRA, and without."""
    graph.note(
        "## Learn residuals, and apply them only where the object is\n\n"
        "Press **Run**. *Train Personalized Residuals* learns one bird from three "
        "pictures, all with the sky behind it, without masks and without class "
        "pictures. Then the workflow draws the same prompt and seed, at the beach, "
        "three times: with **LAG**, which applies the residuals only where the name "
        "has attention; with the residuals **everywhere**, like a plain LoRA, which "
        "also reproduces the old background; and with the **base model** alone.\n\n"
        "**Your own:** connect a batch of 3 to 5 pictures and any SD 1.5, SD 2 or "
        "SDXL checkpoint. Set *learning_rate* and *ratio* to 0.001 and 0.05, "
        "*train_handle* off, and *rare_token* to ktn.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 450), (240, 90))
    concept = taught(graph, base, "my-bird", BIRD, 600)
    latent = graph.node(
        "EmptyLatentImage", (840, 740), (300, 120), width=PX, height=PX, batch_size=4
    )
    settings = {
        "with LAG": {},
        "everywhere, as a LoRA": {"localised": False},
        "base model": {"strength": 0.0},
    }
    for row, (title, knobs) in enumerate(settings.items()):
        top = 80 + row * 470
        lag = graph.node(
            "ConceptLoomApplyLag", (1200, top), (270, 380), title,
            model=base[0], clip=base[1], concept=concept, **knobs,
        )  # fmt: skip
        prompts = [
            graph.node("CLIPTextEncode", (1500, top + 160 * i), (300, 120), clip=lag[1], text=text)
            for i, text in enumerate(("a photo of a <my-bird> bird at the beach", ""))
        ]
        drawn = graph.node(
            "KSampler", (1840, top), (280, 290), model=lag[0], positive=prompts[0][0],
            negative=prompts[1][0], latent_image=latent[0], **DRAWING,
        )  # fmt: skip
        decoded = graph.node(
            "VAEDecode", (1840, top + 330), (160, 60), samples=drawn[0], vae=base[2]
        )
        graph.node(
            "SaveImage", (2160, top), (360, 380), images=decoded[0],
            filename_prefix=f"conceptloom/lag/{row}",
        )  # fmt: skip
    graph.group("1. Learn from three pictures in the sky", 40, 380, 1120, 720, GREEN)
    graph.group("2. The same prompt and seed three times", 1180, 10, 1360, 1480, BLUE)
    return graph


def two_concepts_with_lag(graph: Graph) -> Graph:
    """Two concepts, learned apart -> one picture, each only where it is."""
    graph.note(
        "## Two concepts in one picture\n\n"
        "The workflow learns a boat and a flower separately, from pictures at the "
        "beach and on gray. *LAG Sampler* draws both at once: each name has its own "
        "mask in each block, and where two overlap, the one with the stronger "
        "attention wins. The node shows the masks during sampling.",
        (40, 40), (520, 230),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 340), (240, 90))
    concepts = [
        taught(graph, base, name, subject, 480 + 760 * i)
        for i, (name, subject) in enumerate((("my-boat", BOAT), ("my-flower", FLOWER)))
    ]
    latent = graph.node(
        "EmptyLatentImage", (1200, 80), (300, 120), width=PX, height=PX, batch_size=4
    )
    drawn = graph.node(
        "ConceptLoomLagSampler", (1200, 260), (360, 800), model=base[0], clip=base[1],
        concepts__concept0=concepts[0], concepts__concept1=concepts[1], latent_image=latent[0],
        positive="a photo of a <my-boat> boat and a <my-flower> flower on the grass",
        **DRAWING,
    )  # fmt: skip
    decoded = graph.node("VAEDecode", (1600, 80), (160, 60), samples=drawn[0], vae=base[2])
    graph.node(
        "SaveImage", (1600, 190), (380, 380), images=decoded[0],
        filename_prefix="conceptloom/lag/two",
    )  # fmt: skip
    show(graph, "Mask of every block", drawn[2], (1600, 620), (520, 380))
    as_image = graph.node("MaskToImage", (2020, 80), (200, 60), mask=drawn[1])
    show(graph, "Masks, averaged", as_image[0], (2020, 190), (320, 380))
    graph.group("1. Learn two objects separately", 40, 280, 1120, 1720, GREEN)
    graph.group("2. Both in one picture", 1180, 10, 1180, 1080, VIOLET)
    return graph


def learn_from_pictures(graph: Graph) -> Graph:
    """Several pictures with captions -> a saved concept, and a first picture with it."""
    name, word, _ = TEAPOT
    graph.note(
        "## Learn one object from your pictures\n\n"
        "Press **Run**. *Train Personalized Residuals* learns one teapot from four "
        "pictures and draws a preview every 50 steps. *Save Concept* writes a small "
        "file. *Inspect Concept* shows its contents and its prompt; that prompt, "
        "followed by a place, goes into *LAG Sampler*, which shows the mask of the "
        "teapot during sampling.\n\n"
        "**Your own:** replace each *TinyWorld Scene* with *Load Image* (3 to 5 "
        "pictures), use any SD 1.5, SD 2 or SDXL checkpoint, and choose a name and a "
        "class word. **Captions** are optional: one line per picture, with {} for "
        "the object. They describe the rest of the picture, so that the concept does "
        "not learn it. Set *learning_rate* and *ratio* to 0.001 and 0.05, "
        "*train_handle* off, *rare_token* to ktn, and *resolution_px* to 512. "
        "**Cancel** at any time; Run resumes.",
        (40, 40), (620, 370),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (400, 1020), (240, 90))
    trained = graph.node(
        "ConceptLoomTrainPersonalizedResiduals", (720, 80), (420, 780), model=base[0],
        clip=base[1], vae=base[2], images=pictures_of(graph, name, list(OWN), 500),
        handle="my-teapot", class_word=word, captions="\n".join(OWN.values()), name="my-pictures",
        **RESIDUALS | {"preview_every": 50},
    )  # fmt: skip
    for title, output, top, height in (
        ("Timeline: a row per preview", 4, 80, 420),
        ("Attention of the name", 5, 550, 260),
        ("Loss", 6, 860, 240),
    ):
        show(graph, title, trained[output], (1200, top), (420, height))
    saved = graph.node(
        "ConceptLoomSaveConcept", (1680, 80), (320, 130), concept=trained[0], name="my-teapot",
        overwrite=True,
    )  # fmt: skip
    inspected = graph.node("ConceptLoomInspectConcept", (1680, 270), (320, 430), concept=saved[0])
    prompt = graph.node(
        "StringConcatenate", (1680, 760), (320, 180), "Its prompt, and a place",
        string_a=inspected[2], string_b=ELSEWHERE, delimiter=" ",
    )  # fmt: skip
    latent = graph.node(
        "EmptyLatentImage", (2060, 80), (300, 120), width=PX, height=PX, batch_size=4
    )
    drawn = graph.node(
        "ConceptLoomLagSampler", (2060, 260), (360, 700), model=base[0], clip=base[1],
        concepts__concept0=saved[0], latent_image=latent[0], positive=prompt[0], **DRAWING,
    )  # fmt: skip
    decoded = graph.node("VAEDecode", (2460, 80), (160, 60), samples=drawn[0], vae=base[2])
    graph.node(
        "SaveImage", (2460, 190), (380, 380), images=decoded[0],
        filename_prefix="conceptloom/lag/learned",
    )  # fmt: skip
    as_image = graph.node("MaskToImage", (2460, 620), (200, 60), mask=drawn[1])
    show(graph, "Where it is", as_image[0], (2460, 730), (380, 240))
    graph.group("1. Pictures of one object", 40, 430, 620, 800, GREEN)
    graph.group("2. Learn", 700, 10, 940, 1220, VIOLET)
    graph.group("3. A small file", 1660, 10, 360, 1220, GREEN)
    graph.group("4. Sample with LAG", 2040, 10, 820, 1220, BLUE)
    return graph


def taught(
    graph: Graph, base: Node, handle: str, subject: tuple[str, str, str], top: int
) -> Output:
    """A concept learned from three pictures of one object."""
    name, word, background = subject
    batch = pictures_of(graph, name, [background] * 3, top)
    trained = graph.node(
        "ConceptLoomTrainPersonalizedResiduals", (400, top + 250), (400, 420), model=base[0],
        clip=base[1], vae=base[2], images=batch, handle=handle, class_word=word, name=handle,
        **RESIDUALS,
    )  # fmt: skip
    return trained[0]


def pictures_of(graph: Graph, name: str, backgrounds: Sequence[str], top: int) -> Output:
    """One object in several pictures, as a batch."""
    pictures = [
        graph.node(
            "ConceptLoomTinyWorldScene", (60, top + 180 * i), (270, 150),
            objects=name, background=background, seed=i,
        )
        for i, background in enumerate(backgrounds)
    ]  # fmt: skip
    return batched(graph, [picture[0] for picture in pictures], (370, top))
