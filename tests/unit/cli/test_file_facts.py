"""What a weights file says about itself counts more than the folder that lends its layout."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from conceptloom.batch.jobs import jobs_of
from conceptloom.batch.plan import Plan
from conceptloom.cli.models import open_host
from conceptloom.errors import ModelError, UnsupportedModelError
from conceptloom.host.diffusers import DiffusersHost
from conceptloom.host.diffusers.file_facts import UNET, check_layout, file_facts
from conceptloom.tinyworld.checkpoint import read_checkpoint

from ..saved_tinyworld import save_tinyworld

Saved = Callable[..., Path]
MARKER = torch.zeros(0)  # NoobAI's are tensors of no elements
V_PRED, ZTSNR = {"v_pred": MARKER}, {"ztsnr": MARKER}


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """TinyWorld in the layout of Stable Diffusion 1.x."""
    return {n: w.float().contiguous() for n, w in read_checkpoint().full_weights().items()}


@pytest.fixture
def save(weights: dict[str, torch.Tensor], tmp_path: Path) -> Saved:
    """Writes the checkpoint with further tensors or metadata."""
    from safetensors.torch import save_file

    def write(more: dict[str, torch.Tensor] | None = None, **metadata: str) -> Path:
        names = {f"modelspec.{name}": text for name, text in metadata.items()}
        save_file({**weights, **(more or {})}, str(tmp_path / "tune.safetensors"), names)
        return tmp_path / "tune.safetensors"

    return write


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tinyworld(tmp_path_factory.mktemp("layout"))


@pytest.fixture
def layout(folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the folder with other values in one of its JSON files."""

    def write(file: str, **values: Any) -> Path:
        copy = tmp_path / "layout"
        shutil.copytree(folder, copy, dirs_exist_ok=True)
        config = json.loads((copy / file).read_text()) | values
        (copy / file).write_text(json.dumps(config))
        return copy

    return write


SCHEDULER = "scheduler/scheduler_config.json"


def opened(path: Path, layout: Path) -> DiffusersHost:
    host = open_host(str(path), layout=layout, device="cpu")
    assert isinstance(host, DiffusersHost)
    return host


