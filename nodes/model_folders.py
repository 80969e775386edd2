"""Third-party models: folders in Hugging Face format, or single files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

# Folders of models/; other packs have the last two under the same names.
PRIORS, VQA = "diffusion_priors", "vqa"
DETECTORS, SEGMENTERS = "grounding-dino", "sams"
INDEX, CONFIG = "model_index.json", "config.json"  # what a model's folder holds


def models_in(kind: str, holds: str, files: str = "") -> dict[str, Path]:
    """Name -> where it lies, in the order of the names; of two alike the first folder's.

    Looked for in models/ and wherever extra_model_paths.yaml or another pack has such models.

    Args:
        kind: folder of models/.
        holds: file by which a model's folder is known.
        files: pattern of models that are a file by themselves.
    """
    folders: dict[str, Path] = {}
    known = folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]
    for root in map(Path, [*known, Path(folder_paths.models_dir) / kind]):
        here = [path for path in root.glob("*") if (path / holds).is_file()]
        for path in [*here, *(root.glob(files) if files else ())]:
            folders.setdefault(path.name, path)
    return dict(sorted(folders.items()))
