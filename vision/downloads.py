"""Downloads large models; the only module that does, and only on request.

Files come from Hugging Face into a folder of the host's `models/`, where the loaders read them.
Weights are taken in safetensors only. The file by which the loaders recognise a folder comes last,
so that incomplete models are not listed; the same call resumes.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import disk_usage
from typing import Any

from ..errors import ConfigError, ModelError, StorageError
from ..host.ports import Progress, no_progress

PRIORS, VQA = "diffusion_priors", "vqa"  # folders of models/
DETECTORS, SEGMENTERS = "grounding-dino", "sams"  # as other packs call them
SMALLEST_PIECE, LARGEST_PIECE = 2**20, 2**26  # bytes; one takes about a second
_WANTED = (".json", ".txt", ".model", ".safetensors")
_VARIANTS = (".fp16.safetensors", ".non_ema.safetensors")  # of weights that come anyway


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """Source and target folder of a model."""

    repository: str  # on Hugging Face
    kind: str  # folder of models/
    index: str  # file that tells what lies in the folder
    parts: tuple[str, ...] = ()  # subfolders that are needed; () takes all


_KARLO = ("prior", "prior_scheduler", "text_encoder", "tokenizer")
SOURCES = {
    name: Source(repository=f"{owner}/{name}", kind=kind, index=index, parts=parts)
    for name, owner, kind, index, parts in (
        ("kandinsky-2-1-prior", "kandinsky-community", PRIORS, "model_index.json", ()),
        ("kandinsky-2-1", "kandinsky-community", PRIORS, "model_index.json", ()),
        ("kandinsky-2-2-prior", "kandinsky-community", PRIORS, "model_index.json", ()),
        ("kandinsky-2-2-decoder", "kandinsky-community", PRIORS, "model_index.json", ()),
        ("karlo-v1-alpha", "kakaobrain", PRIORS, "model_index.json", _KARLO),
        ("blip2-flan-t5-xl", "Salesforce", VQA, "config.json", ()),
        ("blip2-opt-2.7b", "Salesforce", VQA, "config.json", ()),
        ("grounding-dino-tiny", "IDEA-Research", DETECTORS, "config.json", ()),
        ("grounding-dino-base", "IDEA-Research", DETECTORS, "config.json", ()),
        ("sam-vit-base", "facebook", SEGMENTERS, "config.json", ()),
        ("sam-vit-huge", "facebook", SEGMENTERS, "config.json", ()),
    )
}


@dataclass(frozen=True, slots=True)
class Listing:
    """Files of one revision of a repository, the index last."""

    revision: str
    files: Sequence[tuple[str, int]]  # name, bytes

    @property
    def size(self) -> int:
        """Of all files, in bytes."""
        return sum(size for _, size in self.files)


def known(*kinds: str) -> list[str]:
    """Names of the models for these folders."""
    return [name for name, source in SOURCES.items() if source.kind in kinds]


def download(name: str, models: Path, progress: Progress = no_progress) -> Path:
    """Download a model into its folder below `models`; skips existing files.

    Args:
        name: a key of `SOURCES`.
        models: the host's folder of models.
        progress: called about every second, in megabytes; may raise to cancel.

    Raises:
        ConfigError: no model of that name is known.
        ModelError: Hugging Face cannot be reached, or offers no safetensors.
        StorageError: there is not enough disk space.
    """
    if name not in SOURCES:
        raise ConfigError("model", name, f"one of {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = models / source.kind / name
    hub = _hub()
    with _reaching(source, folder):
        listing = listed(hub, source)
    _check_room(listing, folder)
    done = 0
    for file, size in listing.files:
        progress(_megabytes(done), _megabytes(listing.size), f"{name}: {file}")
        with closing(_pieces(hub, source, listing.revision, file, folder / file, size)) as pieces:
            for there in pieces:
                progress(_megabytes(done + there), _megabytes(listing.size), f"{name}: {file}")
        done += size
    progress(_megabytes(listing.size), _megabytes(listing.size), f"{name} is in {folder}")
    return folder


def _pieces(
    hub: Any, source: Source, revision: str, file: str, target: Path, size: int
) -> Generator[int, None, None]:
    """Download the rest of a file; yields the current size after every chunk.

    The name of an incomplete file contains its revision, so that revisions are not mixed.
    """
    if target.is_file() and target.stat().st_size == size:
        return
    partial, piece = target.with_name(f"{target.name}.{revision[:12]}.part"), SMALLEST_PIECE
    path = f"{source.repository}/{file}"
    with _reaching(source, target.parent):
        partial.parent.mkdir(parents=True, exist_ok=True)
        with (
            hub.HfFileSystem().open(path, "rb", revision=revision, cache_type="none") as remote,
            partial.open("ab") as local,
        ):
            while (there := local.tell()) < size:
                began = time.monotonic()
                remote.seek(there)
                data = remote.read(min(piece, size - there))
                if not data:
                    raise OSError(f"{file} ends at {there} of {size} bytes.")
                local.write(data)
                seconds = max(time.monotonic() - began, 1e-3)
                per_second = max(int(len(data) / seconds), SMALLEST_PIECE)
                piece = min(per_second, 2 * piece, LARGEST_PIECE)
                yield local.tell()
        partial.replace(target)


def listed(hub: Any, source: Source) -> Listing:
    """The files of a repository that the loaders need.

    Raises:
        ModelError: no weights in safetensors, or no index.
    """
    info = hub.HfApi().model_info(source.repository, files_metadata=True)
    files = [(f.rfilename, int(f.size or 0)) for f in info.siblings if _is_wanted(f, source)]
    names = [name for name, _ in files]
    if source.index not in names or not any(name.endswith(".safetensors") for name in names):
        raise ModelError(
            f"{source.repository} offers no {source.index} with weights in safetensors; pickle "
            "files are not supported."
        )
    return Listing(str(info.sha), sorted(files, key=lambda file: file[0] == source.index))


def _is_wanted(file: Any, source: Source) -> bool:
    name = str(file.rfilename)
    folder = name.partition("/")[0] if "/" in name else ""
    fits = not source.parts or not folder or folder in source.parts
    return fits and name.endswith(_WANTED) and not name.endswith(_VARIANTS)


@contextmanager
def _reaching(source: Source, folder: Path) -> Iterator[None]:
    """Converts the library's exceptions, whose classes differ between versions."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(
            f"{source.repository} could not be downloaded: {error} Repeat the call to download "
            f"the missing files, or put them into {folder} yourself."
        ) from error


def _check_room(listing: Listing, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = sum(size for name, size in listing.files if not (folder / name).is_file())
    free = disk_usage(folder).free
    if missing > free:
        raise StorageError(
            f"{folder} has {_megabytes(free)} MB of free space, but the download needs "
            f"{_megabytes(missing)} MB; free some space, or name another folder."
        )


def _megabytes(size: int) -> int:
    return round(size / 1e6)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise ModelError(
            "Downloads need huggingface_hub, which comes with transformers: pip install "
            "huggingface_hub in the environment of this program."
        ) from error
    return huggingface_hub
