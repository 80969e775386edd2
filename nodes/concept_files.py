"""Load, Save and Export Concept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from comfy_api.latest import io

from ..concepts.concept import Concept, renamed
from ..concepts.concept_file import load_concept, save_concept
from ..concepts.lora_export import DEFAULT_RANK, ExportReport, export_embeddings, export_lora
from ..concepts.paths import confined_path
from ..errors import ConceptFileError
from ..host.comfyui.progress import NodeProgress
from ..host.ports import Progress, no_progress
from .concept import CONCEPT_CATEGORY
from .concept_folders import CONCEPTS, SUFFIX
from .shared import (
    concept_names,
    concept_path,
    concept_stamps,
    describe_handles,
    first_folder,
    named_lines,
    shown,
)
from .sockets import LearnedConcept


class LoadConcept(io.ComfyNode):
    """A concept file -> CONCEPT."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomLoadConcept",
            display_name="Load Concept",
            category=CONCEPT_CATEGORY,
            description=f"Loads a learned concept from models/{CONCEPTS}. The loader checks every "
            "value and runs no code from the file.",
            search_aliases=["open concept", "load lora", "load embedding"],
            inputs=[
                io.Combo.Input(
                    "concept_name",
                    options=concept_names(),
                    tooltip=f"A file in models/{CONCEPTS} or a subfolder. Press R to see new ones.",
                ),
                io.String.Input(
                    "rename",
                    default="",
                    multiline=True,
                    advanced=True,
                    tooltip="Renames handles, one per line, old: new, for example my-mug: "
                    "blue-mug. Empty keeps the names; needed when two concepts use the same "
                    "one.",
                ),
            ],
            outputs=[
                LearnedConcept.Output("concept", tooltip="For Apply, Export and Inspect Concept."),
                io.String.Output(
                    "handles",
                    tooltip="The names as prompts use them, for example <my-mug>, <my-toy>.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, concept_name: str | None, rename: str | None = "") -> str:
        """Detects a changed file under the same name; linked inputs are None."""
        names = concept_names() if concept_name is None else [concept_name]
        return repr((rename, concept_stamps(names)))

    @classmethod
    def execute(cls, concept_name: str, rename: str = "") -> io.NodeOutput:
        concept = renamed(load_concept(concept_path(concept_name)), named_lines(rename))
        return io.NodeOutput(concept, describe_handles(concept.names))


class SaveConcept(io.ComfyNode):
    """CONCEPT -> a concept file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomSaveConcept",
            display_name="Save Concept",
            category=CONCEPT_CATEGORY,
            description=f"Saves a concept to models/{CONCEPTS} with its recipe, its base model "
            "and a picture. An interrupted save leaves no partial file.",
            search_aliases=["export concept", "store concept"],
            is_output_node=True,
            inputs=[
                LearnedConcept.Input("concept", tooltip="From a trainer or from Load Concept."),
                _name_input(
                    f"Name of the file in models/{CONCEPTS}; kitchen/my-mug uses a subfolder."
                ),
                _overwrite_input(),
            ],
            outputs=[
                LearnedConcept.Output("concept", tooltip="The same concept, for further nodes."),
                io.String.Output("path", tooltip="Path of the file."),
            ],
        )

    @classmethod
    def execute(cls, concept: Concept, name: str, overwrite: bool) -> io.NodeOutput:
        path = confined_path(first_folder(CONCEPTS), name, SUFFIX)
        refuse_existing([path], overwrite)
        path = str(save_concept(concept, path))
        return io.NodeOutput(concept, path, ui=shown(cls, text=f"Saved: {path}"))


class ExportConcept(io.ComfyNode):
    """CONCEPT -> a plain LoRA and embeddings, for everything else."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomExportConcept",
            display_name="Export Concept",
            category=CONCEPT_CATEGORY,
            description="Saves a LoRA to models/loras and one embedding per name to "
            "models/embeddings, for ComfyUI's own nodes and other programs.",
            search_aliases=["convert to lora", "save lora", "save embedding"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                LearnedConcept.Input("concept", tooltip="From a trainer or from Load Concept."),
                _name_input(
                    "Name of the LoRA file in models/loras. The embeddings are named "
                    "after the handles."
                ),
                io.Int.Input(
                    "rank",
                    default=DEFAULT_RANK,
                    min=0,
                    max=1024,
                    tooltip="Rank for weights that were trained in full (K/V and full "
                    "training). Low: a small file with some loss, which the report states. 0 "
                    "keeps them exact, in a large file. Low-rank changes are always exact.",
                ),
                _overwrite_input(),
            ],
            outputs=[
                io.String.Output(
                    "report",
                    tooltip="The saved files, and how much of the learned change they contain.",
                )
            ],
        )

    @classmethod
    def execute(cls, concept: Concept, name: str, rank: int, overwrite: bool) -> io.NodeOutput:
        progress = NodeProgress(cls.hidden.unique_id)
        report = export_report(export(concept, name, rank or None, overwrite, progress))
        return io.NodeOutput(report, ui=shown(cls, text=report))


def _name_input(tooltip: str) -> io.Input:
    return io.String.Input("name", default="my-concept", tooltip=tooltip)


def _overwrite_input() -> io.Input:
    return io.Boolean.Input(
        "overwrite",
        default=False,
        tooltip="Off: the node stops if a file of this name exists. On: it replaces the file.",
    )


def refuse_existing(paths: Sequence[Path], overwrite: bool) -> None:
    """ConceptFileError if a file exists and must not be replaced."""
    there = [path for path in paths if path.exists()]
    if there and not overwrite:
        raise ConceptFileError(
            f"{there[0]} already exists; choose another name, or switch overwrite on."
        )


def export(
    concept: Concept,
    name: str,
    rank: int | None,
    overwrite: bool,
    progress: Progress = no_progress,
) -> tuple[ExportReport, ExportReport]:
    """Reports of LoRA and embeddings; writes both or neither.

    Raises:
        ConceptFileError: a name leads out of its folder, or a file already exists.
    """
    lora = confined_path(first_folder("loras"), name, SUFFIX)
    embeddings = first_folder("embeddings")
    planned = [confined_path(embeddings, handle, SUFFIX) for handle in concept.names]
    refuse_existing([lora, *planned], overwrite)
    return (
        export_lora(concept, lora, rank=rank, overwrite=overwrite, progress=progress),
        export_embeddings(concept, embeddings, overwrite=overwrite),
    )


def export_report(reports: tuple[ExportReport, ExportReport]) -> str:
    """Both reports for the user."""
    lora, embeddings = reports
    return f"LoRA. {lora.summary()}\nEmbeddings. {embeddings.summary()}"
