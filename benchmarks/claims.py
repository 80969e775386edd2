"""What the pack promises: a number on a page, a verdict on a page, or a test, for every claim.

Numbers come from `docs/results`, where the benchmarks write them; exact identities are tests. A
number that is missed says why, a verdict has its page, and both stay in the list.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A number in a table, and what it may be.

    Attributes:
        page: file name in docs/results, without its ending.
        row: how the row begins.
        column: head of the column.
        under: heading above the table, where others have the same row.
        most, least: what was promised; one of them.
        why: the reason, where it is missed.
    """

    says: str
    page: str
    row: str
    column: str
    under: str = ""
    most: float | None = None
    least: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdicts:
    """A table of which every row is a claim and one column the verdict.

    Attributes:
        labels: how many columns from the left say which claim it is.
        column: head of the verdicts, or of the numbers that say it with `least`.
    """

    says: str
    page: str
    under: str
    labels: int
    column: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """Something exact: tests by "file::name", in every case that they are run with."""

    says: str
    tests: tuple[str, ...]


Claim = Figure | Verdicts | Exact

TORTURE = tuple(
    Figure(says=f"Torture: {title}, none failing", page="torture", row=title,
           column="failing now", most=0)
    for title in (
        "nodes fed with bad input", "cancel, a crash, no memory inside of a run",
        "files torn byte by byte", "runs after one another", "runs with little memory",
    )
)  # fmt: skip

TINYWORLD = Verdicts(
    says="TinyWorld's gates", page="tinyworld", under="", labels=1, column="passed"
)

STEP = "break_a_scene_step"
NARROW = (
    "the timed UNet has eight heads of 8 channels: attention and its backward pass are four fifths "
    "of a step there, whatever learns, and only what is left can get smaller"
)
BREAK_A_SCENE = (
    Figure(says="A step of the official recipe takes at least 3 of ours", page=STEP,
           row="official at least", column="CPU", least=3),
    Figure(says="... of its memory at most 0.25", page=STEP, row="ours, full scope",
           column="of official", most=0.25),
    Figure(says="Full scope: at most 1.05 of plain fine-tuning", page=STEP,
           row="full scope at most", column="CPU", most=1.05),
    Figure(says="K/V: at most 0.8 of plain fine-tuning", page=STEP, row="K/V at most",
           column="CPU", most=0.8),
    Figure(says="Low rank: at most 0.8 of plain fine-tuning", page=STEP, row="low-rank at most",
           column="CPU", most=0.8, why=NARROW),
    Figure(says="Maps: at most 1.03 of a forward pass", page=STEP, row="maps at most",
           column="CPU", most=1.03),
    Verdicts(says="Parts switched off", page="break_a_scene_quality",
             under="Does the whole method win?", labels=2, column="verdict"),
    Exact(says="Losses and gradients of the official program, to 1e-5", tests=(
        "tests/parity/test_break_a_scene.py::test_losses_and_gradients_are_those_of_the_official_program",
        "tests/parity/test_break_a_scene.py::test_a_step_of_the_loop_leaves_the_handles_where_the_official_one_does",
    )),
)  # fmt: skip

CLIC = (
    Figure(says="Blended sampling without guidance: at most 1.03 of plain sampling",
           page="blended_cost", row="blended sampling without", column="found", most=1.03),
    Figure(says="A guided step: at most 3 plain ones", page="blended_cost", row="a guided step",
           column="found", most=3),
    Figure(says="A step of the official recipe takes longer than ours of the same form",
           page="clic_step", row="ours, the official form", column="CPU", least=1),
    Figure(says="Nothing changes outside of the mask, with pasting", page="clic_quality",
           row="whole method", column="with pasting", most=0),
    Verdicts(says="Parts switched off", page="clic_quality", under="Does the whole method win?",
             labels=2, column="verdict"),
    Verdicts(says="RoI Matching finds the place better than", page="clic_matching", under="",
             labels=2, column=""),
    Exact(says="Losses and gradients of the official program, to 1e-5", tests=(
        "tests/parity/test_clic.py::test_losses_and_gradients_are_those_of_the_official_program",
        "tests/parity/test_clic.py::test_the_papers_form_has_other_numbers_on_the_same_step",
    )),
    Exact(says="What guidance and edits leave alone stays bit for bit", tests=(
        "tests/unit/samplers/test_masks.py::test_outside_of_the_mask_the_source_stays_bit_for_bit",
        "tests/unit/samplers/test_editing.py::test_guidance_of_zero_changes_nothing",
        "tests/host/test_blended_nodes.py::test_outside_of_the_mask_every_pixel_stays",
        "tests/host/test_steering.py::test_no_strength_changes_nothing_bit_for_bit",
    )),
)  # fmt: skip

