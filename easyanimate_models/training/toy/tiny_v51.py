"""The second built-in model, of V5.1's kind, trained from scratch: VAE, text tower, transformer on stills, on clips."""

import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ...conditioning.control import CameraInputs
from ...dit.mmdit import MMDiT, MMDiTConfig
from ...files.atomic import write_safetensors, write_text
from ...files.model_files import TINY_V51
from ...latent_formats import CausalLatents
from ...supported_models import DEFAULT_CFG, EasyAnimateV51
from ...text_encoders.qwen2_vl import NAME, TAUGHT_WORDS, TOKENS, WORDS
from ...vae.cached_vae import CachedVAE
from ...vae.slice_vae import SliceVAEConfig
from ..denoiser.diffusion import LOGIT_NORMAL, NoiseWeights, prediction_of
from ..denoiser.objective import DrawBatch, ObjectiveSettings, denoising_objective
from ..export import WEIGHTS, write_component
from ..initialize import reset_parameters
from ..loop import fit
from ..training_plan import TrainingPlan
from ..vae.inflate import seeing_one_frame
from ..vae.preview import preview_colours
from ..vae.run import DECODER
from .evaluation import Settings
from .objective import DrawCrops, VAEStage, vae_objective
from .scene_clips import FRAMES, SIZE, render
from .scene_evaluation import evaluate_scenes
from .scene_latents import SceneBatches, SceneLatents, encode_shards
from .scenes import draw_scene, split_things, taught_words
from .shapes import FPS
from .text_tower import SIZES, CaptionReader, Vocabulary, new_tower, reading_objective
from .tiny import OPS, copy_weights, memory_format, read_float32, read_tensors, set_latent_scale

SEED = 0
CFG = 3.0
VAE = SliceVAEConfig(
    channels=(16, 32, 48, 48),
    layers=1,
    latent_channels=16,
    norm_groups=4,
    scaling_factor=1.0,
    norm="frame",
    attention=None,
)
DIT = MMDiTConfig(
    in_channels=16 + CameraInputs.channels,
    latent_channels=16,
    width=192,
    depth=6,
    mmdit_layers=2,
    heads=6,
    caption_channels=SIZES["hidden_size"],
    caption_channels_2=None,
    text_norm=True,
    timestep_channels=64,
    eps=1e-5,
    patch=2,
)
KL_WEIGHT, EQUIVARIANCE = 3e-4, 1.0
SHARDS = 64  # of encoded clips
LATENTS, SMALL = "latents", "small_latents"  # their folders
SHORT_TEXT = 48  # tokens that most steps see, since the rest is padding; the last stage sees all
LEVELS = NoiseWeights(power=0.0, draw=LOGIT_NORMAL, decisive=(450, 1000))  # sigma 0.71 to 1, where text counts
DEFAULT_VIDEO = {"default_width": SIZE, "default_height": SIZE, "default_length": FRAMES, "default_fps": FPS}


def training_crops() -> DrawCrops:
    """Windows of clips whose objects are not held out."""
    things = split_things()[0]

    def draw(stage: VAEStage, rng: random.Random) -> Tensor:
        scenes = [draw_scene(things, rng) for _ in range(stage.batch)]
        return render(scenes, rng, stage.frames, stage.crop)[0]

    return draw


def train_vae_stills(run: Path, steps: int = 10000) -> None:
    """The VAE on still images, near objects: a ninth of the work of clips.

    In float32: oneDNN's convolutions of three channels write beyond their memory in the backward pass in bfloat16.
    """
    torch.manual_seed(SEED)
    vae = reset_parameters(CachedVAE(VAE, **OPS)).to(memory_format=memory_format())
    vae.initialize_weights()
    stages = (VAEStage(from_step=0, batch=16, frames=1, crop=32),)
    plan = TrainingPlan(steps, 1e-3, 50, 0.998, 1.0, SEED)
    _train_vae(run, "vae_stills", vae, stages, plan)


def train_vae(run: Path, steps: int = 5000) -> None:
    """The same on crops of whole clips, then on whole frames, since norms are over frames.

    Clips have all their frames: trained on 5 and 9, a VAE had 30 dB there and lost 10 dB from frame 9 to frame 17, as
    what it keeps from slice to slice went on to change. A VAE that `restore` left is trained further.
    """
    restored = (run / "vae.safetensors").exists()
    vae = _trained_vae(run, "vae" if restored else "vae_stills").train()
    if not restored:
        vae.load_state_dict(seeing_one_frame(vae.state_dict(), vae))
    plan = TrainingPlan(steps, 5e-4, 100, 0.998, 1.0, SEED + 3)
    _train_vae(run, "vae", vae, _clip_stages(steps), plan)


