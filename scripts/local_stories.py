"""Stories of localised LoRAs: by words, in a painted mask, and next to a learned concept."""

from __future__ import annotations

from story_parts import BLUE, DRAWING, GREEN, PX, VIOLET, show
from weaver_stories import BANK
from workflow_graph import Graph, Node, Output

# file in workflows/loras -> object, trigger word, and the words that the base model knows
SUBJECTS = {
    "rusty-tinyworld": ("robot2", "rusty", "blue robot"),
    "daisy-tinyworld": ("flower2", "daisy", "pink flower"),
}
LORAS = {f"{file}.safetensors": words for file, (_, _, words) in SUBJECTS.items()}
PROMPT = (
    f"a photo of {' and '.join(f'a {own} {words}' for _, own, words in SUBJECTS.values())} "
    "on a gray background"
)
IMPORTED, (_, TRIGGER, IMPORTED_WORDS) = next(iter(SUBJECTS.items()))
BESIDE, BESIDE_WORD = "cat4", "cat"


def two_loras(graph: Graph) -> Graph:
    """Two LoRAs in one picture: localised, and merged as usual."""
    graph.note(
        "## Two LoRAs in one picture, without bleeding\n\n"
        "Press **Run**. Each *Load LoRA (Localized)* names a file and the *words* of the "
        "prompt that the base model knows: there the LoRA works, and nowhere else. *Localized LoRA "
        "Masks* shows the places. Below, the same prompt and seed with *Load LoRA*: both LoRAs "
        "work everywhere and mix.\n\n"
        "**Your own:** any SD 1.5, SD 2 or SDXL checkpoint, a character LoRA in each loader, and a "
        "prompt with each trigger beside its words, such as **miku, girl with blue hair**. Chain "
        "more loaders for more characters; style LoRAs go through *Load LoRA*.",
        (40, 40), (560, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 440), (240, 90))
    latent = graph.node(
        "EmptyLatentImage", (60, 580), (300, 120), width=PX, height=PX, batch_size=4
    )
    model, clip = base[0], base[1]
    for i, (file, words) in enumerate(LORAS.items()):
        loaded = graph.node(
            "ConceptLoomLoadLoraLocalized", (640 + 400 * i, 80), (360, 440), model=model,
            clip=clip, lora_name=file, words=words,
        )  # fmt: skip
        model, clip = loaded[0], loaded[1]
    images = drawn(graph, base, model, clip, latent, 80, "localised")
    masks = graph.node(
        "ConceptLoomLocalizedLoraMasks", (2180, 80), (320, 380), "Where they work", model=model,
        image=images,
    )  # fmt: skip
    show(graph, "Masks over the picture", masks[0], (2180, 520), (320, 300))
    model, clip = base[0], base[1]
    for i, file in enumerate(LORAS):
        merged = graph.node(
            "LoraLoader", (640 + 400 * i, 720), (360, 150), model=model, clip=clip, lora_name=file,
            strength_model=1.0, strength_clip=1.0,
        )  # fmt: skip
        model, clip = merged[0], merged[1]
    drawn(graph, base, model, clip, latent, 720, "merged")
    graph.group("1. Each in its place", 620, 10, 1900, 620, GREEN)
    graph.group("2. The same, merged into the whole picture", 620, 650, 1520, 620, BLUE)
    return graph


