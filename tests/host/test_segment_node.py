"""Segment by Text, from files that a user has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import folder_paths
import pytest
import torch
from executor import Executor, Result, given, node
from weaver_graphs import IMAGE, SIDE, pack

pytestmark = pytest.mark.usefixtures("folders")


def segment(executor: Executor, **inputs: Any) -> Result:
    every = {
        "image": given("image"), "words": "cat", "detector": "dino", "segmenter": "sam",
        "threshold": 0.0, "take": "best", "places": "", **inputs,
    }  # fmt: skip
    wanted = {"masks": ["1", 0], "preview": ["1", 1]}
    return executor.run({"1": node("SegmentByText", **every)}, {"image": IMAGE}, **wanted)


def test_points_and_boxes_are_cut_by_a_local_sam(
    executor: Executor, folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """A tiny SAM of transformers' own class; the whole way with a detector is in tests/unit."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1, "mlp_dim": 16,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "window_size": 2,
            "global_attn_indexes": [0], "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", ([str(folders)], set()))
    with torch.inference_mode(False):
        transformers.SamModel(config).save_pretrained(folders / "sam")
    module = pack("nodes.segment")
    place = "box 4 4 40 40\n30 30; not 2 2"
    masks, names = module.segmented(IMAGE, "", "dino", "sam", module.SegmentationConfig(), place)
    assert masks.shape == (2, SIDE, SIDE)
    assert names == ["place 1", "place 2"]
    assert module.preview_of(IMAGE[0], masks, names).ndim == 3
    with pytest.raises(pack("errors").ModelError, match="There is no 'dino' in models/grounding"):
        module.segmented(IMAGE, "cat", "dino", "sam", module.SegmentationConfig(), "")


def test_models_of_every_folder_that_comfyui_knows_are_listed(
    folders: Path, monkeypatch: pytest.MonkeyPatch
):
    """As with extra_model_paths.yaml, or where another pack keeps its files."""
    roots = [folders / "models" / "sams", folders / "elsewhere"]
    for root, name in zip(roots, ("mine", "theirs"), strict=True):
        (root / name).mkdir(parents=True)
        (root / name / "config.json").write_text("{}")
        (root / "sam_vit_h_4b8939.pth").write_bytes(b"")
    places = ([str(root) for root in [*roots, folders / "not there"]], set())
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "sams", places)
    schema = pack("nodes.segment").SegmentByText.define_schema()
    (segmenter,) = (given for given in schema.inputs if given.id == "segmenter")
    assert segmenter.options == ["mine", "sam_vit_h_4b8939.pth", "theirs"]
    found = pack("nodes.segment").segmenters()
    assert found["theirs"] == roots[1] / "theirs"
    assert found["sam_vit_h_4b8939.pth"].parent == roots[0], "of two alike the first"


def test_models_that_are_not_there_say_where_they_go(executor: Executor):
    options = {"detector": "(none found)", "segmenter": "(none found)"}
    result = segment(executor, **options)
    assert result.kind == "ModelError"
    assert "grounding-dino-base, or use Download Segmentation Model" in result.error
    assert "(none found)" in segment(executor, places="box 1 1 9 9", **options).error
    assert "words" in segment(executor, words=" ", **options).error