def train_decoder(run: Path, steps: int = 3000) -> None:
    """The decoder alone: latents, and what a transformer has learnt of them, stay as they are."""
    vae = _trained_vae(run).train()
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name.startswith(DECODER))
    objective = vae_objective(vae, training_crops(), _clip_stages(steps), KL_WEIGHT, SEED + 5)
    fit(run / "decoder", vae, objective, TrainingPlan(steps, 5e-4, 50, 0.998, 1.0, SEED + 5))
    write_safetensors(run / "vae.safetensors", copy_weights(vae))


def _clip_stages(steps: int) -> tuple[VAEStage, ...]:
    return (
        VAEStage(from_step=0, batch=2, frames=FRAMES, crop=32),
        VAEStage(from_step=steps * 85 // 100, batch=2, frames=13, crop=64),
        VAEStage(from_step=steps * 95 // 100, batch=2, frames=9, crop=SIZE),
    )


def _train_vae(run: Path, name: str, vae: CachedVAE, stages: tuple[VAEStage, ...], plan: TrainingPlan) -> None:
    fit(run / name, vae, vae_objective(vae, training_crops(), stages, KL_WEIGHT, plan.seed, EQUIVARIANCE), plan)
    write_safetensors(run / f"{name}.safetensors", copy_weights(vae))


def train_text(run: Path, steps: int = 500, batch: int = 64) -> None:
    """The text tower, by reading captions."""
    torch.manual_seed(SEED)
    vocabulary = Vocabulary()
    reader = CaptionReader(new_tower(vocabulary))
    objective = reading_objective(reader, vocabulary, split_things()[0], batch, SEED)
    fit(run / "text", reader, objective, TrainingPlan(steps, 3e-3, 50, 0.99, 1.0, SEED))
    write_safetensors(run / "text.safetensors", copy_weights(reader.tower))


def encode_latents(run: Path, count: int = SHARDS) -> None:
    """The latents of clips, shard by shard; more can be added later."""
    encode_shards(run / LATENTS, _trained_vae(run), split_things()[0], count, SEED + 1)


def encode_small_latents(run: Path, count: int = SHARDS) -> None:
    """The same of clips of one object, at half their width and height."""
    encode_shards(run / SMALL, _trained_vae(run), split_things()[0], count, SEED + 2, small=True)


def train_stills(run: Path, steps: int = 1200, batch: int = 64) -> None:
    """What things look like: the transformer on first frames, a seventh of the tokens of clips."""
    torch.manual_seed(SEED)
    dit = reset_parameters(MMDiT(DIT, **OPS))
    dit.initialize_weights()
    plan = TrainingPlan(steps, 8e-3, 50, 0.998, 1.0, SEED, precision="auto", optimizer="muon")
    _train_dit(run, "stills", dit, _batches(run).stills(batch, SHORT_TEXT), plan)


def train_small(run: Path, steps: int = 4000, batch: int = 32) -> None:
    """What one object does: the transformer on clips at half their width and height, a quarter of the tokens."""
    plan = TrainingPlan(steps, 8e-3, 50, 0.998, 1.0, SEED + 5, precision="auto", optimizer="muon")
    _train_dit(run, "small", _dit(run, "stills"), _batches(run, SMALL).videos(batch, SHORT_TEXT), plan)


def train_videos(run: Path, steps: int = 3000, batch: int = 16) -> None:
    """The transformer on clips."""
    plan = TrainingPlan(steps, 5e-3, 50, 0.998, 1.0, SEED + 7, precision="auto", optimizer="muon")
    _train_dit(run, "videos", _dit(run, "small"), _batches(run).videos(batch, SHORT_TEXT), plan)


def fine_tune(run: Path, steps: int = 300, batch: int = 16) -> None:
    """The same with all rows of text, as many as a prompt has for the text encoder."""
    plan = TrainingPlan(steps, 2e-3, 20, 0.99, 1.0, SEED + 11, precision="auto", optimizer="muon")
    _train_dit(run, "fine_tune", _dit(run, "videos"), _batches(run).videos(batch, TOKENS), plan)


def _train_dit(run: Path, name: str, dit: MMDiT, draw_batch: DrawBatch, plan: TrainingPlan) -> None:
    settings = ObjectiveSettings(LEVELS, checkpointing=False)
    objective = denoising_objective(dit, draw_batch, prediction_of(EasyAnimateV51), settings, plan.seed)
    fit(run / name, dit, objective, plan)
    write_safetensors(run / f"{name}.safetensors", copy_weights(dit))


def _dit(run: Path, stage: str) -> MMDiT:
    """The transformer as a stage left it."""
    dit = MMDiT(DIT, **OPS)
    dit.load_state_dict(read_tensors(run / f"{stage}.safetensors"))
    return dit


def _batches(run: Path, name: str = LATENTS) -> SceneBatches:
    vocabulary = Vocabulary()
    tower = new_tower(vocabulary)
    tower.load_state_dict(read_tensors(run / "text.safetensors"))
    return SceneBatches(SceneLatents(run / name, like=run / LATENTS), vocabulary, tower.eval())


def _trained_vae(run: Path, name: str = "vae") -> CachedVAE:
    vae = CachedVAE(VAE, **OPS)
    vae.load_state_dict(read_tensors(run / f"{name}.safetensors"))
    return vae.eval().to(memory_format=memory_format())


def export(run: Path, folder: Path | None = None) -> None:
    """What is trained so far as a release folder, the latents at V5.1's own scale; by default into the run."""
    folder = folder or run / "model"
    clips, scale = SceneLatents(run / LATENTS), CausalLatents.scale_factor
    vae, vocabulary = _trained_vae(run), Vocabulary()
    set_latent_scale(vae, clips.mean, clips.deviation * scale)
    vae.config = replace(VAE, scaling_factor=scale)
    tower = read_tensors(run / "text.safetensors")
    tower[WORDS] = vocabulary.whole(tower[WORDS])
    vae_config = EasyAnimateV51.vae_config_json(vae.config) | DEFAULT_VIDEO | _preview_colours(vae)
    components: dict[str, tuple[dict, dict[str, Tensor]]] = {
        "vae": (vae_config, copy_weights(vae)),
        "text_encoder": ({"model_type": NAME, **SIZES, TAUGHT_WORDS: taught_words()}, tower),
    }
    trained = [run / f"{name}.safetensors" for name in ("fine_tune", "videos", "small", "stills")]
    if newest := next((file for file in trained if file.exists()), None):
        components["transformer"] = EasyAnimateV51.config_json(DIT) | {DEFAULT_CFG: CFG}, read_tensors(newest)
    for name, (config, weights) in components.items():
        dtype = torch.float16 if name == "vae" else torch.bfloat16
        file = "model.safetensors" if name == "text_encoder" else WEIGHTS
        write_component(folder / name, config, {k: v.to(dtype) for k, v in weights.items()}, file).chmod(0o644)


def _preview_colours(vae: CachedVAE) -> dict:
    crops = VAEStage(from_step=0, batch=8, frames=9, crop=64)
    draw, rng = training_crops(), random.Random(SEED)
    return preview_colours(vae, lambda _: draw(crops, rng), batches=4)


def restore(run: Path, folder: Path = TINY_V51) -> None:
    """Continue from shipped weights: `vae` trains the VAE further; with it as it is, `latents` comes next.

    Its latents have a deviation of 1 again, near which the KL loss holds them. A transformer goes on with `small` or
    with `videos`.
    """
    run.mkdir(parents=True, exist_ok=True)
    tower = read_float32(folder / "text_encoder")
    tower[WORDS] = Vocabulary().short(tower[WORDS])
    write_safetensors(run / "text.safetensors", tower)
    vae = CachedVAE(VAE, **OPS)
    vae.load_state_dict(read_float32(folder / "vae"))
    with torch.no_grad():
        set_latent_scale(vae, torch.zeros(VAE.latent_channels), torch.tensor(1 / CausalLatents.scale_factor))
    write_safetensors(run / "vae.safetensors", copy_weights(vae))
    if (folder / "transformer").is_dir():
        for stage in ("stills", "small"):
            write_safetensors(run / f"{stage}.safetensors", read_float32(folder / "transformer"))


def evaluate(run: Path, count: int = 100) -> None:
    """Log how well the exported model follows prompts of held-out objects, and how well its VAE keeps their clips."""
    with torch.device("cpu"):  # where the host puts videos
        result = evaluate_scenes(run / "model", run / "held_out.png", count, Settings(cfg=CFG))
    write_text(run / "held_out.json", json.dumps(result, indent=2) + "\n")
    logging.info("%s", result)


STAGES: dict[str, Callable[[Path], None]] = {
    "vae_stills": train_vae_stills,
    "vae": train_vae,
    "decoder": train_decoder,
    "text": train_text,
    "latents": encode_latents,
    "small_latents": encode_small_latents,
    "stills": train_stills,
    "small": train_small,
    "videos": train_videos,
    "fine_tune": fine_tune,
    "export": export,
    "evaluate": evaluate,
}
