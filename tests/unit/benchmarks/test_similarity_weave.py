"""Concept Weaver's similarity: files, crops, regions of every variant, and a whole run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from harness.report import page as page_of
from harness.results import Result
from harness.subject import subject_of
from PIL import Image
from quality.tasks import WEAVES
from quality.weave import merged_concept, named_sentence
from quality.world import sentence_of, template_of
from similarity import weave as subject
from similarity.encoders import Clip, Dino, Measures
from similarity.weave import CLIP_I, CLIP_T, COLUMNS, DINO, measured
from similarity.weave_jobs import (
    BASE,
    MASKED,
    MERGED,
    VARIANTS,
    WHOLE,
    Part,
    WeaveJob,
    regions_of,
    weaves_of,
)
from torch import Tensor

from conceptloom.concepts.concept import Change, Concept, Diff, LowRank, weight_edits
from conceptloom.errors import ImageError, InputError, MaskError, PromptError
from conceptloom.methods.concept_weaver import InversionConfig, make_template, weave
from conceptloom.samplers.sigmas import euler_step, output_at
from conceptloom.scenes.scene import make_scene
from conceptloom.tinyworld.concepts import concept_scene
from conceptloom.training.adapters import Scope, scope_weight_names

from ..tiny_models import tiny_host
from .tiny_encoders import save_encoders

WORDS = {"my-mug1": "red mug", "my-fish2": "blue fish"}


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture
def weaves(tmp_path: Path) -> Path:
    """A folder with one weave of TinyWorld; the second concept's pictures have masks."""
    inside = tmp_path / "weaves" / "meadow"
    inside.mkdir(parents=True)
    scene = template_of(WEAVES[0], 0)
    save(inside / "template.png", scene.image)
    concepts: dict[str, Any] = {}
    for i, (name, word) in enumerate(WORDS.items()):
        save(inside / f"region-{i}.png", (scene.masks[i] * 255).astype("uint8"))
        taught = concept_scene([name.removeprefix("my-")], seed=2)
        save(inside / f"taught-{i}.png", taught.image)
        save(inside / f"mask-{i}.png", (taught.masks[0] * 255).astype("uint8"))
        concepts[name] = {
            "word": word, "pictures": [f"taught-{i}.png"], "region": f"region-{i}.png"
        }  # fmt: skip
    concepts["my-fish2"]["masks"] = ["mask-1.png"]
    document = {
        "template": "template.png",
        "sentence": sentence_of(WEAVES[0]),
        "concepts": concepts,
    }
    (inside / "weave.json").write_text(json.dumps(document))
    return inside.parent


def save(path: Path, pixels: Any) -> None:
    Image.fromarray(pixels).save(path)


def rewritten(weaves: Path, change: Any) -> Path:
    file = weaves / "meadow" / "weave.json"
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))
    return weaves


def noise(height: int, width: int, seed: int = 0) -> Tensor:
    return torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))


def box(size: tuple[int, int], rows: slice, columns: slice) -> Tensor:
    mask = torch.zeros(size)
    mask[rows, columns] = 1
    return mask


def part(name: str, word: str, image: Tensor, mask: Tensor | None = None) -> Part:
    shown = torch.ones(image.shape[:2]) if mask is None else mask
    return Part(name, word, make_scene([image], {name: [shown]}, {name: word}))


def concept(name: str, word: str, change: Change | None = None) -> Concept:
    return Concept(
        handles={name: {"clip_l": torch.zeros(1, 4)}},
        weights={"unet.x.attn2.to_k.weight": change} if change else {},
        base="one",
        method="concept_weaver",
        prompts=(f"photo of a <{name}> {word}",),
        words={name: word},
    )


def two_dogs() -> tuple[WeaveJob, dict[str, Tensor], dict[str, Concept]]:
    image = noise(32, 32)
    parts = part("my-dog", "dog", image), part("your-dog", "dog", image)
    masks = {"my-dog": box((32, 32), slice(8, 24), slice(0, 12)),
             "your-dog": box((32, 32), slice(8, 24), slice(20, 32))}  # fmt: skip
    bank = {name: concept(name, "dog") for name in masks}
    return WeaveJob(image, "a Dog and a dog on hotdogs", parts), masks, bank


