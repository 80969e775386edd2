"""Folders of concept files: models/concepts, and those in extra_model_paths.yaml."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from pathlib import Path

import comfy.cli_args
import folder_paths
import utils.extra_config

log = logging.getLogger("conceptloom")

CONCEPTS = "concepts"  # the folder of models/ that concept files lie in
SUFFIX = ".safetensors"
SHIPPED = Path(__file__).parents[1] / "workflows" / "concepts"  # what our workflows load


def register_concept_folders() -> None:
    """Make models/concepts known to ComfyUI, and the concepts that our workflows use with it.

    New files are saved to the first folder: the one in models/, unless a section of
    extra_model_paths.yaml has `is_default`, as for ComfyUI's own kinds of models. ComfyUI reads
    that file before it loads this pack, so this function reads it again.
    """
    own = str(Path(folder_paths.models_dir) / CONCEPTS)
    known = folder_paths.folder_names_and_paths.get(CONCEPTS, ([], set()))
    ordered = _as_the_host_orders(own) if known[0] else [own]
    ordered = list(dict.fromkeys([*ordered, own, *known[0], str(SHIPPED)]))
    folder_paths.folder_names_and_paths[CONCEPTS] = (ordered, {*known[1], SUFFIX})


def _as_the_host_orders(own: str) -> list[str]:
    """The order of folders as if ours had been registered before ComfyUI read its files."""
    real = folder_paths.folder_names_and_paths
    folder_paths.folder_names_and_paths = {CONCEPTS: ([own], set())}
    try:
        for file in _path_files():
            utils.extra_config.load_extra_path_config(file)
        return folder_paths.folder_names_and_paths[CONCEPTS][0]
    except Exception as error:  # the host has told of a bad file already
        log.warning("Concepts are saved to %s: the extra model paths: %s", own, error)
        return [own]
    finally:
        folder_paths.folder_names_and_paths = real


def _path_files() -> Iterator[str]:
    """The path files that ComfyUI reads at its start, in order."""
    usual = Path(str(folder_paths.__file__)).parent / "extra_model_paths.yaml"
    if usual.is_file():
        yield str(usual)
    yield from itertools.chain(*(comfy.cli_args.args.extra_model_paths_config or []))
