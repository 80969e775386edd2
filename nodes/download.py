"""Nodes that download models; no other node does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io, ui

from ..host.comfyui.progress import NodeProgress
from ..vision.downloads import DETECTORS, PRIORS, SEGMENTERS, VQA, download, known
from .prior_loading import LAB
from .template import WEAVER


class DownloadLabModel(io.ComfyNode):
    """A prior, decoder or BLIP-2 from Hugging Face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomDownloadLabModel",
            display_name="Download ConceptLab Model",
            category=LAB,
            description="Downloads one model from Hugging Face into ComfyUI's models folder, "
            "several gigabytes each, as safetensors. No other node downloads anything by "
            "itself; refresh the lists (key R) afterwards.",
            search_aliases=["kandinsky", "karlo", "blip2", "hugging face", "conceptlab"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=known(PRIORS, VQA),
                    tooltip="ConceptLab needs a prior, the decoder of the same version, and "
                    "one BLIP-2 to work with photographs.",
                ),
            ],
            outputs=[io.String.Output("folder", tooltip="Name of the folder in the lists.")],
        )

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        return fetched(cls, model)


class DownloadSegmenter(io.ComfyNode):
    """Grounding DINO or SAM from Hugging Face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomDownloadSegmenter",
            display_name="Download Segmentation Model",
            category=WEAVER,
            description="Downloads Grounding DINO or SAM from Hugging Face into ComfyUI's "
            "models folder, for Segment by Text. No node downloads anything by itself; refresh "
            "the lists (key R) afterwards.",
            search_aliases=["grounding dino", "sam", "segment anything", "hugging face"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=known(DETECTORS, SEGMENTERS),
                    tooltip="One Grounding DINO finds objects by words, one SAM segments them. "
                    "tiny and base are smaller than a gigabyte, huge segments finest.",
                ),
            ],
            outputs=[io.String.Output("folder", tooltip="Name of the folder in the lists.")],
        )

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        return fetched(cls, model)


def fetched(cls: Any, model: str) -> io.NodeOutput:
    """Download the model; returns its name for the loaders."""
    progress = NodeProgress(cls.hidden.unique_id)
    folder = download(model, Path(folder_paths.models_dir), progress)
    message = f"{model} is in models/{folder.parent.name}; refresh the lists (key R)."
    return io.NodeOutput(model, ui=ui.PreviewText(message))
