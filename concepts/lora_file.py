"""Reads LoRA files of every common kind as changes to the weights of a base model.

Each program has its own names for modules; `lora_keys` (and a host) map
them. Keys without a matching weight are counted, never silently dropped.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BaseMismatchError, ConceptFileError
from ..host.roles import text_encoder_of
from .concept import Diff
from .lora_forms import Computed, Form, Kronecker, form_of
from .lora_fused import apart
from .transformer_keys import Target

log = logging.getLogger("conceptloom")

# How files end the name of a module -> part of an entry. Longer endings first.
_SUFFIXES = {
    ".lora_linear_layer.up.weight": "up",
    ".lora_linear_layer.down.weight": "down",
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_down.weight": "down",
    ".lora_mid.weight": "mid",
    ".lora_up.weight": "up",
    ".lora.down.weight": "down",
    ".lora.up.weight": "up",
    "_lora.down.weight": "down",
    "_lora.up.weight": "up",
    ".lora_B.weight": "up",
    ".lora_A.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
    **{
        f".{part}": part
        for part in (
            "alpha", "dora_scale", "reshape_weight", "diff", "diff_b", "set_weight", "w_norm",
            "b_norm", "hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
            "lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
            "a1.weight", "a2.weight", "b1.weight", "b2.weight", "oft_blocks", "rescale",
        )
    },
}  # fmt: skip
_BIAS_PARTS = {"diff_b": "diff_b", "b_norm": "b_norm"}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LoraFile:
    """What a LoRA file adds to a base model.

    Attributes:
        changes: canonical weight name -> form.
        kinds: "LoRA", "LoKr", ... -> number of weights.
        unmatched: keys of the file that fit no weight of the base model.
        identity: hash of the contents; independent of the file name.
    """

    changes: Mapping[str, Form]
    kinds: Mapping[str, int] = field(default_factory=dict[str, int])
    unmatched: tuple[str, ...] = ()
    identity: str = ""

    @property
    def unet(self) -> dict[str, Form]:
        """Those of the network that draws."""
        return {name: form for name, form in self.changes.items() if not text_encoder_of(name)}

    @property
    def text(self) -> dict[str, Form]:
        """Changes of the text encoders."""
        return {name: form for name, form in self.changes.items() if text_encoder_of(name)}

    def summary(self) -> str:
        """For the user, in one line: "722 weights (722 LoRA)"."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        text = len(self.text)
        encoder = f", {text} of them in the text encoder" if text else ""
        return f"{len(self.changes)} weights ({kinds}){encoder}"


