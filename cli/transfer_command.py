"""`conceptloom transfer`: transfers a learned detail to an object in a photograph."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from .console import console, say
from .options import ON_WHITE, Device, Layout, Model, PictureOut, Precision, PrecisionName

_WHAT, _HOW, _GUIDE, _END = "What", "Sampling", "Guidance", "Finish"
START_SHARE = 0.3  # of the steps: CLiC skips 15 of 50


def transfer(
    image: Annotated[
        Path,
        typer.Option(
            "--image",
            "-i",
            help="The photograph, at the model's native size: 64 px for tinyworld, 512 for SD "
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
    steps: Annotated[
        int,
        typer.Option(min=1, help="DDIM steps, including the skipped ones.", rich_help_panel=_HOW),
    ] = 50,
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
    ddim_eta: Annotated[
        float,
        typer.Option(help="Fresh noise per step: 0 is none, 1 as in CLiC.", rich_help_panel=_HOW),
    ] = 1.0,
    free_steps: Annotated[
        int, typer.Option(help="Last steps without blending.", rich_help_panel=_HOW)
    ] = 0,
    guide: Annotated[
        list[str] | None,
        typer.Option(
            help="A word or <name> of the prompt to move into the mask; repeat for several.",
            rich_help_panel=_GUIDE,
        ),
    ] = None,
    guide_eta: Annotated[
        float,
        typer.Option(
            help="Guidance strength; negative values move the word out.", rich_help_panel=_GUIDE
        ),
    ] = 0.01,
    guide_steps: Annotated[
        int,
        typer.Option(min=0, help="Number of guided steps at the start.", rich_help_panel=_GUIDE),
    ] = 30,
    guide_everywhere: Annotated[
        bool,
        typer.Option(help="Target the whole picture instead of the mask.", rich_help_panel=_GUIDE),
    ] = False,
    harmonise_steps: Annotated[
        int, typer.Option(help="Last steps with the base model.", rich_help_panel=_END)
    ] = 0,
    plain: Annotated[
        str, typer.Option(help="Prompt of those steps: 'a chair'.", rich_help_panel=_END)
    ] = "",
    composite: Annotated[
        bool, typer.Option(help="Keep every pixel outside the mask exact.", rich_help_panel=_END)
    ] = True,
    feather: Annotated[
        int, typer.Option(min=0, help="Width of the seam, px.", rich_help_panel=_END)
    ] = 4,
    model: Model = "tinyworld",
    layout: Layout = None,
    device: Device = "auto",
    precision: Precision = PrecisionName.FP32,
) -> None:
    """Transfer a learned detail to an object in a photograph (CLiC).

        conceptloom transfer -i chair.png --mask back.png -c ornament.safetensors \\
            -p 'a chair with <ornament> style' --guide '<ornament>'
    """
    from ..concepts.concept import stacked
    from ..samplers.blended import BlendConfig
    from ..samplers.editing import EditConfig
    from ..samplers.guidance import GuidanceConfig
    from .drawing import load_concepts
    from .models import TINYWORLD, open_host
    from .models import Precision as Computed
    from .picture_files import as_png, free_name, numbered, write_picture
    from .transferring import Transfer, transferred

    # What is under the mask shows through TinyWorld's coarse latents wherever steps are skipped.
    usual = 0 if model == TINYWORLD else int(START_SHARE * steps)
    skipped = usual if start is None else start
    config = EditConfig(
        steps=steps,
        cfg=cfg if cfg is not None else (3.0 if model == TINYWORLD else 7.5),
        blend=BlendConfig(start=skipped, eta=ddim_eta, free_steps=free_steps),
        guidance=GuidanceConfig(eta=guide_eta if guide else 0.0, steps=guide_steps),
        target_is_mask=not guide_everywhere,
        harmonise_steps=harmonise_steps,
    )
    wish = Transfer(
        image=image, masks=mask, prompts=prompt, words=guide or (), negative=negative, plain=plain,
        seed=seed, count=count, composite=composite, feather_px=feather, config=config,
    )  # fmt: skip
    host = open_host(model, layout=layout, device=device, precision=Computed(precision.value))
    stack = stacked(load_concepts(host, concept or []))
    with Progress(console=console, transient=True) as bars:
        task = bars.add_task("drawing", total=None)
        drawn = transferred(
            host,
            wish,
            stack,
            lambda done, total, *_: bars.update(task, completed=done, total=total),
        )
    file = as_png(out) if out else free_name(Path("transfer.png"))
    notes = {"prompt": " | ".join(prompt), "seed": str(seed), "steps": str(steps)}
    for number, picture in enumerate(drawn, 1):
        path = file if len(drawn) == 1 else numbered(file, number)
        say(f"wrote {write_picture(picture, path, notes)}")
