"""ConceptLab's example workflows: invent, mix, three generations, and an invention in a scene."""

from __future__ import annotations

from story_parts import BLUE, DRAWING, GREEN, PX, VIOLET, show
from workflow_graph import Graph, Node

INVENTED = "creature-tinyworld.safetensors"  # shipped in workflows/concepts
HANDLE, CATEGORY = "my-creature", "animal"
ORACLE = "TinyWorld oracle"
PAINTER = {"prior": "TinyWorld", "decoder": "none", "steps": 20, "cfg": 3.0, "size": PX}
TEACHING = {"steps": 100, "learning_rate": 1e-2, "look_every": 20, "prior_steps": 3}
SHORT = {**TEACHING, "steps": 50, "look_every": 25}
ON_WHITE = "a photo of a {concept}\na photo of a {concept} on a white background"


def invent(graph: Graph) -> Graph:
    """A category -> something that is of it and none of its named members."""
    graph.note(
        "## Invent a new object\n\n"
        "Press **Run**. The name starts as the word *animal* and stays near to "
        "it. Every 20 steps, the workflow draws the name and asks "
        "a VQA model what kind of animal the picture shows. The answer becomes "
        "another negative, so the name moves away from one known animal after "
        "another: fish, cat, bird. The VQA model answers *object* where no known class "
        "fits. That is the goal, so *object* is *forbidden* as a negative. This takes a "
        "minute on a laptop's CPU.\n\n"
        "**Choose a checkpoint:** type a step from the report into *checkpoint* and "
        "run again; training does not repeat.\n\n"
        "**Photographs:** download a prior with its decoder and a BLIP-2 with "
        "*Download ConceptLab Model*, choose them in the two loaders, and set "
        "*steps*, *learning_rate* and *look_every* to 2500, 0.0001 and 250.",
        (40, 40), (520, 410),
    )  # fmt: skip
    prior = laboratory(graph, 490)
    vqa = graph.node("ConceptLoomLoadBlip2", (60, 1030), (300, 110), model_folder=ORACLE)
    trainer = graph.node(
        "ConceptLoomAdaptiveNegativesTrainer", (640, 80), (420, 1080),
        prior=prior[0], vqa=vqa[0], handle=HANDLE, category=CATEGORY,
        initialiser_word=CATEGORY, forbidden="object", name="creature", gallery=ON_WHITE,
        **TEACHING,
    )  # fmt: skip
    graph.node(
        "ConceptLoomSaveConcept", (1120, 80), (320, 130),
        concept=trainer[0], name="creature", overwrite=True,
    )  # fmt: skip
    graph.node("PreviewAny", (1120, 270), (320, 330), "Report", source=trainer[7])
    drawn = graph.node(
        "ConceptLoomGenerateWithPrior", (1120, 660), (320, 300), prior=prior[0],
        concept=trainer[0], prompt=f"a photo of a <{HANDLE}> at the beach", seed=11, count=4,
    )  # fmt: skip
    show(graph, "At the beach", drawn[0], (1120, 1020), (320, 160))
    show(graph, "Timeline: a row per checkpoint", trainer[2], (1500, 80), (420, 640))
    show(graph, "The invention", trainer[1], (1500, 780), (420, 380))
    show(graph, "Similarity with every constraint", trainer[3], (1980, 80), (420, 320))
    show(graph, "Loss", trainer[4], (1980, 460), (420, 320))
    graph.group("1. Prior, image generator, VQA model", 40, 420, 540, 760, GREEN)
    graph.group("2. Invent", 620, 10, 460, 1190, VIOLET)
    graph.group("3. Results", 1100, 10, 1320, 1190, BLUE)
    return graph


def mix(graph: Graph) -> Graph:
    """Two words -> one thing that is both, by weight."""
    graph.note(
        "## Mix two objects into one\n\n"
        "Press **Run**. A name learns to be similar to both words at once, in "
        "proportion to their weights. Mixing uses positives only: no VQA model and "
        "no negatives.\n\n"
        "**Your own:** write one word per line, followed by a colon and its weight.",
        (40, 40), (520, 230),
    )  # fmt: skip
    prior = laboratory(graph, 350)
    for row, (title, words) in enumerate(
        {"Half and half": "fish: 1\nbird: 1", "More of a fish": "fish: 3\nbird: 1"}.items()
    ):
        top = 80 + row * 880
        mixed = graph.node(
            "ConceptLoomConceptMixing", (640, top), (420, 760), title, prior=prior[0],
            handle=f"my-mix-{row + 1}", words=words, name=f"mix-{row + 1}", gallery=ON_WHITE,
            positive_ceiling=1.0,  # below it, a word that is near enough would weigh nothing
            **SHORT,
        )  # fmt: skip
        show(graph, f"{title}: timeline", mixed[2], (1120, top), (420, 560))
        show(graph, f"{title}: samples", mixed[1], (1600, top), (420, 320))
        show(graph, f"{title}: similarity", mixed[3], (1600, top + 380), (420, 320))
    graph.group("1. Prior and image generator", 40, 280, 540, 590, GREEN)
    graph.group("2. Mix", 620, 10, 460, 1740, VIOLET)
    graph.group("3. Results", 1100, 10, 940, 1740, BLUE)
    return graph


