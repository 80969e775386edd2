"""Shortens the names of our errors in ComfyUI's messages."""

from __future__ import annotations

from .. import errors


def shorten_error_names() -> None:
    """Omit the module from the error name in ComfyUI's messages.

    It shows `module.Kind: sentence`. The module of a custom node is the path of its folder; for
    built-in errors it shows the kind alone. Call this only in ComfyUI's process: pickled errors of
    other processes need their module.
    """
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ConceptLoomError):
            kind.__module__ = "builtins"
