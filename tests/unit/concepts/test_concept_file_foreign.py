"""Files of other programs in the place of a concept: named, and never opened as pickles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from conceptloom.concepts.concept_file import load_concept
from conceptloom.errors import ConceptFileError


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConceptFileError, match="There is no concept file"):
        load_concept(tmp_path / "nobody.safetensors")
    with pytest.raises(ConceptFileError, match="cannot be read"):
        load_concept(tmp_path)


def test_pickles_are_named_and_never_opened(tmp_path: Path) -> None:
    for name, zipped in (("a.pt", True), ("b.bin", False)):
        path = tmp_path / name
        torch.save({"x": torch.ones(1)}, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ConceptFileError, match="pickle"):
            load_concept(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b'{"nodes": []}', "workflow"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid", "Git LFS"),
        (b"GGUF\3\0\0\0", "GGUF"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
    ],
)
def test_foreign_bytes_are_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["lora_unet_down_blocks_0.lora_up.weight"], "LoRA"),
        (["unet.down_blocks.0.to_k.lora_A.weight"], "LoRA"),
        (["clip_l", "clip_g"], "embedding"),
        (["emb_params"], "embedding"),
        (["model.diffusion_model.out.2.weight", "first_stage_model.x"], "checkpoint"),
        (["down_blocks.0.x", "conv_in.weight"], "diffusion model"),
        (["text_model.encoder.layers.0.x", "b"], "text encoder"),
        (["controlnet_cond_embedding.x", "b"], "ControlNet"),
        (["a", "b"], "another program"),
    ],
)
def test_foreign_tensors_are_named(tmp_path: Path, names: list[str], told: str) -> None:
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(2, 2) for name in names}, path)
    with pytest.raises(ConceptFileError, match=told):
        load_concept(path)


def test_a_checkpoint_in_eight_bits_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"model.diffusion_model.a": torch.ones(2, 2).to(torch.float8_e4m3fn)}, path)
    with pytest.raises(ConceptFileError, match="checkpoint"):
        load_concept(path)
