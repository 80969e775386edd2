"""The example workflows: stories on TinyWorld, written once and built into JSON."""

from __future__ import annotations

from typing import Any

from clic_stories import carry_an_ornament, learn_an_ornament, match_regions, new_objects
from conceptlab_stories import invent, invention_in_a_scene, mix, three_generations
from local_stories import beside_a_concept, painted_mask, two_loras
from residual_stories import learn_from_pictures, residuals_and_lag, two_concepts_with_lag
from story_parts import BLUE, DRAWING, GREEN, PREVIEW, PX, VIOLET, show
from weaver_stories import photograph_as_template, three_with_background, train_two_weave_two
from workflow_graph import Graph, Node, Output

TAUGHT = {"my-mug": ("mug1", "mug"), "my-fish": ("fish2", "fish")}  # handle -> object, its class
OBJECTS, SCENE_SEED = ", ".join(name for name, _ in TAUGHT.values()), 2
HANDLES = tuple(TAUGHT)
WORDS = "\n".join(f"{handle}: {word}" for handle, (_, word) in TAUGHT.items())
PRESET = "TinyWorld quick"
LEARNED = "mug-and-fish-tinyworld.safetensors"  # shipped in workflows/concepts


def stories(schemas: dict[str, Any]) -> dict[str, Graph]:
    """Name of the file -> workflow; the names sort in the order to try them in."""
    return {
        "1-learn-a-scene": learn_a_scene(Graph(schemas)),
        "2-use-the-words": use_the_words(Graph(schemas)),
        "3-look-at-attention": look_at_attention(Graph(schemas)),
        "4-carry-an-ornament": carry_an_ornament(Graph(schemas)),
        "5-residuals-and-lag": residuals_and_lag(Graph(schemas)),
        "6-two-concepts-with-lag": two_concepts_with_lag(Graph(schemas)),
        "7-learn-an-ornament": learn_an_ornament(Graph(schemas)),
        "8-match-regions": match_regions(Graph(schemas)),
        "9-new-objects": new_objects(Graph(schemas)),
        "10-train-two-weave-two": train_two_weave_two(Graph(schemas)),
        "11-three-with-background": three_with_background(Graph(schemas)),
        "12-photograph-as-template": photograph_as_template(Graph(schemas)),
        "13-invent": invent(Graph(schemas)),
        "14-mix": mix(Graph(schemas)),
        "15-three-generations": three_generations(Graph(schemas)),
        "16-invention-in-a-scene": invention_in_a_scene(Graph(schemas)),
        "17-learn-from-pictures": learn_from_pictures(Graph(schemas)),
        "18-two-loras": two_loras(Graph(schemas)),
        "19-a-painted-mask": painted_mask(Graph(schemas)),
        "20-lora-beside-a-concept": beside_a_concept(Graph(schemas)),
    }


