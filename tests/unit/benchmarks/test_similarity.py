"""CLIP and DINO similarity: prompts, what is checked before, the page, and a whole run."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

transformers = pytest.importorskip("transformers")

from harness.report import page as page_of  # noqa: E402
from harness.results import Result, Status  # noqa: E402
from harness.subject import subject_of  # noqa: E402
from similarity import scenes as subject  # noqa: E402
from similarity.common import Found  # noqa: E402
from similarity.encoders import Clip, Dino, MaskFormer, Measures  # noqa: E402
from similarity.protocol import (  # noqa: E402  # noqa: E402
    BASE,
    BREAK_A_SCENE,
    CLIP_I,
    CLIP_T,
    COLUMNS,
    DINO,
    FOUND,
    MASKED,
    RESIDUALS,
    Case,
    SimilarityBudget,
    cases_of,
    full_budget,
    quick_budget,
)
from similarity.scenes import LAG, LORA, result_of  # noqa: E402

from conceptloom.concepts.concept import Concept, LowRank  # noqa: E402
from conceptloom.concepts.concept_file import save_concept  # noqa: E402
from conceptloom.errors import ConfigError, ImageError, InputError, ModelError  # noqa: E402
from conceptloom.scenes.scene import ConceptScene, make_scene  # noqa: E402
from conceptloom.tinyworld.concepts import concept_scene  # noqa: E402
from conceptloom.training.adapters import Scope  # noqa: E402
from conceptloom.training.phases import WeightPhase  # noqa: E402

from .tiny_encoders import half, picture  # noqa: E402

NAMES = {"my-mug": "mug", "my-robot": "robot"}
WITHOUT = [
    "without phase 1",
    "without masked loss",
    "without attention loss",
    "without union sampling",
]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one scene of TinyWorld."""
    folder = tmp_path_factory.mktemp("scenes")
    inside = folder / "meadow"
    inside.mkdir()
    drawn = concept_scene(["mug1", "robot1"], seed=3, background="grass")
    Image.fromarray(drawn.image).save(inside / "1.png")
    masks = {}
    for name, mask in zip(NAMES, drawn.masks, strict=True):
        masks[name] = f"{name}.png"
        Image.fromarray((mask * 255).astype("uint8")).save(inside / masks[name])
    document = {"pictures": [{"image": "1.png", "masks": masks}], "words": NAMES}
    (inside / "scene.json").write_text(json.dumps(document))
    return folder


def test_break_a_scene_asks_for_each_and_for_all_under_ten_prompts() -> None:
    cases = list(cases_of(BREAK_A_SCENE, {"my-mug": "mug", "my-ox": "ox"}))
    assert len(cases) == len({case.prompt for case in cases}) == 30
    assert cases[0] == Case(
        ("my-mug",), "a photo of <my-mug> at the beach", "a photo of a mug at the beach"
    )
    assert cases[20].prompt == "a photo of <my-mug> and <my-ox> at the beach"
    assert cases[20].plain == "a photo of a mug and an ox at the beach"


def test_residuals_ask_for_one_with_its_class_word_under_dreambooths_prompts() -> None:
    cases = list(cases_of(RESIDUALS, {"my-mug": "mug", "my-cat": "cat"}))
    assert len(cases) == len({case.prompt for case in cases}) == 50
    assert cases[0] == Case(("my-mug",), "a <my-mug> mug in the jungle", "a mug in the jungle")
    things, animals = (
        [case.plain for case in cases if word in case.plain] for word in ("mug", "cat")
    )
    assert "a mug floating in an ocean of milk" in things
    assert "a cat in a chef outfit" in animals
    assert [len(things), len(animals)] == [25, 25]
    assert not any("outfit" in text for text in things)


def test_prompts_that_only_change_the_background_are_told_from_the_others() -> None:
    cases = list(cases_of(RESIDUALS, {"my-mug": "mug", "my-cat": "cat"}))
    mugs, cats = ([c.plain for c in cases if c.elsewhere and w in c.plain] for w in ("mug", "cat"))
    assert (len(mugs), len(cats)) == (20, 10)
    assert "a mug on top of a mirror" in mugs
    assert not {"a red mug", "a cat in a chef outfit", "a wet cat"} & {*mugs, *cats}


