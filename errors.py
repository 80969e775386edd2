"""The exceptions of ConceptLoom.

    ConceptLoomError
    |-- InputError                what came in through a socket, an argument or a widget
    |   |-- ImageError            picture of a wrong size, channel count or batch
    |   |-- MaskError             mask empty, of another size, or one too many
    |   |-- PromptError           a word or handle that the prompt does not contain
    |   |-- HandleError           a handle twice, with spaces, or already a word
    |   `-- ConfigError           a number outside of what makes sense
    |-- ModelError                the MODEL, CLIP or VAE is not what the method needs
    |   |-- UnsupportedModelError not a UNet with cross-attention (Flux, SD3, ...)
    |   |-- MissedSitesError      layers ran without calling the hooks of an edit
    |   `-- BaseMismatchError     a concept that was learned on another base model
    |-- ConceptFileError          a file that is truncated, foreign, hostile or outside its folder
    `-- TrainingError             learning stopped; the work so far is saved
        |-- DivergedError         the loss became NaN or exploded
        |-- MemoryExhaustedError  out of memory, also after stepping down
        `-- StorageError          the disk would not take the file

Every message says what is wrong, what came, and what to do about it. Catch `ConceptLoomError`
to tell "mend your input" from "our bug".
"""

from __future__ import annotations


class ConceptLoomError(Exception):
    """Base of everything that this package raises on purpose."""


class InputError(ConceptLoomError, ValueError):
    """Something that came in cannot be used as it is."""


class ImageError(InputError):
    """A picture has a wrong size, channel count or batch."""


class MaskError(InputError):
    """A mask is empty, of another size than its picture, or one too many."""


class PromptError(InputError):
    """A prompt does not contain the word or handle that was asked for."""


class HandleError(InputError):
    """A handle cannot be used as the name of a concept."""


class ConfigError(InputError):
    """A setting lies outside of its range."""

    def __init__(self, name: str, value: object, allowed: str) -> None:
        super().__init__(name, value, allowed)  # what pickle rebuilds it from
        self.name = name

    def __str__(self) -> str:
        name, value, allowed = self.args
        return f"{name} is {value!r}; it must be {allowed}."


class ModelError(ConceptLoomError):
    """The model that came in is not what the method needs."""


class UnsupportedModelError(ModelError):
    """The model is not a UNet with cross-attention."""


class MissedSitesError(ModelError):
    """Layers of the UNet ran without calling the hooks that an edit needs."""


class BaseMismatchError(ModelError):
    """A concept was learned on another base model than the one it is applied to."""


class ConceptFileError(ConceptLoomError):
    """A concept file is truncated, foreign, hostile, or lies outside its folder."""


class TrainingError(ConceptLoomError):
    """Learning stopped early; the message says where the work was saved."""


class DivergedError(TrainingError):
    """The loss became NaN or diverged; the last good state is saved."""


class MemoryExhaustedError(TrainingError):
    """Memory ran out, also after the one step down that we try."""


class StorageError(TrainingError):
    """The disk would not take the file; the file that was there is untouched."""
