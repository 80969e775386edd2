"""What the stories of Concept Weaver load: concepts of a small rank.

    .venv/bin/python scripts/weaver_concepts.py runs/benchmarks/weave_quality/*/

Takes what `benchmarks/run.py quality weave` learned and keeps the largest singular values, so that
it fits into the repository.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from weaver_stories import BANK

from conceptloom.concepts.concept import Change, LowRank
from conceptloom.concepts.concept_file import load_concept, save_concept
from conceptloom.tinyworld.concepts import concept_scene

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
SHIPPED = WORKFLOWS / "concepts"
RANK = 8


def cut(change: Change, rank: int) -> LowRank:
    """The nearest change of a rank, in the shape of a linear layer or a 1x1 convolution."""
    assert isinstance(change, LowRank)
    whole = change.scale * change.up @ change.down.flatten(1)
    left, values, right = torch.linalg.svd(whole, full_matrices=False)
    root = values[:rank].sqrt()
    down = (root[:, None] * right[:rank]).reshape(rank, *change.down.shape[1:])
    return LowRank((left[:, :rank] * root).contiguous(), down.contiguous(), 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the benchmark keeps its concepts")
    parser.add_argument("--rank", type=int, default=RANK)
    options = parser.parse_args()
    for name, file in BANK.items():
        concept = load_concept(options.folder / f"{name}.safetensors")
        weights = {key: cut(change, options.rank) for key, change in concept.weights.items()}
        taught = torch.from_numpy(concept_scene([name], 2).image.astype(np.float32) / 255)
        path = SHIPPED / file
        path.unlink(missing_ok=True)
        save_concept(replace(concept, weights=weights, thumbnail=taught), path)
        print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
