"""Masks of another scale, through the nodes: brought to full strength and said, or refused."""

from __future__ import annotations

import logging

import pytest
import torch
from executor import Executor, given, node
from scene_graphs import image, make_scene, masks, train
from tiny_models import graph_of

pytestmark = pytest.mark.usefixtures("folders")

FAINT = masks() / 255


def test_a_faint_mask_learns_like_a_full_one_and_is_reported(
    executor: Executor, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.WARNING)
    result = make_scene(executor, image(), FAINT)
    assert result.error == ""
    made = result.values["scene"]
    assert torch.equal(made.images[0].masks["my-toy"], masks()[1])
    assert len(made.remarks) == 2
    assert "The mask of <my-mug> reaches only 0.004 (1 of 255)" in caplog.text
    assert float(FAINT.max()) < 0.01  # the input is as it came


def test_the_trainers_report_says_it(executor: Executor, monkeypatch: pytest.MonkeyPatch):
    import scene_graphs

    monkeypatch.setattr(scene_graphs, "MASKS", FAINT)
    result = train(executor, graph_of("sd1"), preset__weight_steps=0)
    assert result.error == ""
    first = result.values["told"].splitlines()[0]
    assert first == "The mask of <my-mug> reaches only 0.004 (1 of 255); it is stretched to 1."


def test_a_label_picture_asks_which_class(executor: Executor):
    labels = masks()[:1] / 255 + 3 * masks()[1:] / 255
    result = make_scene(executor, image(), labels, concepts="my-mug: cup")
    assert result.kind == "MaskError"
    assert "<my-mug> is a label picture with 2 classes: 1 (" in result.error
    assert "Convert Image Color to Mask" in result.error


def test_load_image_without_a_painted_mask_says_so(executor: Executor):
    result = make_scene(executor, image(), torch.zeros(1, 64, 64), concepts="my-mug: cup")
    assert result.kind == "MaskError"
    assert "nothing is painted" in result.error
    assert "Open in MaskEditor" in result.error


def test_the_soft_mask_builder_reports_it(executor: Executor):
    graph = {
        "1": node(
            "SoftMaskBuilder", mask=given("mask"), background_weight=0.5, grow_px=0,
            feather_px=0.0, threshold=0.0, invert=False, attention_level=4,
        )
    }  # fmt: skip
    sockets = {"mask": ["1", 1], "preview": ["1", 2], "told": ["1", 3]}
    faint = executor.run(graph, {"mask": FAINT}, **sockets).values
    full = executor.run(graph, {"mask": masks()}, **sockets).values
    assert torch.equal(faint["mask"], masks())
    assert faint["told"].startswith("Mask 1 reaches only 0.004")
    assert faint["told"].endswith(full["told"])
    red = torch.tensor([190, 30, 45]) / 255
    reds = [int(((v["preview"] - red).abs().amax(-1) < 0.02).sum()) for v in (faint, full)]
    assert reds[0] > 10
    assert reds[1] == 0
