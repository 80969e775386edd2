"""How a quality benchmark is asked, where its finished cells lie, and where its page goes."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from conceptloom.concepts.paths import write_atomically
from conceptloom.training.previews import PreviewConfig

ROOT = Path(__file__).resolve().parent.parent
# Nobody looks at what learners draw at their end; to draw nothing at all they cannot be told.
NO_PREVIEW = PreviewConfig(steps=1, cfg=1.0, prompts=("a photo of an object",))


def asked(
    name: str,
    about: str,
    quick: str,
    *,
    seeds: int = 0,
    divisible: bool = True,
    keeps: bool = True,
) -> argparse.Namespace:
    """The options that the benchmark `name` was called with; sets one thread.

    Args:
        about: its docstring, of which the first line is its help.
        quick: what --quick saves.
        seeds: how many, unless told otherwise; 0 where that is not asked.
        divisible: whether two cores may share its work.
        keeps: finished cells, so that it can write its page without work.
    """
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=quick)
    parser.set_defaults(seeds=0, usual_seeds=seeds)
    if seeds:
        parser.add_argument("--seeds", type=int, default=seeds)
    if divisible:
        told = "1/2 and 2/2 share the work of two cores"
        parser.add_argument("--part", type=part_of, default=(1, 1), help=told)
    if keeps:
        parser.add_argument("--report", action="store_true", help="write the page, compute nothing")
    page = ROOT / "docs" / "results" / f"{name}.md"
    parser.add_argument("--out", type=Path, default=page)
    torch.set_num_threads(1)
    return parser.parse_args()


def part_of(text: str) -> tuple[int, int]:
    """ "2/3" -> (2, 3): the second of three parts."""
    part, _, parts = text.partition("/")
    return int(part), int(parts or 1)


def cells_folder(name: str, key: str) -> Path:
    """Where the cells of a benchmark lie that were made with this model and budget."""
    return ROOT / "runs" / name / short_digest(key)


def keep(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a finished cell, which is there whole or not at all."""
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_atomically(path, [save(contiguous, metadata)])


def short_digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def command_of(name: str, options: argparse.Namespace) -> str:
    """What to type for the same page."""
    seeds = f" --seeds {options.seeds}" if options.seeds != options.usual_seeds else ""
    return f"python benchmarks/{name}.py" + (" --quick" if options.quick else "") + seeds


def write_page(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(f"wrote {path}")