def learn_a_scene(graph: Graph) -> Graph:
    """One picture with two unknown objects -> two words."""
    graph.note(
        "## Learn two objects from one picture\n\n"
        "Press **Run**. The trainer learns a name for each masked object of one "
        "picture, shows samples during training, and saves the concept. This takes "
        "two or three minutes on a laptop's CPU and downloads nothing.\n\n"
        "**Your own picture:** replace *TinyWorld Scene* with *Load Image*. "
        "Right-click it, select *Open in MaskEditor*, paint one object, save, and "
        "connect IMAGE and MASK. For each further object, load the same picture "
        "again, paint that object, and connect its MASK too. *Load Image (as Mask)* "
        "and SAM3 also provide masks. Then write the names in *Concept Scene*, in "
        "the order of the masks. TinyWorld works at 128 px and knows 16 "
        "classes (mug, fish, cat, house, flower, robot and more, see the help of its "
        "node): use one of these as the initial word.\n\n"
        "**Your own model:** replace *TinyWorld Checkpoint* with *Load Checkpoint* "
        "and any SD 1.5, SD 2 or SDXL model, and choose another preset in the "
        "trainer.\n\n"
        "**Cancel** at any time: the state is saved, and Run resumes from it.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 470), (240, 90))
    picture = graph.node(
        "ConceptLoomTinyWorldScene", (60, 620), (270, 150), objects=OBJECTS, seed=SCENE_SEED
    )
    scene = graph.node(
        "ConceptLoomConceptScene", (370, 470), (360, 560),
        images=picture[0], masks__mask0=picture[1], vae=base[2], concepts=WORDS,
    )  # fmt: skip
    trainer = graph.node(
        "ConceptLoomCrossAttentionLossTrainer", (800, 80), (440, 950),
        model=base[0], clip=base[1], vae=base[2], scene=scene[0],
        preset=PRESET, name="mug-and-fish", preview_every=100, **PREVIEW,
    )  # fmt: skip
    graph.node(
        "ConceptLoomSaveConcept", (1310, 80), (320, 130),
        concept=trainer[0], name="mug-and-fish", overwrite=True,
    )  # fmt: skip
    graph.node("PreviewAny", (1310, 270), (320, 260), "Report", source=trainer[8])
    show(graph, "Samples", trainer[3], (1310, 590), (320, 420))
    show(graph, "Timeline: a row per preview", trainer[4], (1690, 80), (420, 600))
    show(graph, "Attention of each word", trainer[5], (2150, 80), (420, 300))
    show(graph, "Loss", trainer[6], (2150, 440), (420, 300))
    graph.group("1. The training scene", 40, 400, 710, 650, GREEN)
    graph.group("2. Learn", 780, 10, 480, 1040, VIOLET)
    graph.group("3. Results", 1290, 10, 1300, 1040, BLUE)
    return graph


def use_the_words(graph: Graph) -> Graph:
    """A learned concept -> its words in new prompts, through stock nodes."""
    graph.note(
        "## Use learned names in any prompt\n\n"
        "*Load Concept* loads a file that ships with this pack: the two objects of "
        "the first workflow. *Apply Concept* adds their names to MODEL and CLIP; "
        "everything after it is stock ComfyUI. Write `<my-mug>` and `<my-fish>` in "
        "any prompt, also with weights such as `(<my-fish>:1.2)`.\n\n"
        "**Your own:** choose the file that *Save Concept* wrote, and load the "
        "checkpoint that it was trained on. For several concepts, chain several "
        "*Apply Concept* nodes.",
        (40, 40), (520, 290),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 430), (240, 90))
    concept = graph.node("ConceptLoomLoadConcept", (60, 580), (300, 130), concept_name=LEARNED)
    graph.node("ConceptLoomInspectConcept", (60, 770), (300, 330), concept=concept[0])
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
    first, second = HANDLES
    prompts = {
        f"a photo of <{first}> on the grass": "new-places/first",
        f"a photo of <{second}> in the sky": "new-places/second",
        f"a photo of <{first}> and <{second}> at the beach": "new-places/both",
    }
    for row, (text, prefix) in enumerate(prompts.items()):
        top = 80 + row * 380
        positive = graph.node(
            "CLIPTextEncode", (780, top), (320, 130), "Prompt", clip=known[1], text=text
        )
        sampled = graph.node(
            "KSampler", (1130, top), (280, 290),
            model=known[0], positive=positive[0], negative=nothing[0], latent_image=latent[0],
            **DRAWING,
        )  # fmt: skip
        decoded = graph.node("VAEDecode", (1440, top), (230, 60), samples=sampled[0], vae=base[2])
        graph.node(
            "SaveImage", (1710, top), (360, 320),
            images=decoded[0], filename_prefix=f"conceptloom/{prefix}",
        )  # fmt: skip
    graph.group("1. A learned concept", 40, 360, 690, 760, GREEN)
    graph.group("2. New prompts, with stock nodes", 760, 10, 1330, 1190, BLUE)
    return graph


def look_at_attention(graph: Graph) -> Graph:
    """Where plain words and learned words look."""
    graph.note(
        "## See the attention of each word\n\n"
        "*Attention Maps* adds noise to a picture, runs one denoising step, and "
        "draws the cross-attention of each word. With masks connected, it also "
        "measures the overlap: **IoU** (1 is best) and **leak** (0 is best; 1 means "
        "that the attention ignores the mask).\n\n"
        "Above: words that the model already knows. Below: learned names, with the "
        "CLIP from *Apply Concept*. The maps are MASKs, so other nodes can use them.",
        (40, 40), (520, 270),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 420), (240, 90))
    concept = graph.node("ConceptLoomLoadConcept", (60, 700), (300, 130), concept_name=LEARNED)
    known = graph.node(
        "ConceptLoomApplyConcept", (400, 700), (240, 130),
        model=base[0], clip=base[1], concept=concept[0],
    )  # fmt: skip
    plain = graph.node(
        "ConceptLoomTinyWorldScene", (720, 80), (290, 150), "A picture of known things",
        objects="red mug, blue fish", seed=4,
    )  # fmt: skip
    taught = graph.node(
        "ConceptLoomTinyWorldScene", (720, 760), (290, 150), "The training picture",
        objects=OBJECTS, seed=SCENE_SEED,
    )  # fmt: skip
    first, second = HANDLES
    read(
        graph, 80, base[0], base[1], base[2], plain,
        "a photo of a red mug and a blue fish on a white background", "mug, fish",
    )  # fmt: skip
    read(
        graph, 760, known[0], known[1], base[2], taught,
        f"a photo of <{first}> and <{second}>", f"<{first}>, <{second}>",
    )  # fmt: skip
    graph.group("Plain words", 700, 10, 1540, 640, BLUE)
    graph.group("Learned words", 700, 690, 1540, 640, VIOLET)
    graph.group("Model", 40, 350, 620, 500, GREEN)
    return graph


def read(
    graph: Graph, top: int, model: Output, clip: Output, vae: Output, picture: Node,
    prompt: str, words: str,
) -> None:  # fmt: skip
    """Attention Maps with all that it gives."""
    maps = graph.node(
        "ConceptLoomAttentionMaps", (1050, top), (340, 420), model=model, clip=clip, vae=vae,
        image=picture[0], masks=picture[1], prompt=prompt, words=words,
    )  # fmt: skip
    show(graph, "Overlay", maps[0], (1430, top), (420, 540))
    graph.node("PreviewAny", (1880, top), (320, 160), "Scores", source=maps[2])
    as_image = graph.node("MaskToImage", (1880, top + 220), (240, 60), mask=maps[1])
    show(graph, "Maps as masks", as_image[0], (1880, top + 330), (320, 210))
