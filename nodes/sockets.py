"""ConceptLoom's own socket types; all others are ComfyUI's."""

from __future__ import annotations

from comfy_api.latest import io

Scene = io.Custom("CONCEPT_SCENE")  # scenes.scene.ConceptScene
LearnedConcept = io.Custom("CONCEPT")  # concepts.concept.Concept
TemplateSocket = io.Custom("TEMPLATE")  # methods.concept_weaver.Template
RegionsSocket = io.Custom("REGIONS")  # methods.concept_weaver.Regions
PriorSocket = io.Custom("PRIOR")  # nodes.prior_loading.LoadedPrior
VqaSocket = io.Custom("VQA")  # vision.ports.VQAModel
