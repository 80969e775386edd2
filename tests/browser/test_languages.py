"""The editor in every language that the pack speaks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from editor import Editor
from headless import ROOT

LANGUAGES = sorted(path.name for path in (ROOT / "locales").iterdir())
WORKFLOW = ROOT / "workflows" / "1-learn-a-scene.json"
TRAINER = "ConceptLoomCrossAttentionLossTrainer"


@pytest.mark.parametrize("language", LANGUAGES)
def test_nodes_bear_their_names_in_the_language(language: str, editor: Editor, screenshots: Path):
    editor.reopen({"Comfy.Locale": language, "Comfy.VueNodes.Enabled": False})
    editor.load(json.loads(WORKFLOW.read_text(encoding="utf-8")), WORKFLOW.stem)
    editor.screenshot(screenshots / f"language-{language}.png")
    words = json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    trainer = next(node for node in editor.nodes() if node["type"] == TRAINER)
    told = words[TRAINER]
    assert trainer["title"] == told["display_name"]
    assert set(trainer["inputs"]) >= {told["inputs"][key]["name"] for key in ("scene", "model")}
    # a knob of the preset, and one below it
    knobs = {told["inputs"][key]["name"] for key in ("preset_token_steps", "preview_every")}
    assert knobs <= set(trainer["widgets"])
    assert not editor.complaints()
