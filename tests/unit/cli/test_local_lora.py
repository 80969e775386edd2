"""`conceptloom sample --local-lora`, and localised LoRAs on diffusers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from conceptloom.attention.local_lora import LocalLora
from conceptloom.attention.local_setup import local_setup
from conceptloom.cli.app import app
from conceptloom.cli.local_loras import parsed_local
from conceptloom.concepts.concept import Diff
from conceptloom.errors import ConfigError
from conceptloom.host.diffusers.host import DiffusersHost
from conceptloom.samplers.ddim import sample_ddim, seeded_noise

from ..local_cases import LINEAR, NORMS, RESNET, lora, random_lora

PROMPT = "a photo of a blue fish and a green mug on a white background"


@pytest.fixture(scope="module")
def tiny() -> DiffusersHost:
    return DiffusersHost.tinyworld()


@torch.no_grad()
def drawn(host: DiffusersHost, *loras: LocalLora, rows: int = 1, steps: int = 5) -> torch.Tensor:
    setup = local_setup(host, loras)
    prompt, negative = setup.encode(PROMPT), setup.encode("")
    edit = setup.edit(steps, {PROMPT: prompt.tokens})
    noise = seeded_noise(host, 0, rows, (64, 64))
    return sample_ddim(host, [prompt], negative, noise, steps=steps, cfg=3.0, edits=[edit])


@torch.no_grad()
@pytest.mark.parametrize("which", [LINEAR, RESNET, NORMS], ids=["linear", "resnet", "norms"])
def test_ones_are_the_merged_weights_and_zeros_the_base_model(tiny: DiffusersHost, which):
    ones, zeros = (
        lora(tiny, 1, "", which, mask=torch.full((16, 16), value), strength=0.7)
        for value in (1.0, 0.0)
    )
    noise = seeded_noise(tiny, 0, 1, (64, 64))
    changes = ones.file.changes
    edits = {
        name: lambda w, form=form: w + 0.7 * form.delta(w.shape) for name, form in changes.items()
    }

    def plain() -> torch.Tensor:
        prompts = [tiny.encode_prompt(text) for text in (PROMPT, "")]
        return sample_ddim(tiny, prompts[:1], prompts[1], noise, steps=2, cfg=3.0)

    base = plain()
    with tiny.edited(edits, trainable=False):
        merged = plain()
    assert not torch.allclose(merged, base, atol=1e-2)
    torch.testing.assert_close(drawn(tiny, ones, steps=2), merged, atol=1e-4, rtol=1e-4)
    assert torch.equal(drawn(tiny, zeros, steps=2), base)


def test_two_loras_draw_in_any_order_and_run_after_run(tiny: DiffusersHost):
    fish, mug = lora(tiny, 1, "blue fish"), lora(tiny, 2, "green mug")
    both = drawn(tiny, fish, mug, rows=2)
    assert torch.equal(both, drawn(tiny, mug, fish, rows=2))
    assert not torch.allclose(both, drawn(tiny, fish, rows=2), atol=1e-3)
    half = [lora(tiny, 1, "blue fish", strength=0.5) for _ in range(2)]
    torch.testing.assert_close(drawn(tiny, *half), drawn(tiny, fish), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_one_edit_serves_several_runs(tiny: DiffusersHost):
    setup = local_setup(tiny, [lora(tiny, 1, "blue fish")])
    prompt, negative = setup.encode(PROMPT), setup.encode("")
    masks: list[torch.Tensor] = []
    edit = setup.edit(5, {PROMPT: prompt.tokens}, masks.append)
    pictures = [
        sample_ddim(
            tiny, [prompt], negative, seeded_noise(tiny, seed, 1, (64, 64)), steps=5, cfg=3.0,
            edits=[edit],
        )
        for seed in (0, 1, 0)
    ]  # fmt: skip
    assert len(masks) == 3
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(pictures[0], pictures[2])
    assert torch.equal(masks[0], masks[2])


def test_words_are_found_where_the_base_model_draws_them(tiny: DiffusersHost):
    setup = local_setup(tiny, [lora(tiny, 1, "blue fish"), lora(tiny, 2, "green mug")])
    prompt, negative = setup.encode(PROMPT), setup.encode("")
    masks: list[torch.Tensor] = []
    edit = setup.edit(16, {PROMPT: prompt.tokens}, masks.append)
    noise = seeded_noise(tiny, 4, 4, (128, 128))
    with torch.no_grad():
        sample_ddim(tiny, [prompt], negative, noise, steps=16, cfg=3.0, edits=[edit])
        plain = sample_ddim(tiny, [prompt], negative, noise, steps=16, cfg=3.0)
    colours = torch.nn.functional.interpolate(
        tiny.decode_latent(plain).movedim(-1, 1), (16, 16), mode="area"
    )
    blue = (colours[:, 2] - colours[:, 0]).clamp_min(0)
    order = setup.loras
    fish = next(g for g, one in enumerate(order) if one.words == "blue fish")
    inside, outside = masks[0][:, fish], masks[0][:, 1 - fish]
    assert float((inside * blue).sum() / blue.sum()) > 2 * float(
        (outside * blue).sum() / blue.sum()
    )


def test_a_difference_that_has_no_place_is_left_out(tiny: DiffusersHost):
    one = lora(tiny, 1, "blue fish")
    time = "unet.time_embed.0.weight"
    form = Diff(torch.zeros(tiny.weight(time).shape))
    changes = {**one.file.changes, time: form}
    file = type(one.file)(changes=changes, identity="x")
    setup = local_setup(tiny, [LocalLora(file=file, name="x", words="a", tokens=(1,))])
    assert setup.layers.unplaced == [time]


@pytest.mark.parametrize(
    ("text", "file", "strength", "words", "mask"),
    [
        ('a.safetensors="girl, blue hair"', "a.safetensors", 1.0, "girl, blue hair", None),
        ("a.safetensors:0.9=girl,left.png", "a.safetensors", 0.9, "girl", "left.png"),
        ("C:/a.safetensors=girl", "C:/a.safetensors", 1.0, "girl", None),
        ("a.safetensors:-1=,m.png#2", "a.safetensors", -1.0, "", "m.png#2"),
        ('a.safetensors="miku|girl",m.png', "a.safetensors", 1.0, "girl", "m.png"),
    ],
)
def test_options_are_read(text: str, file: str, strength: float, words: str, mask: str | None):
    option = parsed_local(text)
    assert option.file == Path(file)
    assert option.strength == strength
    assert option.words == words
    assert option.mask == (Path(mask) if mask else None)
    assert option.trigger == ("miku" if "|" in text else "")


def test_an_option_without_words_says_how(tiny: DiffusersHost):
    for text in ("a.safetensors", "a.safetensors:nan=girl"):
        with pytest.raises(ConfigError):
            parsed_local(text)


def test_the_command_draws_and_writes_masks(tiny: DiffusersHost, tmp_path: Path):
    for seed in (1, 2):
        save_file(random_lora(tiny, seed, LINEAR), tmp_path / f"{seed}.safetensors")
    left = torch.zeros(64, 64, dtype=torch.uint8).numpy()
    left[:, :32] = 255
    Image.fromarray(left).save(tmp_path / "left.png")
    call = [
        "sample", "--steps", "5", "--out", str(tmp_path / "out.png"), "--prompt", PROMPT,
        "--count", "2", "--size", "64", "--masks",
        "--local-lora", f"{tmp_path}/1.safetensors:0.9=blue fish",
        "--local-lora", f"{tmp_path}/2.safetensors=green mug,{tmp_path}/left.png",
    ]  # fmt: skip
    result = CliRunner().invoke(app, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.glob("out*-masks.png"))) == 2
    result = CliRunner().invoke(app, [*call[:6], "a dog", *call[7:]])
    assert result.exit_code == 2
    assert '"blue fish"' in " ".join(result.output.split())


@torch.no_grad()
def test_rows_of_a_batch_have_prompts_of_their_own(tiny: DiffusersHost):
    """Each row as if it were drawn alone, with the words in another place of another prompt."""
    setup = local_setup(tiny, [lora(tiny, 1, "blue fish")])
    texts = [PROMPT, "a green mug beside a blue fish"]
    prompts = [setup.encode(text) for text in texts]
    noise = seeded_noise(tiny, 0, 2, (64, 64))

    def sampled(rows: list[int]) -> torch.Tensor:
        chosen = [prompts[row] for row in rows]
        edit = setup.edit(5, {prompt.text: prompt.tokens for prompt in chosen})
        return sample_ddim(
            tiny, chosen, setup.encode(""), noise[rows], steps=5, cfg=3.0, edits=[edit]
        )

    both = sampled([0, 1])
    torch.testing.assert_close(both[:1], sampled([0]), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(both[1:], sampled([1]), atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_a_stopped_run_leaves_the_model_and_the_edit_as_they_were(tiny: DiffusersHost):
    setup = local_setup(tiny, [lora(tiny, 1, "blue fish")])
    prompt, negative = setup.encode(PROMPT), setup.encode("")
    edit = setup.edit(5, {PROMPT: prompt.tokens})
    noise = seeded_noise(tiny, 0, 1, (64, 64))

    def sampled(stop_at: int = 9) -> torch.Tensor:
        def progress(step: int, *_: object) -> None:
            if step == stop_at:
                raise KeyboardInterrupt

        return sample_ddim(
            tiny, [prompt], negative, noise, steps=5, cfg=3.0, edits=[edit], progress=progress
        )

    good = sampled()
    for stop_at in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            sampled(stop_at)
        hooked = [m for m in tiny.unet.modules() if m._forward_hooks or m._forward_pre_hooks]
        assert hooked == []
        assert torch.equal(sampled(), good)
