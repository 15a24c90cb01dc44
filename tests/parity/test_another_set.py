"""Names, rows, sizes and settings come from the recordings: another set can stand in, and wrong numbers fail."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from support import varied
from support.pack import TESTS
from support.recorded import GOLDEN, RECORDED

pytestmark = pytest.mark.skipif(RECORDED != GOLDEN, reason="this compares with another set already")
NOT_VARIED = {  # what the other set holds no recordings of
    "test_ddim_steps_as_recorded_but_for_clipping",
    "test_the_recorded_latents_decode_to_the_recorded_pixels",
    "test_a_run_whose_norms_see_two_values_can_not_be_followed",
    *("test_transformers", "test_v1_in_two_files_or_in_one", "test_the_v1_base_alone_is_an_image_model"),
    *("test_transformers_of_later_releases_are_named", "test_a_motion_module_alone_is_named"),
    *("test_vaes_of_later_releases_are_named", "test_t5", "test_the_image_encoder_has_the_weights_of_the_host_network"),
    *("test_another_recorded_set_stands_in", "test_other_numbers_fail"),
}


@pytest.fixture(scope="module")
def variation(tmp_path_factory) -> Path:
    """The other set."""
    folder = tmp_path_factory.mktemp("recorded")
    with torch.no_grad():
        varied.write_variation(folder)
    return folder


def compare(folder: Path) -> dict[str, set[str]]:
    """What `pytest parity` says of a recorded set: the names of tests by their outcome."""
    command = [sys.executable, "-m", "pytest", "parity", "-v", "-p", "no:cacheprovider"]
    variables = {**os.environ, "EASYANIMATE_GOLDEN": str(folder), "PYTEST_XDIST_WORKER": "another-set"}
    done = subprocess.run(command, cwd=TESTS, env=variables, capture_output=True, text=True, timeout=600)
    outcomes: dict[str, set[str]] = {"PASSED": set(), "FAILED": set(), "SKIPPED": set(), "ERROR": set()}
    for name, outcome in re.findall(r"::(\w+)\S*(?: \S+)* (PASSED|FAILED|SKIPPED|ERROR)", done.stdout):
        outcomes[outcome].add(name)
    assert outcomes["PASSED"], done.stdout[-2000:] + done.stderr[-2000:]
    return outcomes


def test_another_recorded_set_stands_in(variation):
    outcomes = compare(variation)
    assert outcomes["FAILED"] | outcomes["ERROR"] == set()
    assert outcomes["SKIPPED"] == NOT_VARIED


def change(folder: Path, name: str, **changed) -> None:
    """Other settings in the JSON of a recording."""
    file = folder / f"{name}.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_other_numbers_fail(variation, tmp_path):
    """Settings that aren't those of the recorded outputs, and outputs that are off by two thousandths."""
    folder = Path(shutil.copytree(variation, tmp_path / "wrong"))
    change(folder, varied.LORA, multiplier=1.1 * varied.MULTIPLIER)
    change(folder, varied.V1_RUN, guidance_scale=1.1 * varied.GUIDANCE)
    change(folder, varied.RUN, positive_row=1)
    for name in (varied.INP, varied.IMAGE_VAE, varied.SLICE_VAE, "v2_mag_vae/windows", varied.T5, varied.CLIP):
        tensors = load_file(folder / f"{name}.safetensors")
        wrong = {k: 1.002 * v if k.startswith("outputs.") else v for k, v in tensors.items()}
        save_file(wrong, folder / f"{name}.safetensors")
    assert compare(folder)["FAILED"] >= {
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
