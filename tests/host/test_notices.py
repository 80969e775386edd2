"""What the pack warns of stands on the node that is running, from whichever package it comes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from comfy_execution.utils import CurrentNodeContext
from executor import Executor, given
from scene_graphs import apply
from test_lag import conditioning, lag
from test_sampling_nodes import velocity
from tiny_models import Graph

from conceptloom.host.comfyui.notices import said_by_node, show_warnings_on_nodes, tell
from conceptloom.host.comfyui.progress import NodeProgress
from conceptloom.nodes.shared import shown

LOG = logging.getLogger("conceptloom")
Messages = list[tuple[str, str]]


@pytest.fixture(autouse=True)
def as_loaded_by_the_host():
    show_warnings_on_nodes()


def test_a_concept_of_another_parameterisation_is_reported_on_its_node(
    executor: Executor, sd1: Graph, learned: Any, messages: Messages
):
    models = Graph(velocity(sd1.model), sd1.clip, sd1.vae)
    assert apply(executor, models, learned).error == ""
    ((shown_text, node),) = messages
    assert node == "1"
    assert "predicts" in shown_text
    assert "my-mug" in shown_text
    assert "<" not in shown_text


def test_what_lag_lacks_is_reported_on_the_sampler(
    executor: Executor, sd1: Graph, messages: Messages
):
    model, clip = lag(sd1)
    empty = {"samples": torch.zeros(1, 4, 8, 8)}
    values = {
        "model": model,
        "positive": conditioning(clip, "a photo of <my-cat>"),
        "negative": conditioning(clip, ""),
        "latent": empty,
    }
    graph = {
        "sampler": {
            "class_type": "KSampler",
            "inputs": {
                "model": given("model"), "positive": given("positive"),
                "negative": given("negative"), "latent_image": given("latent"), "seed": 1,
                "steps": 1, "cfg": 2.0, "sampler_name": "euler", "scheduler": "normal",
                "denoise": 1.0,
            },
        }
    }  # fmt: skip
    assert executor.run(graph, values, latent=["sampler", 0]).error == ""
    told = [text for text, node in messages if node == "sampler"]
    assert any("class word" in text for text in told)


def test_a_warning_stays_below_what_comes_after_it(messages: Messages):
    with CurrentNodeContext("queue 1", "5"):
        LOG.warning("the masks of <%s> overlap", "my-mug")
        LOG.warning("the masks of <%s> overlap", "my-mug")
        tell("<my-bxo> is plain text")
        NodeProgress("5")(1, 4, "handles: loss 0.5")
        assert said_by_node() == ["the masks of <my-mug> overlap", "<my-bxo> is plain text"]
        (report,) = shown(None, text="2 steps")["text"]
    first, second, progress = [text.splitlines() for text, _ in messages]
    both = ["the masks of \u2039my-mug\u203a overlap", "\u2039my-bxo\u203a is plain text"]
    assert first == both[:1]
    assert second == both
    assert progress == ["handles: loss 0.5", *both]
    assert report.splitlines() == ["2 steps", *both]
    assert {node for _, node in messages} == {"5"}


def test_other_nodes_other_packs_and_scripts_are_left_alone(messages: Messages):
    LOG.warning("no node is running")
    with CurrentNodeContext("queue 2", "5"):
        logging.getLogger("another").warning("not ours")
        LOG.info("not for everybody")
    with CurrentNodeContext("queue 2", "6"):
        assert said_by_node() == []
    assert messages == []


def test_the_pack_loaded_twice_says_everything_once(messages: Messages):
    show_warnings_on_nodes()
    assert len([h for h in LOG.handlers if type(h).__name__ == "WarningsOnNodes"]) == 1
    with CurrentNodeContext("queue 3", "5"):
        LOG.warning("once")
    assert messages == [("once", "5")]
