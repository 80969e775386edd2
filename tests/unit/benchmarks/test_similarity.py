"""CLIP and DINO similarity: the measures on networks of the real classes, and a whole run."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch import Tensor

transformers = pytest.importorskip("transformers")

import similarity  # noqa: E402
import similarity_cells  # noqa: E402
from similarity_cells import LAG, LORA  # noqa: E402
from similarity_measures import Clip, Dino, MaskFormer, Words, on_black, opened  # noqa: E402
from similarity_page import (  # noqa: E402
    CLIP_I,
    CLIP_T,
    DINO,
    FOUND,
    MASKED,
    Measures,
    likest,
    measured,
    page,
    pooled,
)
from similarity_plan import (  # noqa: E402
    BASE,
    BREAK_A_SCENE,
    RESIDUALS,
    Budget,
    Case,
    cases_of,
    full_budget,
    quick_budget,
)
from similarity_tables import Row  # noqa: E402

from conceptloom.errors import ConfigError, ImageError, InputError, ModelError  # noqa: E402
from conceptloom.tinyworld.concepts import concept_scene  # noqa: E402
from conceptloom.training.adapters import Scope  # noqa: E402
from conceptloom.training.concept import Concept, LowRank  # noqa: E402
from conceptloom.training.concept_file import save_concept  # noqa: E402
from conceptloom.training.phases import WeightPhase  # noqa: E402
from conceptloom.training.scene import ConceptScene, make_scene  # noqa: E402
from conceptloom.vision.segmentation import Boxes, Place  # noqa: E402

from .tiny_encoders import SIDE, save_encoders  # noqa: E402

NAMES = {"my-swirl": "circle", "my-robot": "square"}
WITHOUT = [
    "without phase 1",
    "without masked loss",
    "without attention loss",
    "without union sampling",
]


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """clip and dino, as transformers saves them."""
    return save_encoders(tmp_path_factory.mktemp("encoders"))


@pytest.fixture(scope="session")
def maskformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MaskFormer with three classes."""
    pytest.importorskip("scipy", reason="transformers' MaskFormer asks for it")
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("maskformer")
    backbone = transformers.SwinConfig(
        image_size=SIDE, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=4, out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = transformers.DetrConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    config = transformers.MaskFormerConfig(
        backbone_config=backbone, decoder_config=decoder, fpn_feature_size=32, mask_feature_size=32
    )
    config.id2label = {0: "cat", 1: "teddy bear", 2: "wall-other"}
    transformers.MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one scene of TinyWorld."""
    folder = tmp_path_factory.mktemp("scenes")
    inside = folder / "meadow"
    inside.mkdir()
    drawn = concept_scene(["swirl", "robot"], seed=3, background="grass")
    Image.fromarray(drawn.image).save(inside / "1.png")
    masks = {}
    for name, mask in zip(NAMES, drawn.masks, strict=True):
        masks[name] = f"{name}.png"
        Image.fromarray((mask * 255).astype("uint8")).save(inside / masks[name])
    document = {"pictures": [{"image": "1.png", "masks": masks}], "words": NAMES}
    (inside / "scene.json").write_text(json.dumps(document))
    return folder


def picture(seed: int = 0, side: int = 64) -> Tensor:
    return torch.rand(side, side, 3, generator=torch.Generator().manual_seed(seed))


def half(side: int = 64) -> Tensor:
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return mask


def scene_of(image: Tensor) -> ConceptScene:
    masks = {"my-cat": [half()], "my-mug": [1 - half()]}
    return make_scene([image], masks, {"my-cat": "cat", "my-mug": "mug"})


class Given:
    """A cutter that knows where things are, or that nothing is there."""

    def __init__(self, masks: dict[str, Tensor]) -> None:
        self._masks = masks

    def cut(self, image: Tensor, words: Sequence[str]) -> list[Tensor | None]:
        return [self._masks.get(word) for word in words]


def measured_all(
    measures: Measures, scene: ConceptScene, drawn: Sequence[tuple[Case, Tensor]]
) -> Row:
    return pooled(measured(measures, scene, drawn))


def test_clip_t_is_the_cosine_in_the_logits_of_transformers(folders: Path) -> None:
    clip, texts = Clip(str(folders / "clip"), "cpu"), ["a photo of a circle", "grass"]
    model = transformers.CLIPModel.from_pretrained(folders / "clip")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folders / "clip")
    processor = transformers.CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    image = picture(side=SIDE)  # of the encoder's own size: nothing is resized
    as_bytes = (image * 255).round().byte()
    pixels = processor(Image.fromarray(as_bytes.numpy()), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = model(**tokenizer(texts, padding=True, return_tensors="pt"), pixel_values=pixels)
    expected = output.logits_per_image[0] / model.logit_scale.exp()
    found = clip.of_images(as_bytes[None] / 255) @ clip.of_texts(texts).T
    assert torch.allclose(found[0], expected, atol=1e-5)
    assert abs(float(found[0, 0] - found[0, 1])) > 1e-4


def test_a_mistyped_path_is_no_name_on_the_hub(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="mistyped"):
        Dino(str(tmp_path / "mistyped"), "cpu")


def test_masked_dino_of_a_picture_with_itself_is_one_and_of_another_lower(folders: Path) -> None:
    dino, mask = Dino(str(folders / "dino"), "cpu"), half()[None]
    one, other = picture(0)[None], picture(1)[None]
    same = dino.of_images(on_black(one, mask)) @ dino.of_images(on_black(one, mask)).T
    apart = dino.of_images(on_black(one, mask)) @ dino.of_images(on_black(other, mask)).T
    assert float(same) == pytest.approx(1, abs=1e-5)
    assert float(apart) < 0.999


def test_masked_dino_does_not_see_what_is_around(folders: Path) -> None:
    dino, mask = Dino(str(folders / "dino"), "cpu"), half()[None]
    elsewhere = torch.where(mask[..., None] > 0, picture(0)[None], picture(1)[None])
    cut = [dino.of_images(on_black(image, mask)) for image in (picture(0)[None], elsewhere)]
    assert torch.equal(cut[0], cut[1])
    whole = [dino.of_images(image) for image in (picture(0)[None], elsewhere)]
    assert not torch.allclose(whole[0], whole[1])


def test_on_black_a_picture_becomes_square_around_its_middle() -> None:
    image, mask = picture()[:48], half()[:48]
    square = on_black(image[None], mask[None])[0]
    assert square.shape == (64, 64, 3)
    assert torch.equal(square[8:56, :32], image[:, :32])
    assert float(square.sum()) == pytest.approx(float(image[:, :32].sum()))


def test_masked_dino_sees_what_stands_at_the_edge_of_a_wide_photo(folders: Path) -> None:
    wide, mask = torch.zeros(64, 96, 3), torch.zeros(64, 96)
    mask[:, :16] = 1
    wide[:, :16] = picture()[:, :16]
    red = mask[..., None] * torch.tensor([1.0, 0, 0])
    encoders = Clip(str(folders / "clip"), "cpu"), Dino(str(folders / "dino"), "cpu")
    measures = Measures(*encoders, Given({"cat": mask}))
    scene = make_scene([wide], {"my-cat": [mask]}, {"my-cat": "cat"})
    case = Case(("my-cat",), "a photo of <my-cat>", "a cat")
    row = measured_all(measures, scene, [(case, torch.stack([wide, red]))])
    assert row[MASKED][0] == pytest.approx(1, abs=1e-5)
    assert row[MASKED][1] < 0.999


def test_a_drawing_that_is_the_taught_picture_gets_the_best_marks(folders: Path) -> None:
    image = picture()
    cutter = Given({"cat": half(), "mug": 1 - half()})
    measures = Measures(
        Clip(str(folders / "clip"), "cpu"), Dino(str(folders / "dino"), "cpu"), cutter
    )
    case = Case(("my-cat", "my-mug"), "a photo of <my-cat> and <my-mug>", "a cat and a mug")
    drawings = torch.stack([image, picture(5)])
    row = measured_all(measures, scene_of(image), [(case, drawings)])
    for column in (CLIP_I, DINO):
        assert row[column][0] == pytest.approx(1, abs=1e-5)
        assert row[column][1] < 0.999
    assert row[MASKED][:2] == pytest.approx([1, 1], abs=1e-5)  # cat and mug of the first
    assert max(row[MASKED][2:]) < 0.999
    assert row[FOUND] == [1, 1, 1, 1]
    assert len(row[CLIP_T]) == 2


def test_what_is_not_found_counts_as_not_found_and_not_as_unlike(folders: Path) -> None:
    encoders = Clip(str(folders / "clip"), "cpu"), Dino(str(folders / "dino"), "cpu")
    case = Case(("my-cat", "my-mug"), "", "a cat and a mug")
    drawn = [(case, picture()[None])]
    row = measured_all(Measures(*encoders, Given({"cat": half()})), scene_of(picture()), drawn)
    assert (row[FOUND], len(row[MASKED])) == ([1.0, 0.0], 1)
    row = measured_all(Measures(*encoders), scene_of(picture()), drawn)
    assert (row[FOUND], row[MASKED]) == ([], [])


def test_two_of_one_kind_are_held_against_the_concept_that_each_is_likest(folders: Path) -> None:
    class Both:
        """Finds the right half before the left one, and nothing more."""

        def cut(self, image: Tensor, words: Sequence[str]) -> list[Tensor | None]:
            assert words == ["cat", "cat"]
            return [1 - half(), half()]

    encoders = Clip(str(folders / "clip"), "cpu"), Dino(str(folders / "dino"), "cpu")
    masks = {"my-cat": [half()], "your-cat": [1 - half()]}
    scene = make_scene([picture()], masks, dict.fromkeys(masks, "cat"))
    case = Case(tuple(masks), "", "a cat and a cat")
    row = measured_all(Measures(*encoders, Both()), scene, [(case, picture()[None])])
    assert row[FOUND] == [1, 1]
    assert row[MASKED] == pytest.approx([1, 1], abs=1e-5)


def test_one_of_two_of_a_kind_counts_for_the_likest_and_none_for_nothing() -> None:
    mine, yours = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, 0.8]])
    assert likest([torch.tensor([[0.0, 1.0]])], [mine, yours]) == pytest.approx([0.9])
    assert likest([], [mine, yours]) == []


def test_grounding_dino_and_sam_give_a_word_that_comes_again_its_next_object() -> None:
    class Known:
        """Two cats, the right one surer; what is cut is the box."""

        def find(self, image: Tensor, word: str) -> Boxes:
            boxes = [[32, 0, 64, 64], [0, 0, 32, 64]] if word == "cat" else []
            corners = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
            return Boxes(corners, torch.tensor([0.9, 0.8][: len(boxes)]))

        def cut(self, image: Tensor, places: Sequence[Place]) -> Tensor:
            (place,) = places
            assert place.box is not None
            return (1 - half() if place.box[0] else half())[None]

    cutter = Words.__new__(Words)  # the networks of real files are tested with the segmenter
    cutter._detector = cutter._segmenter = Known()
    right, dog, left, third = cutter.cut(picture(), ("cat", "dog", "cat", "cat"))
    assert right is not None
    assert left is not None
    assert torch.equal(right, 1 - half())
    assert torch.equal(left, half())
    assert dog is third is None


def test_maskformer_knows_the_class_that_a_word_names(maskformer: Path) -> None:
    cutter = MaskFormer(str(maskformer), "cpu")
    assert [cutter.label_of(word) for word in ("cat", "Bear", "wall")] == [0, 1, 2]
    with pytest.raises(ConfigError, match="class of MaskFormer"):
        cutter.label_of("swirl")


class Sees:
    """In MaskFormer's place: what it says of any picture."""

    device = "cpu"

    def __init__(self, cutter: MaskFormer, classes: Sequence[Sequence[float]], masks: Tensor):
        self.config = cutter._network.config
        self.class_queries_logits = torch.tensor([classes])  # the last is "nothing"
        self.masks_queries_logits = 20.0 * (2 * masks[None] - 1)

    def __call__(self, pixel_values: Tensor) -> Sees:
        return self


def cut_by(maskformer: Path, classes: Sequence[Sequence[float]], masks: Tensor) -> MaskFormer:
    cutter = MaskFormer(str(maskformer), "cpu")
    cutter._network = Sees(cutter, classes, masks)
    return cutter


def test_maskformer_finds_nothing_where_no_query_is_sure(maskformer: Path) -> None:
    cutter = MaskFormer(str(maskformer), "cpu")  # of random weights
    assert cutter.cut(picture()[:48], ("cat", "bear", "wall")) == [None, None, None]
    spot = torch.zeros(2, 64, 64)
    spot[0, 5, 5], spot[1, 20:40, 20:40] = 1, 1
    doubtful, sure = [2.0, 0.0, 0.0, 3.0], [0.0, 9.0, 0.0, 0.0]
    cat, bear = cut_by(maskformer, [doubtful, sure], spot).cut(picture(), ("cat", "bear"))
    assert cat is None
    assert bear is not None
    assert torch.equal(bear, spot[1])


def test_maskformer_drops_what_surer_objects_cover(maskformer: Path) -> None:
    masks = torch.stack([half(), half()])
    masks[1, :, 32:40] = 1
    cat, bear = [9.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]
    seen = cut_by(maskformer, [bear, cat], masks.flip(0)).cut(picture(), ("cat", "bear"))
    assert seen[1] is None
    assert seen[0] is not None
    assert torch.equal(seen[0], half())


def test_maskformer_gives_the_next_object_to_a_word_that_comes_again(maskformer: Path) -> None:
    cats = [[3.0, 0.0, 0.0, 0.0], [9.0, 0.0, 0.0, 0.0]]  # the right one is surer
    cutter = cut_by(maskformer, cats, torch.stack([half(), 1 - half()]))
    first, second, third = cutter.cut(picture(), ("cat", "cat", "cat"))
    assert third is None
    assert first is not None
    assert second is not None
    assert torch.equal(first, 1 - half())
    assert torch.equal(second, half())


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


def test_localising_is_told_for_all_prompts_and_for_another_background() -> None:
    def row(clip_t: float) -> Row:
        return {CLIP_T: [clip_t], CLIP_I: [0.5], DINO: [0.5], MASKED: [], FOUND: []}

    every = {LAG: {"one": row(0.3)}, LORA: {"one": row(0.2)}, BASE: {"one": row(0.1)}}
    places = {**every, LAG: {"one": row(0.45)}}
    text = page(every, places, RESIDUALS, full_budget(512, 0), [], "", "cpu")
    everywhere, elsewhere = table_of(text, "against")
    assert everywhere == f"| {LORA} | +0.100 | +0.000 | +0.000 |  |  | all |"
    assert elsewhere.startswith(f"| {LORA} | +0.250 |")
    assert "background" in elsewhere


def test_the_numbers_of_residuals_are_those_of_both_factors(tmp_path: Path) -> None:
    low = LowRank(torch.zeros(64, 16), torch.zeros(16, 64, 1, 1))
    blocks = [f"unet.input_blocks.{n}.1.proj_out.weight" for n in (1, 2)]
    for name in ("one", "two"):
        concept = Concept(
            handles={name: {"clip_l": torch.zeros(1, 8)}}, weights=dict.fromkeys(blocks, low),
            base="b", method="personalized_residuals",
        )  # fmt: skip
        save_concept(concept, tmp_path / f"{name}.concept.safetensors")
    assert "concept: 4,096 numbers" in similarity.numbers_told(tmp_path.glob("*.safetensors"))


def test_the_page_of_ablations_tells_that_phase_2_makes_the_steps_of_both() -> None:
    row: Row = {column: [0.5] for column in (CLIP_T, CLIP_I, DINO, MASKED, FOUND)}
    rows = {variant: {"one": row} for variant in (BREAK_A_SCENE, *WITHOUT, BASE)}
    text = page(rows, rows, BREAK_A_SCENE, full_budget(512, 0), [], "", "cpu")
    assert "Without phase 1 all 800 steps are of phase 2." in text
    assert names_of(table_of(text, "against")) == WITHOUT


def test_a_concept_without_a_class_word_is_refused(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no folder"):
        similarity.scenes_of(tmp_path)
    document = json.loads((scenes / "meadow" / "scene.json").read_text())
    inside = tmp_path / "bare"
    inside.mkdir()
    for file in (scenes / "meadow").glob("*.png"):
        (inside / file.name).write_bytes(file.read_bytes())
    (inside / "scene.json").write_text(json.dumps({"pictures": document["pictures"]}))
    with pytest.raises(InputError, match="my-swirl"):
        similarity.scenes_of(tmp_path)


def test_what_is_in_the_way_of_measuring_is_told_before_anything_is_learned(
    folders: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **more: object) -> None:
        raise AssertionError("too late")

    monkeypatch.setattr(similarity, "open_model", never)
    command = ["similarity.py", "--scenes", str(scenes), "--clip", str(folders / "clip")]
    monkeypatch.setattr(sys, "argv", [*command, "--dino", str(tmp_path / "mistyped")])
    with pytest.raises(ModelError, match="mistyped"):
        similarity.main()


def test_words_that_maskformer_does_not_know_are_told_before_anything_is_learned(
    folders: Path, maskformer: Path
) -> None:
    def scene(word: str) -> ConceptScene:
        return make_scene([picture()], {"it": [half()]}, {"it": word})

    encoders = Clip(str(folders / "clip"), "cpu"), Dino(str(folders / "dino"), "cpu")
    measures = Measures(*encoders, MaskFormer(str(maskformer), "cpu"))
    similarity.check(measures, {"known": scene("cat")}, BREAK_A_SCENE)
    both = {"known": scene("cat"), "strange": scene("swirl")}
    with pytest.raises(ConfigError, match="swirl"):
        similarity.check(measures, both, BREAK_A_SCENE)


@pytest.mark.parametrize("broken", ["clip", "dino", "cutter"])
def test_networks_are_tried_before_anything_is_learned(broken: str, folders: Path) -> None:
    class Broken:
        def of_images(self, *_: object, **more: object) -> None:
            raise RuntimeError("shapes do not fit")

        cut = of_images

    found = {"clip": Clip(str(folders / "clip"), "cpu"), "dino": Dino(str(folders / "dino"), "cpu")}
    with pytest.raises(RuntimeError, match="do not fit"):
        similarity.check(
            Measures(**{**found, broken: Broken()}), {"one": scene_of(picture())}, RESIDUALS
        )


def test_names_on_the_hub_are_opened_in_float32_whatever_was_saved(
    folders: Path, tmp_path: Path
) -> None:
    class Hub:
        """Has what it is asked for in half the precision."""

        @staticmethod
        def from_pretrained(name: str, **given: object) -> torch.nn.Module:
            return transformers.ViTModel.from_pretrained(tmp_path / name, **given)

    whole = transformers.ViTModel.from_pretrained(folders / "dino")
    whole.to(torch.bfloat16).save_pretrained(tmp_path / "dino-vitb16")
    assert opened(Hub, "dino-vitb16").dtype == torch.float32


def test_pictures_of_unequal_size_are_told_before_anything_is_learned(
    folders: Path, scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Learned(Exception):
        pass

    def learn(*_: object) -> None:
        raise Learned

    shutil.copytree(scenes / "meadow", tmp_path / "meadow")
    document = json.loads((scenes / "meadow" / "scene.json").read_text())
    second = {"image": "2.png", "masks": {"my-swirl": "2-mask.png"}}
    document["pictures"].append(second)
    (tmp_path / "meadow" / "scene.json").write_text(json.dumps(document))
    Image.new("RGB", (96, 64)).save(tmp_path / "meadow" / "2.png")
    Image.new("L", (96, 64), 255).save(tmp_path / "meadow" / "2-mask.png")
    monkeypatch.setattr(similarity, "open_model", lambda _: SimpleNamespace(pixels_per_latent=8))
    monkeypatch.setattr(similarity, "lesson_of", learn)
    command = ["similarity.py", "--scenes", str(tmp_path), "--resolution", "64"]
    command += ["--clip", str(folders / "clip"), "--dino", str(folders / "dino")]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ImageError, match="meadow: The pictures have different sizes"):
        similarity.main()
    monkeypatch.setattr(sys, "argv", [*command, "--method", RESIDUALS])
    with pytest.raises(Learned):  # which cuts a square from each
        similarity.main()


def table_of(page: str, first: str) -> list[str]:
    """The rows of the table whose head begins so."""
    after = page[page.index(f"| {first} |") :].split("\n\n")[0]
    return after.splitlines()[2:]


def names_of(rows: Sequence[str]) -> list[str]:
    return [row.split(" | ")[0].strip("| ") for row in rows]


def small_budget(resolution_px: int, seed: int) -> Budget:
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
def test_a_whole_run_writes_its_page_and_is_not_made_again(
    method: str, more: list[str], variants: list[str], taught: list[str], folders: Path,
    scenes: Path, saved_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    command = ["similarity.py", "--checkpoint", str(saved_model), "--method", method, "--quick"]
    command += ["--scenes", str(scenes), "--cells", str(tmp_path / "cells"), *more]
    command += ["--clip", str(folders / "clip"), "--dino", str(folders / "dino")]
    monkeypatch.setattr(sys, "argv", [*command, "--page", str(tmp_path / "page.md")])
    monkeypatch.setattr(similarity, "quick_budget", small_budget)
    similarity.main()
    text = (tmp_path / "page.md").read_text()
    assert "these figures mean nothing" in text
    rows = table_of(text, "variant")
    assert names_of(rows) == variants
    assert all(len(re.findall(r"-?[01]\.\d{3}", row)) == 3 for row in rows)  # nothing cuts here
    assert names_of(table_of(text, "learned")) == taught
    if method == RESIDUALS:
        (gain, _) = table_of(text, "against")
        assert len(re.findall(r"[+-]\d\.\d{3}", gain)) == 3
        assert re.search(r"Residuals of a concept: [\d,]+ numbers", text)
    if more:
        gains = table_of(text, "against")
        assert names_of(gains) == WITHOUT
        assert all(len(re.findall(r"[+-]\d\.\d{3}", row)) == 3 for row in gains)
        files = sorted(path.stem for path in (tmp_path / "cells").rglob("*.concept.safetensors"))
        assert len(files) == len(taught)

    def never(*_: object, **more: object) -> None:
        raise AssertionError("made again")

    for name in ("learn_scene", "learn_residuals", "draws"):
        monkeypatch.setattr(similarity_cells, name, never)
    similarity.main()
    again = (tmp_path / "page.md").read_text()
    for first in ("variant", "learned"):  # also what learning cost
        assert table_of(again, first) == table_of(text, first)


def test_ablations_are_of_break_a_scene(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        similarity.arguments(
            ["--method", RESIDUALS, "--ablations", "--scenes", ".", "--clip", "c", "--dino", "d"]
        )
    assert BREAK_A_SCENE in capsys.readouterr().err


def test_every_ablation_switches_off_one_part_of_the_official_settings() -> None:
    config = full_budget(512, 0).break_a_scene
    found = {name: change(config) for name, change in similarity_cells.PARTS.items()}
    assert list(found) == WITHOUT
    one, mask, attention, union = found.values()
    assert (one.token_phase.steps, one.weight_phase.steps) == (0, 800)
    assert (mask.masked_loss, attention.attention_weight, union.union_sampling) == (False, 0, False)
    for other in (mask, attention, union):
        assert (other.token_phase, other.weight_phase) == (config.token_phase, config.weight_phase)
