"""Downloads against a stand-in for the Hub: what is fetched, in which order, and what not."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conceptloom.errors import ConfigError, ModelError, StorageError
from conceptloom.vision import downloads

FILES = {
    "model_index.json": 300,
    "prior/config.json": 200,
    "prior/diffusion_pytorch_model.safetensors": 4_000_000,
    "prior/diffusion_pytorch_model.fp16.safetensors": 2_000_000,
    "prior/diffusion_pytorch_model.bin": 4_000_000,
    "tokenizer/merges.txt": 100,
    "README.md": 50,
}


class Hub:
    """huggingface_hub, as far as downloads use it."""

    def __init__(self, files: dict[str, int], fails_at: str = "") -> None:
        self.files, self.fails_at, self.fetched = files, fails_at, list[str]()

    def HfApi(self) -> Hub:
        return self

    def model_info(self, repository: str, files_metadata: bool) -> Any:
        assert files_metadata
        siblings = [SimpleNamespace(rfilename=n, size=s) for n, s in self.files.items()]
        return SimpleNamespace(sha="abc", siblings=siblings)

    def HfFileSystem(self) -> Hub:
        return self

    def open(self, path: str, mode: str, *, revision: str, cache_type: str) -> io.BytesIO:
        assert (mode, revision, cache_type) == ("rb", "abc", "none")
        _, _, file = path.split("/", 2)
        if file == self.fails_at:
            raise OSError("no connection")
        self.fetched.append(file)
        return io.BytesIO(content_of(file, self.files[file]))


def content_of(file: str, size: int) -> bytes:
    return (file.encode() * size)[:size]


def fetched(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str = "kandinsky-2-1-prior"
) -> Path:
    monkeypatch.setattr(downloads, "_hub", lambda: hub)
    return downloads.download(name, folder)


def test_weights_come_in_safetensors_and_the_index_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(FILES)
    folder = fetched(hub, tmp_path, monkeypatch)
    assert folder == tmp_path / "diffusion_priors" / "kandinsky-2-1-prior"
    assert hub.fetched[-1] == "model_index.json"
    assert set(hub.fetched) == {
        "model_index.json",
        "prior/config.json",
        "prior/diffusion_pytorch_model.safetensors",
        "tokenizer/merges.txt",
    }


def test_a_broken_download_is_not_offered_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="Repeat the call to download the missing files"):
        fetched(Hub(FILES, "tokenizer/merges.txt"), tmp_path, monkeypatch)
    folder = tmp_path / "diffusion_priors" / "kandinsky-2-1-prior"
    assert not (folder / "model_index.json").exists()
    fetched(Hub(FILES), tmp_path, monkeypatch)
    assert (folder / "model_index.json").exists()


def test_only_the_parts_that_are_needed_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {**FILES, "decoder/diffusion_pytorch_model.safetensors": 9}
    hub = Hub(files)
    fetched(hub, tmp_path, monkeypatch, "karlo-v1-alpha")
    assert "decoder/diffusion_pytorch_model.safetensors" not in hub.fetched
    assert "prior/diffusion_pytorch_model.safetensors" in hub.fetched


@pytest.mark.parametrize(
    "files",
    [{"model_index.json": 1, "prior/model.bin": 1}, {"prior/model.safetensors": 1}],
    ids=["pickles only", "no index"],
)
def test_a_repository_that_the_loaders_could_not_read_is_refused(
    files: dict[str, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub(files)
    with pytest.raises(ModelError, match="safetensors"):
        fetched(hub, tmp_path, monkeypatch)
    assert hub.fetched == []


def test_a_full_disk_is_reported_before_anything_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    hub = Hub(FILES)
    with pytest.raises(StorageError, match="needs 4 MB"):
        fetched(hub, tmp_path, monkeypatch)
    assert hub.fetched == []


def test_progress_counts_megabytes_and_may_cancel_within_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = "prior/diffusion_pytorch_model.safetensors"
    told: list[tuple[int, int]] = []

    class Cancelled(Exception):
        pass

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append((step, total))
        if "safetensors" in message and step == 2:
            raise Cancelled

    monkeypatch.setattr(downloads, "LARGEST_PIECE", 2**20)
    monkeypatch.setattr(downloads, "_hub", lambda: Hub(FILES))
    with pytest.raises(Cancelled):
        downloads.download("kandinsky-2-1-prior", tmp_path, progress)
    assert [step for step, _ in told][-3:] == [0, 1, 2]
    folder = tmp_path / "diffusion_priors" / "kandinsky-2-1-prior"
    (partial,) = folder.rglob("*.part")
    assert partial.stat().st_size == 2 * 2**20
    assert not (folder / weights).exists()

    told.clear()
    downloads.download("kandinsky-2-1-prior", tmp_path, lambda *call: told.append(call[:2]))
    assert (folder / weights).read_bytes() == content_of(weights, FILES[weights])
    assert list(folder.rglob("*.part")) == []
    assert [step for step, _ in told][:4] == [0, 0, 3, 4], "goes on behind what was there"
    assert told[-1] == (4, 4)


def test_what_is_there_is_not_fetched_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched(Hub(FILES), tmp_path, monkeypatch)
    again = Hub(FILES)
    folder = fetched(again, tmp_path, monkeypatch)
    assert again.fetched == []
    (folder / "model_index.json").write_bytes(b"cut off")
    fetched(again, tmp_path, monkeypatch)
    assert again.fetched == ["model_index.json"]


def test_an_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="kandinsky-2-1-prior"):
        downloads.download("dall-e", tmp_path)


def test_names_of_folders_are_those_that_the_loaders_look_in() -> None:
    kinds: Sequence[str] = [source.kind for source in downloads.SOURCES.values()]
    assert set(kinds) == {"diffusion_priors", "vqa", "grounding-dino", "sams"}
    assert downloads.known("sams") == ["sam-vit-base", "sam-vit-huge"]
