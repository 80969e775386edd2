"""The numbers that the papers and their authors' code give are the defaults, one by one."""

from __future__ import annotations

import pytest

from conceptloom.methods import conceptlab
from conceptloom.methods.break_a_scene import BreakASceneConfig, ClassImages
from conceptloom.methods.clic import OFFICIAL, OFFICIAL_LOOP, PAPER_LOOP, CLiCConfig, Form, views
from conceptloom.methods.clic.config import TwoStageConfig
from conceptloom.methods.clic.matching import ROI_MATCHING, ReadConfig
from conceptloom.methods.concept_weaver import BankConfig, InversionConfig, WeaveConfig
from conceptloom.samplers.blended import BlendConfig, Inside, SourceLevel
from conceptloom.samplers.editing import EditConfig
from conceptloom.samplers.guidance import GuidanceConfig, Rule
from conceptloom.training.adapters import Scope
from conceptloom.training.recipe import LoopConfig
from conceptloom.vision.ports import PriorSampling
from conceptloom.vision.segmentation import SegmentationConfig


def test_break_a_scene() -> None:
    """google/break-a-scene at b142cf2, train.py."""
    config, loop, pictures = BreakASceneConfig(), LoopConfig(), ClassImages()
    tokens, weights = config.token_phase, config.weight_phase
    assert (tokens.steps, tokens.learning_rate) == (400, 5e-4)  # :200-253
    assert (weights.steps, weights.learning_rate, weights.scope) == (400, 2e-6, Scope.FULL)
    assert (config.attention_weight, config.flip, config.batch_size) == (0.01, 0.5, 1)  # :403, :475
    assert (config.prior_weight, pictures.prompt) == (1.0, "a photo at the beach")  # :128-153
    assert (pictures.draw, pictures.steps, pictures.cfg) == (100, 50, 7.5)
    assert config.prompt_prefix == "a photo of "  # :531
    assert (loop.betas, loop.weight_decay) == ((0.9, 0.999), 1e-2)  # :300-323
    assert (loop.epsilon, loop.max_grad_norm, loop.accumulation) == (1e-8, 1.0, 1)


def test_clic() -> None:
    """The paper's Sec. 3.1 and 4; Mehdi0xC/clic at a5649f6, learning.py and reproduce.sh."""
    paper = CLiCConfig()
    assert (paper.context_weight, paper.attention_weight, paper.roi_weight) == (1.0, 0.5, 0.5)
    assert (paper.background_weight, paper.context_form, paper.roi_form) == (
        0.5, Form.PAPER, Form.PAPER,
    )  # fmt: skip
    assert paper.roi_prompts == ("A photo of {concept}",)
    assert (OFFICIAL.context_weight, OFFICIAL.attention_weight, OFFICIAL.roi_weight) == (
        0.5, 0.25, 0.25,
    )  # fmt: skip
    assert (OFFICIAL.context_form, OFFICIAL.roi_form) == (Form.OFFICIAL, Form.OFFICIAL)
    assert len(OFFICIAL.roi_prompts) == 8  # :270-278
    assert (PAPER_LOOP.weight_decay, OFFICIAL_LOOP.weight_decay) == (0.0, 0.1)  # :497
    for config in (paper, OFFICIAL):
        phase = config.weight_phase
        assert config.token_phase.steps == 0
        assert (phase.steps, phase.learning_rate, phase.scope) == (500, 1e-5, Scope.CROSS_ATTENTION)
        assert config.prompt == "a {object} with {concept} style"
        assert (config.brightness, config.flip, config.random_scale) == (0.5, 0.5, False)
        assert config.detach_start
    assert (views.FAR_CHANCE, views.CALLED_FAR) == (0.33, 0.6)  # :252-264
    assert (views.FAR_SCALES, views.NEAR_SCALES) == ((1 / 3, 1.0), (1.125, 1.5))


def test_clics_transfer_matching_and_generation() -> None:
    """transfer.py, seg_diff.py:87-132, io_utils.py:24-46; the paper's Sec. 3.3, 3.4 and 4.1."""
    blend, guidance, edit = BlendConfig(), GuidanceConfig(), EditConfig()
    assert (blend.start, blend.eta, blend.free_steps) == (15, 1.0, 0)
    assert (blend.source_level, blend.inside) == (SourceLevel.SAME, Inside.SOURCE)
    assert (guidance.eta, guidance.steps, guidance.rule) == (0.01, 30, Rule.SIGN)
    assert (edit.steps, edit.cfg) == (50, 7.5)
    stages = TwoStageConfig()
    assert (stages.base_steps, stages.steps, stages.cfg) == (5, 50, 7.5)
    assert ROI_MATCHING.token_phase.steps == 500
    assert ROI_MATCHING.weight_phase.steps == 0
    assert ROI_MATCHING.prompt == "a {concept} region of a {object}"
    read = ReadConfig()
    assert (read.steps, read.faint, read.dimmed) == (50, 0.75, 0.9)
    assert (round(read.opening * 512), round(read.threshold * 255)) == (5, 100)


def test_conceptlab() -> None:
    """kfirgoldberg/ConceptLab at f94f43c: train_config.py, configs, both coaches."""
    config, evolution, sampling = (
        conceptlab.ConceptLabConfig(),
        conceptlab.EvolutionConfig(),
        PriorSampling(),
    )
    assert (config.steps, config.learning_rate) == (2500, 1e-4)
    assert (config.positive_ceiling, config.negative_floor) == (0.28, 0.20)
    assert (config.positive_weight, config.negatives.every, config.gallery_seed) == (1.0, 250, 42)
    assert (evolution.steps, evolution.learning_rate, evolution.gallery_every) == (2000, 1e-4, 250)
    assert (sampling.steps, sampling.guidance, sampling.negative) == (5, 4.0, "")
    loop = conceptlab.OFFICIAL_LOOP
    assert (loop.max_grad_norm, loop.weight_decay, loop.epsilon) == (0.0, 1e-2, 1e-8)


def test_concept_weaver() -> None:
    """The paper's implementation details; Plug-and-Play at e9207c0, config_pnp.yaml; LangSAM."""
    bank, inversion, weave = BankConfig(), InversionConfig(), WeaveConfig()
    phase = bank.weight_phase
    assert (phase.steps, phase.learning_rate, phase.scope) == (
        500, 1e-5, Scope.CROSS_ATTENTION_KV,
    )  # fmt: skip
    assert bank.smallest == pytest.approx(1 / 3, abs=1e-3)
    assert (inversion.steps, inversion.resnet_until, inversion.attention_until) == (50, 0.8, 0.5)
    assert (weave.cfg, weave.resnet_until, weave.attention_until) == (7.5, 0.8, 0.5)
    assert weave.negative == "ugly, blurry, black, low res, unrealistic"
    assert SegmentationConfig().threshold == 0.3
