"""Download ConceptLab Model: the only node that fetches anything, and only what it is told to."""

from __future__ import annotations

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..host.comfyui.progress import NodeProgress
from ..vision.downloads import SOURCES, download
from .prior_loading import LAB


class DownloadLabModel(io.ComfyNode):
    """A prior, decoder or BLIP-2 from Hugging Face."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ConceptLoomDownloadLabModel",
            display_name="Download ConceptLab Model",
            category=LAB,
            description="Fetches one model from Hugging Face into ComfyUI's models folder, several "
            "gigabytes each, in safetensors. No other node downloads anything; refresh the lists "
            "(key R) afterwards.",
            search_aliases=["kandinsky", "karlo", "blip2", "hugging face", "conceptlab"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "model",
                    options=list(SOURCES),
                    tooltip="A prior and the decoder of the same version, and one BLIP-2, are what "
                    "ConceptLab needs for photographs.",
                ),
            ],
            outputs=[io.String.Output("folder", tooltip="Name of the folder in the lists.")],
        )

    @classmethod
    def execute(cls, model: str) -> io.NodeOutput:
        progress = NodeProgress(cls.hidden.unique_id)
        folder = download(model, Path(folder_paths.models_dir), progress)
        told = f"{model} is in models/{folder.parent.name}; refresh the lists (key R)."
        return io.NodeOutput(model, ui=ui.PreviewText(told))
