"""The format of a batch file, validated before the first worker starts.

    model: tinyworld
    concepts:
      mug: {scene: scenes/mug, settings: {token_steps: 60}}
      fish: {file: fish.safetensors}
    pictures:
      - prompts: ["a photo of <my-mug> on the grass", "a photo of <my-mug> and <my-fish>"]
        concepts: [mug, "fish:0.8"]
        seeds: [1, 2, 3]
        settings: [{steps: 25, cfg: 3}, {steps: 50, cfg: 3}]
    workflows:
      - file: workflow-api.json
        values: {"7.seed": [1, 2, 3]}

Files are named relative to the batch file. Every combination of a table's rows is one job.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from ..cli.drawing import parsed_size
from ..cli.models import TINYWORLD
from ..cli.options import Precision
from ..cli.training_run import BREAK_A_SCENE
from ..errors import InputError
from ..methods.registry import method_options

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
Value = str | int | float | bool


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ConceptRow(_Strict):
    """A concept to learn from a scene, or an existing file."""

    scene: Path | None = None  # a folder with a scene.json, see `cli.scene_files`
    file: Path | None = None  # a concept file
    method: str = BREAK_A_SCENE
    settings: dict[str, Any] = Field(default_factory=dict)  # options of `conceptloom train`

    @field_validator("method")
    @classmethod
    def _known(cls, method: str) -> str:
        if method not in method_options():
            raise ValueError(f"there is no method {method!r}; one of {', '.join(method_options())}")
        return method

    @model_validator(mode="after")
    def _one_source(self) -> ConceptRow:
        if (self.scene is None) == (self.file is None):
            raise ValueError("a concept needs either a scene to learn it from, or a file")
        return self


class DrawingRow(_Strict):
    """Sampling settings; defaults as in `conceptloom sample`."""

    negative: str = ""
    steps: Annotated[int, Field(ge=1)] = 50
    cfg: Annotated[float, Field(ge=1)] | None = None
    size: str | None = None

    @field_validator("size")
    @classmethod
    def _readable(cls, size: str | None) -> str | None:
        if size is not None:
            parsed_size(size)
        return size


class PicturesRow(_Strict):
    """Every prompt with every seed and every setting."""

    prompts: Annotated[list[str], Field(min_length=1)]
    concepts: list[str] = Field(default_factory=list)  # NAME[:STRENGTH[:NEWNAME]]
    seeds: Annotated[list[int], Field(min_length=1)] = [0]
    settings: Annotated[list[DrawingRow], Field(min_length=1)] = [DrawingRow()]


class WorkflowRow(_Strict):
    """A workflow in API form, run on ComfyUI servers with every combination of the values."""

    file: Path
    values: dict[str, Annotated[list[Value], Field(min_length=1)]] = Field(default_factory=dict)
    images: dict[str, Path] = Field(default_factory=dict)  # name in ComfyUI's input folder -> file


class Plan(_Strict):
    """A whole batch file."""

    model: str = TINYWORLD  # as --model; the workers read it from their own disk
    layout: Path | None = None
    precision: Precision = Precision.FP32
    device: str = "auto"
    concepts: dict[Name, ConceptRow] = Field(default_factory=dict)
    pictures: list[PicturesRow] = Field(default_factory=list)
    workflows: list[WorkflowRow] = Field(default_factory=list)

    @model_validator(mode="after")
    def _something_known(self) -> Plan:
        if not (self.concepts or self.pictures or self.workflows):
            raise ValueError("the plan is empty: no concepts, no pictures, no workflows")
        for row in self.pictures:
            for option in row.concepts:
                name, *_ = applied_concept(option)
                if name not in self.concepts:
                    known = ", ".join(self.concepts) or "none"
                    raise ValueError(f"pictures use the concept {name!r}; known: {known}")
        return self


def applied_concept(option: str) -> tuple[str, float, str]:
    """(name, strength, new name or "") of NAME[:STRENGTH[:NEWNAME]].

    Raises:
        ValueError: the strength is not a number.
    """
    name, colon, rest = option.partition(":")
    strength, _, new_name = rest.partition(":")
    try:
        return name, float(strength) if colon else 1.0, new_name
    except ValueError as error:
        raise ValueError(f"{option!r} must be NAME[:STRENGTH[:NEWNAME]]") from error


def read_plan(path: Path) -> Plan:
    """A batch file in YAML (or JSON, which is YAML).

    Raises:
        InputError: the file does not exist, or does not have the format shown at the top of this
            module.
    """
    try:
        held = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"There is no batch plan {path}; `conceptloom batch --help` shows its format."
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} could not be read as YAML: {error}") from error
    try:
        return Plan.model_validate(held)
    except ValidationError as error:
        places = [
            f"{'.'.join(map(str, fault['loc'])) or 'the file'}: {fault['msg']}"
            for fault in error.errors()
        ]
        raise InputError(f"{path} is not a valid batch plan: " + "; ".join(places) + ".") from error