def three_generations(graph: Graph) -> Graph:
    """Two inventions -> their child -> a grandchild with a photograph as the other parent."""
    graph.note(
        "## Evolve three generations\n\n"
        "Press **Run**. The workflow invents two objects of different categories. "
        "Their pictures are the parents of a child. The child and an object from a "
        "photograph are the parents of a grandchild. The report and the concept file "
        "contain the family tree.\n\n"
        "**Your own:** connect *Load Concept* or a batch of photographs in place of "
        "any parent. *weights* sets the share of each parent, concepts first.",
        (40, 40), (520, 270),
    )  # fmt: skip
    prior = laboratory(graph, 390)
    vqa = graph.node("ConceptLoomLoadBlip2", (60, 930), (300, 110), model_folder=ORACLE)
    photo = graph.node(
        "ConceptLoomTinyWorldScene", (60, 1110), (300, 150), "A photograph", objects="flower2",
        seed=4,
    )  # fmt: skip
    parents: list[Node] = []
    for row, category in enumerate(("animal", "plant")):
        parents.append(
            graph.node(
                "ConceptLoomAdaptiveNegativesTrainer", (640, 80 + row * 1160), (420, 1080),
                f"Invent a new {category}", prior=prior[0], vqa=vqa[0],
                handle=f"my-parent-{row + 1}", category=category, name=f"parent-{row + 1}",
                seed=row, gallery=ON_WHITE, **SHORT,
            )
        )  # fmt: skip
    child = graph.node(
        "ConceptLoomEvolveConcepts", (1120, 80), (420, 800), "Child", prior=prior[0],
        concepts__concept0=parents[0][0], concepts__concept1=parents[1][0], handle="my-child",
        first_word="object", name="child", gallery=ON_WHITE, **SHORT,
    )  # fmt: skip
    grandchild = graph.node(
        "ConceptLoomEvolveConcepts", (1600, 80), (420, 800), "Grandchild", prior=prior[0],
        concepts__concept0=child[0], images__image0=photo[0], handle="my-grandchild",
        first_word="object", name="grandchild", gallery=ON_WHITE, **SHORT,
    )  # fmt: skip
    show(graph, "First parent", parents[0][1], (1120, 950), (200, 320))
    show(graph, "Second parent", parents[1][1], (1340, 950), (200, 320))
    show(graph, "The child", child[1], (1600, 950), (200, 320))
    show(graph, "The grandchild", grandchild[1], (1820, 950), (200, 320))
    graph.node("PreviewAny", (1120, 1340), (420, 300), "Family tree", source=grandchild[6])
    graph.group("1. Prior, image generator, VQA model, photograph", 40, 320, 540, 960, GREEN)
    graph.group("2. Parents", 620, 10, 460, 2260, VIOLET)
    graph.group("3. Child and grandchild", 1100, 10, 940, 1660, BLUE)
    return graph


def invention_in_a_scene(graph: Graph) -> Graph:
    """An invented concept -> prompts of the base model, through stock nodes; and an embedding."""
    graph.note(
        "## Use an invention in any scene\n\n"
        "*Load Concept* loads the object that the workflow *13-invent* invented. "
        "*Apply Concept* adds its name to the base model; everything after it is "
        "stock ComfyUI. *Export Concept* writes the same vector as an embedding: "
        "`embedding:my-creature` works in any program that reads embeddings, without "
        "this pack.\n\n"
        "**Kandinsky:** *Generate with Prior* draws names trained with its prior; "
        "its embeddings also fit *unCLIPConditioning*.",
        (40, 40), (520, 290),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    concept = graph.node("ConceptLoomLoadConcept", (60, 580), (300, 130), concept_name=INVENTED)
    graph.node(
        "ConceptLoomExportConcept", (60, 770), (300, 210), concept=concept[0],
        name="invention", overwrite=True,
    )  # fmt: skip
    known = graph.node(
        "ConceptLoomApplyConcept", (400, 430), (240, 130),
        model=base[0], clip=base[1], concept=concept[0],
    )  # fmt: skip
    nothing = graph.node(
        "CLIPTextEncode", (400, 620), (300, 120), "Negative", clip=known[1], text=""
    )
    latent = graph.node(
        "EmptyLatentImage", (400, 800), (300, 120), width=PX, height=PX, batch_size=4
    )
    prompts = {
        f"a photo of a <{HANDLE}> on the grass": "grass",
        f"a photo of a <{HANDLE}> and a blue ball in the night": "night",
    }
    for row, (text, prefix) in enumerate(prompts.items()):
        top = 80 + row * 420
        positive = graph.node(
            "CLIPTextEncode", (780, top), (320, 130), "Prompt", clip=known[1], text=text
        )
        sampled = graph.node(
            "KSampler", (1130, top), (280, 290), model=known[0], positive=positive[0],
            negative=nothing[0], latent_image=latent[0], **DRAWING,
        )  # fmt: skip
        decoded = graph.node("VAEDecode", (1440, top), (160, 60), samples=sampled[0], vae=base[2])
        graph.node(
            "SaveImage", (1640, top), (360, 330),
            images=decoded[0], filename_prefix=f"conceptloom/invention/{prefix}",
        )  # fmt: skip
    graph.group("1. An invented concept", 40, 360, 690, 690, GREEN)
    graph.group("2. New scenes", 760, 10, 1260, 860, BLUE)
    return graph


def laboratory(graph: Graph, top: int) -> Node:
    """TinyWorld's prior, with TinyWorld drawing."""
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, top), (240, 90))
    return graph.node(
        "ConceptLoomLoadDiffusionPrior", (60, top + 150), (300, 320), model=base[0], clip=base[1],
        vae=base[2], **PAINTER,
    )  # fmt: skip
