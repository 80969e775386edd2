"""A short run in a process of its own, which a test gives a disk that is too small.

python -m tests.unit.training.full_disk_run FOLDER [LARGEST_FILE]
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from conceptloom.concepts.concept import Concept
from conceptloom.concepts.concept_file import save_concept
from conceptloom.methods.break_a_scene import learn_scene
from conceptloom.training.adapters import Scope
from conceptloom.training.loop import LoopConfig

from ..methods.break_a_scene_cases import QUICK, config, scene
from ..tiny_models import tiny_host


def learned_in(folder: Path) -> dict[str, object]:
    """What a run leaves, in words: the concept in memory, its file, its states."""
    learned = learn_scene(
        tiny_host(),
        scene(),
        config(1, 3, scope=Scope.CROSS_ATTENTION_KV, prior_weight=0.0),
        **QUICK,
        loop=LoopConfig(save_every=1),
        folder=folder / "states",
        save=lambda concept: save_concept(concept, folder / "concept.safetensors"),
    )
    return {
        "digest": digest_of(learned.concept),
        "path": str(learned.path or ""),
        "trouble": learned.trouble,
        "states": [file.name for file in sorted(folder.rglob("state-*.safetensors"))],
    }


def digest_of(concept: Concept) -> str:
    """Of every vector of the handles."""
    digest = hashlib.sha256()
    for name, vectors in sorted(concept.handles.items()):
        for encoder, rows in sorted(vectors.items()):
            digest.update(f"{name} {encoder}".encode() + rows.float().numpy().tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        import resource  # of POSIX only

        most = int(sys.argv[2])
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    sys.stdout.write(json.dumps(learned_in(Path(sys.argv[1]))) + "\n")
