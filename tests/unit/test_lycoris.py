"""LoHa, LoKr, DoRA and OFT files: what a weight becomes by their definition, in our loader and the stock one."""

import comfy.sd
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.components import Patched
from support.loras import linears
from support.mmdit import tiny_mmdit
from support.pack import part
from support.tiny_networks import tiny_transformer

lora = part("easyanimate_models.lora")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError
MODELS = {"V3": tiny_transformer, "V5.1": tiny_mmdit}
RANK, ALPHA, STRENGTH = 3, 1.5, 0.7
NAMINGS = {
    "diffusion_model.": lambda layer: layer,  # of the host, which the stock loader reads
    "lycoris_": lambda layer: layer.replace(".", "_"),
}


def drawn(rng: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng) * 0.3


def loha(weight, rng):
    (rows, columns), r = weight.shape, RANK
    a, b, c, d = drawn(rng, rows, r), drawn(rng, r, columns), drawn(rng, rows, r), drawn(rng, r, columns)
    tensors = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d, "alpha": torch.tensor(ALPHA)}
    return tensors, weight + STRENGTH * ALPHA / RANK * (a @ b) * (c @ d)


def lokr(weight, rng):
    """The second factor is of low rank, which alpha is for."""
    rows, columns = weight.shape[0] // 2, weight.shape[1] // 2
    first, a, b = drawn(rng, 2, 2), drawn(rng, rows, RANK), drawn(rng, RANK, columns)
    tensors = {"lokr_w1": first, "lokr_w2_a": a, "lokr_w2_b": b, "alpha": torch.tensor(ALPHA)}
    return tensors, weight + STRENGTH * ALPHA / RANK * torch.kron(first, a @ b)


def whole_lokr(weight, rng):
    first, second = drawn(rng, 2, 2), drawn(rng, weight.shape[0] // 2, weight.shape[1] // 2)
    tensors = {"lokr_w1": first, "lokr_w2": second, "alpha": torch.tensor(ALPHA)}
    return tensors, weight + STRENGTH * torch.kron(first, second)


def dora(weight, rng):
    """Magnitudes of the inputs, as LyCORIS saves them: the sum has columns of these lengths."""
    up, down = drawn(rng, weight.shape[0], RANK), drawn(rng, RANK, weight.shape[1])
    lengths = drawn(rng, 1, weight.shape[1]).abs() + 1
    changed = weight + ALPHA / RANK * up @ down
    changed = changed / changed.norm(dim=0, keepdim=True) * lengths
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": lengths, "alpha": torch.tensor(ALPHA)}
    return tensors, weight + STRENGTH * (changed - weight)


def dora_of_outputs(weight, rng):
    """Magnitudes of the outputs, as PEFT has them; the host divides by the lengths of the rows before the change."""
    up, down = drawn(rng, weight.shape[0], RANK), drawn(rng, RANK, weight.shape[1])
    lengths = drawn(rng, weight.shape[0], 1).abs() + 1
    changed = (weight + ALPHA / RANK * up @ down) / weight.norm(dim=1, keepdim=True) * lengths
    tensors = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": lengths, "alpha": torch.tensor(ALPHA)}
    return tensors, weight + STRENGTH * (changed - weight)


KINDS = {"LoHa": loha, "LoKr": lokr, "LoKr, whole": whole_lokr, "DoRA": dora, "DoRA of outputs": dora_of_outputs}


@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MODELS)
def test_every_linear_layer_becomes_what_the_file_says(name, kind, naming, tmp_path, caplog):
    model, tensors, expected = MODELS[name](), {}, {}
    rng = torch.Generator().manual_seed(0)
    for layer, weight in linears(model).items():
        made, expected[layer] = KINDS[kind](weight.clone(), rng)
        tensors |= {f"{naming}{NAMINGS[naming](layer)}.{key}": tensor for key, tensor in made.items()}
    file = tmp_path / "file.safetensors"
    save_file(tensors, file)
    loaded = [lora.load_lora(file, model, strength_model=STRENGTH)[0]]
    if naming == "diffusion_model.":
        loaded.append(comfy.sd.load_lora_for_models(model, None, load_file(file), STRENGTH, 0.0)[0])
    for patcher in loaded:
        with Patched(patcher):
            for layer, weight in linears(patcher).items():
                assert torch.allclose(weight, expected[layer], atol=1e-5), layer
    assert "ERROR" not in caplog.text and "do not match" not in caplog.text


@pytest.mark.parametrize("kind", ["LoHa", "LoKr", "LoKr, whole"])
def test_a_file_of_another_size_is_an_error(kind, tmp_path):
    """The host would log a line for each layer whenever it samples, and leave all as it was."""
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for layer in linears(tiny_transformer()):
        made, _ = KINDS[kind](torch.zeros(10, 6), rng)
        tensors |= {f"diffusion_model.{layer}.{key}": tensor for key, tensor in made.items()}
    save_file(tensors, tmp_path / "file.safetensors")
    with pytest.raises(CheckpointError, match="none of its"):
        lora.load_lora(tmp_path / "file.safetensors", tiny_transformer())


@pytest.mark.parametrize("name", MODELS)
def test_oft_turns_the_rows_of_weights(name, tmp_path):
    """By a rotation of each block of rows (Cayley), so that their lengths stay."""
    model, tensors, expected, size = MODELS[name](), {}, {}, 4
    rng = torch.Generator().manual_seed(0)
    for layer, weight in linears(model).items():
        blocks = drawn(rng, weight.shape[0] // size, size, size)
        skew, one = blocks - blocks.transpose(1, 2), torch.eye(size)
        turned = ((one + skew) @ torch.linalg.inv(one - skew)).transpose(1, 2) @ weight.view(-1, size, weight.shape[1])
        expected[layer] = turned.reshape(weight.shape)
        tensors[f"diffusion_model.{layer}.oft_blocks"] = blocks
    file = tmp_path / "file.safetensors"
    save_file(tensors, file)
    stock = comfy.sd.load_lora_for_models(model, None, load_file(file), 1.0, 0.0)[0]
    for patcher in (lora.load_lora(file, model)[0], stock):
        with Patched(patcher):
            for layer, weight in linears(patcher).items():
                assert torch.allclose(weight, expected[layer], atol=1e-4), layer
