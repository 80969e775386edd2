"""The learned files in workflows/: of the bundled model, small, and cut to a rank without harm."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from conceptloom.concepts.concept import Diff, LowRank
from conceptloom.concepts.concept_file import load_concept

pytest.importorskip("diffusers")

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "scripts"))

import bundled_concepts  # noqa: E402

BUNDLED_MB = 24  # of all weights together


def test_concepts_are_of_the_bundled_weights():
    """Run scripts/make-bundled-concepts when this fails."""
    from conceptloom.host.diffusers import DiffusersHost

    base = DiffusersHost.tinyworld().fingerprint
    for file in bundled_concepts.concepts():
        assert load_concept(ROOT / "workflows" / "concepts" / file).base == base, file


def test_every_learned_file_has_a_command_that_learns_it():
    folders = {name: {p.name for p in (ROOT / "workflows" / name).iterdir()} for name in
               ("concepts", "loras")}  # fmt: skip
    assert folders["concepts"] == set(bundled_concepts.concepts())
    assert folders["loras"] == {f"{name}.safetensors" for name in bundled_concepts.LORAS}


def test_all_weights_together_stay_small():
    folders = ("tinyworld", "workflows")
    sizes = [
        path.stat().st_size for name in folders for path in (ROOT / name).rglob("*.safetensors")
    ]
    assert sum(sizes) <= BUNDLED_MB * 1e6


def test_a_cut_keeps_what_a_small_rank_can_hold():
    generator = torch.Generator().manual_seed(0)
    up, down = torch.randn(6, 2, generator=generator), torch.randn(2, 4, 3, 3, generator=generator)
    change = LowRank(up, down, 0.5)
    whole = change.delta((6, 4, 3, 3))
    assert bundled_concepts.cut(change, 2) is change
    for larger in (Diff(whole), LowRank(up @ torch.eye(2, 3), torch.cat([down, down[:1]]), 0.5)):
        kept = bundled_concepts.cut(larger, 2)
        assert isinstance(kept, LowRank)
        assert kept.up.shape == (6, 2)
        torch.testing.assert_close(kept.delta((6, 4, 3, 3)), whole, rtol=1e-4, atol=1e-5)
    bias = Diff(torch.randn(6, generator=generator))
    assert bundled_concepts.cut(bias, 2) is bias
