"""Fingerprints of runs and base models: digests of their inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..host.ports import Host
from .tensor_file import as_json

# Weights that stand for a whole model, and numbers of each. States and results are found again by
# digests made with these.
_HOST_SAMPLE, _MODULE_SAMPLE = (64, 256), (48, 128)


def content_key(model: str, config: Any, tensors: Mapping[str, Tensor | Sequence[Tensor]]) -> str:
    """Hash of the inputs of a run, 64 hex digits.

    Args:
        model: the base model, from `model_digest`. (A fingerprint is too coarse: two checkpoints of
            one family share it, but not their states.)
        config: dataclass or JSON-able settings, words and prompts included.
        tensors: name -> pictures, masks, prior images; any shape and number.
    """
    settings = asdict(config) if is_dataclass(config) and not isinstance(config, type) else config
    digest = hashlib.sha256(json.dumps([model, as_json(settings)], sort_keys=True).encode())
    for name in sorted(tensors):
        value = tensors[name]
        for tensor in [value] if isinstance(value, Tensor) else value:
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(cast(Any, flat.view(torch.uint8).numpy()).data)
    return digest.hexdigest()


def model_digest(host: Host) -> str:
    """Hash of a sample of a base model's weights, 64 hex digits; fast."""
    names = sorted(host.weight_names())
    return _sampled_digest(host.fingerprint, [(names, host.weight)], _HOST_SAMPLE)


def modules_digest(title: str, modules: Sequence[torch.nn.Module]) -> str:
    """The same for networks that are no base model: priors, decoders, question answerers.

    Args:
        title: what they are; part of the hash.
    """
    weights = [dict(module.named_parameters()) for module in modules]
    return _sampled_digest(title, [(list(of), of.__getitem__) for of in weights], _MODULE_SAMPLE)


def _sampled_digest(
    title: str,
    parts: Iterable[tuple[Sequence[str], Callable[[str], Tensor]]],
    sample: tuple[int, int],
) -> str:
    """Digest of a title and, of every part, some numbers of some of its weights."""
    n_weights, n_numbers = sample
    digest = hashlib.sha256(title.encode())
    for names, weight in parts:
        for name in names[:: max(1, len(names) // n_weights)]:
            numbers = weight(name).detach().reshape(-1)[:n_numbers].float().cpu().contiguous()
            digest.update(name.encode())
            digest.update(cast(Any, numbers.view(torch.uint8).numpy()).data)
    return digest.hexdigest()