def test_markers_as_noobai_has_them_win(
    save: Saved, layout: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    noise = layout(SCHEDULER, prediction_type="epsilon")
    plain, marked = opened(save(), noise), opened(save(V_PRED | ZTSNR), noise)
    assert plain.noise_path.name == "eps"
    assert marked.noise_path.name == "v"
    assert float(plain.noise_path.alpha_bar[-1]) > 1e-3
    assert float(marked.noise_path.alpha_bar[-1]) < 1e-7
    assert marked.fingerprint != plain.fingerprint
    assert "tune.safetensors says that it predicts v_prediction (its marker v_pred)" in caplog.text
    assert "pure noise (its marker ztsnr)" in caplog.text


def test_the_marked_file_computes_what_a_right_layout_computes(
    save: Saved, layout: Callable[..., Path]
) -> None:
    marked = opened(save(V_PRED | ZTSNR), layout(SCHEDULER, prediction_type="epsilon"))
    right = layout(SCHEDULER, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    latent, timesteps = torch.ones(1, 16, 8, 8), torch.tensor([700])
    a, b = (
        host.predict(latent, timesteps, [host.encode_prompt("a toy")])
        for host in (marked, opened(save(), right))
    )
    assert torch.equal(a, b)


@pytest.mark.parametrize("scheduler", ["PNDMScheduler", "EulerDiscreteScheduler"])
def test_schedulers_of_real_folders_take_it(
    save: Saved, layout: Callable[..., Path], scheduler: str
) -> None:
    """SD 1.5's folder has PNDM, which knows nothing of zero SNR; SDXL's has Euler."""
    layout(SCHEDULER, prediction_type="epsilon", _class_name=scheduler)
    copy = layout("model_index.json", scheduler=["diffusers", scheduler])
    host = opened(save(V_PRED | ZTSNR), copy)
    assert host.noise_path.name == "v"
    assert float(host.noise_path.alpha_bar[-1]) < 1e-7


METADATA = {
    "prediction type": ({"prediction_type": "v"}, True),
    "predict_key of ComfyUI": ({"predict_key": "v"}, True),
    "architecture of SD 2 768 v": ({"architecture": "stable-diffusion-v2-768-v"}, True),
    "epsilon, in capitals": ({"prediction_type": "Epsilon"}, False),
}


@pytest.mark.parametrize("case", METADATA)
def test_metadata_wins_over_the_layout(
    save: Saved, layout: Callable[..., Path], case: str, caplog: pytest.LogCaptureFixture
) -> None:
    words, is_velocity = METADATA[case]
    other = layout(SCHEDULER, prediction_type="epsilon" if is_velocity else "v_prediction")
    assert (opened(save(**words), other).noise_path.name == "v") == is_velocity
    assert "its metadata modelspec." in caplog.text


def test_a_marker_counts_more_than_metadata_of_a_merge(save: Saved) -> None:
    assert file_facts(save(V_PRED, prediction_type="epsilon")).prediction == "v_prediction"


@pytest.mark.parametrize("more", [{}, V_PRED])
def test_agreement_is_not_worth_a_word(
    save: Saved, folder: Path, more: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, logger="conceptloom")
    host = opened(save(more), folder)  # the layout predicts v
    assert host.noise_path.name == "v"
    assert not [r for r in caplog.records if r.name == "conceptloom"]


def test_pure_noise_at_the_end_of_an_epsilon_model_is_no_fact(save: Saved) -> None:
    assert not file_facts(save(ZTSNR)).has_zero_snr


UNLIKE = {
    "another family": (
        {"cross_attention_dim": 768},
        r"disagree on the width of prompts: 128 in the file, 768 \(Stable Diffusion 1\.x\)",
    ),
    "inpainting": (
        {"in_channels": 9},
        r"input channels: 16 in the file, 9 \(inpainting\) in the folder",
    ),
    "a wider model": (
        {"block_out_channels": [320, 640]},
        "channels of the first layer: 96 in the file, 320 in the folder",
    ),
    "SDXL's size conditions": (
        {"projection_class_embeddings_input_dim": 2816},
        "width of size conditions: 0 in the file, 2816 in the folder",
    ),
    "a deeper model": (
        {"layers_per_block": 2},
        "number of cross-attentions: 7 in the file, 11 in the folder",
    ),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_a_layout_of_another_kind_is_named_with_both_facts(
    save: Saved, layout: Callable[..., Path], case: str
) -> None:
    changes, told = UNLIKE[case]
    other = layout("unet/config.json", **changes)
    with pytest.raises(ModelError, match=told):
        open_host(str(save()), layout=other)


def test_an_inpainting_file_on_a_plain_layout(save: Saved, folder: Path) -> None:
    wide = {f"{UNET}input_blocks.0.0.weight": torch.zeros(96, 9, 3, 3)}
    with pytest.raises(ModelError, match=r"9 \(inpainting\) in the file, 16 in the folder"):
        check_layout(save(wide), folder)


BAD = {
    "EDM": ({"edm_mean": torch.zeros(4)}, {}, "marked edm_mean: its noise levels are continuous"),
    "continuous v": ({"edm_vpred.sigma_max": torch.ones(1)}, {}, "noise levels are continuous"),
    "flow": ({}, {"prediction_type": "flow"}, "predicts 'flow'"),
}


@pytest.mark.parametrize("case", BAD)
def test_predictions_that_nothing_here_knows_are_refused(
    save: Saved, folder: Path, case: str
) -> None:
    more, metadata, told = BAD[case]
    with pytest.raises(UnsupportedModelError, match=told):
        open_host(str(save(more, **metadata)), layout=folder)


def test_a_file_of_something_else_is_reported(tmp_path: Path, folder: Path) -> None:
    from safetensors.torch import save_file

    save_file({"transformer_blocks.0.attn.to_q.weight": torch.zeros(2)}, tmp_path / "x.safetensors")
    with pytest.raises(ModelError, match="contains no UNet in the original layout"):
        open_host(str(tmp_path / "x.safetensors"), layout=folder)


def test_a_batch_stops_before_any_worker_starts(
    save: Saved, layout: Callable[..., Path], tmp_path: Path
) -> None:
    other = layout("unet/config.json", cross_attention_dim=2048)
    rows = [{"prompts": ["a toy"]}]
    plan = Plan.model_validate({"model": str(save()), "layout": other, "pictures": rows})
    with pytest.raises(ModelError, match=r"128 in the file, 2048 \(XL\) in the folder"):
        jobs_of(plan, tmp_path)
