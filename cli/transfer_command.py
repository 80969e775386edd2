"""`conceptloom transfer`: transfers a learned detail to an object in a photograph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import Progress

from .console import console, say
from .options import ON_WHITE, BaseModel, PictureOut, with_groups

if TYPE_CHECKING:
    from ..samplers.editing import EditConfig

_WHAT, _HOW, _GUIDE, _END = "What", "Sampling", "Guidance", "Finish"
START_SHARE = 0.3  # of the steps: CLiC skips 15 of 50


@with_groups
def transfer(
    image: Annotated[
        Path,
        typer.Option(
            "--image",
            "-i",
            help="The photograph, at the model's native size: 128 px for tinyworld, 512 for SD "
            f"1.5. {ON_WHITE}",
            rich_help_panel=_WHAT,
        ),
    ],
    mask: Annotated[
        list[Path],
        typer.Option(
            help="White is redrawn, grey is mixed; FILE#3 is class 3 of a label picture. Repeat "
            "for several places.",
            rich_help_panel=_WHAT,
        ),
    ],
    prompt: Annotated[
        list[str],
        typer.Option(
            "--prompt",
            "-p",
            help="What to draw there, such as 'a chair with <ornament> style'; one, or one for "
            "each mask.",
            rich_help_panel=_WHAT,
        ),
    ],
    concept: Annotated[
        list[str] | None,
        typer.Option(
            "--concept",
            "-c",
            metavar="FILE[:STRENGTH[:NEWNAME]]",
            help="Repeat for several.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    out: PictureOut = None,
    negative: Annotated[str, typer.Option(help="What to avoid.")] = "",
    seed: Annotated[int, typer.Option(help="The same seed gives the same picture.")] = 0,
    count: Annotated[int, typer.Option(min=1, help="Number of pictures.")] = 1,
    cfg: Annotated[
        float | None,
        typer.Option(help="Guidance scale; default 7.5, on tinyworld 3.", rich_help_panel=_HOW),
    ] = None,
    start: Annotated[
        int | None,
        typer.Option(
            help="Steps to skip (t_start): more keep more of the old content; default three of "
            "ten, none on tinyworld.",
            rich_help_panel=_HOW,
        ),
    ] = None,
    guide: Annotated[
        list[str] | None,
        typer.Option(
            help="A word or <name> of the prompt to move into the mask; repeat for several.",
            rich_help_panel=_GUIDE,
        ),
    ] = None,
    guide_everywhere: Annotated[
        bool,
        typer.Option(help="Target the whole picture instead of the mask.", rich_help_panel=_GUIDE),
    ] = False,
    plain: Annotated[
        str,
        typer.Option(
            help="Prompt of the --harmonise-steps: 'a chair'. Default: your own.",
            rich_help_panel=_END,
        ),
    ] = "",
    composite: Annotated[
        bool, typer.Option(help="Keep every pixel outside the mask exact.", rich_help_panel=_END)
    ] = True,
    feather: Annotated[
        int, typer.Option(min=0, help="Width of the seam, px.", rich_help_panel=_END)
    ] = 4,
    *,
    base: BaseModel,
    **settings: Any,
) -> None:
    """Transfer a learned detail to an object in a photograph (CLiC).

        conceptloom transfer -i chair.png --mask back.png -c ornament.safetensors \\
            -p 'a chair with <ornament> style' --guide '<ornament>'
    """
    from ..concepts.concept import stacked
    from ..tinyworld.presets import CFG
    from .drawing import load_concepts
    from .picture_files import as_png, free_name, numbered, write_picture
    from .setting_options import changed_by_options
    from .transferring import Transfer, transferred

    if start is None:
        # With skipped steps, the old content shows through TinyWorld's coarse latents.
        steps = settings["steps"] or _edit_config().steps
        start = 0 if base.is_tinyworld else int(START_SHARE * steps)
    if cfg is None and base.is_tinyworld:
        cfg = CFG
    config = changed_by_options(_edit_config(), {**settings, "start": start, "cfg": cfg})
    request = Transfer(
        image=image, masks=mask, prompts=prompt, words=guide or (), negative=negative, plain=plain,
        seed=seed, count=count, composite=composite, feather_px=feather,
        config=replace(config, target_is_mask=not guide_everywhere),
    )  # fmt: skip
    host = base.open()
    stack = stacked(load_concepts(host, concept or []))
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("drawing", total=None)
        drawn = transferred(
            host,
            request,
            stack,
            lambda done, total, *_: bars.update(task, completed=done, total=total),
        )
    file = as_png(out) if out else free_name(Path("transfer.png"))
    notes = {"prompt": " | ".join(prompt), "seed": str(seed), "steps": str(config.steps)}
    for number, picture in enumerate(drawn, 1):
        path = file if len(drawn) == 1 else numbered(file, number)
        say(f"wrote {write_picture(picture, path, notes)}")


def _edit_config() -> EditConfig:
    from ..samplers.editing import EditConfig
    from ..samplers.guidance import GuidanceConfig

    return EditConfig(guidance=GuidanceConfig())


def transfer_with_options() -> Callable[..., Any]:
    """`transfer` with an option for each setting of an edit."""
    from .setting_options import with_options

    return with_options(transfer, {_HOW: _edit_config()}, without=("start", "cfg"))