CALLS = "TinyWorld is so narrow that what a hook and a call of torch cost counts; wider models keep"
RESIDUALS = (
    *(
        Figure(says=f"LAG, {row}: at most {most} of plain sampling, {name}", page="lag_cost",
               row=row, column="of plain", under=under, most=most,
               why=f"{CALLS} {most}" if under == "tinyworld" else "")
        for under, name in (("tinyworld", "TinyWorld"), ("35m", "35m"), ("sd15", "SD 1.5's widths"))
        for row, most in (("one concept", 1.05), ("three concepts", 1.15))
    ),
    Figure(says="A step of core Train LoRA takes longer than ours", page="residuals_step",
           row="Train LoRA |", column="of ours", least=1),
    Verdicts(says="LAG beside the plain LoRA", page="residuals_quality",
             under="What it means for the paper's claims", labels=2, column="here"),
    Verdicts(says="Rank, scope, class word and LAG's settings", page="residuals_ablations",
             under="What it means for the paper's claims", labels=2, column="here"),
    Exact(says="1,239,040 numbers on SD 1", tests=(
        "tests/unit/methods/test_personalized_residuals.py::test_sd1_learns_1239040_numbers",
        "tests/unit/training/test_adapters.py::test_residuals_of_sd1_have_1239040_parameters",
    )),
    Exact(says="Strength 0 is the base model bit for bit, a mask of ones the merged one", tests=(
        "tests/unit/attention/test_lag.py::test_no_strength_and_no_residual_are_the_base_model_bit_for_bit",
        "tests/unit/attention/test_lag.py::test_a_mask_of_ones_equals_the_merged_weights",
        "tests/host/test_lag.py::test_no_strength_and_no_residual_are_the_base_model_bit_for_bit",
        "tests/host/test_lag.py::test_a_mask_of_ones_equals_the_concept_in_the_weights",
        "tests/host/test_lag.py::test_half_of_every_map_is_the_concepts",
    )),
    Exact(says="The exported LoRA in core Load LoRA is LAG off", tests=(
        "tests/host/test_lag.py::test_the_exported_lora_in_load_lora_is_lag_off",
    )),
)  # fmt: skip

WEAVER = (
    *(
        Figure(says=f"A step with {n} concept(s): at most {most} of a plain one", page="weave_cost",
               row=f"{n} concepts |", column="of plain", most=most)
        for n, most in ((1, 1.2), (2, 1.3), (4, 1.5))
    ),
    Verdicts(says="The paper's claims", page="weave_quality",
             under="What this says of the paper's claims", labels=2, column="here"),
    Exact(says="Regions sum to exactly 1", tests=(
        "tests/unit/attention/test_regions.py::test_sums_are_exactly_one_at_every_size",
    )),
    Exact(says="One concept everywhere is that concept's model; lambda with equal features and "
           "thresholds of 0 change nothing", tests=(
        "tests/unit/methods/test_concept_weaver.py::test_one_concept_everywhere_is_that_concepts_own_model",
        "tests/unit/attention/test_fusion.py::test_equal_features_stay_whatever_lambda_is",
        "tests/unit/methods/test_concept_weaver.py::test_thresholds_of_zero_and_plain_regions_are_plain_sampling",
        "tests/host/test_weaver.py::test_thresholds_of_zero_and_plain_regions_are_plain_sampling",
    )),
    Exact(says="Templates come back with over 30 dB, the cache has the size that was told", tests=(
        "tests/unit/samplers/test_inversion.py::test_a_template_comes_back_on_tinyworld",
        "tests/unit/attention/test_injection.py::test_the_size_reported_is_the_size_kept",
    )),
)  # fmt: skip