def test_localising_is_reported_for_all_prompts_and_for_another_background() -> None:
    def row(clip_t: float) -> Found:
        return {CLIP_T: [clip_t], CLIP_I: [0.5], DINO: [0.5], MASKED: [], FOUND: []}

    every = {LAG: {"one": row(0.3)}, LORA: {"one": row(0.2)}, BASE: {"one": row(0.1)}}
    places = {**every, LAG: {"one": row(0.45)}}
    result = result_of(every, places, RESIDUALS, full_budget(512, 0), [], "cpu")
    everywhere = result.table("all prompts").value(LORA, CLIP_T)
    elsewhere = result.table("another background").value(LORA, CLIP_T)
    assert everywhere["gain"] == pytest.approx(0.1)
    assert elsewhere["gain"] == pytest.approx(0.25)


def test_the_numbers_of_residuals_are_those_of_both_factors(tmp_path: Path) -> None:
    low = LowRank(torch.zeros(64, 16), torch.zeros(16, 64, 1, 1))
    blocks = [f"unet.input_blocks.{n}.1.proj_out.weight" for n in (1, 2)]
    for name in ("one", "two"):
        concept = Concept(
            handles={name: {"clip_l": torch.zeros(1, 8)}}, weights=dict.fromkeys(blocks, low),
            base="b", method="personalized_residuals",
        )  # fmt: skip
        save_concept(concept, tmp_path / f"{name}.concept.safetensors")
    assert "concept: 4,096 numbers" in subject.describe_numbers(tmp_path.glob("*.safetensors"))


def test_the_page_of_ablations_says_that_phase_2_makes_the_steps_of_both() -> None:
    row: Found = {column: [0.5] for column in COLUMNS}
    rows = {variant: {"one": row} for variant in (BREAK_A_SCENE, *WITHOUT, BASE)}
    result = result_of(rows, rows, BREAK_A_SCENE, full_budget(512, 0), [], "cpu")
    assert "Without phase 1 all 800 steps are of phase 2." in page_of(result)
    assert names_of(result, "parts") == WITHOUT
    assert len(result.claims) == len(WITHOUT)
    assert {claim.status for claim in result.claims} == {Status.UNSURE}  # of one scene


def test_a_concept_without_a_class_word_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no folder"):
        subject.scenes_of(tmp_path)
    document = json.loads((scenes / "meadow" / "scene.json").read_text())
    inside = tmp_path / "bare"
    inside.mkdir()
    for file in (scenes / "meadow").glob("*.png"):
        (inside / file.name).write_bytes(file.read_bytes())
    (inside / "scene.json").write_text(json.dumps({"pictures": document["pictures"]}))
    with pytest.raises(InputError, match="my-mug"):
        subject.scenes_of(tmp_path)


