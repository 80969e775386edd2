"""States of a training run on disk, so that queueing again goes on exactly where it stopped.

One .safetensors for each saved step: parameters, optimizer, generators and history as tensors, the
rest as its document. The folder is named by what the run learns from, so the same inputs find their
own state and other inputs find none.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ConceptFileError, StorageError, TrainingError
from ..host.ports import Host
from .recipe import LoopState
from .tensor_file import Document, as_json, read_header, read_tensors, write_document

log = logging.getLogger("conceptloom")

FORMAT, VERSION = "training state", 1
KEPT = 2  # saved states of one run that stay on disk
_FILE = re.compile(r"state-(\d{8})\.safetensors")
_SAMPLED = 64  # weights that stand for a whole model
_NUMBERS = 256  # of each of them


@dataclass(slots=True)
class TrainingState:
    """Everything that a stopped run needs.

    Attributes:
        step: optimizer steps done.
        parameters: stable name -> values.
        optimizer: `state_dict()` of a torch optimizer, or None.
        generators: name -> `get_state()` of a torch.Generator.
        history: rows of losses.
        more: what else the run wants back, as JSON has it.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    generators: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    more: dict[str, Any] = field(default_factory=dict[str, Any])


def save_state(state: TrainingState, path: Path, key: str) -> None:
    """Write a state, whole or not at all.

    Args:
        key: of the run, see `content_key`; a state is only read back with the same one.

    Raises:
        StorageError: the disk would not take it.
    """
    tensors = {f"parameter.{name}": values for name, values in state.parameters.items()}
    tensors |= {f"generator.{name}": values for name, values in state.generators.items()}
    columns = {name for row in state.history for name in row}
    for name in columns:  # in float64, whole numbers too: the rows come back exactly
        values = [row.get(name, math.nan) for row in state.history]
        tensors[f"history.{name}"] = torch.tensor(values, dtype=torch.float64)
    groups, numbers = None, {}
    if state.optimizer is not None:
        groups = state.optimizer["param_groups"]
        for index, slots in state.optimizer["state"].items():
            for name, value in slots.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{name}"] = value
                else:
                    numbers[f"{index}.{name}"] = value
    document: Document = {
        "format": FORMAT,
        "version": VERSION,
        "key": key,
        "step": state.step,
        "groups": groups,
        "numbers": numbers,
        "whole": sorted(n for n in columns if all(_is_whole(row, n) for row in state.history)),
        "more": state.more,
    }
    write_document(path, tensors, document)


def _is_whole(row: Mapping[str, float], name: str) -> bool:
    return isinstance(row.get(name, 0), int)


def load_state(path: Path, key: str) -> TrainingState:
    """Read a state; tensors are on the CPU.

    Raises:
        ConceptFileError: the file is truncated, damaged or no training state.
        TrainingError: it belongs to a run with other settings, pictures, masks or model.
    """
    document, _ = read_header(path)
    if document.get("format") != FORMAT or document.get("version") != VERSION:
        raise ConceptFileError(
            f"{path.name} is no training state that this version reads (format "
            f"{document.get('format')!r:.40}, version {document.get('version')!r:.40})."
        )
    if document.get("key") != key:
        raise TrainingError(
            f"{path} belongs to a run with other settings, pictures, masks or base model, so this "
            "one cannot go on from it; delete it, or restore the inputs that it was made with."
        )
    tensors = read_tensors(path, document)
    kinds = ("parameter", "generator", "optimizer", "history")
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for name, values in tensors.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = values
    return TrainingState(
        step=document["step"],
        parameters=parts["parameter"],
        optimizer=_optimizer_state(document, parts["optimizer"]),
        generators=parts["generator"],
        history=_rows(parts["history"], document["whole"]),
        more=document["more"],
    )


def _rows(columns: Mapping[str, Tensor], whole: Sequence[str]) -> list[dict[str, float]]:
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {
            name: int(column[i]) if name in whole else column[i]
            for name, column in values.items()
            if not math.isnan(column[i])
        }
        for i in range(len(next(iter(values.values()), [])))
    ]


def _optimizer_state(document: Document, tensors: Mapping[str, Tensor]) -> dict[str, Any] | None:
    if document["groups"] is None:
        return None
    state: dict[int, dict[str, Any]] = {}
    values: dict[str, Any] = {**document["numbers"], **tensors}
    for name, value in values.items():
        index, _, slot = name.partition(".")
        state.setdefault(int(index), {})[slot] = value
    # JSON knows no tuples; torch's optimizers compare betas as one.
    groups = [
        {k: tuple(cast(list[float], v)) if k == "betas" else v for k, v in group.items()}
        for group in document["groups"]
    ]
    return {"state": state, "param_groups": groups}


