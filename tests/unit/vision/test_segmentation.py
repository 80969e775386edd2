"""Words to boxes to masks, through tiny networks of the real classes and by hand."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor

from conceptloom.errors import ConfigError, ImageError, MaskError, ModelError
from conceptloom.vision.segmentation import (
    Boxes,
    GroundingDino,
    OriginalSam,
    Sam,
    SamPrompt,
    SegmentationConfig,
    Take,
    dino_size,
    normalised,
    parsed_places,
    segment_words,
    segmenter_from,
)

transformers = pytest.importorskip("transformers")

CPU = torch.device("cpu")
IMAGE = torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Grounding DINO of a few thousand weights, saved as Hugging Face saves one."""
    folder = tmp_path_factory.mktemp("dino")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", ".", "red", "cat", "dog"]
    (folder / "vocab.txt").write_text("\n".join(words))
    backbone = transformers.SwinConfig(
        image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
        window_size=2, out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    config = transformers.GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, encoder_layers=1,
        decoder_layers=2, encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2,
        decoder_attention_heads=2, num_queries=5, num_feature_levels=3, encoder_n_points=1,
        decoder_n_points=1, max_text_len=16, disable_custom_kernels=True,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SAM of the same kind."""
    folder = tmp_path_factory.mktemp("sam")
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16, "output_channels": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "image_size": 64, "patch_size": 8, "mlp_dim": 16,
            "window_size": 2, "global_attn_indexes": [0], "num_pos_feats": 8,
        },
        prompt_encoder_config={
            "hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        transformers.SamModel(config).save_pretrained(folder)
    return folder


class Known:
    """A detector that knows its answer, and a segmenter that fills boxes."""

    def __init__(self, *found: tuple[float, list[float]]) -> None:
        self.found = found

    def find(self, image: Tensor, word: str) -> Boxes:
        corners = torch.tensor([box for _, box in self.found]).reshape(-1, 4)
        return Boxes(corners, torch.tensor([score for score, _ in self.found]))

    def cut(self, image: Tensor, places: Any) -> Tensor:
        masks = torch.zeros(len(places), *image.shape[:2])
        for mask, place in zip(masks, places, strict=True):
            left, top, right, bottom = map(int, place.box)
            mask[top:bottom, left:right] = 1
        return masks


LEFT, RIGHT = [2.0, 2.0, 10.0, 12.0], [20.0, 2.0, 28.0, 12.0]


def test_the_surest_box_makes_the_mask_and_the_same_word_twice_takes_the_next() -> None:
    known = Known((0.9, LEFT), (0.5, RIGHT), (0.1, [0.0, 0.0, 60.0, 40.0]))
    one, two = segment_words(IMAGE, ["cat", "cat"], known, known)
    assert one.sum() == two.sum() == 80
    assert one[5, 5] == two[5, 25] == 1
    both = segment_words(IMAGE, ["cat"], known, known, SegmentationConfig(take=Take.ALL))
    assert torch.equal(both[0], one + two)


def test_words_that_find_nothing_are_reported_with_their_best_score() -> None:
    known = Known((0.25, LEFT))
    with pytest.raises(MaskError, match=r"'cat' finds nothing .*best score 0.25, threshold 0.30"):
        segment_words(IMAGE, ["cat"], known, known)
    sure = Known((0.9, LEFT))
    with pytest.raises(MaskError, match="finds only 1"):
        segment_words(IMAGE, ["cat", "cat"], sure, sure)
    with pytest.raises(MaskError, match="best score none"):
        segment_words(IMAGE, ["cat"], Known(), known)
    with pytest.raises(ConfigError, match="threshold is 2"):
        SegmentationConfig(threshold=2)


def test_the_real_networks_go_the_whole_way(dino_folder: Path, sam_folder: Path) -> None:
    detector, segmenter = GroundingDino(dino_folder, CPU), segmenter_from(sam_folder, CPU)
    found = detector.find(IMAGE, "Red cat")
    assert found.corners.shape == (5, 4)
    assert (found.scores[:-1] >= found.scores[1:]).all()
    assert (found.corners >= 0).all()
    assert (found.corners <= torch.tensor([60, 40, 60, 40])).all()
    masks = segment_words(
        IMAGE, ["cat", "dog"], detector, segmenter, SegmentationConfig(threshold=0.0)
    )
    assert masks.shape == (2, 40, 60)
    assert set(masks.unique().tolist()) <= {0.0, 1.0}


def test_detection_agrees_with_transformers_own_postprocessing(dino_folder: Path) -> None:
    detector = GroundingDino(dino_folder, CPU)
    found = detector.find(IMAGE, "cat")
    pixels = normalised(IMAGE, (800, 1200))
    text = detector._tokenizer("cat.", return_tensors="pt")
    with torch.no_grad():
        output = detector._network(pixel_values=pixels, **text)
    processing = transformers.models.grounding_dino.processing_grounding_dino
    theirs = processing.GroundingDinoProcessor.post_process_grounded_object_detection(
        type("Bare", (), {"batch_decode": lambda self, ids: []})(),
        output, text["input_ids"], threshold=0.0, target_sizes=[(40, 60)],
    )[0]  # fmt: skip
    order = theirs["scores"].argsort(descending=True)
    torch.testing.assert_close(found.scores, theirs["scores"][order])
    limits = torch.tensor([60.0, 40.0, 60.0, 40.0])
    clamped = torch.minimum(theirs["boxes"][order].clamp_min(0), limits)
    torch.testing.assert_close(found.corners, clamped, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("size", [(40, 60), (40, 160), (160, 40), (640, 480), (37, 301), (9, 9)])
def test_pictures_are_looked_at_in_the_size_of_dinos_own_processor(size: tuple[int, int]) -> None:
    processor = transformers.GroundingDinoImageProcessor()
    theirs = processor(numpy.zeros((*size, 3), numpy.uint8), return_tensors="pt").pixel_values
    assert dino_size(*size) == theirs.shape[-2:]


@pytest.mark.parametrize("size", [(40, 60), (60, 40)])
def test_masks_agree_with_transformers_own_processing(
    sam_folder: Path, size: tuple[int, int]
) -> None:
    sam, generator = Sam(sam_folder, CPU), torch.Generator().manual_seed(1)
    for _, weight in sorted(sam._network.named_parameters()):
        if weight.ndim > 1:  # as drawn, all of its masks are alike
            weight.data.normal_(std=0.3, generator=generator)
    at = torch.linspace(0, 6, size[0])[:, None], torch.linspace(0, 6, size[1])[None]
    image = torch.stack([at[0].sin() + 0 * at[1], (at[0] * at[1]).cos(), 0 * at[0] + at[1].cos()])
    image = (image.movedim(0, -1) + 1) / 2
    processing = transformers.SamImageProcessor(
        size={"longest_edge": 64}, pad_size={"height": 64, "width": 64}
    )
    bytes_ = (image * 255).round().byte().numpy()
    pixels = processing(bytes_, return_tensors="pt")
    scale = 64 / max(size)
    for place in (
        SamPrompt(box=(5, 8, 30, 35)),
        SamPrompt(inside=((20, 12), (30, 30)), outside=((3, 3),)),
    ):
        with torch.no_grad():
            logits = sam._network(
                pixel_values=pixels["pixel_values"],
                multimask_output=False,
                **sam._prompt(place, scale),
            ).pred_masks
        theirs = processing.post_process_masks(
            logits, pixels["original_sizes"], pixels["reshaped_input_sizes"], binarize=False
        )[0][0, 0]
        inside = (theirs > 0).float()
        assert 0.02 < inside.mean() < 0.98, "a mask of everything or nothing would prove nothing"
        assert (sam.cut(image, [place])[0] == inside).float().mean() > 0.97


def test_boxes_and_points_move_sams_masks(sam_folder: Path) -> None:
    sam = Sam(sam_folder, CPU)
    places = [
        SamPrompt(box=(2, 2, 20, 20)),
        SamPrompt(inside=((30, 20),)),
        SamPrompt(inside=((30, 20),), outside=((1, 1), (59, 39))),
        SamPrompt(box=(2, 2, 20, 20), inside=((5, 5),)),
    ]
    prompts = [sam._prompt(place, 2.0) for place in places]
    assert prompts[0]["input_boxes"].tolist() == [[[4, 4, 40, 40]]]
    assert prompts[2]["input_points"].tolist() == [[[[60, 40], [2, 2], [118, 78]]]]
    assert prompts[2]["input_labels"].tolist() == [[[1, 0, 0]]]
    assert sam.cut(IMAGE, places).shape == (4, 40, 60)


class _Predictor:
    """The door of segment-anything's SamPredictor."""

    def __init__(self, network: torch.nn.Module) -> None:
        self.network, self.seen, self.asked = network, None, list[dict[str, Any]]()

    def set_image(self, image: Any) -> None:
        self.seen = image

    def predict(self, **asked: Any) -> Any:
        self.asked.append(asked)
        assert self.seen is not None
        return numpy.ones((1, *self.seen.shape[:2]), bool), None, None


class _Hostile:
    def __reduce__(self) -> Any:
        return Path.touch, (Path("was-here"),)


def test_original_checkpoints_are_read_without_running_what_they_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    package = SimpleNamespace(
        sam_model_registry={"vit_b": lambda: torch.nn.Linear(2, 1)}, SamPredictor=_Predictor
    )
    monkeypatch.setitem(sys.modules, "segment_anything", package)
    weights = {"weight": torch.tensor([[3.0, 4.0]]), "bias": torch.zeros(1)}
    torch.save(weights, tmp_path / "sam_vit_b_01ec64.pth")
    sam = segmenter_from(tmp_path / "sam_vit_b_01ec64.pth", CPU)
    places = [SamPrompt(box=(2, 2, 20, 20)), SamPrompt(inside=((30, 20),), outside=((1, 1),))]
    assert sam.cut(IMAGE, places).shape == (2, 40, 60)
    predictor: Any = sam._predictor  # type: ignore[attr-defined]
    assert predictor.network.weight.tolist() == [[3.0, 4.0]]
    assert (predictor.seen.dtype, predictor.seen.shape) == (numpy.uint8, (40, 60, 3))
    boxed, pointed = predictor.asked
    assert boxed["box"].tolist() == [2, 2, 20, 20]
    assert boxed["point_coords"] is None
    assert pointed["point_coords"].tolist() == [[30, 20], [1, 1]]
    assert pointed["point_labels"].tolist() == [1, 0]

    torch.save({**weights, "more": _Hostile()}, tmp_path / "sam_vit_b_evil.pth")
    (tmp_path / "sam_vit_b_cut.pth").write_bytes(b"PK")
    for name in ("sam_vit_b_evil.pth", "sam_vit_b_cut.pth"):
        with pytest.raises(ModelError, match="not a readable SAM checkpoint"):
            segmenter_from(tmp_path / name, CPU)
    assert not (tmp_path / "was-here").exists()


def test_pictures_are_normalised_as_imagenets() -> None:
    grey = torch.tensor([0.485, 0.456, 0.406]).expand(8, 8, 3)
    assert normalised(grey, (4, 4)).abs().max() < 1e-5
    assert normalised(grey + torch.tensor([0.229, 0, 0]), (8, 8))[0, :, 0, 0].tolist() == (
        pytest.approx([1, 0, 0], abs=1e-5)
    )


def test_places_are_read_from_lines() -> None:
    assert parsed_places("box 1 2 30, 40\n\n5 6; not 7 8; 9 10.5") == [
        SamPrompt(box=(1, 2, 30, 40)),
        SamPrompt(inside=((5, 6), (9, 10.5)), outside=((7, 8),)),
    ]
    for bad in ("box 1 2 3", "box 30 2 1 40", "here", "1 2 3"):
        with pytest.raises(ConfigError, match="places"):
            parsed_places(bad)


def test_missing_and_damaged_files_say_what_belongs_there(
    tmp_path: Path, sam_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ModelError, match="Copy the files of IDEA-Research/grounding-dino-base"):
        GroundingDino(tmp_path, CPU)
    with pytest.raises(ModelError, match="Copy the files of facebook/sam-vit-base"):
        segmenter_from(tmp_path, CPU)
    (tmp_path / "config.json").write_text((sam_folder / "config.json").read_text())
    with pytest.raises(ModelError, match="could not be read as SamModel"):
        Sam(tmp_path, CPU)
    for kind, read in (("sam2", Sam), ("mm-grounding-dino", GroundingDino)):
        (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
        with pytest.raises(ModelError, match=f"contains a '{kind}' instead of"):
            read(tmp_path, CPU)
    with pytest.raises(ModelError, match="does not contain the model size"):
        OriginalSam(tmp_path / "sam.pth", CPU)
    monkeypatch.setitem(__import__("sys").modules, "segment_anything", None)
    with pytest.raises(ModelError, match="pip install segment-anything"):
        segmenter_from(tmp_path / "sam_vit_b_01ec64.pth", CPU)
    with pytest.raises(ImageError, match="height x width x 3"):
        Sam(sam_folder, CPU).cut(torch.zeros(4, 4), [])