def test_what_is_in_the_way_of_measuring_is_reported_before_anything_is_learned(
    folders: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **more: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(subject, "open_model", never)
    command = ["--scenes", str(scenes), "--clip", str(folders / "clip")]
    with pytest.raises(ModelError, match="mistyped"):
        called([*command, "--dino", str(tmp_path / "mistyped")])


def test_words_that_maskformer_does_not_know_are_reported_before_anything_is_learned(
    folders: Path, maskformer: Path
) -> None:
    def scene(word: str) -> ConceptScene:
        return make_scene([picture()], {"it": [half()]}, {"it": word})

    encoders = Clip(str(folders / "clip"), "cpu"), Dino(str(folders / "dino"), "cpu")
    measures = Measures(*encoders, MaskFormer(str(maskformer), "cpu"))
    subject.check(measures, {"known": scene("cat")}, BREAK_A_SCENE)
    both = {"known": scene("cat"), "strange": scene("swirl")}
    with pytest.raises(ConfigError, match="swirl"):
        subject.check(measures, both, BREAK_A_SCENE)


@pytest.mark.parametrize("broken", ["clip", "dino", "cutter"])
def test_networks_are_tried_before_anything_is_learned(broken: str, folders: Path) -> None:
    class Broken:
        def of_images(self, *_: object, **more: object) -> None:
            raise RuntimeError("shapes do not fit")

        cut = of_images

    scene = make_scene([picture()], {"it": [half()]}, {"it": "cat"})
    found = {"clip": Clip(str(folders / "clip"), "cpu"), "dino": Dino(str(folders / "dino"), "cpu")}
    with pytest.raises(RuntimeError, match="do not fit"):
        subject.check(Measures(**{**found, broken: Broken()}), {"one": scene}, RESIDUALS)


def test_pictures_of_unequal_size_are_reported_before_anything_is_learned(
    folders: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class TrainingResult(Exception):
        pass

    def learn(*_: object) -> None:
        raise TrainingResult

    shutil.copytree(scenes / "meadow", tmp_path / "meadow")
    document = json.loads((scenes / "meadow" / "scene.json").read_text())
    second = {"image": "2.png", "masks": {"my-mug": "2-mask.png"}}
    document["pictures"].append(second)
    (tmp_path / "meadow" / "scene.json").write_text(json.dumps(document))
    Image.new("RGB", (96, 64)).save(tmp_path / "meadow" / "2.png")
    Image.new("L", (96, 64), 255).save(tmp_path / "meadow" / "2-mask.png")
    monkeypatch.setattr(subject, "open_model", lambda _: SimpleNamespace(pixels_per_latent=8))
    monkeypatch.setattr(subject, "work_of", learn)
    command = ["--scenes", str(tmp_path), "--resolution", "64"]
    command += ["--clip", str(folders / "clip"), "--dino", str(folders / "dino")]
    with pytest.raises(ImageError, match="meadow: The pictures have different sizes"):
        called(command)
    with pytest.raises(TrainingResult):  # which cuts a square from each
        called([*command, "--method", RESIDUALS])


def called(arguments: list[str]) -> Result:
    one = subject_of("similarity", "scenes")
    return one.run(one.parse(arguments))


def names_of(result: Result, table: str) -> list[str]:
    return [row[result.table(table).columns[0].key] for row in result.table(table).rows]


def small_budget(resolution_px: int, seed: int) -> SimilarityBudget:
    """The quick one, with less to write: every weight of five learnings is much for a disk."""
    quick = quick_budget(resolution_px, seed)
    phase = WeightPhase(steps=2, scope=Scope.CROSS_ATTENTION_KV)
    return replace(quick, break_a_scene=replace(quick.break_a_scene, weight_phase=phase))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more", "variants", "taught"),
    [
        (
            BREAK_A_SCENE,
            ["--ablations"],
            [BREAK_A_SCENE, *WITHOUT, BASE],
            [BREAK_A_SCENE, *WITHOUT],
        ),
        (RESIDUALS, [], [LAG, LORA, BASE], [LAG]),
    ],
)
def test_a_whole_run_has_its_tables_and_is_not_made_again(
    method: str, more: list[str], variants: list[str], taught: list[str], folders: Path,
    scenes: Path, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ["--checkpoint", str(saved_model), "--method", method, "--quick"]
    command += ["--scenes", str(scenes), "--cells", str(tmp_path / "cells"), *more]
    command += ["--clip", str(folders / "clip"), "--dino", str(folders / "dino")]
    monkeypatch.setattr(subject, "quick_budget", small_budget)
    result = called(command)
    text = page_of(result)
    assert "these figures mean nothing" in text
    assert names_of(result, "similarity") == variants
    for row in result.table("similarity").rows:
        assert [row[column] is None for column in COLUMNS] == [False] * 3 + [True] * 2
    assert names_of(result, "costs") == taught  # nothing cuts here
    if method == RESIDUALS:
        assert names_of(result, "all prompts") == [LORA]
        assert re.search(r"Residuals of a concept: [\d,]+ numbers", text)
    if more:
        assert names_of(result, "parts") == WITHOUT
        files = sorted(path.stem for path in (tmp_path / "cells").rglob("*.concept.safetensors"))
        assert len(files) == len(taught)

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    for name in ("learn_scene", "learn_residuals", "draws"):
        monkeypatch.setattr(subject, name, never)
    again = called(command)
    for table in ("similarity", "costs"):  # also what learning cost
        assert again.table(table) == result.table(table)


def test_ablations_are_of_break_a_scene() -> None:
    command = ["--scenes", ".", "--clip", "c", "--dino", "d", "--method", RESIDUALS]
    with pytest.raises(SystemExit, match=BREAK_A_SCENE):
        called([*command, "--ablations"])


def test_every_ablation_switches_off_one_part_of_the_official_settings() -> None:
    config = full_budget(512, 0).break_a_scene
    found = {name: change(config) for name, change in subject.PARTS.items()}
    assert list(found) == WITHOUT
    one, mask, attention, union = found.values()
    assert (one.token_phase.steps, one.weight_phase.steps) == (0, 800)
    assert (mask.masked_loss, attention.attention_weight, union.union_sampling) == (False, 0, False)
    for other in (mask, attention, union):
        assert (other.token_phase, other.weight_phase) == (config.token_phase, config.weight_phase)
