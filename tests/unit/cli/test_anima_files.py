"""Anima from local files: folders of diffusers, the published files, and checkpoints."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from ..anima_folders import (
    Parts,
    original_weights,
    random_parts,
    save_originals,
    save_pipeline,
    save_tokenizers,
)

pytest.importorskip("diffusers")

from conceptloom.cli import models
from conceptloom.cli.app import app
from conceptloom.cli.models import check_files, open_host
from conceptloom.cli.options import Precision
from conceptloom.cli.picture_reader import read_image
from conceptloom.errors import ModelError, UnsupportedModelError
from conceptloom.host.diffusers import AnimaHost

PROMPT = "a photo of a red mug and a blue teapot"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    return random_parts(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def pipeline(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_pipeline(parts, tmp_path_factory.mktemp("pipelines") / "tiny-anima")


@pytest.fixture
def originals(parts: Parts, tmp_path: Path) -> dict[str, Path]:
    return save_originals(parts, tmp_path / "release")


def predicted(host: Any) -> torch.Tensor:
    latent = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return host.predict(latent, torch.tensor([0.7]), [host.encode_prompt(PROMPT)])


def check_same(host: Any, parts: Parts) -> None:
    own = parts.host()
    assert isinstance(host, AnimaHost)
    assert host.fingerprint == own.fingerprint
    # The norms of the tiny model were given another epsilon than diffusers' classes start with.
    torch.testing.assert_close(predicted(host), predicted(own), rtol=1e-3, atol=1e-3)
    image = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(host.encode_image(image), own.encode_image(image))
    assert host.decode_latent(host.encode_image(image)).shape == image.shape


def test_a_folder_of_diffusers(pipeline: Path, parts: Parts):
    host = open_host(str(pipeline))
    check_same(host, parts)
    assert host.origin == "tiny-anima"


@pytest.mark.parametrize("prefix", ["net.", "model.diffusion_model.", ""])
def test_the_published_files_in_one_folder(parts: Parts, tmp_path: Path, prefix: str):
    files = save_originals(parts, tmp_path, prefix)
    check_same(open_host(str(tmp_path)), parts)
    host = open_host(str(files["diffusion_models"]), layout=tmp_path)
    check_same(host, parts)
    assert host.origin == "tiny_diffusion_models"


def test_a_file_takes_what_it_lacks_from_a_folder_of_diffusers(
    originals: dict[str, Path], pipeline: Path, parts: Parts
):
    weights = load_file(str(originals["diffusion_models"]))
    changed = {
        name: weight * 2 if "final_layer" in name else weight for name, weight in weights.items()
    }
    save_file(changed, str(originals["diffusion_models"]))
    host = open_host(str(originals["diffusion_models"]), layout=pipeline)
    assert (predicted(host) - predicted(parts.host())).abs().max() > 0.1
    without = {name: weight for name, weight in weights.items() if "llm_adapter" not in name}
    save_file(without, str(originals["diffusion_models"]))
    check_same(open_host(str(originals["diffusion_models"]), layout=pipeline), parts)


def test_a_checkpoint_that_comfyui_saved(parts: Parts, tmp_path: Path):
    original = original_weights(parts, "model.diffusion_model.")
    weights = original["diffusion_models"]
    starts = {"text_encoders": "text_encoders.qwen3_06b.transformer.", "vae": "vae."}
    for part, start in starts.items():
        weights |= {start + name: weight for name, weight in original[part].items()}
    file = tmp_path / "all.safetensors"
    save_file({name: weight.contiguous().clone() for name, weight in weights.items()}, str(file))
    check_same(open_host(str(file), layout=save_tokenizers(parts, tmp_path / "words")), parts)


def test_precision_is_that_of_the_networks_alone(pipeline: Path, originals: dict[str, Path]):
    release = originals["vae"].parents[2]
    for folder in (pipeline, release):
        host = open_host(str(folder), precision=Precision.BF16)
        assert host.dtype is torch.bfloat16
        assert host.weight("transformer.llm_adapter.embed.weight").dtype is torch.bfloat16
        assert next(host.vae.parameters()).dtype is torch.float32
        assert predicted(host).isfinite().all()


def test_it_is_drawn_with(pipeline: Path, tmp_path: Path):
    out = tmp_path / "x.png"
    arguments = ["sample", "--model", str(pipeline), "--prompt", PROMPT, "--steps", "2", "--size",
                 "64x64", "--out", str(out)]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert read_image(out).shape == (64, 64, 3)


def test_memory_is_told_before_it_is_taken(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.INFO, "conceptloom")
    open_host(str(pipeline))
    (line,) = [r.message for r in caplog.records if "GiB" in r.message]
    size = sum(p.numel() * 4 for p in pipeline_parameters(pipeline))
    assert f"tiny-anima take {size / 2**30:.1f} GiB (fp32)" in line
    monkeypatch.setattr(models, "free_memory", lambda device: 2**20)
    open_host(str(pipeline))
    assert "but cpu has 0.0 GiB free. --precision bf16 takes about half" in caplog.text


def pipeline_parameters(folder: Path) -> list[torch.Tensor]:
    return [t for file in folder.rglob("*.safetensors") for t in load_file(str(file)).values()]


def test_what_is_missing_is_named(originals: dict[str, Path], pipeline: Path, tmp_path: Path):
    file, release = originals["diffusion_models"], originals["vae"].parents[2]
    with pytest.raises(ModelError, match=r"without the text encoder \(Qwen3 0.6B\).*--layout"):
        open_host(str(file))
    originals["vae"].unlink()
    with pytest.raises(ModelError, match=r"without the VAE \(of Qwen-Image\).*searched for in"):
        open_host(str(release))
    with pytest.raises(ModelError, match="without the VAE"):
        check_files(str(release), None)
    shutil.copytree(pipeline, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "t5_tokenizer")
    with pytest.raises(ModelError, match=r"no tokenizer folder t5_tokenizer.*--layout"):
        open_host(str(tmp_path / "copy"))
    open_host(str(tmp_path / "copy"), layout=pipeline)


def test_several_files_are_a_question(originals: dict[str, Path]):
    file, release = originals["diffusion_models"], originals["vae"].parents[2]
    shutil.copy(file, file.with_name("other.safetensors"))
    with pytest.raises(ModelError, match=r"several files with the transformer: .*other.*--model"):
        open_host(str(release))
    text = load_file(str(originals["text_encoders"]))
    wider = {n: torch.cat([w, w], -1) if "embed_tokens" in n else w for n, w in text.items()}
    save_file(wider, str(originals["text_encoders"].with_name("qwen_3_4b.safetensors")))
    open_host(str(file), layout=release)  # a text encoder of another width is another family's


def test_files_that_do_not_fit_are_refused_in_words(
    originals: dict[str, Path], pipeline: Path, tmp_path: Path
):
    file, release = originals["diffusion_models"], originals["vae"].parents[2]
    weights = load_file(str(file))

    def saved(changed: dict[str, torch.Tensor]) -> str:
        path = tmp_path / "changed.safetensors"
        save_file(changed, str(path))
        return str(path)

    name = "net.blocks.1.mlp.layer1.weight"
    with pytest.raises(
        ModelError, match=r"changed.safetensors does not have the weights of the transformer"
    ):
        open_host(saved({n: w for n, w in weights.items() if n != name}), layout=release)
    with pytest.raises(ModelError, match=r"it has blocks\.0\.self_attn\.x"):
        open_host(
            saved({**weights, "net.blocks.0.self_attn.x.weight": weights[name] * 1}), layout=release
        )
    with pytest.raises(UnsupportedModelError, match="quantised for ComfyUI"):
        open_host(
            saved({**weights, "net.blocks.0.mlp.layer1.scale_weight": torch.ones(1)}),
            layout=release,
        )
    cosmos = {n: w for n, w in weights.items() if "llm_adapter" not in n}
    with pytest.raises(UnsupportedModelError, match="Cosmos-Predict2"):
        open_host(saved(cosmos), layout=release)
    other = tmp_path / "other"
    shutil.copytree(pipeline, other)
    config = json.loads((other / "text_encoder" / "config.json").read_text())
    (other / "text_encoder" / "config.json").write_text(
        json.dumps({**config, "model_type": "gemma"})
    )
    with pytest.raises(
        UnsupportedModelError, match=r"holds a gemma, but Anima's text_encoder is a Qwen3Model"
    ):
        open_host(str(other))
    custom = tmp_path / "custom"
    custom.mkdir()
    (custom / "model_index.json").write_text('{"_class_name": "AnimaPipeline"}')
    with pytest.raises(UnsupportedModelError, match=r"is a AnimaPipeline.*AnimaModularPipeline"):
        open_host(str(custom))
