"""Build subgraphs/, the pack's blueprints, from the nodes' schemas. See make-blueprints."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from blueprint_graph import Blueprint
from headless import ROOT, HeadlessComfyUI

SUBGRAPHS = ROOT / "subgraphs"


def blueprints(schemas: dict[str, Any]) -> list[Blueprint]:
    """All of them; the file of each bears its name."""
    return [learn_concepts(schemas), weave_two_concepts(schemas)]


def learn_concepts(schemas: dict[str, Any]) -> Blueprint:
    """Picture, masks and names -> a saved concept (Break-A-Scene)."""
    whole = Blueprint(
        "Learn concepts from one picture",
        "Learns a word for every masked object of one picture and saves the concept "
        "(Break-A-Scene, low-rank). Open it to choose another preset.",
        ["break-a-scene", "textual inversion", "lora training", "personalization"],
        schemas,
    )
    model, clip = whole.takes("model", "MODEL"), whole.takes("clip", "CLIP")
    vae = whole.takes("vae", "VAE")
    image, masks = whole.takes("image", "IMAGE"), whole.takes("masks", "MASK")
    words = whole.takes("concepts", "STRING", "my-mug: mug")
    name = whole.takes("name", "STRING", "my-concepts")
    overwrite = whole.takes("overwrite", "BOOLEAN", False)
    graph = whole.graph
    scene = graph.node(
        "ConceptLoomConceptScene", (0, 0), (360, 560),
        images=image, masks__mask0=masks, vae=vae, concepts=words,
    )  # fmt: skip
    trainer = graph.node(
        "ConceptLoomCrossAttentionLossTrainer", (420, 0), (440, 950),
        model=model, clip=clip, vae=vae, scene=scene[0],
        preset="Break-A-Scene low-rank", name=name,
    )  # fmt: skip
    saved = graph.node(
        "ConceptLoomSaveConcept", (920, 0), (320, 160),
        concept=trainer[0], name=name, overwrite=overwrite,
    )  # fmt: skip
    whole.gives("concept", saved[0])
    for slot, output in enumerate(("model", "clip", "samples", "timeline", "attention"), start=1):
        whole.gives(output, trainer[slot])
    whole.gives("report", trainer[8])
    return whole


def weave_two_concepts(schemas: dict[str, Any]) -> Blueprint:
    """A template, two masks, two concepts -> one picture (Concept Weaver)."""
    whole = Blueprint(
        "Weave two concepts",
        "Puts two learned concepts into a picture, each under its own mask, and keeps the "
        "picture's layout (Concept Weaver).",
        ["concept weaver", "multi concept", "regional prompt", "several loras"],
        schemas,
    )
    model, clip = whole.takes("model", "MODEL"), whole.takes("clip", "CLIP")
    vae, image = whole.takes("vae", "VAE"), whole.takes("image", "IMAGE")
    concepts = [whole.takes(f"concept {number}", "CONCEPT") for number in (1, 2)]
    masks = [whole.takes(f"mask {number}", "MASK") for number in (1, 2)]
    sentence = whole.takes("sentence", "STRING", "a photo of a cat and a fish on the grass")
    words = whole.takes("words", "STRING", "cat\nfish")
    steps = whole.takes("steps", "INT", 50)
    graph = whole.graph
    template = graph.node(
        "ConceptLoomInvertTemplate", (0, 0), (360, 420),
        model=model, clip=clip, vae=vae, image=image, prompt=sentence, steps=steps,
    )  # fmt: skip
    regions = graph.node(
        "ConceptLoomRegions", (420, 0), (380, 560),
        concepts__concept0=concepts[0], concepts__concept1=concepts[1],
        masks__mask0=masks[0], masks__mask1=masks[1],
        sentence=sentence, words=words, template=template[0],
    )  # fmt: skip
    woven = graph.node(
        "ConceptLoomWeaveConcepts", (860, 0), (340, 420),
        model=model, clip=clip, vae=vae, template=template[0], regions=regions[0],
    )  # fmt: skip
    whole.gives("image", woven[0])
    whole.gives("latent", woven[1])
    whole.gives("regions preview", regions[1])
    whole.gives("reconstruction", template[3])
    whole.gives("report", template[4])
    return whole


def write(schemas: dict[str, Any]) -> None:
    SUBGRAPHS.mkdir(exist_ok=True)
    for blueprint in blueprints(schemas):
        text = json.dumps(blueprint.ui(), indent=1, ensure_ascii=False) + "\n"
        (SUBGRAPHS / f"{blueprint.name}.json").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="conceptloom-blueprints-") as base,
        HeadlessComfyUI(options.comfyui, Path(base)) as server,
    ):
        write(server.get("/object_info"))


if __name__ == "__main__":
    main()