def test_a_region_that_shows_the_taught_object_gets_the_best_marks(encoders: Path) -> None:
    measures = Measures(Clip(str(encoders / "clip"), "cpu"), Dino(str(encoders / "dino"), "cpu"))
    drawn, elsewhere = noise(64, 64), noise(64, 64, 1)
    left, right = (box((64, 64), slice(16, 48), s) for s in (slice(0, 32), slice(32, 64)))
    parts = (
        part("my-cat", "cat", drawn[16:48, :32]),  # as it lies in the drawing
        part("my-mug", "mug", drawn, right),  # from a larger picture, whose mask says where
    )
    job = WeaveJob(drawn, "a cat and a mug", parts)
    masks = {"my-cat": left, "my-mug": right}
    rows = measured(measures, job, masks, {WHOLE: drawn, BASE: elsewhere})
    for column in (CLIP_I, DINO):
        assert rows[WHOLE][column] == pytest.approx([1, 1], abs=1e-5)
        assert max(rows[BASE][column]) < 0.999
    expected = measures.clip.of_images(elsewhere[None]) @ measures.clip.of_texts([job.sentence]).T
    assert rows[BASE][CLIP_T] == pytest.approx([float(expected)])


def test_merged_concepts_add_up_and_keep_their_words() -> None:
    low = LowRank(up=torch.tensor([[1.0], [0.0]]), down=torch.tensor([[1.0, 2.0]]), scale=0.5)
    dog = concept("my-dog", "dog", low)
    cat = concept("my-cat", "cat", Diff(torch.ones(2, 2)))
    merged = merged_concept([dog, cat])
    (change,) = merged.weights.values()
    assert change.delta((2, 2)).tolist() == [[1.5, 2.0], [1.0, 1.0]]
    assert merged.prompts == ("photo of a <my-dog> dog", "photo of a <my-cat> cat")
    assert dict(merged.words) == {"my-dog": "dog", "my-cat": "cat"}


def test_one_prompt_names_every_concept_once() -> None:
    job, _, bank = two_dogs()
    merged = merged_concept(list(bank.values()))
    told = named_sentence(job.sentence, dict.fromkeys(bank, "dog"), merged)
    assert told == "a <my-dog> dog and a <your-dog> dog on hotdogs"


def test_every_variant_reads_its_own_prompts() -> None:
    job, masks, bank = two_dogs()
    named = "a <my-dog> dog and a <your-dog> dog on hotdogs"
    prompts = {
        variant: [region.prompt for region in regions_of(job, masks, bank, variant).parts]
        for variant in (WHOLE, BASE, MERGED, MASKED)
    }
    own = ["a <my-dog> dog on hotdogs", "a <your-dog> dog on hotdogs", job.sentence]
    assert prompts[WHOLE] == prompts[MASKED] == own
    assert prompts[MERGED] == [named] * 3
    assert not any("<" in prompt for prompt in prompts[BASE])
    assert all(r.concept is None for r in regions_of(job, masks, bank, BASE).parts)
    merged = {id(r.concept) for r in regions_of(job, masks, bank, MERGED).parts}
    assert len(merged) == 1


def test_merged_concepts_draw_what_one_model_with_all_of_them_draws() -> None:
    host, (job, masks, bank) = tiny_host(), two_dogs()
    generator = torch.Generator().manual_seed(0)
    names = scope_weight_names(host.weight_names(), Scope.CROSS_ATTENTION_KV)
    for name, learned in bank.items():
        handle = {
            e: torch.randn(1, width, generator=generator) for e, width in host.encoders.items()
        }
        changes: dict[str, Change] = {
            weight: Diff(0.1 * torch.randn(host.weight(weight).shape, generator=generator))
            for weight in names
        }
        bank[name] = replace(
            learned, handles={name: handle}, weights=changes, base=host.fingerprint
        )
    sigmas, once = host.noise_path.levels(2), InversionConfig(refinements=0)
    template = make_template(host, job.template[None], job.sentence, sigmas, once)
    regions = regions_of(job, masks, bank, MERGED)
    plain = replace(VARIANTS[MERGED], cfg=1.0, resnet_until=0.0, attention_until=0.0)
    woven = weave(host, template, regions, plain).latent

    merged, point = merged_concept(list(bank.values())), template.trajectory[:1]
    with host.edited(weight_edits(merged), trainable=False), torch.no_grad():
        prompt = host.encode_prompt(regions.parts[0].prompt, merged.handles)
        for sigma, following in pairwise(sigmas.tolist()):
            output = output_at(host, point, sigma, [prompt])
            slope = host.noise_path.slope(point, output, sigma)
            point = euler_step(point, slope, sigma, following)
    torch.testing.assert_close(woven, point, rtol=1e-4, atol=1e-4)


