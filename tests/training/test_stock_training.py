"""ComfyUI's own Train LoRA on this pack's MODEL: every algorithm that it has, into files that every loader reads."""

from pathlib import Path

import comfy.model_management as mm
import comfy.sd
import pytest
import torch
from comfy_extras.nodes_train import TrainLoraNode
from safetensors.torch import save_file

from support.components import predict
from support.mmdit import tiny_mmdit
from support.pack import part
from support.recorded import relative_error
from support.tiny_networks import random, tiny_transformer

load_lora = part("easyanimate_models.lora").load_lora
save_transformer = part("easyanimate_models.training.denoiser.transformer").save_transformer
sd = part("easyanimate_models.sd")
INPUTS = {given.id: given for given in TrainLoraNode.define_schema().inputs}
MODELS = {"V3": tiny_transformer, "V5.1": tiny_mmdit}
SETTINGS = {
    **{
        "batch_size": 2,
        "grad_accumulation_steps": 1,
        "steps": 3,
        "learning_rate": 0.01,
        "rank": 2,
        "optimizer": "AdamW",
    },
    **{"loss_function": "MSE", "seed": 0, "training_dtype": "fp32", "lora_dtype": "fp32", "existing_lora": "[None]"},
    "gradient_checkpointing": True,
}
NEWER = {  # inputs since 0.33
    **{"quantized_backward": False, "checkpoint_depth": 1, "offloading": False, "bucket_mode": False},
    "bypass_mode": False,
}

pytestmark = pytest.mark.usefixtures("gradients")


def loaded(model, folder: Path):
    """The same from a file, from which 0.33 makes the copy that it trains."""
    network = model.model.diffusion_model
    release = model.model.model_config
    save_transformer(folder / "transformer", network.state_dict(), network.config, release)
    return sd.load_transformer(folder, weight_dtype="fp32")


def trained(model, **changed) -> tuple[dict[str, torch.Tensor], list[float]]:
    """What the node learns of two videos, and the losses."""
    config = model.model.diffusion_model.config
    latents = [{"samples": random(1, config.latent_channels, 3, 8, 8, seed=seed)} for seed in (1, 2)]
    text = [[random(1, 5, config.caption_channels), {"attention_mask": torch.ones(1, 5)}]]
    settings = SETTINGS | {name: value for name, value in NEWER.items() if name in INPUTS} | changed
    torch.manual_seed(0)
    result = TrainLoraNode.execute(
        model=[model], latents=latents, positive=[text], **{name: [value] for name, value in settings.items()}
    ).result
    mm.unload_all_models()  # as the host does before it loads another clone
    learnt, losses = next(
        (first, second) for first, second in zip(result, result[1:], strict=False) if "loss" in second
    )
    return {name: tensor.detach().clone() for name, tensor in learnt.items()}, losses["loss"]


def ways() -> list[tuple[str, bool]]:
    """Every algorithm in the weights and, where the host can do so, beside them; LoHa has no such form in 0.33."""
    algorithms = INPUTS["algorithm"].options
    beside = [name for name in algorithms if name != "LoHa"] if "bypass_mode" in INPUTS else []
    return [*((name, False) for name in algorithms), *((name, True) for name in beside)]


@pytest.mark.parametrize(("algorithm", "bypass_mode"), ways())
@pytest.mark.parametrize("name", MODELS)
def test_every_algorithm_learns_and_its_file_loads(name, algorithm, bypass_mode, tmp_path):
    model, changed = loaded(MODELS[name](), tmp_path), {"bypass_mode": True} if bypass_mode else {}
    before = predict(model)
    weights = {key: tensor.clone() for key, tensor in model.model.state_dict().items()}
    learnt, losses = trained(model, algorithm=algorithm, **changed)
    assert len(losses) == SETTINGS["steps"] and all(loss == loss for loss in losses)
    layers = {key.rsplit(".", 1)[0] for key in learnt}
    assert sum("transformer_blocks" in layer for layer in layers) > 20
    file = tmp_path / "stock.safetensors"
    save_file({key: tensor.contiguous() for key, tensor in learnt.items()}, file)
    ours, stock = load_lora(file, model)[0], comfy.sd.load_lora_for_models(model, None, learnt, 1.0, 0.0)[0]
    assert relative_error(predict(ours), before) > 1e-4
    assert torch.equal(predict(ours), predict(stock))
    assert all(torch.equal(tensor, weights[key]) for key, tensor in model.model.state_dict().items())
