"""Exports concepts for other programs: a plain LoRA, and `embedding:` files.

    lora.safetensors    <module>.lora_up.weight, .lora_down.weight, .alpha    what is of low rank
                        diffusion_model.<module>.lora_A.weight, .lora_B       the same, transformers
                        <module>.lokr_w1, .lokr_w2                            Kronecker products
                        <module>.diff, .diff_b                                everything else, exact
    mug.safetensors     clip_l, clip_g, clip_h [n, width]                     one file a handle

Low-rank concepts export exactly. Whole differences (K/V and full training) become low-rank by a
truncated singular value decomposition, with a reported error, or stay whole with `rank=None`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ConceptFileError, ConfigError
from ..host.families.anima import T5
from ..host.families.family import TRANSFORMER
from ..host.families.registry import exported_name
from ..host.families.unet_names import lora_name
from ..host.ports import Progress, no_progress
from ..host.roles import encoders_in, text_encoder_of
from .changes import Diff, Kronecker, LowRank
from .concept import Concept
from .low_rank import closest_low_rank
from .paths import confined_path
from .tensor_file import write_tensors

DEFAULT_RANK = 64
SUFFIX = ".safetensors"


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportReport:
    """The exported files, and their error.

    Attributes:
        files: in the order in which they were written.
        ranks: canonical weight name -> rank; whole differences have none.
        errors: canonical weight name -> |exported - learned| / |learned|, Frobenius norms.
        error: the same over all weights together.
        left_out: omitted contents -> reason.
        notes: sentences for the user.
    """

    files: tuple[Path, ...]
    ranks: Mapping[str, int] = field(default_factory=dict[str, int])
    errors: Mapping[str, float] = field(default_factory=dict[str, float])
    error: float = 0.0
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    notes: tuple[str, ...] = ()

    def summary(self) -> str:
        """For the user, in one paragraph."""
        written = ", ".join(str(path) for path in self.files) or "nothing"
        lines = [f"Written: {written}."]
        if self.errors and self.error:
            worst = max(self.errors, key=lambda name: self.errors[name])
            lines.append(
                f"The export loses {self.error:.2%} of the learned change (relative Frobenius "
                f"error); most, {self.errors[worst]:.2%}, at {worst}."
            )
        elif self.errors:
            lines.append("The weights are exact.")
        lines += [f"Left out: {what} ({why})." for what, why in self.left_out.items()]
        return " ".join([*lines, *self.notes])


def export_lora(
    concept: Concept,
    path: Path,
    *,
    rank: int | None = DEFAULT_RANK,
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> ExportReport:
    """The concept's weights as a LoRA that core ComfyUI's Load LoRA reads, float32.

    Strength 1 in Load LoRA, for model and clip, is the concept at strength 1.

    Args:
        rank: of whole differences; those of lower rank stay exact. None keeps them whole: no
            error, but large files that only ComfyUI and A1111 read.
        overwrite: replace an existing file.
        progress: called for every weight; may raise to cancel, and then nothing is written.

    Raises:
        ConfigError: the rank is below 1.
        ConceptFileError: the file already exists.
        StorageError: the file cannot be written.
    """
    if rank is not None and rank < 1:
        raise ConfigError("rank", rank, "1 or more, or None to keep whole differences")
    if not concept.weights:
        reason = "the concept has handles only; export them as embeddings"
        return ExportReport(files=(), left_out={"weights": reason})
    encoders = encoders_of(concept)
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    errors: dict[str, float] = {}
    lost = learned = 0.0
    whole = False
    for done, (name, change) in enumerate(concept.weights.items()):
        progress(done, len(concept.weights), "exporting")
        module, _, kind = name.rpartition(".")
        stock = _stock_name(module, concept.base, encoders)
        if not isinstance(change, Diff):
            tensors |= _factor_tensors(stock, change)
            errors[name] = 0.0
            if isinstance(change, LowRank):
                ranks[name] = change.rank
            learned += _squared(change)
            continue
        squared = float(change.tensor.double().square().sum())
        learned += squared
        errors[name] = 0.0
        if rank is None or kind == "bias" or change.tensor.ndim < 2:
            tensors[f"{stock}.{'diff_b' if kind == 'bias' else 'diff'}"] = change.tensor
            whole = True
            continue
        cut, residue = closest_low_rank(change.tensor, rank)
        tensors |= _factor_tensors(stock, cut)
        ranks[name] = cut.rank
        errors[name] = math.sqrt(residue / squared) if squared else 0.0
        lost += residue
    notes = ()
    if whole:
        notes = (
            "It contains full-rank differences (diff, diff_b), which ComfyUI reads; some other "
            "programs ignore them or reject the file.",
        )
    _write(path, tensors, _lora_metadata(concept, ranks), overwrite)
    error = math.sqrt(lost / learned) if learned else 0.0
    return ExportReport(files=(path,), ranks=ranks, errors=errors, error=error, notes=notes)


def encoders_of(concept: Concept) -> set[str]:
    """Text encoders of the base model, as far as the concept contains them."""
    known = {encoder for vectors in concept.handles.values() for encoder in vectors}
    known |= {text_encoder_of(name) for name in concept.weights} - {""}
    return known | encoders_in(concept.base)


def _squared(change: LowRank | Kronecker) -> float:
    """Squared Frobenius norm of a change."""
    if isinstance(change, Kronecker):
        sizes = [float(t.double().square().sum()) for t in change.tensors]
        return change.scale**2 * sizes[0] * sizes[1]
    return float(change.delta(change.shape).double().square().sum())


# ComfyUI's names behind this, PEFT's endings and no alpha: diffusers reads that too.
_PEFT = "diffusion_model."


def _stock_name(module: str, base: str, encoders: set[str]) -> str:
    network, _, path = module.partition(".")
    if network == TRANSFORMER:
        return f"{_PEFT}{exported_name(path)}"
    return lora_name(module, base, encoders)


def _factor_tensors(stock: str, change: LowRank | Kronecker) -> dict[str, Tensor]:
    if isinstance(change, Kronecker):  # LyCORIS takes alpha only for factors of factors
        left = change.scale * change.left
        return {f"{stock}.lokr_w1": left, f"{stock}.lokr_w2": change.right}
    if stock.startswith(_PEFT):
        return {
            f"{stock}.lora_A.weight": change.down,
            f"{stock}.lora_B.weight": change.scale * change.up,
        }
    kernel = (1,) * (change.down.ndim - 2)  # 1x1 after a convolution, nothing after a linear layer
    return {
        f"{stock}.lora_up.weight": change.up.reshape(*change.up.shape, *kernel),
        f"{stock}.lora_down.weight": change.down,
        f"{stock}.alpha": torch.tensor(change.scale * change.rank),
    }


def _lora_metadata(concept: Concept, ranks: Mapping[str, int]) -> dict[str, str]:
    """Metadata for kohya's tools and model managers, mainly the trigger words."""
    words = ", ".join(
        name if T5 in vectors else f"embedding:{name}" for name, vectors in concept.handles.items()
    )
    dimensions = set(ranks.values())
    return {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.title": ", ".join(concept.handles),
        "modelspec.trigger_phrase": words,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(dimensions.pop()) if len(dimensions) == 1 else "Dynamic",
        "conceptloom_export": json.dumps(
            {"base": concept.base, "method": concept.method, "prompts": list(concept.prompts)},
            sort_keys=True,
        ),
    }


