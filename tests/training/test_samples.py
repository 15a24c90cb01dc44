"""Samples while training: by the host's sampler, from the weights so far, and without any effect on the run."""

from dataclasses import replace
from pathlib import Path

import comfy.model_management as mm
import pytest
import torch
from PIL import Image

from support.pack import part
from support.recorded import relative_error
from support.tiny_networks import tiny_release_vae

given_inputs = part("easyanimate_models.training.clips.given_inputs")
GivenFrames = given_inputs.GivenFrames
inpainting = part("easyanimate_models.conditioning.inpainting")
samples = part("easyanimate_models.training.samples")
lora = part("easyanimate_models.training.denoiser.lora")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
DenoiserRun = part("easyanimate_models.training.denoiser.run").DenoiserRun
data_settings = part("easyanimate_models.training.clips.settings")
transformer_run = part("easyanimate_models.training.denoiser.transformer")
encoded = part("easyanimate_models.training.clips.latent_cache")
buckets = part("easyanimate_models.training.clips.buckets")
dataset = part("easyanimate_models.training.clips.dataset")
sd = part("easyanimate_models.sd")
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
model_files = part("easyanimate_models.files.model_files")
TINY, INP = model_files.TINY, model_files.TINY / "transformer_inp"
PLAN = TrainingPlan(steps=4, learning_rate=3e-3, warmup=1, ema=0.5, clip=1.0, seed=3, schedule="constant")
DATA = data_settings.DataSettings(side=32, frames=8, batch=1)
WANTED = samples.SampleSettings(every=2, prompt="a red ball", steps=2, side=32, frames=8)
NAMES = [f"step_{step:06d}.webp" for step in (2, 4)]


class Stop(Exception):
    pass


@pytest.fixture(scope="module")
def found(encoders, tmp_path_factory):
    """A data set of one clip, for both kinds of model."""
    clip, vae = encoders
    items = dataset.in_memory([torch.rand(8, 32, 32, 3)], ["a red ball"])
    sorted_clips = buckets.sort_into_buckets(items, DATA.side, DATA.frames)
    with torch.inference_mode():
        return encoded.encode_dataset(tmp_path_factory.mktemp("set"), sorted_clips, vae, clip, given=GivenFrames())


def taught(kind: str, found, folder: Path, monitor) -> dict[str, torch.Tensor]:
    """What has been learnt, as a node or a recipe learns it."""
    model, run = sd.load_transformer(INP), DenoiserRun(folder, PLAN, monitor=monitor)
    with torch.inference_mode():  # as the host runs nodes
        if kind == "lora":
            return lora.host_names(lora_training.train_adapters(model, found, DATA, lora.LoraSettings(2, 2), run))
        settings = transformer_run.TransformerSettings(kind)
        return transformer_run.train_transformer(model, found, DATA, settings, run).state_dict()


@pytest.mark.parametrize("kind", ["lora", "motion"])
def test_a_run_with_samples_learns_the_same_bit_by_bit(kind, found, encoders, tmp_path):
    shown = []
    subject = samples.preview_inputs(
        WANTED, DATA, *encoders, GivenFrames(), lambda done, sheet: shown.append((done, sheet.width))
    )
    without = taught(kind, found, tmp_path / "without", samples.NO_MONITOR)
    looked_at = taught(kind, found, tmp_path / "with", samples.Monitor(preview=subject))
    assert looked_at.keys() == without.keys() and all(torch.equal(looked_at[k], without[k]) for k in without)
    assert [done for done, width in shown if width > 100] == [2, 4]
    assert sorted(file.name for file in (tmp_path / "with" / "samples").iterdir()) == NAMES
    for name in NAMES:
        with Image.open(tmp_path / "with" / "samples" / name) as video:
            assert (video.size, video.n_frames) == ((32, 32), 8)


def test_a_sample_shows_what_has_been_learnt(found, encoders, tmp_path):
    """Not the last weights but their average, which is what would be saved."""
    latents = []
    subject = samples.preview_inputs(WANTED, DATA, *encoders, GivenFrames())
    made = samples.sample_latents

    def noted(model, *given):
        latents.append(made(model, *given).clone())
        return latents[-1]

    patch = pytest.MonkeyPatch()
    patch.setattr(samples, "sample_latents", noted)
    weights = taught("lora", found, tmp_path, samples.Monitor(preview=subject))
    patch.undo()
    patcher, adapters = lora.add_adapters(sd.load_transformer(INP), lora.LoraSettings(2, 2))
    texts = subject.positives[0], subject.negative
    before = made(patcher, texts, subject.empty, WANTED)
    for path, adapter in adapters.items():
        for part_of in ("up", "down"):
            name = f"diffusion_model.{path.replace('/', '.')}.lora_{part_of}.weight"
            getattr(adapter, part_of).data.copy_(weights[name])
    after = made(patcher, texts, subject.empty, WANTED)
    assert relative_error(latents[-1], after) < 1e-3  # the file is in half precision
    assert relative_error(latents[-1], before) > 1e-2


