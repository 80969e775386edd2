"""What tells runs apart, and base models: digests of what goes into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..host.ports import Host
from .tensor_file import as_json

_SAMPLED = 64  # weights that stand for a whole model
_NUMBERS = 256  # of each of them


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
