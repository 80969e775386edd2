"""Third-party models: folders in Hugging Face format, or single files."""

from __future__ import annotations

from pathlib import Path

import folder_paths

# Folders of models/; other packs have the last two under the same names.
PRIORS, VQA = "diffusion_priors", "vqa"
DETECTORS, SEGMENTERS = "grounding-dino", "sams"
INDEX, CONFIG = "model_index.json", "config.json"  # what a model's folder holds


def models_in(kind: str, holds: str, files: str = "") -> dict[str, Path]:
    """Name -> path, sorted; if a name exists twice, the first folder wins.

    Searches models/ and the folders of extra_model_paths.yaml and of other packs.

    Args:
        kind: folder of models/.
        holds: file that identifies a model's folder.
        files: pattern of single-file models.
    """
    folders: dict[str, Path] = {}
    known = folder_paths.folder_names_and_paths.get(kind, ([], set()))[0]
    for root in map(Path, [*known, Path(folder_paths.models_dir) / kind]):
        here = [path for path in root.glob("*") if (path / holds).is_file()]
        for path in [*here, *(root.glob(files) if files else ())]:
            folders.setdefault(path.name, path)
    return dict(sorted(folders.items()))