def test_stopped_in_a_sample_it_is_made_when_the_run_goes_on(found, encoders, tmp_path, monkeypatch):
    subject = samples.preview_inputs(WANTED, DATA, *encoders, GivenFrames())
    made, counted = samples.sample_latents, []

    def stopped(*given):
        raise Stop

    def count(*given):
        counted.append(len(counted))
        return made(*given)

    monkeypatch.setattr(samples, "sample_latents", stopped)
    with pytest.raises(Stop):
        taught("lora", found, tmp_path, samples.Monitor(preview=subject))
    assert (tmp_path / "state.pt").exists() and not (tmp_path / "samples").exists()
    monkeypatch.setattr(samples, "sample_latents", count)
    again = taught("lora", found, tmp_path, samples.Monitor(preview=subject))
    assert len(counted) == 2 and sorted(file.name for file in (tmp_path / "samples").iterdir()) == NAMES
    taught("lora", found, tmp_path, samples.Monitor(preview=subject))
    assert len(counted) == 2
    whole = taught("lora", found, tmp_path / "whole", samples.NO_MONITOR)
    assert all(torch.equal(again[k], whole[k]) for k in whole)


def test_the_network_in_training_is_not_copied_moved_or_changed(encoders, tmp_path):
    model = sd.load_transformer(INP)
    with torch.enable_grad():
        network = transformer_run.trainable_network(model, transformer_run.TransformerSettings("motion"))
        as_host_model = transformer_run.as_model(network, model)
        assert as_host_model.model.diffusion_model is network
        before = {name: (p.data_ptr(), p.requires_grad) for name, p in network.named_parameters()}
        rng_state = torch.get_rng_state()
        subject = samples.preview_inputs(WANTED, DATA, *encoders, GivenFrames())
        samples.VideoSampler(subject, as_host_model, tmp_path, mm.unload_all_models).preview(2)
    assert torch.equal(torch.get_rng_state(), rng_state)
    assert {name: (p.data_ptr(), p.requires_grad) for name, p in network.named_parameters()} == before
    assert all(p.grad is None for p in network.parameters())


def test_each_prompt_has_its_video_in_the_size_that_is_asked_for(encoders, tmp_path):
    wanted = replace(WANTED, prompts=("a box", " "), width=48, height=32, steps=1)
    subject = samples.preview_inputs(wanted, DATA, *encoders, GivenFrames())
    sampler = samples.VideoSampler(subject, sd.load_transformer(INP), tmp_path, lambda: None)
    assert sampler.is_due(2)
    sheet = sampler.preview(2)
    files = [tmp_path / "samples" / f"step_000002_{number}.webp" for number in (1, 2)]
    assert [Image.open(file).size for file in files] == [(48, 32)] * 2 and not sampler.is_due(2)
    assert files[0].read_bytes() != files[1].read_bytes() and sheet.height > sheet.width / 6
    files[0].unlink()
    assert sampler.is_due(2)


def test_samples_start_from_an_image_where_the_transformer_can(encoders):
    clip, vae = encoders
    image = torch.rand(1, 20, 30, 3)
    subject = samples.preview_inputs(WANTED, DATA, clip, vae, GivenFrames(), start=samples.StartImage(image))
    given = subject.positives[0][0][1]["concat_latent_image"]
    expected = inpainting.inpaint_latents(vae, *inpainting.given_frames(8, 32, 32, image, None))
    assert relative_error(given, expected) < 1e-5 and torch.equal(given, subject.negative[0][1]["concat_latent_image"])
    with pytest.raises(ValueError, match="can't start samples from an image; remove the image of the samples"):
        samples.preview_inputs(WANTED, DATA, clip, vae, given_inputs.TEXT_ONLY, start=samples.StartImage(image))
    for reference in (given_inputs.GivenControl(with_reference=True), given_inputs.GivenCamera()):
        made = reference.start(tiny_release_vae("V5.1"), (3, 4, 4), image)["concat_latent_image"]
        assert made.shape == (1, 32, 3, 4, 4) and made[:, 16:, :1].any() and not made[:, :16].any()


def test_nothing_is_made_where_nothing_is_wanted(encoders):
    assert samples.preview_inputs(samples.SampleSettings(), DATA, *encoders, GivenFrames()) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"every": 5}, "Samples need a prompt; enter one"),
        ({"every": -1}, "every of samples is -1; it must be 0 or more"),
        ({"steps": 0}, "steps of samples is 0; it must be 1 or more"),
        ({"sampler": "eular"}, "no sampler named 'eular'; the releases use euler"),
    ],
)
def test_nonsense_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        samples.SampleSettings(**wrong)
