"""TinyWorld Z-Image and folders of diffusers' pipelines on the command line; weights are random."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from ..tiny_transformers import random_file

pytest.importorskip("diffusers")

from conceptloom.cli import models
from conceptloom.cli.app import app
from conceptloom.cli.models import open_host
from conceptloom.errors import UnsupportedModelError
from conceptloom.host.diffusers import SingleStreamHost
from conceptloom.host.families.registry import check_learns
from conceptloom.tinyworld.dit import checkpoint

PROMPT = "a photo of a red mug and a blue teapot on the grass"


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = random_file("zimage", tmp_path / "world.safetensors")
    monkeypatch.setattr(checkpoint, "CHECKPOINTS", {"zimage": file})
    return tmp_path


def random_lora(seed: int, fused: bool) -> dict[str, torch.Tensor]:
    """In one layout with q, k and v apart, in another with all of them in one."""
    host = open_host("tinyworld-zimage")
    generator, tensors = torch.Generator().manual_seed(seed), {}
    blocks = len(host.sites.transformers)
    for block in range(blocks):
        for part in ("to_q", "to_k", "to_v", "out"):
            name = f"transformer.layers.{block}.attention.{part}.weight"
            rows, columns = host.weight(name).shape
            if fused and part in ("to_k", "to_v"):
                continue
            path = f"layers.{block}.attention.{'qkv' if fused and part == 'to_q' else part}"
            rows *= 3 if path.endswith("qkv") else 1
            start = path.replace(".", "_") if fused else f"diffusion_model.{path}"
            start = f"lora_unet_{start}" if fused else start
            up, down = ("lora_up", "lora_down") if fused else ("lora_B", "lora_A")
            tensors[f"{start}.{up}.weight"] = torch.randn(rows, 2, generator=generator)
            tensors[f"{start}.{down}.weight"] = torch.randn(2, columns, generator=generator) / 9
    return tensors


def drawn(folder: Path, *options: str) -> np.ndarray:
    arguments = ["sample", "--model", "tinyworld-zimage", "--prompt", PROMPT, "--steps", "5",
                 "--seed", "3", "--size", "128x128", "--out", str(folder / "x.png"),
                 *options]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return np.asarray(Image.open(folder / "x.png").convert("RGB")).astype(int)


def test_two_localised_loras_of_two_layouts(world: Path):
    for number, fused in enumerate((False, True)):
        save_file(random_lora(number, fused), str(world / f"{number}.safetensors"))
    base = drawn(world / "base")
    loras = [f"--local-lora={world / '0.safetensors'}=red mug",
             f"--local-lora={world / '1.safetensors'}:0.8=blue teapot"]  # fmt: skip
    one = drawn(world / "one", loras[0])
    two = drawn(world / "two", *loras, "--masks")
    assert abs(one - base).mean() > 0.2
    assert abs(two - one).mean() > 0.2
    assert np.array_equal(two, drawn(world / "again", *loras[::-1]))
    assert list((world / "two").rglob("*masks*"))


def scene_of(folder: Path) -> list[str]:
    """A red picture with a mask in its middle."""
    picture, mask = folder / "mug.png", folder / "mask.png"
    Image.new("RGB", (128, 128), "red").save(picture)
    shape = Image.new("L", (128, 128))
    shape.paste(255, (32, 32, 96, 96))
    shape.save(mask)
    return ["-i", str(picture), "--mask", f"my-mug={mask}:mug"]


def test_a_concept_is_learned_and_drawn_in_its_place(world: Path, tmp_path: Path):
    quick = ["--token-steps", "1", "--weight-steps", "1", "--scope", "low-rank", "--rank", "2",
             "--class-draw", "0", "--batch-size", "1", "--checkpointing", "--preview-every", "0",
             "--preview-steps", "2"]  # fmt: skip
    result = CliRunner().invoke(
        app,
        ["train", "--model", "tinyworld-zimage", *scene_of(tmp_path), *quick,
         "--out", str(tmp_path / "out")],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (concept,) = (tmp_path / "out").glob("*.safetensors")
    told = drawn(world / "told", f"--concept={concept}")
    assert told.shape == (128, 128, 3)


def test_distilled_folders_are_refused_in_words(world: Path, tmp_path: Path, monkeypatch):
    def turbo(*args: object, **kwargs: object) -> object:
        host = open_host("tinyworld-zimage")
        host.origin = "z-image-turbo"
        return host

    monkeypatch.setattr(models, "open_host", turbo)
    result = CliRunner().invoke(
        app,
        ["train", "--model", "turbo", *scene_of(tmp_path), "--out", str(tmp_path / "out")],
    )
    said = " ".join(result.output.replace("\u2502", " ").split())
    assert result.exit_code != 0
    assert "z-image-turbo is distilled to a few steps" in said, said
    assert "Z-Image (not Turbo)" in said


def test_a_folder_of_diffusers(world: Path, tmp_path: Path):
    from diffusers import ZImagePipeline
    from diffusers.models.transformers import transformer_z_image

    parts = checkpoint.load_dit("zimage")
    embedder = transformer_z_image.TimestepEmbedder  # diffusers knows one width of it
    parts.transformer.t_embedder = embedder(256, mid_size=1024).requires_grad_(False)
    folder = tmp_path / "turbo" / "pipeline"  # the folder's own name counts, not those above
    ZImagePipeline(
        parts.scheduler, parts.vae, parts.text_encoder, parts.tokenizer, parts.transformer
    ).save_pretrained(folder)
    host = open_host(str(folder))
    own = SingleStreamHost(
        transformer=parts.transformer, vae=parts.vae, text_encoder=parts.text_encoder,
        tokenizer=parts.tokenizer, scheduler=parts.scheduler,
    )  # fmt: skip
    assert isinstance(host, SingleStreamHost)
    assert host.origin == "pipeline"
    assert "does not tell" in check_learns(host.sites, host.origin)
    prompt = own.encode_prompt(PROMPT)
    assert host.encode_prompt(PROMPT).tokens == prompt.tokens
    latent, t = torch.randn(1, 16, 16, 16), torch.tensor([0.7])
    with torch.no_grad():
        ours, theirs = host.predict(latent, t, [prompt]), own.predict(latent, t, [prompt])
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    single = tmp_path / "x.safetensors"
    save_file({"a": torch.zeros(1)}, str(single))
    with pytest.raises(UnsupportedModelError, match="single file of this family"):
        open_host(str(single), layout=folder)
