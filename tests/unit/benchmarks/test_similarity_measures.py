"""CLIP, DINO and the masks of drawn objects, on networks of the real classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

transformers = pytest.importorskip("transformers")

from similarity.common import Found  # noqa: E402
from similarity.encoders import (  # noqa: E402
    Clip,
    Dino,
    MaskFormer,
    Measures,
    Words,
    on_black,
    opened,
)
from similarity.protocol import (  # noqa: E402
    CLIP_I,
    CLIP_T,
    DINO,
    FOUND,
    MASKED,
    Case,
    likest,
    measured,
    pooled,
)

from conceptloom.errors import ConfigError, ModelError  # noqa: E402
from conceptloom.scenes.scene import ConceptScene, make_scene  # noqa: E402
from conceptloom.vision.segmentation import Boxes, SamPrompt  # noqa: E402

from .tiny_encoders import SIDE, half, picture  # noqa: E402


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
) -> Found:
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

        def cut(self, image: Tensor, places: Sequence[SamPrompt]) -> Tensor:
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