def test_a_background_is_learned_and_woven_but_has_no_crop() -> None:
    job, masks, bank = two_dogs()
    behind = part("my-stand", "hotdogs", noise(32, 32))
    job, bank = (
        replace(job, background=behind),
        {**bank, "my-stand": concept("my-stand", "hotdogs")},
    )
    assert [one.name for one in job.every] == ["my-dog", "your-dog", "my-stand"]
    last = {v: regions_of(job, masks, bank, v).parts[-1] for v in (WHOLE, MERGED, BASE)}
    assert last[WHOLE].prompt == "a Dog and a dog on <my-stand> hotdogs"
    assert last[MERGED].prompt == "a <my-dog> dog and a <your-dog> dog on <my-stand> hotdogs"
    assert last[BASE].concept is None


class Given:
    """A segmenter that knows where things are."""

    def __init__(self, masks: Mapping[str, Tensor]) -> None:
        self._masks = masks

    def cut(self, image: Tensor, words: Any) -> list[Tensor | None]:
        return [self._masks.get(word) for word in words]


def test_regions_come_from_files_or_from_a_segmenter_at_the_size_to_draw_at(weaves: Path) -> None:
    job = weaves_of(weaves)["meadow"]
    mug, fish = job.parts
    assert mug.region is not None
    bare = replace(job, parts=(replace(mug, region=None), fish))
    for cutter, given in ((None, job), (Given({"red mug": mug.region}), bare)):
        fitted, masks = subject.fitted("meadow", given, cutter, 32, 4)
        assert fitted.template.shape == (32, 32, 3)
        assert {name: mask.shape for name, mask in masks.items()} == dict.fromkeys(WORDS, (32, 32))
    for cutter in (None, Given({})):
        with pytest.raises(MaskError, match="meadow: the region of <my-mug1>"):
            subject.fitted("meadow", bare, cutter, 32, 4)


@pytest.mark.parametrize(
    ("change", "error", "told"),
    [
        (lambda d: d.pop("sentence"), InputError, "sentence"),
        (lambda d: d["concepts"]["my-fish2"].update(word=" "), InputError, "class word"),
        (lambda d: d["concepts"]["my-fish2"].update(pictures="1.png"), InputError, "list"),
        (lambda d: d["concepts"]["my-fish2"].update(masks=["a", "b"]), InputError, "all or none"),
        (lambda d: d["concepts"]["my-fish2"].update(pictures=["no.png"]), ImageError, r"no\.png"),
        (lambda d: d.update(sentence="a red mug"), PromptError, "blue fish"),
    ],
)
def test_what_would_be_in_the_way_is_reported_before_anything_is_learned(
    change: Any, error: type[Exception], told: str, weaves: Path
) -> None:
    rewritten(weaves, change)
    with pytest.raises(error, match=told):
        subject.fitted("meadow", weaves_of(weaves)["meadow"], None, 64, 4)


def test_no_weave_and_no_json_are_refused(weaves: Path) -> None:
    with pytest.raises(InputError, match="holds no folder"):
        weaves_of(weaves / "meadow")
    (weaves / "meadow" / "weave.json").write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        weaves_of(weaves)


def called(arguments: list[str]) -> Result:
    one = subject_of("similarity", "weave")
    return one.run(one.parse(arguments))


@pytest.mark.slow
def test_a_whole_run_has_its_tables_and_is_not_made_again(
    encoders: Path, weaves: Path, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sheet = tmp_path / "sheet.jpg"
    monkeypatch.setattr(subject, "sheet_path", lambda page: sheet)
    command = ["--checkpoint", str(saved_model), "--quick"]
    command += ["--weaves", str(weaves), "--cells", str(tmp_path / "cells")]
    command += ["--clip", str(encoders / "clip"), "--dino", str(encoders / "dino")]
    result = called(command)
    assert "these figures mean nothing" in page_of(result)
    table = result.table("similarity")
    assert [row["row"] for row in table.rows] == list(VARIANTS)
    assert all(-1 <= row[column]["mean"] <= 1 for row in table.rows for column in COLUMNS)
    pictures = [file.read_bytes() for file in (tmp_path / "cells").rglob("*.pictures.safetensors")]
    assert len(set(pictures)) == len(VARIANTS)  # no two of them draw alike
    with Image.open(sheet) as drawn:
        assert drawn.width > drawn.height  # a row of the template and all variants

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    for name in ("learn_for_bank", "make_template", "weave"):
        monkeypatch.setattr(subject, name, never)
    again = called(command)  # seconds are kept, too
    assert [s.table for s in again.sections] == [s.table for s in result.sections]
