"""`conceptloom sample` and `inspect`, and base models from local files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from conceptloom import __version__
from conceptloom.cli import drawing
from conceptloom.cli.drawing import ConceptOption, parsed_concept, parsed_size
from conceptloom.cli.models import open_host
from conceptloom.cli.options import Precision
from conceptloom.cli.picture_files import free_name
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.errors import ConfigError, ModelError, UnsupportedModelError
from conceptloom.tinyworld.dit import checkpoint as dit_checkpoint

from ..saved_tinyworld import save_tinyworld
from .quick import Command


def test_pictures_carry_their_prompt_and_depend_on_the_seed_alone(
    command: Command, learned: Path, tmp_path: Path
) -> None:
    concept = learned / "concept.safetensors"
    files = [tmp_path / f"{name}.png" for name in "abc"]
    for file, seed in zip(files, (1, 1, 2), strict=True):
        options = ("-p", "a <my-mug>", "--steps", 2, "--seed", seed, "--size", "128x64")
        result = command("sample", "-c", concept, *options, "-o", file)
        assert result.exit_code == 0, result.output
    assert files[0].read_bytes() == files[1].read_bytes() != files[2].read_bytes()
    with Image.open(files[0]) as picture:
        assert picture.size == (128, 64)
        assert picture.text["prompt"] == "a <my-mug>"  # pyright: ignore


def test_several_pictures_are_numbered_and_shown_on_a_sheet(
    command: Command, learned: Path, tmp_path: Path
) -> None:
    concept = f"{learned / 'concept.safetensors'}:0.5"
    result = command("sample", "-c", concept, "--steps", 1, "-o", tmp_path / "all")
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["all-01.png", "all-02.png", "all-03.png", "all.png"]


def test_without_a_name_no_picture_is_replaced(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--count", 2], [], ["--count", 2]):
        result = command("sample", "-p", "a toy", "--steps", 1, "--size", "64x64", *options)
        assert result.exit_code == 0, result.output
    names = sorted(path.name for path in tmp_path.iterdir())
    several = [f"picture-{n}{part}.png" for n in (2, 4) for part in ("-01", "-02", "")]
    assert names == sorted(["picture.png", "picture-3.png", *several])


def test_numbered_pictures_keep_their_name_taken(tmp_path: Path) -> None:
    """`transfer` writes several without a sheet."""
    (tmp_path / "transfer-01.png").write_bytes(b"")
    assert free_name(tmp_path / "transfer.png") == tmp_path / "transfer-2.png"


def test_what_is_drawn_is_kept_when_the_command_is_stopped(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []
    whole = drawing.sample_ddim

    def stopped(*given: Any, **more: Any) -> torch.Tensor:
        if calls:
            raise KeyboardInterrupt
        calls.append(given)
        return whole(*given, **more)

    monkeypatch.setattr(drawing, "sample_ddim", stopped)
    options = ("-p", "a toy", "-p", "a ring", "--steps", 1, "--size", "64x64")
    result = command("sample", *options, "-o", tmp_path / "all.png")
    assert result.exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["all-01.png"]


BAD_SAMPLES = {
    "no prompt": ([], "There is no prompt"),
    "unknown handle": (["-p", "a <my-cat>"], "<my-cat>"),
    "weight inside of the brackets": (["-p", "a <my-cat:0.8>"], "plain text"),
    "misspelt negative": (["-p", "x", "--negative", "<my-cat>"], "<my-cat>"),
    "missing file": (["-p", "x", "-c", "nowhere.safetensors"], "nowhere.safetensors"),
    "odd size": (["-p", "x", "--size", "63"], "multiples of 8"),
    "concept that is not there": (["-p", "x", "-c", "no.safetensors"], "There is no concept file"),
    "size in words": (["-p", "x", "--size", "large"], "512"),
    "no guidance": (["-p", "x", "--cfg", "0"], "cfg"),
    "too many steps": (["-p", "x", "--steps", "2000"], "between 1 and"),
    "strength that is no number": (["-p", "x", "-c", "mug.safetensors:nan"], "strength is 'nan'"),
    "lag without a concept": (["-p", "x", "--lag"], "--concept"),
}


@pytest.mark.parametrize(("options", "told"), BAD_SAMPLES.values(), ids=BAD_SAMPLES.keys())
def test_bad_wishes_end_with_one_message(
    command: Command, tmp_path: Path, options: list[str], told: str
) -> None:
    result = command("sample", *options, "-o", tmp_path / "x.png")
    assert result.exit_code == 2
    assert told in result.output
    assert not (tmp_path / "x.png").exists()


def test_a_new_name_draws_what_the_old_one_did(
    command: Command, learned: Path, tmp_path: Path
) -> None:
    concept, options = learned / "concept.safetensors", ("--steps", 1, "--size", "64x64")
    before = concept.read_bytes()
    for file, prompt, option in (
        ("old", "a <my-mug>", f"{concept}:1"),
        ("new", "a <blue>", f"{concept}:1:my-mug=blue"),
    ):
        out = tmp_path / f"{file}.png"
        result = command("sample", "-p", prompt, "-c", option, *options, "-o", out)
        assert result.exit_code == 0, result.output
    old, new = (Image.open(tmp_path / f"{name}.png") for name in ("old", "new"))
    assert old.tobytes() == new.tobytes()
    assert concept.read_bytes() == before
    result = command("sample", "-p", "x", "-c", f"{concept}:1:blue", "-o", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "2 names" in result.output


def test_two_files_under_one_name_are_refused_with_a_way_out(
    command: Command, learned: Path, tmp_path: Path
) -> None:
    concept = load_concept(learned / "concept.safetensors")
    vectors = {name: {e: v + 1 for e, v in rows.items()} for name, rows in concept.handles.items()}
    other = save_concept(replace(concept, handles=vectors), tmp_path / "other.safetensors")
    options = ("-p", "a <my-mug>", "-c", learned / "concept.safetensors", "--steps", 1)
    result = command("sample", *options, "-c", other, "-o", tmp_path / "x.png")
    assert result.exit_code == 2
    assert "--concept FILE:STRENGTH:NEWNAME" in result.output
    names = "my-mug=a, my-robot=b"
    result = command("sample", *options, "-c", f"{other}:1:{names}", "-o", tmp_path / "x.png")
    assert result.exit_code == 0, result.output


def test_inspect_tells_handles_recipe_and_prompts(command: Command, learned: Path) -> None:
    result = command("inspect", learned / "concept.safetensors", "--verify")
    assert result.exit_code == 0, result.output
    for text in ("<my-mug>", "object", "token_phase.steps", "a photo of <my-robot>", "is intact"):
        assert text in result.output


def test_inspect_refuses_what_is_no_concept(command: Command, tmp_path: Path) -> None:
    for name, content in (("short", b"abc"), ("foreign", b"\x02\0\0\0\0\0\0\0{}")):
        file = tmp_path / f"{name}.safetensors"
        file.write_bytes(content)
        result = command("inspect", file)
        assert result.exit_code == 2
        assert "Error:" in result.output
        assert "Traceback" not in result.output


def test_a_thumbnail_is_of_one_file(command: Command, learned: Path, tmp_path: Path) -> None:
    concept, file = learned / "concept.safetensors", tmp_path / "small.png"
    result = command("inspect", concept, concept, "--thumbnail", file)
    assert result.exit_code == 2
    assert "one file" in result.output
    assert not file.exists()
    assert command("inspect", concept, "--thumbnail", file).exit_code == 0
    assert file.exists()


def test_the_version_is_reported_without_a_command(command: Command) -> None:
    result = command("--version")
    assert result.exit_code == 0, result.output
    assert __version__ in result.output


def test_options_are_parsed() -> None:
    for option, file, strength, name in (
        ("a/mug.safetensors", "a/mug.safetensors", 1.0, ""),
        ("mug.safetensors:0.5", "mug.safetensors", 0.5, ""),
        ("C:/mug.safetensors", "C:/mug.safetensors", 1.0, ""),
        ("C:/mug.safetensors:-1", "C:/mug.safetensors", -1.0, ""),
        ("C:/mug.safetensors:1:blue", "C:/mug.safetensors", 1.0, "blue"),
        ("mug.safetensors:.5:7", "mug.safetensors", 0.5, "7"),
        ("a:b.safetensors:1e-1:a=x,b=y", "a:b.safetensors", 0.1, "a=x,b=y"),
    ):
        assert parsed_concept(option) == ConceptOption(Path(file), strength, name)
    assert parsed_size("512x768") == (768, 512)
    assert parsed_size("64") == (64, 64)
    with pytest.raises(ConfigError):
        parsed_size("64x")


@pytest.fixture(scope="module")
def saved_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """TinyWorld as diffusers saves a model."""
    return save_tinyworld(tmp_path_factory.mktemp("model"))


def test_a_folder_of_diffusers_is_the_same_model(saved_model: Path) -> None:
    ours, theirs = open_host(), open_host(str(saved_model))
    assert ours.fingerprint == theirs.fingerprint
    latent, timesteps = torch.ones(1, ours.latent_channels, 16, 16), torch.tensor([500])
    with torch.no_grad():
        a, b = (h.predict(latent, timesteps, [h.encode_prompt("a toy")]) for h in (ours, theirs))
    torch.testing.assert_close(a, b, rtol=0, atol=1e-5)  # tensors of files lie elsewhere in memory


def test_half_precision_is_taken(saved_model: Path) -> None:
    host = open_host(precision=Precision.BF16)
    assert host.dtype is torch.bfloat16


def test_models_that_cannot_be_used_are_refused(saved_model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no base model"):
        open_host("model.ckpt")
    single = tmp_path / "model.safetensors"
    single.write_bytes(b"abc")
    with pytest.raises(ModelError, match="--layout"):
        open_host(str(single))
    with pytest.raises(ModelError, match="could not be read"):
        open_host(str(single), layout=saved_model)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(UnsupportedModelError, match="FluxPipeline"):
        open_host(str(tmp_path))


@pytest.mark.parametrize("family", ["anima", "zimage"])
def test_transformers_without_weights_are_refused(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = {name: tmp_path / f"{name}.safetensors" for name in ("anima", "zimage")}
    monkeypatch.setattr(dit_checkpoint, "CHECKPOINTS", missing)
    with pytest.raises(ModelError, match=f"still in training.*--family {family}"):
        open_host(f"tinyworld-{family}")


def test_misspelt_and_missing_words_are_reported(
    command: Command, learned: Path, tmp_path: Path
) -> None:
    given = ("-c", learned / "concept.safetensors", "--steps", 1, "--size", "64x64")
    for prompt, told in (
        ("a <my-mgu>", "did you mean <my-mug>"),
        ("a <My-Mug>", "did you mean <my-mug>"),
        ("a <my-mug:0.8>", "write (<my-mug>:0.8)"),
    ):
        result = command("sample", "-p", prompt, *given, "-o", tmp_path / "x.png")
        assert result.exit_code == 2
        assert told in " ".join(result.output.split())
        assert "Load a concept file" not in result.output  # one is loaded
    result = command("sample", "-p", "a toy", *given, "-o", tmp_path / "x.png")
    assert result.exit_code == 0
    assert "contains no learned word" in result.output
    files = [tmp_path / f"{n}.png" for n in range(2)]
    for prompt, file in zip(("<my-mug>", "\uff1cmy-mug\uff1e"), files, strict=True):
        result = command("sample", "-p", prompt, *given, "-o", file)
        assert result.exit_code == 0, result.output
        assert "learned word" not in result.output
    pixels = [Image.open(file).tobytes() for file in files]
    assert pixels[0] == pixels[1]