def painted_mask(graph: Graph) -> Graph:
    """One LoRA by its words, the other one inside of a painted mask."""
    graph.note(
        "## A character beside a painted mask\n\n"
        "Press **Run**. The first *Load LoRA (Localized)* finds its place by its words. The second "
        "one has a mask, here the lower half; with *somewhere in here* the words are looked for "
        "inside of it only. *Localized LoRA Masks* shows both places.\n\n"
        "**Your own:** load a first picture of the prompt, paint over the character in "
        "*MaskEditor*, and connect that mask. *exactly here* takes the mask as it is, from the "
        "first step on. A mask moves nobody: paint where the model draws the character.",
        (40, 40), (560, 290),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 400), (240, 90))
    latent = graph.node(
        "EmptyLatentImage", (60, 540), (300, 120), width=PX, height=PX, batch_size=1
    )
    nothing = graph.node("SolidMask", (60, 720), (270, 110), value=0.0, width=PX, height=PX)
    half = graph.node("SolidMask", (60, 880), (270, 110), value=1.0, width=PX, height=PX // 2)
    mask = graph.node(
        "MaskComposite", (360, 720), (270, 150), "Lower half", destination=nothing[0],
        source=half[0], x=0, y=PX // 2, operation="add",
    )  # fmt: skip
    model, clip = base[0], base[1]
    for i, (file, words) in enumerate(LORAS.items()):
        where = {"mask": mask[0], "mask_means": "somewhere in here"} if i else {}
        loaded = graph.node(
            "ConceptLoomLoadLoraLocalized", (680 + 400 * i, 80), (360, 460), model=model,
            clip=clip, lora_name=file, words=words, **where,
        )  # fmt: skip
        model, clip = loaded[0], loaded[1]
    images = drawn(graph, base, model, clip, latent, 80, "painted")
    masks = graph.node(
        "ConceptLoomLocalizedLoraMasks", (2180, 80), (320, 380), "Where they work", model=model,
        image=images,
    )  # fmt: skip
    show(graph, "Masks over the picture", masks[0], (2180, 520), (320, 300))
    graph.group("1. A mask", 40, 660, 610, 350, GREEN)
    graph.group("2. One by words, one inside of the mask", 660, 10, 1860, 830, BLUE)
    return graph


def beside_a_concept(graph: Graph) -> Graph:
    """An imported LoRA and a concept trained here: plain words, both merged, both localised."""
    graph.note(
        "## A LoRA next to a learned concept\n\n"
        "Press **Run**. *Import LoRA as Concept* makes a concept of a LoRA file: the name "
        f"<{TRIGGER}> stands for its trigger, and the words behind it show where it is. *Load "
        "Concept* brings a concept of Personalized Residuals. Three ways to draw from one seed: "
        "plain words, which know neither; both in the whole picture, where they mix (*LAG Sampler* "
        "with *localised* off); and each in its place. *Save Concept* keeps the imported one.\n\n"
        "**Your own:** any LoRA of models/loras, with words for its subject; concepts of any "
        "method here that have one name. The same concepts go into *Regions*, too.",
        (40, 40), (560, 330),
    )  # fmt: skip
    base = graph.node("ConceptLoomTinyWorldCheckpoint", (60, 440), (240, 90))
    lora = graph.node(
        "ConceptLoomImportLora", (640, 80), (360, 520), model=base[0], clip=base[1],
        lora_name=f"{IMPORTED}.safetensors", words=IMPORTED_WORDS,
    )  # fmt: skip
    graph.node(
        "ConceptLoomSaveConcept", (640, 660), (360, 130), concept=lora[0], name=TRIGGER,
        overwrite=True,
    )  # fmt: skip
    learned = graph.node(
        "ConceptLoomLoadConcept", (640, 850), (360, 110), concept_name=BANK[BESIDE]
    )  # fmt: skip
    latent = graph.node(
        "EmptyLatentImage", (60, 580), (300, 120), width=PX, height=PX, batch_size=4
    )
    _plain_words(graph, base, latent)
    for left, title, localised in ((1480, "Merged", False), (1900, "Localised", True)):
        sampled = graph.node(
            "ConceptLoomLagSampler", (left, 80), (360, 800), model=base[0], clip=base[1],
            concepts__concept0=lora[0], concepts__concept1=learned[0], latent_image=latent[0],
            positive=_sentence(f"<{TRIGGER}> {IMPORTED_WORDS}", f"<my-{BESIDE_WORD}> cat"),
            localised=localised, quantile=0.8, **DRAWING,
        )  # fmt: skip
        _saved(graph, title, base, sampled, (left, 940))
    as_image = graph.node("MaskToImage", (2320, 80), (200, 60), mask=sampled[1])
    show(graph, "Where they are", as_image[0], (2320, 190), (380, 240))
    graph.group("1. Two concepts", 620, 10, 400, 970, GREEN)
    graph.group("2. Plain words", 1040, 10, 400, 1440, BLUE)
    graph.group("3. Both in the whole picture", 1460, 10, 400, 1440, BLUE)
    graph.group("4. Each in its place", 1880, 10, 840, 1440, VIOLET)
    return graph


def _sentence(imported: str, learned: str) -> str:
    return f"a photo of a {imported} and a {learned} on a gray background"


def _plain_words(graph: Graph, base: Node, latent: Node) -> None:
    """The base model's picture of the same things."""
    text = _sentence(IMPORTED_WORDS, BESIDE_WORD)
    prompts = [
        graph.node("CLIPTextEncode", (1060, 80 + 170 * i), (360, 130), clip=base[1], text=written)
        for i, written in enumerate((text, ""))
    ]
    sampled = graph.node(
        "KSampler", (1060, 420), (360, 290), model=base[0], positive=prompts[0][0],
        negative=prompts[1][0], latent_image=latent[0], **DRAWING,
    )  # fmt: skip
    _saved(graph, "Plain words", base, sampled, (1060, 940))


def _saved(graph: Graph, title: str, base: Node, sampled: Node, at: tuple[int, int]) -> None:
    """What was drawn, decoded and saved."""
    left, top = at
    decoded = graph.node("VAEDecode", at, (160, 60), samples=sampled[0], vae=base[2])
    name = title.lower().replace(" ", "-")
    graph.node(
        "SaveImage", (left, top + 110), (360, 360), title, images=decoded[0],
        filename_prefix=f"conceptloom/lora/beside-{name}",
    )  # fmt: skip


def drawn(
    graph: Graph, base: Node, model: Output, clip: Output, latent: Node, top: int, name: str
) -> Output:
    """Pictures of the prompt, saved."""
    prompts = [
        graph.node("CLIPTextEncode", (1440, top + 170 * i), (300, 130), clip=clip, text=text)
        for i, text in enumerate((PROMPT, ""))
    ]
    sampled = graph.node(
        "KSampler", (1440, top + 340), (280, 290), model=model, positive=prompts[0][0],
        negative=prompts[1][0], latent_image=latent[0], **DRAWING,
    )  # fmt: skip
    decoded = graph.node("VAEDecode", (1780, top), (160, 60), samples=sampled[0], vae=base[2])
    graph.node(
        "SaveImage", (1780, top + 110), (340, 380), f"Drawn, {name}", images=decoded[0],
        filename_prefix=f"conceptloom/lora/{name}",
    )  # fmt: skip
    return decoded[0]
