"""A scene from the command line's options, or from a folder with a `scene.json`.

    {
      "pictures": [
        {"image": "kitchen.png", "masks": {"my-mug": "mug.png", "my-cat": "cat.png"}}
      ],
      "words": {"my-mug": "mug", "my-cat": "cat"},
      "background": "my-kitchen"
    }

File names are relative to the folder and must be inside it; "labels.png#3" is class 3 of a label
picture. `words` and `background` may be left out; a background given as a pair
["my-kitchen", "room"] starts from that word.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from ..concepts.handles import checked_name
from ..errors import ConfigError, HandleError, InputError, MaskError
from ..scenes.scene import ConceptScene, make_scene, with_background
from .mask_reader import MaskFile, mask_file, mask_of
from .picture_reader import read_image

SCENE_FILE = "scene.json"
NOT_SHOWN = "-"
_WORD = re.compile(r"[^:/\\.]*")


def parsed_mask(option: str) -> tuple[str, str, str]:
    """(name, file, word) of NAME=FILE or NAME=FILE:WORD.

    Raises:
        MaskError: the option has no "=" or no file.
        HandleError: the name cannot be a handle.
    """
    name, equals, rest = option.partition("=")
    file, colon, word = rest.rpartition(":")
    if not colon or not _WORD.fullmatch(word):
        file, word = rest, ""  # "C:/mug.png" has a colon but no word
    if not equals or not file:
        raise MaskError(
            f"--mask is {option!r}; it must be NAME=FILE or NAME=FILE:WORD, such as "
            "my-mug=mug.png:cup."
        )
    return checked_name(name.strip()), file, word.strip()


def scene_from_options(
    images: Sequence[Path], masks: Sequence[str], background: str = ""
) -> ConceptScene:
    """The scene of `--image`, `--mask` and `--background`.

    Args:
        images: picture files.
        masks: "NAME=FILE:WORD", or "NAME=FILE#3:WORD" for class 3 of a label picture. With several
            pictures a name comes once for each of them, in their order, "NAME=-" where one does not
            show it.
        background: "NAME" or "NAME:WORD"; another concept, from the area outside all masks.
    """
    if len(set(images)) < len(images):
        raise InputError("The same picture occurs twice; remove one --image.")
    files: dict[str, list[str]] = {}
    words: dict[str, str] = {}
    for option in masks:
        name, file, word = parsed_mask(option)
        if word and words.get(name, word) != word:
            raise HandleError(f"<{name}> has two words, {words[name]!r} and {word!r}; keep one.")
        files.setdefault(name, []).append(file)
        words[name] = word or words.get(name, "")
    read = {name: [_mask(f) for f in of_name] for name, of_name in files.items()}
    scene = _scene([read_image(path) for path in images], read, words)
    name, _, word = background.partition(":")
    return with_background(scene, name, word) if background else scene


def _mask(option: str) -> MaskFile | None:
    return None if option == NOT_SHOWN else mask_of(Path(option))


def _scene(
    images: Sequence[Tensor],
    masks: Mapping[str, Sequence[MaskFile | None]],
    words: Mapping[str, str],
) -> ConceptScene:
    planes = {name: [m and m.mask for m in of_name] for name, of_name in masks.items()}
    remarks = {name: [m.remark if m else "" for m in of_name] for name, of_name in masks.items()}
    return make_scene(images, planes, words, remarks)


def scene_from_folder(path: Path) -> ConceptScene:
    """The scene of a `scene.json`, or of a folder that holds one.

    Raises:
        InputError: the file does not have the format shown at the top of this module.
    """
    file = path / SCENE_FILE if path.is_dir() else path
    document = _document(file)
    entries = [
        (read_image(image), {name: mask_of(mask) for name, mask in masks.items()})
        for image, masks in _entries(document, file)
    ]
    names = list(dict.fromkeys(name for _, masks in entries for name in masks))
    masks = {name: [masks.get(name) for _, masks in entries] for name in names}
    words = {str(n): str(w) for n, w in _typed(document, "words", dict, file, {}).items()}
    scene = _scene([image for image, _ in entries], masks, words)
    background = document.get("background", "")
    name, word = (background, "") if isinstance(background, str) else _pair(background, file)
    return with_background(scene, name, word) if name else scene


def files_of_scene(folder: Path) -> list[Path]:
    """The `scene.json` of a folder, and all pictures and masks in it.

    Raises:
        InputError: the file does not have the format shown at the top of this module.
    """
    file = folder / SCENE_FILE
    entries = _entries(_document(file), file)
    masks = [mask_file(mask)[0] for _, of_image in entries for mask in of_image.values()]
    return [file, *dict.fromkeys([*(image for image, _ in entries), *masks])]


def _document(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"There is no {file}; `conceptloom train --help` shows its format.")
    try:
        document = json.loads(file.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{file} is not JSON: {error}.") from error
    known = {"pictures", "words", "background"}
    if not isinstance(document, dict) or not set(document) <= known:
        raise InputError(f"{file} must contain the keys {', '.join(sorted(known))} and no others.")
    return document


def _entries(document: dict[str, Any], file: Path) -> list[tuple[Path, dict[str, Path]]]:
    """Picture, and masks by name, of every picture of a scene."""
    return [_entry(entry, file) for entry in _typed(document, "pictures", list, file)]


def _entry(entry: Any, file: Path) -> tuple[Path, dict[str, Path]]:
    if not isinstance(entry, dict):
        raise InputError(
            f"{file}: every picture needs an image and masks, but one is {entry!r:.60}."
        )
    masks = _typed(entry, "masks", dict, file)
    image = _inside(file, _typed(entry, "image", str, file))
    return image, {str(name): _inside(file, str(mask)) for name, mask in masks.items()}


def _typed(entry: Any, key: str, kind: type, file: Path, default: Any = None) -> Any:
    value = entry.get(key, default)
    if not isinstance(value, kind):
        raise InputError(f"{file}: {key!r} is {value!r:.60}; it must be a {kind.__name__}.")
    return value


def _pair(value: Any, file: Path) -> tuple[str, str]:
    if not isinstance(value, list) or len(value) != 2:
        raise ConfigError(f"{file}: background", value, "a name, or a name and a word")
    return str(value[0]), str(value[1])


def _inside(file: Path, name: str) -> Path:
    root = os.path.realpath(file.parent)
    target = os.path.realpath(os.path.join(root, name))
    if not target.startswith(root + os.sep):
        raise InputError(
            f"{file}: {name!r} is outside its folder; put the picture into the same folder."
        )
    return file.parent / name
