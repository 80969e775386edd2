"""Concept Bank: the concepts of a folder, with thumbnails, filtered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..concepts.concept_file import ConceptInfo, load_concept, read_concept_info
from ..errors import ConceptFileError, ConfigError
from ..viz.overlays import sample_strip
from .concept_folders import CONCEPTS
from .shared import (
    concept_names,
    concept_path,
    concept_stamps,
    describe_handles,
    host_of,
    picture,
    shown,
)
from .sockets import LearnedConcept
from .template import WEAVER

NO_PICTURE_PX = 64


class ConceptBank(io.ComfyNode):
    """Lists a folder of concepts and selects one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomConceptBank",
            display_name="Concept Bank",
            category=WEAVER,
            description=f"Shows the concepts in models/{CONCEPTS} with their pictures, words and "
            "sizes, and outputs the one selected by number.",
            search_aliases=["browse concepts", "gallery", "list concepts", "library"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "folder",
                    default="",
                    tooltip=f"Subfolder of models/{CONCEPTS}. Empty lists all concepts.",
                ),
                io.String.Input(
                    "filter",
                    default="",
                    tooltip="Words to search for; a concept matches if all of them occur in "
                    "its file name, handles, words, prompts or method. Empty shows every "
                    "concept.",
                ),
                io.Int.Input(
                    "pick",
                    default=1,
                    min=1,
                    max=10_000,
                    tooltip="Number of the concept to output, as shown in the pictures.",
                ),
                io.Model.Input(
                    "model",
                    optional=True,
                    tooltip="With MODEL and CLIP connected, the list shows only concepts that "
                    "fit them.",
                ),
                io.Clip.Input("clip", optional=True, tooltip="The CLIP of the same checkpoint."),
            ],
            outputs=[
                LearnedConcept.Output(
                    "concept", tooltip="The selected concept, for Regions or Apply."
                ),
                io.Image.Output("thumbnails", tooltip="All matching concepts, numbered."),
                io.String.Output(
                    "list", tooltip="One line per concept: number, file, names, size."
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder: str, filter: str, pick: int, **_: Any) -> str:
        """New, changed and removed files count."""
        return repr((folder, filter, pick, concept_stamps(concept_names())))

    @classmethod
    def execute(
        cls, folder: str, filter: str, pick: int, model: Any = None, clip: Any = None
    ) -> io.NodeOutput:
        base = host_of(model, clip).fingerprint if model is not None and clip is not None else ""
        concepts, broken = entries(folder, filter, base)
        summary = describe_list(concepts, broken)
        sheet = picture(sheet_of(concepts))
        concept = load_concept(concept_path(picked(concepts, pick, summary).name))
        return io.NodeOutput(concept, sheet, summary, ui=shown(cls, sheet, summary))


@dataclass(frozen=True, slots=True)
class BankEntry:
    """A readable concept file."""

    name: str  # as the list of files has it
    info: ConceptInfo

    @property
    def searched(self) -> str:
        """The text that a filter searches."""
        concept = self.info.concept
        words = [*self.info.handles, *concept.words.values(), *concept.prompts, concept.method]
        return " ".join([self.name, *words]).casefold()


def entries(folder: str, query: str, base: str) -> tuple[list[BankEntry], list[str]]:
    """Matching concepts of a folder, and a line for each unreadable file."""
    prefix = folder.strip().replace("\\", "/").strip("/")
    matches: list[BankEntry] = []
    broken: list[str] = []
    for name in sorted(concept_names()):
        plain = name.replace("\\", "/")
        if prefix and not plain.startswith(f"{prefix}/"):
            continue
        try:
            entry = BankEntry(name, read_concept_info(concept_path(name)))
        except ConceptFileError as error:
            broken.append(f"not readable: {error}")
            continue
        fits = not base or entry.info.concept.base == base
        if fits and all(word in entry.searched for word in query.casefold().split()):
            matches.append(entry)
    return matches, broken


def picked(concepts: Sequence[BankEntry], pick: int, summary: str) -> BankEntry:
    """The entry of a number, counted from 1.

    Raises:
        ConceptFileError: no concept matches.
        ConfigError: the number is too high.
    """
    if not concepts:
        raise ConceptFileError(
            f"No concept in models/{CONCEPTS} matches; change folder or filter, or save one there "
            f"with Save Concept.{chr(10) + summary if summary else ''}"
        )
    if pick > len(concepts):
        raise ConfigError("pick", pick, f"a number from 1 to {len(concepts)}")
    return concepts[pick - 1]


def sheet_of(concepts: Sequence[BankEntry]) -> Tensor:
    """[H, W, 3] the thumbnails, numbered."""
    blank = torch.full((NO_PICTURE_PX, NO_PICTURE_PX, 3), 0.85)
    pictures = [e.info.concept.thumbnail if e.info.concept.thumbnail is not None else blank
                for e in concepts]  # fmt: skip
    captions = [f"{i}  {describe_handles(e.info.handles)}" for i, e in enumerate(concepts, 1)]
    return sample_strip(pictures, captions)


def describe_list(concepts: Sequence[BankEntry], broken: Sequence[str]) -> str:
    """The list as text."""
    lines = [
        f"{i}  {e.name}: {describe_handles(e.info.handles)}, {e.info.concept.method}, "
        f"{e.info.size_bytes / 2**20:.2f} MiB"
        for i, e in enumerate(concepts, 1)
    ]
    return "\n".join([*lines, *broken])
