"""`conceptloom mix`, `evolve` and `download`, and real classes from folders, in the terminal."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("diffusers")

import torch
from typer.testing import CliRunner

from conceptloom.cli import laboratory
from conceptloom.cli.app import app
from conceptloom.cli.picture_files import write_picture
from conceptloom.concepts.concept_file import load_concept
from conceptloom.vision import downloads

from ..vision.tiny_files import save_blip2, save_decoder_21, save_prior


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kandinsky 2.1's prior and decoder and BLIP-2, of the real classes."""
    folder = tmp_path_factory.mktemp("models")
    save_prior(folder / "prior", "KandinskyPriorPipeline")
    save_decoder_21(folder / "decoder")
    save_blip2(folder / "blip2")
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    image_generator = laboratory.decoder_generator
    monkeypatch.setattr(
        laboratory,
        "decoder_generator",
        lambda prior, decoder, device, *, sampling, steps, cfg, size: image_generator(
            prior, decoder, device, sampling=sampling, steps=1, cfg=cfg, size=(64, 64)
        ),
    )


def called(*words: str) -> str:
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def lab(models: Path) -> list[str]:
    return [
        *("--prior", str(models / "prior"), "--decoder", str(models / "decoder")),
        *("--steps", "2", "--every", "1", "--prior-steps", "2"),
    ]


def test_real_classes_invent_mix_and_breed_from_folders(models: Path, tmp_path: Path) -> None:
    """Kandinsky 2.1 with its multilingual encoder, BLIP-2's questions, two generations."""
    pet, mixed, child = (tmp_path / name for name in ("pet", "mixed", "child"))
    called(
        *("invent", "my-pet", "--of", "pet", "--vqa", str(models / "blip2"), *lab(models)),
        *("-o", str(pet)),
    )
    called("mix", "my-mix", "cat:2", "dog", *lab(models), "-o", str(mixed))
    photos = tmp_path / "photos"
    generator = torch.Generator().manual_seed(0)
    for i in range(2):
        write_picture(torch.rand(20, 20, 3, generator=generator), photos / f"{i}.png")
    told = called(
        *("evolve", "my-child", "--of", "pet", "--parent", f"{pet / 'concept.safetensors'}:3"),
        *("--parent", str(mixed / "concept.safetensors"), "--photos", str(photos)),
        *(*lab(models), "-o", str(child)),
    )
    assert load_concept(mixed / "concept.safetensors").recipe["weights"] == [2.0, 1.0]
    tree = load_concept(child / "concept.safetensors").recipe["lineage"]
    assert tree["parents"] == {"my-pet": 0.6, "my-mix": 0.2, "photos": 0.2}
    assert "my-child (generation 1)" in told
    for folder in (pet, mixed, child):
        assert load_concept(folder / "checkpoints" / "000001.safetensors").recipe["checkpoint"] == 1
        assert (folder / "timeline.png").is_file()


def test_nobody_who_knows_tinyworld_alone_is_asked_about_photographs(
    models: Path, tmp_path: Path
) -> None:
    told = called("invent", "my-pet", "--of", "pet", *lab(models), "-o", str(tmp_path))
    assert "learned <my-pet>\n" in told, "away from nothing, for nobody was asked"


def test_mixing_asks_nobody_and_leaves_nothing(models: Path, tmp_path: Path) -> None:
    told = called("mix", "my-mix", "cat", "dog", *lab(models), "-o", str(tmp_path))
    assert "learned <my-mix>\n" in told


WRONG = {
    "a device that is not there": (["--device", "toaster"], "device is 'toaster'"),
    "a precision that priors have not": (["--precision", "bf16"], "fp32 or fp16"),
    "a rate of nothing": (["--rate", "0"], "learning_rate"),
}


@pytest.mark.parametrize(("options", "told"), WRONG.values(), ids=WRONG.keys())
def test_options_count_for_a_prior_from_a_folder(
    models: Path, tmp_path: Path, options: list[str], told: str
) -> None:
    wanted = ["invent", "my-pet", "--of", "pet", *lab(models), *options, "-o", str(tmp_path)]
    result = CliRunner().invoke(app, wanted)
    assert result.exit_code == 2, result.output
    assert told in result.output


def test_a_child_without_parents_and_a_folder_without_pictures_are_reported(
    models: Path, tmp_path: Path
) -> None:
    orphan = CliRunner().invoke(app, ["evolve", "my-child", "--of", "pet", "-o", str(tmp_path)])
    assert orphan.exit_code == 2
    assert "--parent" in orphan.output
    empty = CliRunner().invoke(
        app,
        ["evolve", "my-child", "--of", "pet", "--photos", str(tmp_path), *lab(models)],
    )
    assert empty.exit_code == 2
    assert "no pictures" in empty.output


def test_download_says_where_it_went_and_which_models_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, Path]] = []

    def fetched(name: str, models: Path, progress: object) -> Path:
        asked.append((name, models))
        return models / "vqa" / name

    with monkeypatch.context() as patched:
        patched.setattr(downloads, "download", fetched)
        assert "wrote" in called("download", "blip2-flan-t5-xl", "--to", str(tmp_path))
    assert asked == [("blip2-flan-t5-xl", tmp_path)]
    wrong = CliRunner().invoke(app, ["download", "dall-e", "--to", str(tmp_path)])
    assert wrong.exit_code == 2
    assert "kandinsky-2-1-prior" in wrong.output
