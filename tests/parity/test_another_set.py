"""Names, rows, sizes and settings come from the recordings: another set can stand in, and wrong numbers fail."""

import os
import re
import subprocess
import sys

import pytest
import torch

from support import varied
from support.pack import TESTS
from support.recorded import GOLDEN, RECORDED

pytestmark = pytest.mark.skipif(RECORDED != GOLDEN, reason="this compares with another set already")
NOT_VARIED = {  # what the other set holds no recordings of
    "test_ddim_steps_as_recorded",
    "test_a_run_from_pure_noise_is_followed_closely",
    "test_the_recorded_latents_decode_to_the_recorded_pixels",
    "test_a_run_whose_norms_see_two_values_can_not_be_followed",
    *("test_transformers", "test_v1_in_two_files_or_in_one", "test_the_v1_base_alone_is_an_image_model"),
    "test_a_motion_module_alone_is_named",
    *("test_a_transformer_predicts_the_recorded_velocity", "test_a_transformer_holds_the_recorded_weights"),
    "test_the_network_alone_predicts_the_recorded_guided_velocity",
    *("test_tokens_lie_where_the_recorded_tables_say", "test_transformers_of_v5_and_v51"),
    *("test_t5", "test_the_image_encoder_has_the_weights_of_the_host_network"),
    *("test_released_files_of_hunyuan_dit", "test_a_config_that_belongs_to_another_model", "test_half_a_file"),
    "test_hunyuan_dit_predicts_the_recorded_velocity",
    *("test_maps_of_recorded_poses", "test_what_the_network_is_given"),
    *("test_qwen2_vl_gives_the_recorded_hidden_states", "test_bert_and_mt5"),
    *("test_mt5_alone_is_not_taken_for_t5", "test_bert_changes_as_recorded"),
    *("test_bert_gives_the_recorded_hidden_states", "test_mt5_gives_the_recorded_hidden_states"),
    *("test_another_recorded_set_stands_in", "test_wrong_numbers_fail"),
}
NOTICE = {  # of the tests that compare with a wrong recording
    "test_a_transformer_predicts_the_recorded_noise",
    "test_an_image_vae_takes_every_frame_as_recorded",
    "test_a_video_vae_encodes_to_the_recorded_posterior",
    "test_a_video_vae_decodes_to_the_recorded_pixels",
    "test_tiles_meet_as_recorded",
    "test_t5_gives_the_recorded_hidden_states_under_its_mask",
    "test_the_image_encoder_gives_the_recorded_embedding",
    "test_the_output_is_that_of_the_original",
    "test_the_text_encoder_changes_as_recorded",
    "test_every_step_follows_the_recorded_latents",
    "test_the_run_ends_in_the_recorded_video",
    "test_the_network_alone_predicts_the_recorded_guided_noise",
}


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> list[tuple[str, str, str]]:
    """(test, its parameters, outcome) of `pytest parity` on another set, with wrong recordings in it."""
    folder = tmp_path_factory.mktemp("recorded")
    with torch.no_grad():
        varied.write_variation(folder)
        varied.write_wrong(folder)
    command = [sys.executable, "-m", "pytest", "parity", "-v", "--tb=no", "-p", "no:cacheprovider"]
    variables = {**os.environ, "EASYANIMATE_GOLDEN": str(folder), "PYTEST_XDIST_WORKER": "another-set"}
    done = subprocess.run(command, cwd=TESTS, env=variables, capture_output=True, text=True, timeout=600)
    found = re.findall(r"::(\w+)(?:\[(.*)\])? (PASSED|FAILED|SKIPPED|ERROR)\b", done.stdout)
    assert found, done.stdout[-2000:] + done.stderr[-2000:]
    return found


def test_another_recorded_set_stands_in(outcomes):
    right = [(test, outcome) for test, parameters, outcome in outcomes if "wrong" not in parameters]
    assert {test for test, outcome in right if outcome == "SKIPPED"} == NOT_VARIED
    assert {test for test, outcome in right if outcome not in ("PASSED", "SKIPPED")} == set()


def test_wrong_numbers_fail(outcomes):
    assert {test for test, _, outcome in outcomes if outcome == "FAILED"} >= NOTICE
