"""What a user sees while something runs, and that cancelling works."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import comfy.model_management as management
import comfy.utils
import pytest
import torch

from conceptloom.host.comfyui.progress import NodeProgress
from conceptloom.nodes.shared import shown as shown_on_node


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list:
    calls: list = []

    def hook(value, total, preview, **kwargs):
        calls.append((value, total, preview))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    return calls


def test_steps_previews_and_text_arrive(shown: list, monkeypatch: pytest.MonkeyPatch):
    texts = []
    server = SimpleNamespace(send_progress_text=lambda text, node: texts.append((text, node)))
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", module)
    progress = NodeProgress("7")
    progress(1, 4, "<mug>: loss 0.5")
    progress(2, 4, preview=torch.rand(8, 6, 3))
    progress(4, 4)
    assert [call[:2] for call in shown] == [(1, 4), (2, 4), (4, 4)]
    kind, picture, side = shown[1][2]
    assert (kind, picture.size, side) == ("JPEG", (6, 8), 512)
    assert texts == [("\u2039mug\u203a: loss 0.5", "7")], "the editor would take <mug> for HTML"


def test_texts_on_nodes_have_no_brackets_that_the_editor_takes_for_html():
    (told,) = shown_on_node(None, text="<mug>: IoU 0.8")["text"]
    assert told == "\u2039mug\u203a: IoU 0.8"


def test_it_works_without_a_server(shown: list, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delitem(sys.modules, "server", raising=False)
    NodeProgress("7")(1, 1, "done")
    NodeProgress()(1, 1, "done")
    assert len(shown) == 2


def test_cancelling_raises_what_the_host_expects(shown: list):
    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        NodeProgress()(1, 2)
    assert not management.processing_interrupted()
