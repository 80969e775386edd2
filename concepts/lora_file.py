"""Reads LoRA files of every common kind as changes to the weights of a base model.

Each program has its own names for modules; `lora_keys` (and a host) map
them. Keys without a matching weight are counted, never silently dropped.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import BaseMismatchError, ConceptFileError
from ..host.roles import text_encoder_of
from .concept import Diff
from .lora_checks import Shape, check_entry, shortened
from .lora_forms import Form, form_of, parts_used
from .lora_fused import apart
from .transformer_keys import Target

log = logging.getLogger("conceptloom")

MOST_SIDES = 8  # of a tensor; the weights of models have up to five

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
_BIAS_PARTS = ("diff_b", "b_norm")


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
            # Copied: a file that another program overwrites ends a process that has it mapped.
            tensors = {key: file.get_tensor(key).clone() for key in names}
            for key, tensor in tensors.items():
                if tensor.ndim > MOST_SIDES or tensor.is_complex():
                    raise ValueError(f"{key} has {tensor.ndim} dimensions of {tensor.dtype}")
                tensor.flatten()[:1].float()  # raises for types that torch cannot convert
            return tensors, dict(file.metadata() or {})
    except FileNotFoundError as error:
        raise ConceptFileError(
            f"There is no LoRA file {path}; check the name and the folder."
        ) from error
    except (SafetensorError, OSError, RuntimeError, ValueError, TypeError) as error:
        raise ConceptFileError(
            f"{path.name} cannot be read as a LoRA: {shortened(str(error), 200)}. It was truncated "
            "or changed during download or copying, or is of another kind; download it again."
        ) from error


def lora_of(
    tensors: Mapping[str, Tensor],
    names: Mapping[str, Target],
    shape_of: Callable[[str], Shape | None],
    what: str = "The LoRA",
) -> LoraFile:
    """What the tensors of a LoRA file add to the weights of a base model.

    Args:
        names: a file's name of a module -> canonical name of its weight, or of several that the
            file has in one.
        shape_of: canonical name -> shape in the base model; None where it has no such weight.
        what: the file, for messages.

    Raises:
        BaseMismatchError: nothing fits, or a weight has other widths in the base model.
        ConceptFileError: an entry holds NaN or infinite numbers, or tensors that do not fit each
            other.
    """
    entries, unmatched = _entries(tensors, names)
    changes: dict[str, Form] = {}
    kinds: Counter[str] = Counter()
    for target, (keys, parts) in entries.items():
        forms, used = _forms(target, parts, shape_of, what)
        unmatched += [key for key, part in keys.items() if part not in used]
        for name, kind, form in forms:
            changes[name] = form
            kinds[kind] += 1
    if not changes:
        example = shortened(next(iter(tensors), "nothing"))
        raise BaseMismatchError(
            f"{what} holds {len(tensors)} tensors and none of them fits this base model (the first "
            f"is {example}). It was made for another kind of model, or it is not a LoRA; load the "
            "checkpoint family that it was trained on."
        )
    if unmatched:
        log.warning(
            "%s: %d of %d keys fit no weight of this base model and are left out, the first is %s.",
            what, len(unmatched), len(tensors), shortened(unmatched[0]),
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
) -> tuple[dict[Target, tuple[dict[str, str], dict[str, Tensor]]], list[str]]:
    """Canonical weight name -> keys with their parts, and parts; and the keys that name none."""
    entries: dict[Target, tuple[dict[str, str], dict[str, Tensor]]] = {}
    unmatched: list[str] = []
    for key, tensor in tensors.items():
        for suffix, part in _SUFFIXES.items():
            weight = names.get(key[: -len(suffix)]) if key.endswith(suffix) else None
            if weight is not None:
                keys, parts = entries.setdefault(weight, ({}, {}))
                keys[key] = part
                parts[part] = tensor
                break
        else:
            unmatched.append(key)
    return entries, unmatched


Named = list[tuple[str, str, Form]]  # name of a weight or bias, kind, form


def _forms(
    target: Target, parts: Mapping[str, Tensor], shape_of: Callable[[str], Shape | None], what: str
) -> tuple[Named, set[str]]:
    """What one entry changes, weights, their biases, or both; and the parts that say so."""
    weights = (target,) if isinstance(target, str) else target
    forms: Named = []
    used: set[str] = set()
    for is_bias, kind, form, own in _forms_of_whole(weights, parts, shape_of, what):
        rows = [(shape_of(weight) or ())[0] for weight in weights]
        split = [form] if len(weights) == 1 else apart(form, rows)
        if split is None:  # all of the entry is told as left out, and not a part of it
            return [], set()
        used |= own
        for weight, part in zip(weights, split, strict=True):
            forms.append((_bias(weight) if is_bias else weight, kind, part))
    return forms, used


def _forms_of_whole(
    weights: tuple[str, ...], parts: Mapping[str, Tensor],
    shape_of: Callable[[str], Shape | None], what: str,
) -> Iterator[tuple[bool, str, Form, set[str]]]:  # fmt: skip
    """Whether it is of the biases, kind and form of the whole of an entry; and its parts."""
    of_weight = parts_used({n: part for n, part in parts.items() if n not in _BIAS_PARTS})
    shape = _whole_shape([shape_of(weight) for weight in weights]) if of_weight else None
    if shape is not None:
        check_entry(weights[0], of_weight, shape, what)
        if (known := form_of(of_weight)) is not None:
            yield False, *known, set(of_weight)
    for part in _BIAS_PARTS:
        biases = [shape_of(_bias(weight)) for weight in weights] if part in parts else [None]
        if (shape := _whole_shape(biases)) is not None:
            check_entry(_bias(weights[0]), {"diff": parts[part]}, shape, what)
            yield True, "bias", Diff(parts[part].float()), {part}


def _bias(weight: str) -> str:
    return f"{weight.removesuffix('.weight')}.bias"


def _whole_shape(shapes: Sequence[Shape | None]) -> Shape | None:
    """Of several weights, row below row; None where the base model lacks one."""
    if not all(shapes):
        return None
    known = [shape for shape in shapes if shape]
    return (sum(shape[0] for shape in known), *known[0][1:])
