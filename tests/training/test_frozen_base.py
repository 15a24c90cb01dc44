"""A LoRA on a transformer that stays frozen in low precision: it learns nearly the same, and the base not at all."""

import pytest
import torch

from support.pack import part

sd = part("easyanimate_models.sd")
lora = part("easyanimate_models.training.denoiser.lora")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
objective = part("easyanimate_models.training.denoiser.objective")
journal = part("easyanimate_models.training.journal")
DenoiserRun = part("easyanimate_models.training.denoiser.run").DenoiserRun
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
TINY = part("easyanimate_models.files.model_files").TINY
PLAN = TrainingPlan(steps=3, learning_rate=3e-3, warmup=1, ema=0.5, clip=1.0, seed=3, schedule="constant")

pytestmark = pytest.mark.usefixtures("gradients")


def trained(folder, weight_dtype: str, checkpointing: bool = True) -> tuple[torch.Tensor, float, torch.dtype]:
    """The trained adapters, the loss of the first step, and the precision of the base, whose weights are as before."""
    torch.manual_seed(0)
    model = sd.load_transformer(TINY, weight_dtype=weight_dtype)
    weights = model.model.diffusion_model.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    batch = objective.Batch(torch.randn(2, 4, 2, 4, 4), torch.randn(2, 6, 32), torch.ones(2, 6))
    patcher, adapters = lora.add_adapters(model, lora.LoraSettings(rank=4, alpha=4))
    settings = objective.ObjectiveSettings(checkpointing=checkpointing)
    run = DenoiserRun(folder, PLAN, settings)
    lora_training.fit_adapters(patcher, adapters, lambda *_: batch, run, {})
    assert all(torch.equal(tensor.float(), before[name].float()) for name, tensor in weights.items())
    loss = float(journal.read_log(folder / "log.csv")[0]["loss"])
    up = torch.cat([adapter.up.detach().flatten() for adapter in adapters.values()])
    return up, loss, weights["transformer_blocks.0.attn1.to_q.weight"].dtype


@pytest.mark.parametrize("weight_dtype", ["bf16", "fp8_e4m3fn"])
def test_a_lora_learns_on_a_frozen_base_in_low_precision(weight_dtype, tmp_path):
    exact, loss, _ = trained(tmp_path / "fp32", "fp32")
    up, low, dtype = trained(tmp_path / weight_dtype, weight_dtype)
    assert dtype == sd.WEIGHT_DTYPES[weight_dtype]
    assert low == pytest.approx(loss, rel=0.1)
    assert torch.nn.functional.cosine_similarity(up, exact, dim=0) > 0.8
