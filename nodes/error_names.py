"""How ComfyUI shows our errors: the name of the kind, then the sentence."""

from __future__ import annotations

from .. import errors


def shorten_error_names() -> None:
    """Leave the module out of what ComfyUI writes before an error's sentence.

    It shows `module.Kind: sentence`, and of a custom node the module is the whole path of its
    folder; of built-in errors it shows the kind alone. Only ComfyUI's process calls this: errors
    that travel between processes are found again by their module.
    """
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, errors.ConceptLoomError):
            kind.__module__ = "builtins"