def export_embeddings(concept: Concept, folder: Path, *, overwrite: bool = False) -> ExportReport:
    """One file a handle, which stock ComfyUI reads as `embedding:<name>`, float32.

    Args:
        folder: models/embeddings, or a folder in it.
        overwrite: replace existing files.

    Raises:
        ConceptFileError: a file already exists, or the handle cannot be a file name.
        StorageError: the file cannot be written.
    """
    left_out = {
        f"<{name}>": "Anima has no embedding files; use Load Concept"
        for name, vectors in concept.handles.items()
        if T5 in vectors
    }
    names = [name for name in concept.handles if f"<{name}>" not in left_out]
    planned = {name: confined_path(folder, name, SUFFIX) for name in names}
    if not overwrite:
        for path in planned.values():
            _refuse_existing(path)
    for name, path in planned.items():
        _write(path, concept.handles[name], {}, overwrite)
    names = " ".join(f"embedding:{name}" for name in planned)
    note = (f"Write {names} in prompts.",) if planned else ()
    return ExportReport(files=tuple(planned.values()), left_out=left_out, notes=note)


def _write(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], overwrite: bool
) -> None:
    if not overwrite:
        _refuse_existing(path)
    exact = {name: tensor.detach().float().contiguous() for name, tensor in tensors.items()}
    write_tensors(path, exact, metadata)


def _refuse_existing(path: Path) -> None:
    if path.exists():
        raise ConceptFileError(
            f"{path} already exists; choose another name, or switch overwriting on."
        )
