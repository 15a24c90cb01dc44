"""A release that only this file knows of: a network, a release and a detector, and everything else works with it."""

from dataclasses import asdict, dataclass

import comfy.model_base
import comfy.sd
import pytest
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import nn

from support.components import one_step, predict, write_component
from support.pack import part
from support.recorded import relative_error
from support.tiny_networks import random, randomise

sd = part("easyanimate_models.sd")
lora = part("easyanimate_models.training.denoiser.lora")
load_lora = part("easyanimate_models.lora").load_lora
dataset = part("easyanimate_models.training.clips.dataset")
data_settings = part("easyanimate_models.training.clips.settings")
latent_formats = part("easyanimate_models.latent_formats")
model_base = part("easyanimate_models.model_base")
model_detection = part("easyanimate_models.model_detection")
node_run = part("easyanimate_models.training.node_run")
probes = part("easyanimate_models.model_detection.probes")
schedules = part("easyanimate_models.sampling.schedules")
supported_models = part("easyanimate_models.supported_models")
t5 = part("easyanimate_models.text_encoders.t5")
TINY = part("easyanimate_models.files.model_files").TINY
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan


@dataclass(frozen=True)
class PixelMLPConfig:
    """One network of `PixelMLP`."""

    width: int
    in_channels: int = 4
    latent_channels: int = 4
    caption_channels: int = 32
    depth: int = 2


class PixelMLP(nn.Module):
    """Looks at every latent pixel by itself, and at the mean of the text."""

    def __init__(self, config: PixelMLPConfig, dtype=None, device=None, operations=None):
        super().__init__()
        self.config, self.dtype = config, dtype
        leaf = {"dtype": dtype, "device": device}
        self.pixels_in = operations.Linear(config.in_channels, config.width, **leaf)
        self.text_in = operations.Linear(config.caption_channels, config.width, **leaf)
        self.blocks = nn.ModuleList(operations.Linear(config.width, config.width, **leaf) for _ in range(config.depth))
        self.pixels_out = operations.Linear(config.width, config.latent_channels, **leaf)

    def forward(self, x, timestep, context, **_):
        tokens = self.pixels_in(rearrange(x, "b c f h w -> b (f h w) c"))
        tokens = tokens + self.text_in(context).mean(dim=1, keepdim=True) * timestep.view(-1, 1, 1) / 1000
        for block in self.blocks:
            tokens = tokens + torch.tanh(block(tokens))
        _, _, f, h, w = x.shape
        return rearrange(self.pixels_out(tokens), "b (f h w) c -> b c f h w", f=f, h=h, w=w)


class EasyAnimateV9(supported_models.Release):
    """A release that predicts noise, with V3's latents and T5."""

    network = PixelMLP
    config_json = staticmethod(asdict)
    model_class = model_base.VideoModel
    prediction = comfy.model_base.ModelType.EPS
    noise_levels = schedules.LinearNoiseLevels
    schedule = schedules.DiscreteSchedule()
    sampling_settings = supported_models.MotionRelease.sampling_settings
    text_encoder = t5.T5TextEncoder
    latent_format = latent_formats.SliceLatents
    vae = supported_models.EasyAnimateV3.vae
    adapted = "blocks."
    trained = ("blocks.",)
    memory_usage_factor = 0.1


def detect_pixel_mlp(checkpoint):
    """Width and depth are what the tensors show."""
    width = checkpoint.tensors["pixels_in.weight"].shape[0]
    return EasyAnimateV9(PixelMLPConfig(width, depth=probes.count(checkpoint, "blocks.")))


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A transformer folder of the release, which the loaders know of while this test runs."""
    detector = probes.Detector((("pixels_in.weight", 2), ("text_in.weight", 2)), detect_pixel_mlp)
    monkeypatch.setattr(model_detection, "TRANSFORMERS", [detector, *model_detection.TRANSFORMERS])
    config = PixelMLPConfig(width=16)
    network = PixelMLP(config, operations=torch.nn)
    randomise(network)
    return write_component(tmp_path / "v9" / "transformer", network.state_dict(), asdict(config))


@pytest.fixture(scope="module")
def encoders():
    """The built-in text encoder and VAE."""
    return sd.load_text_encoder(TINY), sd.load_vae(TINY)


def test_it_loads_and_samples(folder):
    model = sd.load_transformer(folder.parent)
    assert type(model.model.model_config) is EasyAnimateV9
    x, context = random(1, 4, 3, 8, 8), random(1, 6, 32, seed=1)
    network = PixelMLP(PixelMLPConfig(width=16), operations=torch.nn)
    network.load_state_dict(load_file(folder / "diffusion_pytorch_model.safetensors"))
    assert torch.allclose(
        model.model.diffusion_model(x, torch.tensor([500.0]), context), network(x, torch.tensor([500.0]), context)
    )
    assert one_step(model).isfinite().all()


def test_it_is_saved_by_the_host_and_comes_back(folder, tmp_path):
    model, saved = sd.load_transformer(folder), tmp_path / "saved.safetensors"
    comfy.sd.save_checkpoint(str(saved), model, metadata={})
    assert torch.equal(predict(sd.load_transformer(saved)), predict(model))


def test_a_lora_is_trained_for_it_and_loads(folder, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(node_run, "_paths", lambda name, _: (tmp_path / f"{name}.safetensors", tmp_path / name))
    model, (clip, vae) = sd.load_transformer(folder), encoders
    clips = dataset.in_memory([torch.rand(8, 32, 32, 3) for _ in range(3)], ["a red ball", "a blue ball", "a box"])
    plan = TrainingPlan(steps=2, learning_rate=1e-2, warmup=0, ema=0.0, clip=1.0, seed=3, schedule="constant")
    data = data_settings.DataSettings(side=32, frames=8, batch=2)
    job = node_run.TrainingJob("new", model, clip, vae, clips, data, plan)
    with torch.inference_mode():
        result = node_run.train_lora(job, lora.LoraSettings(rank=4, alpha=4), "original")
    assert {key.split(".")[0] for key in load_file(result.file)} == {"lora_unet__blocks_0", "lora_unet__blocks_1"}
    assert relative_error(one_step(result.model), one_step(model)) > 1e-5
    assert torch.equal(one_step(load_lora(result.file, sd.load_transformer(folder))[0]), one_step(result.model))


def test_it_says_that_it_has_no_motion_modules(folder, encoders, tmp_path, monkeypatch):
    monkeypatch.setattr(node_run, "_paths", lambda name, *_: (tmp_path / f"{name}.safetensors", tmp_path / name))
    model, (clip, vae) = sd.load_transformer(folder), encoders
    clips = dataset.in_memory([torch.rand(8, 32, 32, 3)], ["a red ball"])
    plan = TrainingPlan(steps=1, learning_rate=1e-2, warmup=0, ema=0.0, clip=1.0, seed=3, schedule="constant")
    job = node_run.TrainingJob("new", model, clip, vae, clips, data_settings.DataSettings(32, 8), plan)
    with torch.inference_mode(), pytest.raises(ValueError, match="no separate motion modules; train a LoRA"):
        node_run.train_motion_module(job)
