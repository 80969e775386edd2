"""The story of localised LoRAs: two files, each only where its subject is."""

from __future__ import annotations

from story_parts import BLUE, DRAWING, GREEN, PX, show
from workflow_graph import Graph, Node, Output

PROMPT = "a photo of a bullseye blue circle and a split green square on a gray background"
# file -> the words of the prompt that the base model knows
LORAS = {
    "bullseye-tinyworld.safetensors": "blue circle",
    "split-tinyworld.safetensors": "green square",
}


def two_loras(graph: Graph) -> Graph:
    """Two LoRAs in one picture: localised, and merged as usual."""
    graph.note(
        "## Two LoRAs in one picture, without bleeding\n\n"
        "Copy the two files of this pack's folder **workflows/loras** to **models/loras**, press "
        "**R**, then **Run**. Each *Load LoRA (Localized)* names a file and the *words* of the "
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
            "ConceptLoomLoadLoraLocalized", (640 + 400 * i, 80), (360, 420), model=model,
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
