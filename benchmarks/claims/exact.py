"""Exact claims: tests by "file::name", in every case that they are run with, by topic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """A claim and the tests that prove it."""

    says: str
    tests: tuple[str, ...]


EXACT: dict[str, tuple[Exact, ...]] = {
    "Break-A-Scene": (
        Exact(says="Losses and gradients of the official program, to 1e-5", tests=(
            "tests/parity/test_break_a_scene.py::test_losses_and_gradients_are_those_of_the_official_program",
            "tests/parity/test_break_a_scene.py::test_a_step_of_the_loop_leaves_the_handles_where_the_official_one_does",
        )),
    ),
    "CLiC": (
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
    ),
    "Personalized Residuals and LAG": (
        Exact(says="1,239,040 numbers on SD 1", tests=(
            "tests/unit/methods/test_personalized_residuals.py::test_sd1_learns_1239040_numbers",
            "tests/unit/training/test_adapters.py::test_residuals_of_sd1_have_1239040_parameters",
        )),
        Exact(says="Strength 0 is the base model bit for bit, a mask of ones the merged one",
              tests=(
            "tests/unit/attention/test_lag.py::test_no_strength_and_no_residual_are_the_base_model_bit_for_bit",
            "tests/unit/attention/test_lag.py::test_a_mask_of_ones_equals_the_merged_weights",
            "tests/host/test_lag.py::test_no_strength_and_no_residual_are_the_base_model_bit_for_bit",
            "tests/host/test_lag.py::test_a_mask_of_ones_equals_the_concept_in_the_weights",
            "tests/host/test_lag.py::test_half_of_every_map_is_the_concepts",
        )),
        Exact(says="The exported LoRA in core Load LoRA is LAG off", tests=(
            "tests/host/test_lag.py::test_the_exported_lora_in_load_lora_is_lag_off",
        )),
    ),
    "Localised LoRAs": (
        Exact(says="Under a mask of ones core's Load LoRA, under zeros the base model bit for bit, "
              "in ten kinds of files", tests=(
            "tests/host/test_local_lora.py::test_a_mask_of_ones_is_core_load_lora",
            "tests/host/test_local_lora.py::test_a_mask_of_zeros_is_the_base_model_bit_for_bit",
            "tests/host/test_local_formats.py::test_ones_are_core_load_lora_and_zeros_the_base",
        )),
        Exact(says="Every kind of entry adds what core adds, at any strength and mask", tests=(
            "tests/host/test_lora_formats.py::test_entries_add_what_core_adds",
            "tests/host/test_lora_formats.py::test_a_mask_of_numbers_mixes_both_weights",
        )),
        Exact(says="The order of nodes changes nothing", tests=(
            "tests/host/test_local_lora.py::test_the_order_of_nodes_does_not_matter",
            "tests/host/test_imported_lora.py::test_the_order_beside_apply_lag_does_not_matter",
        )),
        Exact(says="Imported as a concept and applied, a LoRA file is core's Load LoRA", tests=(
            "tests/host/test_imported_lora.py::test_applied_it_is_load_lora",
            "tests/host/test_imported_lora.py::test_a_lokr_applies_as_core_applies_it",
        )),
        Exact(says="ComfyUI and diffusers predict the same", tests=(
            "tests/host/test_local_company.py::test_both_hosts_predict_the_same",
        )),
    ),
    "Anima": (
        Exact(says="ComfyUI and diffusers agree: contexts, velocity, maps, edits, loss, gradients",
              tests=(
            "tests/host/test_anima.py::test_contexts_and_tokens_are_the_same",
            "tests/host/test_anima.py::test_velocity_is_the_same_in_both_hosts",
            "tests/host/test_anima.py::test_maps_are_the_same_and_tell_shares_among_words",
            "tests/host/test_anima.py::test_edits_of_every_layer_are_the_same",
            "tests/host/test_anima_training.py::test_losses_and_gradients_are_the_same_in_both_hosts",
        )),
        Exact(says="Velocity is that of ComfyUI's own sampler", tests=(
            "tests/host/test_anima.py::test_velocity_is_what_the_hosts_own_sampler_computes",
        )),
        Exact(says="A localised LoRA under ones is the merged one, under zeros the base model "
              "bit for bit", tests=(
            "tests/host/test_anima_loras.py::test_a_mask_of_ones_is_the_merged_model",
            "tests/host/test_anima_loras.py::test_a_mask_of_zeros_is_the_base_model_bit_for_bit",
        )),
        Exact(says="LAG under a mask of ones is the concept in the weights", tests=(
            "tests/host/test_anima_concepts.py::test_lag_under_a_mask_of_ones_is_the_concept_in_the_weights",
            "tests/host/test_anima_concepts.py::test_lag_is_the_same_in_both_hosts",
        )),
        Exact(says="Checkpointing changes no gradient; core reads the exported LoRA", tests=(
            "tests/host/test_anima_training.py::test_checkpointing_changes_no_gradient",
            "tests/host/test_anima_training.py::test_an_exported_lora_is_read_by_core_and_by_us",
        )),
    ),
    "Z-Image and Krea 2": (
        Exact(says="ComfyUI and diffusers agree: velocity, maps, masks, two localised LoRAs",
              tests=(
            "tests/host/test_single_stream.py::test_prediction_is_the_hosts",
            "tests/host/test_single_stream.py::test_prediction_is_that_of_diffusers",
            "tests/host/test_joint.py::test_attention_to_words_is_the_same_in_both_hosts",
            "tests/host/test_joint.py::test_found_masks_are_the_same_in_both_hosts",
            "tests/host/test_joint.py::test_two_loras_are_the_same_in_both_hosts",
        )),
        Exact(says="A localised LoRA under ones is the merged one, under zeros the base model "
              "bit for bit", tests=(
            "tests/host/test_joint.py::test_ones_are_the_merged_lora",
            "tests/host/test_joint.py::test_zeros_are_the_base_model",
            "tests/host/test_single_local.py::test_ones_are_core_s_own_merge",
            "tests/host/test_single_local.py::test_zeros_are_the_base_model",
        )),
    ),
    "Concept Weaver": (
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
        Exact(says="Templates come back with over 30 dB, the cache has the reported size", tests=(
            "tests/unit/samplers/test_inversion.py::test_a_template_comes_back_on_tinyworld",
            "tests/unit/attention/test_injection.py::test_the_size_reported_is_the_size_kept",
        )),
    ),
    "ConceptLab": (
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
    ),
    "Both hosts": (
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
    ),
}  # fmt: skip
