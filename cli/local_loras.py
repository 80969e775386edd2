"""Localised LoRAs for the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import torch
from torch import Tensor

from ..attention.local_lora import LocalLora
from ..attention.local_setup import LocalSetup, local_setup, lora_for
from ..concepts.lora_file import read_lora
from ..errors import ConfigError
from ..host.ports import HandleVectors, Host, Tokens
from ..viz.lag_overlays import masks_picture
from .console import say
from .mask_reader import read_mask
from .picture_files import write_picture

_OPTION = re.compile(r"(.+?)(?::([-+]?[\w.+-]+))?=(.*)", re.DOTALL)
_MASK = re.compile(r"(?:^|,)\s*([^,]+\.(?:png|jpe?g|webp|bmp|tiff?)(?:#\w+)?)\s*$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalOption:
    """What `--local-lora FILE[:STRENGTH]=WORDS[,MASK]` asks for."""

    file: Path
    strength: float
    words: str
    mask: Path | None
    trigger: str = ""


def parsed_local(option: str) -> LocalOption:
    """FILE=WORDS or FILE:STRENGTH=WORDS, with TRIGGER| before the words and ,MASK behind them.

    Raises:
        ConfigError: it says no words, or the strength is not a number.
    """
    match = _OPTION.fullmatch(option)
    if match is None:
        raise ConfigError(
            "local-lora",
            option,
            'FILE:STRENGTH="words of the prompt", such as miku.safetensors:0.9="girl in blue"',
        )
    file, number, rest = match.groups()
    try:
        strength = float(number) if number is not None else 1.0
    except ValueError:  # a colon that belongs to the name
        file, strength = f"{file}:{number}", 1.0
    if not isfinite(strength):
        raise ConfigError("strength", number, "a number, such as 0.8")
    mask = _MASK.search(rest)
    words = rest[: mask.start()] if mask else rest
    path = Path(mask[1].strip()) if mask else None
    trigger, bar, behind = words.strip().strip("\"'").partition("|")
    if not bar:
        trigger, behind = "", trigger
    return LocalOption(Path(file), strength, behind.strip(), path, trigger.strip())


def loaded_local(host: Host, options: Sequence[str], more: Sequence[LocalLora] = ()) -> LocalSetup:
    """The LoRAs of `--local-lora` and more of them, ready to draw with.

    Raises:
        ConceptLoomError: a file cannot be read or does not fit, or words are missing.
    """
    loras: list[LocalLora] = []
    for option in map(parsed_local, options):
        tensors, _ = read_lora(option.file)
        loras.append(
            LocalLora(
                file=lora_for(host, tensors, option.file.name),
                name=option.file.name,
                words=option.words,
                tokens=host.tokenize(option.words),
                trigger=host.tokenize(option.trigger) if option.trigger else (),
                strength=option.strength,
                text_strength=option.strength,
                mask=read_mask(option.mask) if option.mask is not None else None,
            )
        )
    return local_setup(host, [*loras, *more])


class LocalRun:
    """Drawing with some localised LoRAs, or with none.

    Attributes:
        edits: take part in every pass.
        encode: prompts in the LoRAs' way; None leaves them to the host.
    """

    def __init__(self, setup: LocalSetup | None, steps: int, tokens: Mapping[str, Tokens]) -> None:
        self._names = [lora.shown_as for lora in setup.loras] if setup else []
        self._masks: list[Tensor] = []
        self._pictures: list[Tensor] = []
        self.encode = setup.encode if setup else None
        self.edits = [setup.edit(steps, tokens, self._keep)] if setup else []

    def _keep(self, masks: Tensor) -> None:
        self._masks.append(masks.float().cpu())

    def kept(self, picture: Tensor) -> Tensor:
        """The picture [H, W, 3] as it is; remembered for `write_masks`."""
        self._pictures.append(picture)
        return picture

    def write_masks(self, files: Sequence[Path]) -> list[Path]:
        """One picture beside each file, `-masks` in its name.

        Args:
            files: of all pictures in the order in which they were drawn, at the end of the list.
        """
        if not self._masks:
            say("There are no masks to write: no LoRA was looked for by its words.", "yellow")
            return []
        every, own = torch.cat(self._masks), files[-len(self._pictures) :]
        return [
            write_picture(
                masks_picture(masks, self._names, picture),
                file.with_name(f"{file.stem}-masks.png"),
            )
            for masks, picture, file in zip(every, self._pictures, own, strict=True)
        ]


def local_run(
    host: Host, options: Sequence[str], prompts: Sequence[str], handles: HandleVectors, steps: int,
    more: Sequence[LocalLora] = (),
) -> LocalRun:  # fmt: skip
    """What `--local-lora` asks for, and localised concepts.

    Raises:
        ConceptLoomError: a file cannot be read or does not fit, or words stand in no prompt.
    """
    if not options and not more:
        return LocalRun(None, steps, {})
    setup = loaded_local(host, options, more)
    return LocalRun(
        setup, steps, {text: host.encode_prompt(text, handles).tokens for text in prompts}
    )
