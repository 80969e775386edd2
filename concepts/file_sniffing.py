"""Recognises files of other kinds, so that an error can say where they belong."""

from __future__ import annotations

from collections.abc import Mapping

from ..host.families import foreign

_PICKLE = (
    "it is a pickle (.pt, .bin, .ckpt), which can run arbitrary code, so ConceptLoom does not "
    "load it. If you trust the author, load it in the program that wrote it and save it as "
    ".safetensors."
)
_STARTS = (
    (b"PK\x03\x04", _PICKLE),
    (b"\x80\x02", _PICKLE),
    (b"\x80\x03", _PICKLE),
    (b"\x80\x04", _PICKLE),
    (b"\x80\x05", _PICKLE),
    (b"GGUF", "it is a GGUF model; load it with a GGUF loader."),
    (
        b"version https://git-lfs",
        "it is a Git LFS pointer, not the file itself; download the file with Git LFS.",
    ),
    (b"\x89PNG", "it is a picture."),
    (b"\xff\xd8\xff", "it is a picture."),
    (b"RIFF", "it is a picture or a sound."),
)


def foreign_bytes(start: bytes) -> str:
    """The file type by its first bytes; "" if it may be a safetensors file."""
    if not start:
        return "it is empty."
    if start[4:9] == b"\0\0\0\0{":  # a header below 4 GB, then JSON
        return ""
    for magic, reason in _STARTS:
        if start.startswith(magic):
            return reason
    text = start.lstrip()[:15].lower()
    if text.startswith((b"<!doctype", b"<html")):
        return "it is a web page instead of the file; download the file itself."
    if text.startswith(b"{"):
        return "it is a JSON file, perhaps a workflow; drag that onto the canvas."
    return ""


def foreign_tensors(shapes: Mapping[str, tuple[int, ...]]) -> str:
    """The kind of a safetensors file, by its tensors.

    Args:
        shapes: name -> shape of every tensor.
    """
    names = list(shapes)

    def any_has(*pieces: str) -> bool:
        return any(piece in name for name in names for piece in pieces)

    if any_has(*foreign.LORA):
        return (
            "it is a LoRA; load it with Load LoRA, or make a concept of it with Import LoRA as "
            "Concept (conceptloom import-lora)."
        )
    if any_has(*foreign.CHECKPOINT):
        return "it is a checkpoint; load it with Load Checkpoint."
    if any_has(*foreign.CONTROLNET):
        return "it is a ControlNet; load it with Load ControlNet Model."
    if any_has(*foreign.DIFFUSION_MODEL):
        return (
            "it is a diffusion model without text encoder and VAE; load it with Load Diffusion "
            "Model."
        )
    if any_has(*foreign.TEXT_ENCODER):
        return "it is a text encoder; load it with Load CLIP."
    few_rows = len(names) <= 3 and all(len(shape) in (1, 2) for shape in shapes.values())
    if names and few_rows and (foreign.EMBEDDING & set(names) or len(names) == 1):
        return (
            "it is an embedding; put it in models/embeddings and write embedding:NAME in a prompt."
        )
    return "it is a safetensors file of another program; Save Concept makes concept files."
