"""BLIP-2, prior and decoder from folders: tiny models of the real classes, saved and read again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import rmtree
from typing import Any

import pytest
import torch

from conceptloom.errors import ModelError, UnsupportedModelError
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.prior import DiffusionPrior
from conceptloom.vision.prior_files import decoder_generator, load_decoder, load_prior, multilingual
from conceptloom.vision.text_side import ClipText
from conceptloom.vision.vqa import Blip2, load_blip2

from .tiny_files import (
    CPU,
    FLAN_T5,
    OPT,
    diffusers,
    save_blip2,
    save_decoder_21,
    save_decoder_22,
    save_prior,
    tiny_mclip,
    transformers,
)

FLOAT = torch.float32
SAMPLING = PriorSampling(steps=2, checkpointing=False)


def test_blip2_answers_with_the_same_words_for_the_same_picture(tmp_path: Path) -> None:
    asked = load_blip2(save_blip2(tmp_path), CPU, FLOAT)
    image = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0))
    answers = [asked.answer(image, "What kind of pet is in this photo?") for _ in range(2)]
    assert answers[0] == answers[1]
    assert isinstance(answers[0], str)
    assert asked.name.startswith("blip2 ")
    asked.offload()


def _language_input(asked: Blip2, image: torch.Tensor) -> torch.Tensor:
    """What the language model reads of a picture and a question, [1, K, C] float32."""
    seen: list[torch.Tensor] = []
    encoder = asked._model.language_model.encoder
    hook = encoder.register_forward_pre_hook(
        lambda module, args, given: seen.append(given["inputs_embeds"].float()), with_kwargs=True
    )
    asked.answer(image, "What kind of pet is in this photo?")
    hook.remove()
    return seen[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_what_transformers_keeps_in_float32_stays_there(tmp_path: Path, dtype: torch.dtype) -> None:
    """Flan-T5 overflows in float16 where its feed-forward output is cast too."""
    asked = load_blip2(save_blip2(tmp_path), CPU, dtype)
    own = type(asked._model).from_pretrained(tmp_path, torch_dtype=dtype)
    kinds = {name: weight.dtype for name, weight in asked._model.named_parameters()}
    theirs = {name: weight.dtype for name, weight in own.named_parameters()}
    wo = {n: torch.float32 for n in kinds if n.endswith("wo.weight")}  # 4.50 forgets these
    assert len(wo) == 2
    assert kinds == theirs | wo
    assert kinds["language_model.shared.weight"] is dtype
    seen = (
        _language_input(asked, torch.zeros(20, 24, 3)),
        _language_input(asked, torch.ones(9, 9, 3)),
    )
    assert seen[0].isfinite().all()
    assert (seen[0] - seen[1]).abs().max() > 1e-3


@pytest.mark.parametrize("language", [FLAN_T5, OPT], ids=["instructed", "completing"])
def test_the_question_comes_as_its_model_wants_it_and_the_answer_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, language: dict[str, Any]
) -> None:
    asked = load_blip2(save_blip2(tmp_path, language), CPU, FLOAT)
    written: list[tuple[str, Any]] = []
    processor, model = asked._processor, asked._model

    def processed(**given: Any) -> Any:
        written.append((given["text"], processor(**given)))
        return written[-1][1]

    class Watched:
        batch_decode = processor.batch_decode
        __call__ = staticmethod(processed)

    monkeypatch.setattr(asked, "_processor", Watched())
    answer = asked.answer(torch.rand(9, 9, 3), "what kind of pet")
    text, given = written[0]
    assert text == (
        "what kind of pet" if language is FLAN_T5 else "Question: what kind of pet Answer:"
    )
    whole = model.generate(**given, do_sample=False, max_new_tokens=20)
    decoded = processor.batch_decode(whole, skip_special_tokens=True)[0].strip()
    if language is OPT:  # its output begins with what it was asked
        assert "what kind of pet" in decoded
        assert "kind" not in answer
    assert decoded.endswith(answer)


def test_copies_from_before_the_picture_had_a_token_are_read_alike(tmp_path: Path) -> None:
    image = torch.rand(20, 24, 3, generator=torch.Generator().manual_seed(0))
    expected = _language_input(load_blip2(save_blip2(tmp_path), CPU, FLOAT), image)
    for file, entry in (
        ("config.json", "image_token_index"),
        ("processor_config.json", "num_query_tokens"),
    ):
        told = json.loads((tmp_path / file).read_text())
        del told[entry]
        (tmp_path / file).write_text(json.dumps(told))
    found = _language_input(load_blip2(tmp_path, CPU, FLOAT), image)
    assert torch.equal(found, expected)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"contains no config\.json.*blip2-flan-t5-xl"):
        load_blip2(tmp_path, CPU, FLOAT)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ModelError, match="'t5' instead of a BLIP-2"):
        load_blip2(tmp_path, CPU, FLOAT)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ModelError, match="cannot be read"):
        load_blip2(tmp_path, CPU, FLOAT)


def test_weights_that_are_pickled_are_not_read(tmp_path: Path) -> None:
    folder = save_blip2(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="pickle files"):
        load_blip2(folder, CPU, FLOAT)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_weights_that_were_cut_off_are_reported(tmp_path: Path, kept: float) -> None:
    """What a download that stopped leaves behind."""
    for folder, read in (
        (save_blip2(tmp_path / "blip2"), lambda: load_blip2(tmp_path / "blip2", CPU, FLOAT)),
        (save_prior(tmp_path / "prior"), lambda: load_prior(tmp_path / "prior", CPU, FLOAT)),
        (save_decoder_22(tmp_path / "22"), lambda: load_decoder(tmp_path / "22", FLOAT)),
    ):
        for weights in folder.rglob("*.safetensors"):
            whole = weights.read_bytes()
            weights.write_bytes(whole[: int(len(whole) * kept)])
            with pytest.raises(ModelError, match=r"could not be read .* copy it again"):
                read()
            weights.write_bytes(whole)
        read()


def test_a_prior_folder_gives_what_was_saved(tmp_path: Path) -> None:
    prior = load_prior(save_prior(tmp_path), CPU, FLOAT)
    assert prior.fingerprint == "prior kandinsky 2.2, clip_l 16"
    assert prior.width == 16
    with torch.no_grad():
        imagined = prior.imagine("a red dog", {}, torch.Generator().manual_seed(0), SAMPLING)
    assert imagined.shape == (16,)
    assert prior.meanings(["a red dog"]).shape == (1, 16)
    assert all(not p.requires_grad for p in prior.prior.parameters())


def test_a_prior_folder_without_its_parts_says_which(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"model_index\.json.*kandinsky-2-1-prior"):
        load_prior(tmp_path, CPU, FLOAT)
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(UnsupportedModelError, match="FluxPipeline"):
        load_prior(tmp_path, CPU, FLOAT)
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "KandinskyV22PriorPipeline"})
    )
    with pytest.raises(ModelError, match="PriorTransformer"):
        load_prior(tmp_path, CPU, FLOAT)


def _own_pipeline(prior: DiffusionPrior) -> Any:
    """diffusers' pipeline of the same networks."""
    text = prior.text
    assert isinstance(text, ClipText)
    pipeline = diffusers.KandinskyPriorPipeline(
        prior=prior.prior,
        image_encoder=prior.vision,
        text_encoder=text.model,
        tokenizer=text.tokenizer,
        scheduler=prior.scheduler,
        image_processor=transformers.CLIPImageProcessor(),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("padding", ["<|endoftext|>", "!"], ids=["2.1", "2.2"])
@pytest.mark.parametrize("prompt", ["A photo of  the red Dog, on the beach.", ""])
def test_prompts_are_encoded_as_by_their_own_pipeline(
    tmp_path: Path, padding: str, prompt: str
) -> None:
    prior = load_prior(save_prior(tmp_path), CPU, FLOAT)
    assert isinstance(prior.text, ClipText)
    prior.text.tokenizer.pad_token = padding
    with torch.no_grad():
        pooled, hidden, mask = _own_pipeline(prior)._encode_prompt(prompt, CPU, 1, False, None)
        ours = prior.text.encode(prompt, {})
    assert torch.equal(ours.mask, mask)
    torch.testing.assert_close(ours.pooled, pooled)
    torch.testing.assert_close(ours.hidden, hidden)


@pytest.mark.parametrize("save", [save_decoder_21, save_decoder_22])
def test_a_decoder_stops_within_one_pass(tmp_path: Path, save: Callable[[Path], Path]) -> None:
    prior = load_prior(save_prior(tmp_path / "prior"), CPU, FLOAT)
    decoder = load_decoder(save(tmp_path / "decoder"), FLOAT)
    image_generator = decoder_generator(
        prior, decoder, CPU, sampling=SAMPLING, steps=3, cfg=4.0, size=(64, 64)
    )
    told: list[tuple[int, int, str]] = []

    class Cancelled(Exception):
        pass

    def progress(step: int, total: int, message: str = "", preview: object = None) -> None:
        told.append((step, total, message))
        if step == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        image_generator.decode(torch.randn(2, prior.width), 1, progress)
    assert told == [(n, 6, "decoding") for n in range(5)]
    told.clear()
    image_generator.decode(torch.randn(1, prior.width), 1)
    assert told == [], "nothing is left on the network"


@pytest.mark.parametrize("save", [save_decoder_21, save_decoder_22])
def test_a_decoder_draws_what_the_prior_imagines(
    tmp_path: Path, save: Callable[[Path], Path]
) -> None:
    """As diffusers' own two pipelines, one behind the other."""
    prior = load_prior(save_prior(tmp_path / "prior"), CPU, FLOAT)
    decoder = load_decoder(save(tmp_path / "decoder"), FLOAT)
    size = (64, 128)
    image_generator = decoder_generator(
        prior, decoder, CPU, sampling=SAMPLING, steps=3, cfg=4.0, size=size
    )
    pictures = image_generator.paint(["a dog", "a cat"], {}, seed=1)
    assert pictures.shape == (2, *size, 3)
    assert torch.equal(image_generator.paint(["a cat"], {}, seed=1)[0], pictures[1])
    imagining = _own_pipeline(prior)
    imagined = imagining(
        "a cat",
        num_inference_steps=SAMPLING.steps,
        guidance_scale=SAMPLING.guidance,
        generator=torch.Generator().manual_seed(1),
    )
    drawn = decoder(
        **({"prompt": ""} if save is save_decoder_21 else {}),
        image_embeds=imagined.image_embeds,
        negative_image_embeds=imagined.negative_image_embeds,
        num_inference_steps=3,
        guidance_scale=4.0,
        height=size[0],
        width=size[1],
        generator=torch.Generator().manual_seed(1),
        output_type="np",
    ).images[0]
    torch.testing.assert_close(pictures[1], torch.from_numpy(drawn).clamp(0, 1))
    assert not torch.allclose(pictures[0], pictures[1], atol=1e-3)


def test_constraints_are_compared_in_the_decoders_own_encoder_where_it_has_one(
    tmp_path: Path,
) -> None:
    """Kandinsky 2.1's; it travels with the prior, and a run with it is another run."""
    folder = save_prior(tmp_path / "prior", "KandinskyPriorPipeline")
    decoder = load_decoder(save_decoder_21(tmp_path / "decoder"), FLOAT)
    alone, together = (
        load_prior(folder, CPU, FLOAT),
        load_prior(folder, CPU, FLOAT, decoder=decoder),
    )
    own = multilingual(decoder.text_encoder, decoder.tokenizer)
    with torch.no_grad():
        expected = torch.nn.functional.normalize(own(["a photo of a pet"]), dim=-1)
    assert torch.equal(together.meanings(["a photo of a pet"]), expected)
    assert not torch.allclose(alone.meanings(["a photo of a pet"]), expected)
    assert alone.digest != together.digest


def test_a_decoder_of_another_width_is_refused(tmp_path: Path) -> None:
    prior = load_prior(save_prior(tmp_path / "prior"), CPU, FLOAT)
    decoder = load_decoder(save_decoder_22(tmp_path / "decoder", width=24), FLOAT)
    with pytest.raises(ModelError, match="24 wide, but the prior makes 16"):
        decoder_generator(prior, decoder, CPU, sampling=SAMPLING, steps=2, cfg=4.0, size=(64, 64))


def test_the_multilingual_encoder_ignores_padding() -> None:
    model, tokenizer = tiny_mclip()
    with torch.no_grad():
        both = multilingual(model, tokenizer)(["a dog", "a much longer sentence about a dog"])
        alone = multilingual(model, tokenizer)(["a dog"])
    assert both.shape == (2, 16)
    torch.testing.assert_close(both[:1], alone)


def test_karlos_prior_imagines_and_needs_no_image_encoder(tmp_path: Path) -> None:
    """Its folder names the scheduler otherwise, and the decoder is ComfyUI's unCLIP."""
    folder = save_prior(tmp_path, "UnCLIPPipeline")
    (folder / "scheduler").rename(folder / "prior_scheduler")
    rmtree(folder / "image_encoder")
    prior = load_prior(folder, CPU, torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        imagined = prior.imagine("a photo of a pet", {}, generator, PriorSampling(steps=2))
    assert imagined.shape == (16,)
    assert prior.fingerprint.startswith("prior karlo")
    with pytest.raises(UnsupportedModelError, match="image_encoder"):
        prior.look_at(torch.zeros(1, 8, 8, 3))
