"""The state of a training run in one file, restored exactly.

A .safetensors: parameters, optimizer and history as tensors, the rest as its document.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from ..concepts.tensor_file import Document, read_header, read_tensors, write_document
from ..errors import ConceptFileError, TrainingError

FORMAT, VERSION = "training state", 1


@dataclass(slots=True)
class TrainingState:
    """Everything needed to resume a run.

    Attributes:
        step: optimizer steps done.
        parameters: stable name -> values.
        optimizer: `state_dict()` of a torch optimizer, or None.
        history: rows of losses.
        more: what else the run wants back, as JSON values.
    """

    step: int
    parameters: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    history: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    more: dict[str, Any] = field(default_factory=dict[str, Any])


def save_state(state: TrainingState, path: Path, key: str) -> None:
    """Write a state, atomically.

    Args:
        key: of the run, see `content_key`; loading requires the same one.

    Raises:
        StorageError: the file cannot be written.
    """
    tensors = {f"parameter.{name}": values for name, values in state.parameters.items()}
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
            f"This version cannot read the training state {path.name} (format "
            f"{document.get('format')!r:.40}, version {document.get('version')!r:.40})."
        )
    if document.get("key") != key:
        raise TrainingError(
            f"{path} belongs to a run with other settings, pictures, masks or base model, so this "
            "run cannot resume from it; delete it, or restore the original inputs."
        )
    tensors = read_tensors(path, document)
    kinds = ("parameter", "optimizer", "history")
    parts: dict[str, dict[str, Tensor]] = {kind: {} for kind in kinds}
    for name, values in tensors.items():
        kind, _, rest = name.partition(".")
        parts[kind][rest] = values
    return TrainingState(
        step=document["step"],
        parameters=parts["parameter"],
        optimizer=_optimizer_state(document, parts["optimizer"]),
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