class StateFolder:
    """The saved states of one run; give it to `training.loop.run` as its store.

    Args:
        folder: where all runs keep their states.
        key: of this run, see `content_key`; it names the run's own subfolder.

    Attributes:
        notes: what a method wants back beside its parameters, as JSON has it. Saved with every
            state, and filled again by `load`.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self._key = folder / key[:32], key
        self.notes: dict[str, Any] = {}

    def files(self) -> list[Path]:
        """Saved states, newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((f for f in self.folder.iterdir() if _FILE.fullmatch(f.name)), reverse=True)

    def newest(self) -> TrainingState | None:
        """The newest state that is whole; a damaged one is passed over with a warning.

        Raises:
            TrainingError: see `load_state`.
        """
        for path in self.files():
            try:
                return load_state(path, self._key)
            except ConceptFileError as error:
                log.warning("%s An older state is used, if there is one.", error)
        return None

    def write(self, state: TrainingState) -> Path:
        """Save a state, then drop all but the newest two.

        Files of later steps go as well: this run could not read them, or it would be further on.
        """
        path = self.folder / f"state-{state.step:08d}.safetensors"
        save_state(state, path, self._key)
        files = self.files()
        mine = files.index(path)
        for old in files[:mine] + files[mine + KEPT :]:
            old.unlink(missing_ok=True)
        return path

    def drop_after(self, step: int) -> None:
        """Remove the states of later steps, for when those went wrong."""
        for path in self.files():
            if int(path.stem.rpartition("-")[2]) > step:
                path.unlink()

    def clear(self) -> None:
        """Remove every state of this run, for when its concept is safe elsewhere."""
        for path in self.files():
            path.unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()

    def remembered(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """What `make` gave when this run first asked, so that going on need not make it again."""
        path = self.folder / f"{name}.safetensors"
        try:
            return read_tensors(path, read_header(path)[0])[name]
        except (ConceptFileError, FileNotFoundError):
            made = make()
        try:
            write_document(path, {name: made}, {"format": name, "version": VERSION})
        except StorageError as error:
            log.warning("%s It will be made again next time.", error)
        return made

    def save(self, state: LoopState, parameters: Mapping[str, nn.Parameter]) -> str:
        """Write the state of a loop in one atomic step; returns where, for the user."""
        optimizer = state.optimizer and state.optimizer.state_dict()
        values = {name: parameter.detach() for name, parameter in parameters.items()}
        more: dict[str, Any] = {"phase": state.phase, "stepped_down": state.stepped_down}
        more |= {"passes": state.passes, "notes": self.notes}
        saved = TrainingState(state.step, values, optimizer, {}, state.history, more)
        return str(self.write(saved))

    def load(
        self,
        parameters: Mapping[str, nn.Parameter],
        optimizer_for: Callable[[int], torch.optim.AdamW],
    ) -> LoopState | None:
        """Fill the parameters and give the loop's state back; None when nothing was saved.

        Raises:
            TrainingError: the state was made by other settings or holds other parameters.
        """
        state = self.newest()
        if state is None:
            return None
        _fill(parameters, state.parameters, self.folder)
        self.notes.clear()
        self.notes |= state.more.get("notes", {})
        optimizer = None
        if state.optimizer is not None:
            optimizer = optimizer_for(state.more["phase"])
            optimizer.load_state_dict(state.optimizer)
        return LoopState(
            step=state.step,
            history=state.history,
            optimizer=optimizer,
            phase=state.more["phase"],
            stepped_down=state.more["stepped_down"],
            passes=state.more["passes"],
        )


@torch.no_grad()
def _fill(
    parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor], folder: Path
) -> None:
    shapes = {name: parameter.shape for name, parameter in parameters.items()}
    if shapes != {name: value.shape for name, value in values.items()}:
        raise TrainingError(
            f"The states in {folder} hold other parameters than this run trains; delete that "
            "folder to start anew."
        )
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


def content_key(model: str, config: Any, tensors: Mapping[str, Tensor | Sequence[Tensor]]) -> str:
    """What a run learns from, as 64 hex digits: the same inputs give the same key.

    Args:
        model: the base model, from `model_digest`. (A fingerprint is too coarse: it is the same
            for two checkpoints of one family, and a state of one must not go on with the other.)
        config: dataclass or JSON-able settings, words and prompts included.
        tensors: name -> pictures, masks, prior images; any shape and number.
    """
    settings = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    digest = hashlib.sha256(json.dumps([model, as_json(settings)], sort_keys=True).encode())
    for name in sorted(tensors):
        given = tensors[name]
        for tensor in [given] if isinstance(given, Tensor) else given:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(cast(Any, flat.view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def model_digest(host: Host) -> str:
    """Tells two base models apart by a sample of their weights, as 64 hex digits. Quick."""
    digest = hashlib.sha256(host.fingerprint.encode())
    names = sorted(host.weight_names())
    for name in names[:: max(1, len(names) // _SAMPLED)]:
        sample = host.weight(name).reshape(-1)[:_NUMBERS].float().cpu()
        digest.update(name.encode())
        digest.update(cast(Any, sample.contiguous().view(torch.uint8).numpy()).data)
    return digest.hexdigest()
