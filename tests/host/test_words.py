"""Words in prompts: misspelt ones are told, brackets and letters of any kind are read."""

from __future__ import annotations

import logging
import random
from typing import Any
from uuid import uuid4

import pytest
import torch
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from comfy_execution.utils import CurrentNodeContext
from nodes import CLIPTextEncode
from test_lag import concept_of
from test_prompts import encoded, handle_for
from tiny_models import Graph

from conceptloom.concepts.concept import renamed
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.host.comfyui.host import ComfyHost
from conceptloom.host.comfyui.prompts import clip_with_handles
from conceptloom.host.comfyui.sampling import conditioning_of
from conceptloom.host.prompt_text import weighted_pieces
from conceptloom.nodes.shared import applied

KOREAN = "\ub0b4\ucef5"


@pytest.mark.parametrize("written", ["<my-bxo>", "<My-Box>", "<my-box:0.8>"])
def test_the_hosts_own_prompt_node_tells_misspelt_words(
    graph: Graph, messages: list[Any], caplog: pytest.LogCaptureFixture, written: str
):
    clip = clip_with_handles(graph.clip, {"my-box": handle_for(graph.clip)})
    queue = str(uuid4())  # a queue hears of a word once
    with CurrentNodeContext(queue, "7"), caplog.at_level(logging.WARNING):
        for _ in range(2):
            CLIPTextEncode().encode(clip, f"a {written}")
    (told,) = [r.getMessage() for r in caplog.records if "plain text" in r.getMessage()]
    assert "<my-box>" in told.split("plain text")[1]
    ((shown, node),) = messages
    assert node == "7"
    assert "my-box" in shown
    assert "<" not in shown  # the editor takes text for HTML


def test_words_that_are_right_are_not_reported(sd1: Graph, caplog: pytest.LogCaptureFixture):
    clip = clip_with_handles(sd1.clip, {"my-box": handle_for(sd1.clip)})
    with caplog.at_level(logging.WARNING):
        encoded(clip, "a (<my-box>:1.3), <lora:x:1>, \uff1cmy-box\uff1e, 1 < 2 > 1")
        ComfyHost(sd1.model, clip).encode_prompt(
            "a <my-box> <other>", {"other": handle_for(sd1.clip)}
        )
    assert "plain text" not in caplog.text


def test_our_own_nodes_tell_of_words_that_no_concept_brings(
    sd1: Graph, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING):
        conditioning_of(sd1.clip, "a <my-box>")
        ComfyHost(sd1.model, sd1.clip).encode_prompt("a <my-hat>")
    assert "<my-box> is not a learned word here" in caplog.text
    assert "<my-hat> is not a learned word here" in caplog.text
    assert "no concept is applied" in caplog.text


def test_full_width_brackets_are_read(graph: Graph):
    clip = clip_with_handles(graph.clip, {"my-box": handle_for(graph.clip)})
    for text in ("a \uff1cmy-box\uff1e", "a (\uff1cmy-box\uff1e:1.3)"):
        plain = text.replace("\uff1c", "<").replace("\uff1e", ">")
        assert torch.equal(encoded(clip, text), encoded(clip, plain))
    assert not torch.allclose(encoded(clip, "\uff1cmy-box\uff1e"), encoded(graph.clip, "<my-box>"))


@pytest.mark.parametrize("name", [KOREAN, "tass\u00e9", "\u0915\u093f\u0924\u093e\u092c"])
def test_names_of_any_letters_go_the_whole_way(sd1: Graph, tmp_path: Any, name: str):
    concept = renamed(concept_of(sd1), {"my-cat": name})
    path = save_concept(concept, tmp_path / f"{name}.safetensors")
    concept = load_concept(path)
    assert concept.names == [name]
    clip = applied(sd1.model, sd1.clip, concept, 1.0)[1]
    other = applied(sd1.model, sd1.clip, concept_of(sd1), 1.0)[1]
    for mine, usual in (
        (f"a <{name}> cat", "a <my-cat> cat"),
        (f"(<{name}>:1.3)", "(<my-cat>:1.3)"),
    ):
        assert torch.equal(encoded(clip, mine), encoded(other, usual))


def test_weights_in_plain_python_are_those_of_comfyui():
    """On random prompts of brackets, numbers and text, cut exactly alike."""
    chance = random.Random(0)
    parts = ["(", ")", "(", ")", ":", "1.3", "a", " b", "\\(", "\\)", "<x>", ":0.5)", "\n", ":x"]
    for _ in range(3000):
        text = "".join(chance.choices(parts, k=chance.randint(0, 12)))
        theirs = [(unescape_important(t), w) for t, w in token_weights(escape_important(text), 1.0)]
        assert [(t, w) for t, w in weighted_pieces(text) if t] == [(t, w) for t, w in theirs if t]
