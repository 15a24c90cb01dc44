"""The transformers of V5 and V5.1, and where their tokens lie, as the original has them, in float32."""

import re

import torch

from support.pack import part
from support.parity import noise_in, predict
from support.recorded import RECORDED, cases, config_of, each, names, recorded, shapes_of

detection = part("easyanimate_models.model_detection")
mmdit = part("easyanimate_models.dit.mmdit")
rotary = part("easyanimate_models.dit.rotary")
ROPE, EIGHTH = "rope_tables/rope", 8  # pixels of a latent pixel
CASES = cases("MMDiT", "inputs.{}.hidden_states", "outputs.{}.sample")

CALL, GUIDED = re.compile(r"inputs_to_model\.call(\d+)\.hidden_states"), "outputs.guided_model_output_each_step"
TEXTS = {  # of runs, the negative prompt's first -> the transformer's inputs
    "inputs.text_embeds_neg_pos": "encoder_hidden_states",
    "inputs.bert_embeds_neg_pos": "encoder_hidden_states",
    "inputs.t5_embeds_neg_pos": "encoder_hidden_states_t5",
}


def calls() -> list[tuple[str, int]]:
    """Calls of a transformer in whole runs, of which all that it was given is recorded."""
    found = []
    for name in (run for run in names("run") if config_of(run)["transformer"] in names("MMDiT")):
        shapes = shapes_of(name)
        channels = config_of(config_of(name)["transformer"])["constructor"]["in_channels"]
        for call in sorted(int(match[1]) for match in map(CALL.fullmatch, shapes) if match):
            given = [
                s[1] for key, s in shapes.items() if key.startswith(f"inputs_to_model.call{call}.") and len(s) == 5
            ]
            if GUIDED in shapes and shapes.keys() & TEXTS.keys() and sum(given) == channels:
                found.append((name, call))
    return found


def tables() -> list[str]:
    """Recorded tables of rotary positions in three dimensions."""
    found = config_of(ROPE)["cases"] if (RECORDED / f"{ROPE}.json").exists() else {}
    return [case for case in found if case.startswith("3d")]


@each("name, case", CASES)
def test_a_transformer_predicts_the_recorded_velocity(load, agree, name, case):
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)["sample"]
    agree(name, case, "velocity", predict(load.network(name), inputs), noise_in(theirs, inputs))


@each("name, call", calls())
def test_the_network_alone_predicts_the_recorded_guided_velocity(load, agree, name, call):
    run = recorded(name)
    prefix, scale = f"inputs_to_model.call{call}.", run.config["guidance_scale"]
    inputs = {key.removeprefix(prefix): tensor for key, tensor in run.tensors.items() if key.startswith(prefix)}
    inputs |= {ours: run.tensors[key] for key, ours in TEXTS.items() if key in run.tensors}
    negative, positive = predict(load.network(run.config["transformer"]), inputs).chunk(2)
    agree(name, None, f"velocity of call {call}", negative + scale * (positive - negative), run.tensors[GUIDED][call])


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
