"""What torture found and what was mended; `benchmarks/run.py claims torture` counts the cases."""

from __future__ import annotations

from typing import Any

import pytest
from cases import Case, Change, inputs_of, outcome_of, tally
from executor import Executor
from goods import LAB
from values import BAD

# What was done -> node, its bad inputs, and the error that tells of it ("" for a result).
FOUND: dict[str, tuple[str, dict[str, Any], str]] = {
    "a preview prompt without the handle": (
        "TrainPersonalizedResiduals", {"preview_prompts": "a house"}, "",
    ),
    "an inpainting model is learned on": ("RoIMatching", {"model": "inpainting"}, ""),
    "an inpainting model is inverted with": ("InvertTemplate", {"model": "inpainting"}, ""),
    "a checkpoint without CLIP, applying": ("ApplyConcept", {"clip": "nothing"}, "ModelError"),
    "a checkpoint without CLIP, LAG": ("ApplyLag", {"clip": "nothing"}, "ModelError"),
    "a checkpoint without MODEL": ("TwoStageGeneration", {"model": "nothing"}, "ModelError"),
    "a wrong word through a link, inside": (
        "MaskedBlendedSampler", {"inside": "rubbish"}, "ConfigError",
    ),
    "a wrong word through a link, source level": (
        "MaskedBlendedEdit", {"source_level": "rubbish"}, "ConfigError",
    ),
    "a wrong word through a link, rule": (
        "CrossAttentionGuidance", {"rule": "rubbish"}, "ConfigError",
    ),
    "a wrong word through a link, scheduler": (
        "TwoStageGeneration", {"scheduler": "rubbish"}, "ConfigError",
    ),
    "a wrong word through a link, take": ("SegmentByText", {"take": "rubbish"}, "ConfigError"),
    "a wrong word through a link, mixing": ("WeaveConcepts", {"mixing": ""}, "ConfigError"),
    "a wrong word through a link, initialiser": (
        "ConceptMixing", {"initialiser": "rubbish"}, "ConfigError",
    ),
    "a seam of negative width in an edit": ("MaskedBlendedEdit", {"feather_px": -1}, "ConfigError"),
    "a seam of negative width": ("CompositeSeam", {"feather_px": -1}, "ConfigError"),
    "a negative number of pictures": ("GenerateWithPrior", {"count": -1}, "ConfigError"),
    "a negative seed": ("TinyWorldScene", {"seed": -1}, "ConfigError"),
    "an object without a name": ("TinyWorldOrnament", {"object": ""}, "ConfigError"),
    "a batch without a picture": ("SegmentByText", {"image": "no picture"}, "ImageError"),
    "an edit with SDXL's UNet and SD's CLIP": (
        "MaskedBlendedEdit", {"model": "SDXL"}, "ModelError",
    ),
    "the last steps by a model of another family": (
        "MaskedBlendedEdit", {"base_model": "SDXL", "harmonise_steps": 1}, "ModelError",
    ),
    "a VAE of another family, learning": (
        "TrainPersonalizedResiduals", {"vae": "sixteen channels"}, "ModelError",
    ),
    "a VAE of another family, reading": (
        "AttentionMaps", {"vae": "sixteen channels"}, "ModelError",
    ),
    "a first stage of another family": ("TwoStageGeneration", {"base_model": "SDXL"}, "ModelError"),
    "a prompt of another width": (
        "TwoStageGeneration", {"base_positive": "another width"}, "ModelError",
    ),
    "a prompt of NaN": ("TwoStageGeneration", {"base_positive": "NaN"}, "InputError"),
    "no prompt at all": ("TwoStageGeneration", {"positive": "none"}, "InputError"),
    "latents of another VAE": (
        "TwoStageGeneration", {"latent_image": "sixteen channels"}, "InputError",
    ),
    "latents of a film": ("TwoStageGeneration", {"latent_image": "a film"}, "InputError"),
}  # fmt: skip


@pytest.mark.parametrize("what", FOUND)
def test_it_is_mended(executor: Executor, what: str):
    kind, bad, error = FOUND[what]
    if kind in LAB:
        pytest.importorskip("diffusers")
    inputs = inputs_of(kind)
    changes = {}
    for name, value in bad.items():
        makers = BAD.get(inputs[name].get_io_type())
        changes[name] = Change(str(value), makers[value] if makers else value)
    result, problems = outcome_of(executor, Case(kind, "", changes), patient=True)
    failures = problems + ([] if result.kind == error else [f"{result.kind}: {result.error}"])
    tally(f"found/{what}", 1, failures)
    assert not failures