CONCEPTLAB = (
    Figure(says="Encoding constraints in every step takes at least 1.3 of ours",
           page="conceptlab_step", row="encoded in every step", column="of ours", least=1.3),
    Verdicts(says="Adaptive negatives against", page="conceptlab_quality",
             under="Adaptive negatives against the others", labels=2, column="verdict"),
    Exact(says="Losses and gradients of the official program; its two faults avoided", tests=(
        "tests/parity/test_conceptlab.py::test_loss_and_gradient_are_the_official_ones",
        "tests/parity/test_conceptlab.py::test_official_evolution_compares_the_text_feature_and_half_of_it_is_constant",
        "tests/parity/test_conceptlab.py::test_ours_pools_each_row_at_its_own_end_token_where_the_official_one_errs",
    )),
    Exact(says="Prior, decoder and BLIP-2 of the real classes, end to end", tests=(
        "tests/unit/vision/test_local_models.py::test_a_decoder_draws_what_the_prior_imagines",
        "tests/unit/vision/test_local_models.py::test_blip2_answers_with_the_same_words_for_the_same_picture",
        "tests/host/test_conceptlab_unclip.py::test_the_priors_embedding_steers_an_unclip_checkpoint",
    )),
)  # fmt: skip

BOTH_HOSTS = (
    Exact(says="ComfyUI and diffusers agree: noise, maps, loss, gradients, pictures", tests=(
        "tests/host/test_tinyworld.py::test_both_hosts_predict_the_same_noise_with_the_same_maps",
        "tests/host/test_tinyworld.py::test_both_hosts_learn_alike",
        "tests/host/test_residual_nodes.py::test_a_concept_of_either_host_draws_the_same_in_the_other",
    )),
    Exact(says="The same seed gives the same bytes, cancelled and resumed or not", tests=(
        "tests/unit/methods/test_break_a_scene_runs.py::test_the_same_seed_gives_the_same_file",
        "tests/unit/methods/test_break_a_scene_runs.py::test_a_run_cancelled_at_every_report_gives_the_same_file",
        "tests/unit/methods/test_clic_runs.py::test_a_cancelled_run_goes_on_and_gives_the_same_file",
        "tests/host/test_nodes.py::test_the_same_seed_gives_the_same_file",
    )),
    Exact(says="Core nodes load what is exported and draw the same", tests=(
        "tests/host/test_export.py::test_load_lora_gives_the_concepts_picture",
        "tests/host/test_export.py::test_stock_embeddings_equal_the_handle",
    )),
    Exact(says="Importing the pack costs ComfyUI at most 0.3 s", tests=(
        "tests/host/test_node_schemas.py::test_the_pack_costs_a_start_of_comfyui_at_most_300_ms",
    )),
    Exact(says="A killed worker loses nothing, and nothing is done twice", tests=(
        "tests/unit/batch/test_cluster.py::test_a_killed_worker_loses_nothing_and_nothing_is_done_twice",
    )),
)  # fmt: skip

REAL_SIZES = (
    Verdicts(says="On a GPU, at real sizes", page="at_scale", under="Targets", labels=2, column=""),
)

CLAIMS: dict[str, tuple[Claim, ...]] = {
    "Break-A-Scene": BREAK_A_SCENE,
    "CLiC": CLIC,
    "Personalized Residuals and LAG": RESIDUALS,
    "Concept Weaver": WEAVER,
    "ConceptLab": CONCEPTLAB,
    "Both hosts": BOTH_HOSTS,
    "TinyWorld": (TINYWORLD,),
    "Torture": TORTURE,
    "Real sizes": REAL_SIZES,
}
