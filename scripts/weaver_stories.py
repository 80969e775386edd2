"""The stories of Concept Weaver: train two and weave two, three with a background, a photograph."""

from __future__ import annotations

from story_parts import BLUE, GREEN, PX, RESIDUALS, VIOLET, batched
from workflow_graph import Graph, Node, Output

from conceptloom.tinyworld.concepts import region_prompt

# handle -> object, and its class
SUBJECTS = {"my-house": ("house2", "house"), "my-ball": ("ball2", "ball")}
TAUGHT_ON = ("white", "grass", "beach")
STEPS = 16
BANK = {  # shipped in workflows/concepts: object -> file
    "cat4": "weave-cat-tinyworld.safetensors",
    "ball2": "weave-ball-tinyworld.safetensors",
    "mushroom3": "weave-mushroom-tinyworld.safetensors",
}
PHOTO_PX, GRAIN = 512, 0.03  # what plays a photograph is larger than the model draws, and grainy
WEAVING = {"suppression": 0.0, "negative": "", "resnet_until": 0.8, "attention_until": 0.5}
INVERTING = {"steps": STEPS, "scheduler": "ddim_uniform"}


def train_two_weave_two(graph: Graph) -> Graph:
    """Two objects, learned apart -> both in one picture, each in its place."""
    graph.note(
        "## Train two concepts, weave two\n\n"
        "Press **Run**. The workflow learns two objects separately, from their own "
        "pictures. *Invert Template* computes the noise that reproduces a template "
        "picture. *Regions* assigns a concept to each part of it, with a prompt that "
        "also names the other object, for TinyWorld draws as many objects as a prompt "
        "names. *Region Feature Fuser* redraws it with both concepts in one run of ComfyUI's own "
        "sampler.\n\n"
        "**Your own:** train each concept with *Cross-Attention Loss Trainer* and "
        "the preset *Concept Weaver*, save it, and use any picture as the template: "
        "a generated one or a photograph. Masks come from *Segment by Text*, SAM3 or "
        "your brush.",
        (40, 40), (520, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 400), (240, 90))
    concepts = [
        _trained(graph, base, handle, subject, 540 + 760 * i)
        for i, (handle, subject) in enumerate(SUBJECTS.items())
    ]
    sentence = "a photo of a blue house and a green ball on a white background"
    template = graph.node(
        "ConceptLoomTinyWorldScene", (1200, 80), (300, 150), "Template",
        objects="blue house, green ball", background="white", seed=1,
    )  # fmt: skip
    inverted = _inverted(graph, base, template[0], sentence, 1200, 300)
    regions = _regions(
        graph, concepts, template[1], inverted, sentence, ["blue house", "green ball"], 1620, 80,
        background=": a photo on a white background",
    )  # fmt: skip
    fused = graph.node(
        "ConceptLoomRegionFeatureFuser", (2080, 80), (320, 330), model=base[0], clip=base[1],
        template=inverted[0], regions=regions[0], **WEAVING,
    )  # fmt: skip
    ddim = graph.node("KSamplerSelect", (2080, 460), (270, 70), sampler_name="euler")
    drawn = graph.node(
        "SamplerCustom", (2080, 580), (320, 260), model=fused[0], positive=fused[1],
        negative=fused[2], latent_image=fused[3], sigmas=fused[4], sampler=ddim[0],
        add_noise=False, noise_seed=0, cfg=3.0,
    )  # fmt: skip
    decoded = graph.node("VAEDecode", (2440, 80), (160, 60), samples=drawn[0], vae=base[2])
    _saved(graph, decoded[0], 2440, 190, "two")
    graph.group("1. Learn two objects separately", 40, 330, 1120, 1740, GREEN)
    graph.group("2. A template and its regions", 1180, 10, 860, 1000, VIOLET)
    graph.group("3. Both in one picture", 2060, 10, 780, 1000, BLUE)
    return graph


def three_with_background(graph: Graph) -> Graph:
    """Three learned concepts and another background -> one picture."""
    graph.note(
        "## Weave three concepts and change the background\n\n"
        "Three concepts that ship with this pack, trained separately. The "
        "**background** is a region too: the area outside all masks. Its prompt, "
        "after the colon, names none of the objects, so that none appears there. A "
        "concept can also fill the background (`background_concept`).\n\n"
        "*Concept Bank* lists the files in `models/concepts`: filter them, and "
        "select by number.",
        (40, 40), (520, 240),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 330), (240, 90))
    concepts = [_loaded(graph, name, 480 + 190 * i) for i, name in enumerate(BANK)]
    graph.node("ConceptLoomConceptBank", (60, 1070), (400, 380), filter="weave-")
    words = ["red cat", "green ball", "blue mushroom"]
    sentence = "a photo of a red cat, a green ball and a blue mushroom at the beach"
    template = graph.node(
        "ConceptLoomTinyWorldScene", (560, 330), (300, 150), "Template",
        objects=", ".join(words), background="beach", seed=141,
    )  # fmt: skip
    inverted = _inverted(graph, base, template[0], sentence, 560, 550)
    regions = _regions(
        graph, concepts, template[1], inverted, sentence, words, 980, 80,
        background=": a photo at the beach",
    )  # fmt: skip
    _woven(graph, base, inverted, regions, 1440, "three")
    graph.group("1. A bank of concepts", 40, 260, 480, 1210, GREEN)
    graph.group("2. A template and its regions", 540, 10, 860, 1240, VIOLET)
    graph.group("3. All of them in one picture", 1420, 10, 780, 1000, BLUE)
    return graph


