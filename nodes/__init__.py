"""Every node of the pack, named one by one."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .attention import AttentionMaps
from .blended import CompositeSeam, MaskedBlendedEdit, MaskedBlendedSampler
from .concept import ApplyConcept, ExportConcept, InspectConcept, LoadConcept, SaveConcept
from .guidance import CrossAttentionGuidance
from .lag import ApplyLag, LagMapsNode, LagSampler
from .residuals import TrainPersonalizedResiduals
from .scene import ConceptSceneNode
from .shared import register_concept_folders
from .tinyworld import TinyWorldCheckpoint, TinyWorldScene
from .trainer import CrossAttentionLossTrainer
from .two_stage import TwoStageGeneration

NODES: list[type[io.ComfyNode]] = [
    ConceptSceneNode,
    CrossAttentionLossTrainer,
    TrainPersonalizedResiduals,
    LoadConcept,
    SaveConcept,
    ApplyConcept,
    ExportConcept,
    InspectConcept,
    ApplyLag,
    LagSampler,
    LagMapsNode,
    MaskedBlendedSampler,
    MaskedBlendedEdit,
    CompositeSeam,
    CrossAttentionGuidance,
    TwoStageGeneration,
    AttentionMaps,
    TinyWorldCheckpoint,
    TinyWorldScene,
]


class ConceptLoomExtension(ComfyExtension):
    """What ComfyUI asks for nodes."""

    async def on_load(self) -> None:
        register_concept_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
