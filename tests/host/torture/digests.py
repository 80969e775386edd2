"""What something is, in a few bytes: to see that nothing changed it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import comfy.model_patcher
import comfy.sd
import torch
from tiny_models import left_behind


def digest_of(value: Any) -> str:
    """Of tensors every byte, of models all that hangs on them (weights are looked at apart)."""
    digest = hashlib.sha256()
    _feed(digest, value)
    return digest.hexdigest()


def _feed(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        digest.update(f"{value.dtype} {list(value.shape)} {value.requires_grad}".encode())
        flat = value.detach().cpu().contiguous().reshape(-1)
        digest.update(flat.view(torch.uint8).numpy().tobytes())
    elif isinstance(value, comfy.model_patcher.ModelPatcher):
        digest.update(repr(_hanging_on(value)).encode())
    elif isinstance(value, comfy.sd.CLIP):
        _feed(digest, value.patcher)
        digest.update(repr([value.layer_idx, sorted(vars(value.tokenizer))]).encode())
    elif isinstance(value, comfy.sd.VAE):
        _feed(digest, value.patcher)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in (field for field in fields(value) if field.compare):
            digest.update(field.name.encode())
            _feed(digest, getattr(value, field.name))
    elif isinstance(value, Mapping):
        for key, part in sorted(value.items(), key=lambda item: repr(item[0])):
            digest.update(repr(key).encode())
            _feed(digest, part)
    elif isinstance(value, (list, tuple)):
        digest.update(f"{type(value).__name__} of {len(value)}".encode())
        for part in value:
            _feed(digest, part)
    elif value is None or isinstance(value, (str, bytes, int, float)):
        digest.update(repr(value).encode())
    else:
        digest.update(type(value).__name__.encode())


def _hanging_on(patcher: Any) -> list[Any]:
    """Patches, wrappers, callbacks, injections, options and hooks of a patcher and its model."""
    named = ("patches", "object_patches", "attachments", "additional_models")
    found: list[Any] = [sorted(map(str, getattr(patcher, name, {}))) for name in named]
    found += [str(patcher.patches_uuid), left_behind(patcher.model)]
    for name in ("wrappers", "callbacks", "injections", "model_options"):
        found.append(_shape_of(getattr(patcher, name, {})))
    return found


def _shape_of(value: Any) -> Any:
    """Nested keys, and which objects are there."""
    if isinstance(value, Mapping):
        return {str(key): _shape_of(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_shape_of(part) for part in value]
    return value if isinstance(value, (str, int, float)) else id(value)