def photograph_as_template(graph: Graph) -> Graph:
    """A picture without masks -> where its things are, by attention -> concepts in their place."""
    graph.note(
        "## A photograph as the template\n\n"
        "Press **Run**. A rendered scene with grain, larger than the model's native "
        "size, stands in for a photograph. There are no painted masks: *Attention "
        "Maps* reads the attention of each word, and *Threshold Mask* turns it into "
        "regions.\n\n"
        "**Your own photograph:** connect *Load Image* to *To the size that the "
        "model draws*, and describe the picture in the prompts. With Stable "
        "Diffusion, *Segment by Text* (Grounding DINO and SAM) gives sharper masks "
        "than attention.",
        (40, 40), (520, 290),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 400), (240, 90))
    concepts = [_loaded(graph, name, 550 + 190 * i) for i, name in enumerate(("cat4", "ball2"))]
    words = ["blue cat", "green ball"]
    scene = graph.node(
        "ConceptLoomTinyWorldScene", (560, 80), (300, 170), "A scene",
        objects=", ".join(words), background="beach", seed=23, size=PHOTO_PX,
    )  # fmt: skip
    grainy = graph.node(
        "ImageAddNoise", (560, 310), (300, 130), "The photograph", image=scene[0], seed=0,
        strength=GRAIN,
    )  # fmt: skip
    photo = graph.node(
        "ImageScale", (560, 500), (300, 180), "To the size that the model draws",
        image=grainy[0], upscale_method="area", width=PX, height=PX, crop="center",
    )  # fmt: skip
    sentence = "a photo of a blue cat and a green ball at the beach"
    maps = graph.node(
        "ConceptLoomAttentionMaps", (560, 740), (340, 420), model=base[0], clip=base[1],
        vae=base[2], image=photo[0], prompt=sentence, words=", ".join(words),
    )  # fmt: skip
    masks = graph.node("ThresholdMask", (560, 1220), (270, 80), mask=maps[1], value=0.5)
    inverted = _inverted(graph, base, photo[0], sentence, 960, 80)
    regions = _regions(
        graph, concepts, masks[0], inverted, sentence, words, 1380, 80,
        background=": a photo at the beach",
    )  # fmt: skip
    _woven(graph, base, inverted, regions, 1840, "photograph")
    graph.group("1. Two learned concepts", 40, 330, 480, 620, GREEN)
    graph.group("2. A photograph and its regions", 540, 10, 1260, 1310, VIOLET)
    graph.group("3. Woven", 1820, 10, 780, 1000, BLUE)
    return graph


def _trained(graph: Graph, base: Node, handle: str, subject: tuple[str, str], top: int) -> Output:
    """A concept learned from three pictures of one object, each on another background."""
    name, word = subject
    pictures = [
        graph.node(
            "ConceptLoomTinyWorldScene", (60, top + 180 * i), (270, 150),
            objects=name, background=background, seed=2 + i,
        )
        for i, background in enumerate(TAUGHT_ON)
    ]  # fmt: skip
    batch = batched(graph, [picture[0] for picture in pictures], (370, top))
    trained = graph.node(
        "ConceptLoomTrainPersonalizedResiduals", (400, top + 250), (400, 420), model=base[0],
        clip=base[1], vae=base[2], images=batch, handle=handle, class_word=word, name=handle,
        **RESIDUALS,
    )  # fmt: skip
    return trained[0]


def _inverted(graph: Graph, base: Node, image: Output, sentence: str, left: int, top: int) -> Node:
    """Invert Template, with what comes back shown on it."""
    return graph.node(
        "ConceptLoomInvertTemplate", (left, top), (340, 560), model=base[0], clip=base[1],
        vae=base[2], image=image, prompt=sentence, **INVERTING,
    )  # fmt: skip


def _regions(
    graph: Graph, concepts: list[Output], masks: Output, inverted: Node, sentence: str,
    words: list[str], left: int, top: int, **more: str,
) -> Node:  # fmt: skip
    """Regions with its preview and prompts."""
    sockets = {f"concepts__concept{i}": concept for i, concept in enumerate(concepts)}
    regions = graph.node(
        "ConceptLoomRegions", (left, top), (400, 620), **sockets, masks__mask0=masks,
        sentence=sentence, words=with_prompts(sentence, words), template=inverted[0], **more,
    )  # fmt: skip
    graph.node("PreviewAny", (left, top + 680), (400, 220), "Prompts", source=regions[2])
    return regions


def with_prompts(sentence: str, words: list[str]) -> str:
    """A line per region with its own prompt."""
    return "\n".join(f"{word}: {region_prompt(sentence, words, word)}" for word in words)


def _woven(graph: Graph, base: Node, inverted: Node, regions: Node, left: int, prefix: str) -> None:
    """Weave Concepts, and beside it the picture that it draws."""
    woven = graph.node(
        "ConceptLoomWeaveConcepts", (left, 80), (340, 560), model=base[0], clip=base[1],
        vae=base[2], template=inverted[0], regions=regions[0], cfg=3.0, **WEAVING,
    )  # fmt: skip
    _saved(graph, woven[0], left + 380, 80, prefix)


def _loaded(graph: Graph, name: str, top: int) -> Output:
    return graph.node("ConceptLoomLoadConcept", (60, top), (400, 130), concept_name=BANK[name])[0]


def _saved(graph: Graph, image: Output, left: int, top: int, prefix: str) -> None:
    graph.node(
        "SaveImage", (left, top), (360, 400), "Woven", images=image,
        filename_prefix=f"conceptloom/weave/{prefix}",
    )  # fmt: skip