def read_lora(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a LoRA in a .safetensors file.

    Raises:
        ConceptFileError: the file does not exist or is of another kind.
    """
    if path.suffix.lower() != ".safetensors":
        raise ConceptFileError(
            f"{path.name} is no .safetensors file; LoRAs in .pt and .ckpt files are not read, for "
            "those can run code. Convert it, or look for one in .safetensors."
        )
    try:
        with safe_open(str(path), framework="pt") as file:
            names = list(file.keys())
            return {key: file.get_tensor(key) for key in names}, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise ConceptFileError(
            f"There is no LoRA file {path}; check the name and the folder."
        ) from error
    except (SafetensorError, OSError) as error:
        raise ConceptFileError(f"{path.name} cannot be read as a LoRA: {error}") from error


def lora_of(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, Target],
    shape_of: Callable[[str], tuple[int, ...]],
    what: str = "The LoRA",
) -> LoraFile:
    """What the tensors of a LoRA file add to the weights of a base model.

    Args:
        names: a file's name of a module -> canonical name of its weight, or of several that the
            file has in one.
        shape_of: canonical name -> shape in the base model.
        what: the file, for messages.

    Raises:
        BaseMismatchError: nothing fits, or a weight has other widths in the base model.
    """
    entries, unmatched = _entries(tensors, names)
    changes: dict[str, Form] = {}
    kinds: Counter[str] = Counter()
    for target, (keys, parts) in entries.items():
        forms = _forms(target, parts, shape_of, what)
        if not forms:
            unmatched += keys
        for name, kind, form in forms:
            _check_fits(name, form, shape_of(name), what)
            changes[name] = form
            kinds[kind] += 1
    if not changes:
        example = next(iter(tensors), "nothing")
        raise BaseMismatchError(
            f"{what} holds {len(tensors)} tensors and none of them fits this base model (the first "
            f"is {example}). It was made for another kind of model, or it is not a LoRA; load the "
            "checkpoint family that it was trained on."
        )
    if unmatched:
        log.warning(
            "%s: %d of %d keys fit no weight of this base model and are left out, the first is %s.",
            what, len(unmatched), len(tensors), unmatched[0],
        )  # fmt: skip
    return LoraFile(
        changes=changes,
        kinds=dict(kinds),
        unmatched=tuple(unmatched),
        identity=identity_of(tensors),
    )


def identity_of(tensors: Mapping[str, Tensor]) -> str:
    """Hash of names, shapes, and some values of every tensor."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().flatten()
        some = flat[:: max(1, flat.numel() // 64)].cpu().float()
        digest.update(f"{name} {tuple(tensor.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _entries(
    tensors: Mapping[str, Tensor], names: Mapping[str, Target]
) -> tuple[dict[Target, tuple[list[str], dict[str, Tensor]]], list[str]]:
    """Canonical weight name -> keys and parts of its entry; and the keys that name none."""
    entries: dict[Target, tuple[list[str], dict[str, Tensor]]] = {}
    unmatched: list[str] = []
    for key, tensor in tensors.items():
        for suffix, part in _SUFFIXES.items():
            weight = names.get(key[: -len(suffix)]) if key.endswith(suffix) else None
            if weight is not None:
                keys, parts = entries.setdefault(weight, ([], {}))
                keys.append(key)
                parts[part] = tensor
                break
        else:
            unmatched.append(key)
    return entries, unmatched


def _forms(
    target: Target,
    parts: Mapping[str, Tensor],
    shape_of: Callable[[str], tuple[int, ...]],
    what: str,
) -> list[tuple[str, str, Form]]:
    """Name, kind and form of what one entry changes: weights, their biases, or both."""
    if isinstance(target, str):
        return _forms_of_one(target, parts)
    forms: list[tuple[str, str, Form]] = []
    rows = [shape_of(weight)[0] for weight in target]
    for name, kind, form in _forms_of_one(target[0], parts):
        _, _, attribute = name.rpartition(".")
        shape = (sum(rows), *shape_of(target[0])[1:])
        _check_fits(name, form, shape if attribute == "weight" else shape[:1], what)
        split = apart(form, rows)
        if split is None:  # all of the entry is told as left out, and not a part of it
            return []
        for weight, part in zip(target, split, strict=True):
            forms.append((f"{weight.rpartition('.')[0]}.{attribute}", kind, part))
    return forms


def _forms_of_one(weight: str, parts: Mapping[str, Tensor]) -> list[tuple[str, str, Form]]:
    """The same of an entry for one weight."""
    forms: list[tuple[str, str, Form]] = []
    of_weight = form_of({name: part for name, part in parts.items() if name not in _BIAS_PARTS})
    if of_weight is not None:
        forms.append((weight, *of_weight))
    for part in _BIAS_PARTS:
        if part in parts:
            bias = f"{weight.removesuffix('.weight')}.bias"
            forms.append((bias, "bias", Diff(parts[part].float())))
    return forms


def _check_fits(name: str, form: Form, shape: tuple[int, ...], what: str) -> None:
    if isinstance(form, Computed):
        return  # seen when it is computed
    if isinstance(form, Kronecker):
        (a, b), (c, d, *kernel) = form.left.shape, form.right.shape
        size, rows = a * b * c * d * _count(kernel), a * c
    elif isinstance(form, Diff):
        size, rows = form.tensor.numel(), form.tensor.shape[0] if form.tensor.ndim else 1
    else:
        size, rows = form.up.shape[0] * form.down[0].numel(), form.up.shape[0]
    if rows != shape[0] or size != _count(shape):
        raise BaseMismatchError(
            f"{what} changes {name} in {rows} outputs and {size} values, and this base model has "
            f"{'x'.join(map(str, shape))} there; it was made for another kind of base model."
        )


def _count(shape: tuple[int, ...] | list[int]) -> int:
    total = 1
    for side in shape:
        total *= side
    return total
