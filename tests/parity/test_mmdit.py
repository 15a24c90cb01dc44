"""The transformers of V5 and V5.1, and where their tokens lie, as the original has them, in float32."""

import torch

from support.pack import part
from support.parity import noise_in, predict
from support.recorded import RECORDED, cases, config_of, each, names, recorded

detection = part("easyanimate_models.model_detection")
mmdit = part("easyanimate_models.dit.mmdit")
rotary = part("easyanimate_models.dit.rotary")
ROPE, EIGHTH = "rope_tables/rope", 8  # pixels of a latent pixel
CASES = cases("MMDiT", "inputs.{}.hidden_states", "outputs.{}.sample")


def tables() -> list[str]:
    """Recorded tables of rotary positions in three dimensions."""
    found = config_of(ROPE)["cases"] if (RECORDED / f"{ROPE}.json").exists() else {}
    return [case for case in found if case.startswith("3d")]


@each("name, case", CASES)
def test_a_transformer_predicts_the_recorded_velocity(load, agree, name, case):
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)["sample"]
    agree(name, case, "velocity", predict(load.network(name), inputs), noise_in(theirs, inputs))


@each("name", names("MMDiT"))
def test_a_transformer_holds_the_recorded_weights(load, name):
    weights = load.network(name).state_dict()
    assert set(weights) == set(recorded(name).weights)
    assert all(torch.equal(weights[key], tensor) for key, tensor in recorded(name).weights.items())


@each("case", tables())
def test_tokens_lie_where_the_recorded_tables_say(case):
    size, rows = config_of(ROPE)["cases"][case], recorded(ROPE).inputs(case)["token_index"]
    sides = (size[side] // EIGHTH // size["patch_size"] for side in ("pixel_height", "pixel_width"))
    height, width = rotary.fitted(*sides, mmdit.BASE_ROWS, mmdit.BASE_COLUMNS)
    dims = tuple(size["head_dim"] * share // 8 for share in (2, 3, 3))
    turned = rotary.rotations((rotary.Span(0, 1, size["latent_frames"]), height, width), dims, torch.device("cpu"))
    assert turned.shape[1] == size["n_tokens"]
    cosines, sines = turned[0, rows, 0, :, 0, 0], turned[0, rows, 0, :, 1, 0]
    recorded_tables = recorded(ROPE).outputs(case)
    for ours, theirs in ((cosines, recorded_tables["cos"]), (sines, recorded_tables["sin"])):
        torch.testing.assert_close(ours.repeat_interleave(2, dim=-1), theirs, rtol=0, atol=1e-5)
