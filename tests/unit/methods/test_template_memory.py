"""Features of a template take gigabytes at full size: that is checked before they are computed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import save_concept
from conceptloom.errors import ConfigError
from conceptloom.methods.concept_weaver import InversionConfig, Keep, features, make_template
from conceptloom.methods.concept_weaver.features import feature_cost, fitting
from conceptloom.tinyworld.presets import SIZE
from conceptloom.training import free_memory as memory

from ..tiny_models import tiny_host

STEPS = 2


def test_features_that_do_not_fit_are_refused_with_the_figure(monkeypatch: pytest.MonkeyPatch):
    host, calls = tiny_host(), list[str]()
    image, levels = torch.zeros(1, 32, 32, 3), host.noise_path.levels(STEPS)
    monkeypatch.setattr(features, "free_memory", lambda device: calls.append(str(device)) or 2**8)
    with pytest.raises(ConfigError, match=r"keep is 'RAM'.*take 0\.0 GiB, and 0\.0 GiB are free"):
        make_template(host, image, "a cat", levels, InversionConfig(refinements=0))
    assert calls == ["cpu"]
    config = InversionConfig(refinements=0, keep=Keep.NOTHING)
    assert make_template(host, image, "a cat", levels, config).features == ()
    monkeypatch.setattr(features, "free_memory", lambda device: None)  # nobody knows
    assert make_template(host, image, "a cat", levels, InversionConfig(refinements=0)).features


def test_automatic_storage_leaves_most_of_the_memory_free():
    host, config = tiny_host(), InversionConfig(keep=Keep.NOTHING)
    cost = feature_cost(host, features.blocks_of(host.sites, config), (16, 16), config, STEPS)
    chosen = {n: fitting(host, (16, 16), config, STEPS, n).keep for n in (4 * cost, 4 * cost - 1)}
    assert list(chosen.values()) == [Keep.RAM, Keep.NOTHING]
    assert fitting(host, (16, 16), config, STEPS, None).keep is Keep.RAM


def test_the_machine_says_how_much_is_free():
    free = memory.free_memory(torch.device("cpu"))
    assert free is None or free > 2**20
    assert memory.free_memory(torch.device("meta")) is None


def test_weaving_computes_features_again_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    typer_testing = pytest.importorskip("typer.testing")
    pytest.importorskip("diffusers")
    from conceptloom.cli.app import app
    from conceptloom.cli.models import open_host

    host = open_host()
    vectors = {e: torch.randn(1, width) for e, width in host.encoders.items()}
    concept = Concept(handles={"my-thing": vectors}, base=host.fingerprint, method="test")
    save_concept(concept, tmp_path / "thing.safetensors")
    side = SIZE
    Image.new("RGB", (side, side), "red").save(tmp_path / "room.png")
    mask = Image.new("L", (side, side))
    mask.paste(255, (side // 4, side // 4, side // 2, side // 2))
    mask.save(tmp_path / "mask.png")
    command = ["weave", str(tmp_path / "room.png"), "-s", "a red circle", "--steps", "2", "-r"]
    command += [f"circle={tmp_path / 'thing.safetensors'},{tmp_path / 'mask.png'}"]
    command += ["-o", str(tmp_path / "woven.png")]
    said = []
    for free in (2**40, 2**8):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        result = typer_testing.CliRunner().invoke(app, command)
        assert result.exit_code == 0, result.output
        said.append("computed again" in " ".join(result.output.split()))
    assert said == [False, True]
