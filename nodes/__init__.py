"""Every node of the pack, named one by one."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from ..host.comfyui.notices import show_warnings_on_nodes
from .attention import AttentionMaps
from .blended import MaskedBlendedSampler
from .blended_edit import CompositeSeam, MaskedBlendedEdit
from .checked_inputs import with_checked_inputs
from .concept import ApplyConcept, InspectConcept
from .concept_bank import ConceptBank
from .concept_files import ExportConcept, LoadConcept, SaveConcept
from .concept_folders import register_concept_folders
from .conceptlab import AdaptiveNegativesTrainer, ConceptMixing, EvolveConcepts
from .download import DownloadLabModel, DownloadSegmenter
from .error_names import shorten_error_names
from .generate_with_prior import GenerateWithPrior
from .guidance import CrossAttentionGuidance
from .import_lora import ImportLora
from .lag import ApplyLag
from .lag_maps import LagMapsNode
from .lag_sampler import LagSampler
from .local_lora import LoadLoraLocalized
from .local_masks import LocalizedLoraMasks
from .lora_files import register_shipped_loras
from .matching import ConceptDiscovery, RoIMatching
from .prior import LoadBlip2, LoadDiffusionPrior
from .regions import RegionsNode
from .residuals import TrainPersonalizedResiduals
from .scene import ConceptSceneNode
from .segment import SegmentByText
from .soft_mask import SoftMaskBuilder
from .template import InvertTemplate
from .tinyworld import TinyWorldCheckpoint, TinyWorldScene
from .tinyworld_ornament import TinyWorldOrnament
from .trainer import CrossAttentionLossTrainer
from .two_stage import TwoStageGeneration
from .weaver import RegionFeatureFuser, WeaveConcepts

NODES: list[type[io.ComfyNode]] = [
    ConceptSceneNode,
    SoftMaskBuilder,
    CrossAttentionLossTrainer,
    TrainPersonalizedResiduals,
    LoadConcept,
    SaveConcept,
    ApplyConcept,
    ExportConcept,
    InspectConcept,
    ApplyLag,
    LagSampler,
    LoadLoraLocalized,
    LocalizedLoraMasks,
    ImportLora,
    LagMapsNode,
    MaskedBlendedSampler,
    MaskedBlendedEdit,
    CompositeSeam,
    CrossAttentionGuidance,
    TwoStageGeneration,
    RoIMatching,
    ConceptDiscovery,
    ConceptBank,
    InvertTemplate,
    SegmentByText,
    DownloadSegmenter,
    RegionsNode,
    RegionFeatureFuser,
    WeaveConcepts,
    LoadDiffusionPrior,
    LoadBlip2,
    DownloadLabModel,
    AdaptiveNegativesTrainer,
    ConceptMixing,
    EvolveConcepts,
    GenerateWithPrior,
    AttentionMaps,
    TinyWorldCheckpoint,
    TinyWorldScene,
    TinyWorldOrnament,
]


class ConceptLoomExtension(ComfyExtension):
    """The pack's extension for ComfyUI."""

    async def on_load(self) -> None:
        register_concept_folders()
        register_shipped_loras()
        shorten_error_names()
        show_warnings_on_nodes()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [with_checked_inputs(node) for node in NODES]
