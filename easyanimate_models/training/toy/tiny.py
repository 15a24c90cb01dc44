"""The built-in tiny model, trained from scratch: text encoder, VAE, image transformer, motion (the paper's order)."""

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import comfy.ops
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import T5Config

from ...dit.motion_dit import LongSkips, MotionConfig, MotionDiT, MotionDiTConfig
from ...files.atomic import write_safetensors, write_text
from ...files.model_files import TINY
from ...latent_formats import SliceLatents
from ...supported_models import DEFAULT_CFG, EasyAnimateV3
from ...text_encoders.t5 import T5Tokenizer
from ...vae.slice_vae import SliceVAE, SliceVAEConfig
from ..denoiser import objective as denoiser_objective
from ..denoiser.diffusion import NoiseWeights, prediction_of
from ..denoiser.motion_modules import load_image_weights
from ..denoiser.objective import Batch, DrawBatch, ObjectiveSettings
from ..export import WEIGHTS, write_component
from ..initialize import reset_parameters
from ..learner import Objective
from ..loop import fit
from ..training_plan import TrainingPlan
from ..vae.preview import below, fit_colours, rows_of
from ..vae.reconstruct import encode_moments
from .objective import DrawClips, VAEStage, crops_of, vae_objective
from .shapes import FPS, FRAMES, SIZE, Scene, caption, render, split_scenes
from .text_encoder import CaptionClassifier, caption_objective

SEED = 0
TEXT_DROPOUT = 0.1
CFG = 2.5  # what its samples are best at
DEFAULT_VIDEO = {"default_width": SIZE, "default_height": SIZE, "default_length": FRAMES, "default_fps": FPS}
T5 = T5Config(
    vocab_size=32128,
    d_model=32,
    d_kv=16,
    d_ff=96,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)
VAE = SliceVAEConfig(channels=(16, 32, 48, 48), layers=2, latent_channels=4, norm_groups=4, scaling_factor=1.0)
EVEN, ODD = MotionConfig(("temporal", "temporal"), 4), MotionConfig(("temporal", "global"), 4)
DIT = MotionDiTConfig(
    in_channels=4,
    latent_channels=4,
    width=128,
    depth=6,
    heads=4,
    caption_channels=32,
    motion=(EVEN, ODD),
    skips=LongSkips(stored=3, start=3),
    sample_size=64,
    clip_tokens=False,
    patch=2,
)
CLIPS_PER_SCENE = 48
COLOURS = "colours.json"
OPS = {"dtype": torch.float32, "device": None, "operations": comfy.ops.disable_weight_init}


class CaptionTokenizer:
    """Captions to token ids and their mask, cut to the longest of the batch."""

    def __init__(self):
        self.tokenizer = T5Tokenizer()
        self.cache: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        for text in set(texts) - self.cache.keys():
            self.cache[text] = [token for token, _ in self.tokenizer.tokenize_with_weights(text)[0]]
        ids = torch.tensor([self.cache[text] for text in texts])
        mask = (ids != 0).long()
        length = int(mask.sum(1).max())
        return ids[:, :length], mask[:, :length]


def train_text_encoder(run: Path) -> None:
    torch.manual_seed(SEED)
    classifier = CaptionClassifier(T5)
    nn.init.normal_(classifier.t5.shared.weight, std=0.05)
    plan = TrainingPlan(steps=1500, learning_rate=2e-3, warmup=50, ema=0.99, clip=1.0, seed=SEED)
    objective = caption_objective(classifier, CaptionTokenizer(), split_scenes()[0], 64, SEED)
    fit(run / "text_encoder", classifier, objective, plan)
    write_safetensors(run / "text_encoder.safetensors", copy_weights(classifier.t5))


def train_tiny_vae(run: Path, steps: int = 2200) -> None:
    torch.manual_seed(SEED)
    vae = reset_parameters(SliceVAE(VAE, **OPS)).to(memory_format=memory_format())
    vae.initialize_weights()
    stages = (
        VAEStage(from_step=0, batch=32, frames=1, crop=32),
        VAEStage(from_step=steps * 12 // 100, batch=8, frames=FRAMES, crop=32),
        VAEStage(from_step=steps * 80 // 100, batch=4, frames=FRAMES, crop=64),
    )
    plan = TrainingPlan(steps=steps, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0, seed=SEED)
    fit(run / "vae", vae, vae_objective(vae, crops_of(training_clips()), stages, 1e-3, SEED), plan)
    write_safetensors(run / "vae.safetensors", copy_weights(vae))


def training_clips() -> DrawClips:
    """Clips of the scenes that are not held out."""
    scenes = split_scenes()[0]
    return lambda batch, frames, rng: render([rng.choice(scenes) for _ in range(batch)], rng, frames)


@torch.no_grad()
def encode_latents(run: Path) -> None:
    """Latents of clips and of stills, with the mean and standard deviation of each channel, and preview colours."""
    vae = _load_vae(run)
    rng = random.Random(SEED + 1)
    stills, clips, scenes = [], [], []
    colours: dict[str, list[Tensor]] = {"clips": [], "stills": []}
    for index, scene in enumerate(split_scenes()[0]):
        pixels, _ = render([scene] * CLIPS_PER_SCENE, rng)
        clips += [encode_moments(vae, chunk)[0] for chunk in pixels.split(8)]  # larger ones are slower
        images = pixels[:, :, [0, FRAMES // 2]].transpose(1, 2).flatten(0, 1)[:, :, None]
        stills += [vae.moments(chunk)[0] for chunk in images.split(16)]
        colours["clips"].append(below(pixels, clips[-1]))
        colours["stills"].append(below(images, stills[-1]))
        scenes += [index] * CLIPS_PER_SCENE
    moving, still = torch.cat(clips), torch.cat(stills)
    mean, deviation = moving.mean((0, 2, 3, 4)), moving.std((0, 2, 3, 4))
    tensors = {"clips": moving.half(), "stills": still.half(), "scene": torch.tensor(scenes)}
    tensors |= {"mean": mean, "deviation": deviation}
    tensors |= {f"{kind} colours": torch.cat(parts).half() for kind, parts in colours.items()}
    rows = rows_of(standardized(moving, mean, deviation)), rows_of(tensors["clips colours"].float())
    write_text(run / COLOURS, json.dumps(fit_colours(*rows)))
    write_safetensors(run / "latents.safetensors", tensors)


def standardized(latents: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """Latents `[B, C, F, h, w]` as the transformer sees them."""
    shape = (1, -1, 1, 1, 1)
    return (latents - mean.view(shape)) / deviation.view(shape)


class CaptionEncoder:
    """New captions of scenes at every call, some left empty, encoded by T5."""

    def __init__(self, run: Path):
        self.tokenize, self.t5 = CaptionTokenizer(), load_t5(run)

    def __call__(self, scenes: list[Scene], rng: random.Random, moving: bool = True) -> tuple[Tensor, Tensor]:
        """Embeddings and their mask. Of stills (not `moving`), a quarter of the captions name a motion."""
        texts = []
        for scene in scenes:
            names_motion = moving or rng.random() < 0.25
            texts.append("" if rng.random() < TEXT_DROPOUT else caption(scene, rng, names_motion))
        ids, mask = self.tokenize(texts)
        with torch.no_grad():
            return self.t5(input_ids=ids, attention_mask=mask).last_hidden_state, mask


class LatentBatches:
    """Batches of the encoded latents, each time with new captions."""

    def __init__(self, run: Path):
        tensors = read_tensors(run / "latents.safetensors")
        self.mean, self.deviation = tensors["mean"], tensors["deviation"]
        self.clips, self.stills, self.scene = tensors["clips"], tensors["stills"], tensors["scene"]
        self.scenes, self.encode_captions = split_scenes()[0], CaptionEncoder(run)

    def images(self, batch: int, rng: random.Random) -> Batch:
        """Half stills, half single latent frames of clips: the inputs of the spatial layers in images and in clips."""
        index = torch.tensor([rng.randrange(len(self.clips)) for _ in range(batch)])
        half = batch // 2
        stills = self.stills[index[:half] * 2 + torch.tensor([rng.randrange(2) for _ in range(half)])]
        frame = torch.tensor([rng.randrange(self.clips.shape[2]) for _ in range(batch - half)])
        frames = self.clips[index[half:], :, frame][:, :, None]
        latents = torch.cat([stills.float(), frames.float()])  # autocast can't concatenate float16
        return self._batch(latents, index, rng, moving=False)

    def videos(self, batch: int, rng: random.Random) -> Batch:
        """Clips, whole."""
        index = torch.tensor([rng.randrange(len(self.clips)) for _ in range(batch)])
        return self._batch(self.clips[index], index, rng, moving=True)

    def mixed(self, batch: int) -> DrawBatch:
        """Nine batches of clips, then one of images, so that single frames are not forgotten."""
        return lambda step, rng: self.images(3 * batch, rng) if step % 10 == 9 else self.videos(batch, rng)

    def _batch(self, latents: Tensor, index: Tensor, rng: random.Random, moving: bool) -> Batch:
        scenes = [self.scenes[i] for i in self.scene[index].tolist()]
        clean = standardized(latents.float(), self.mean, self.deviation)
        context, mask = self.encode_captions(scenes, rng, moving)
        return Batch(clean, context, mask)


def denoising_objective(dit: MotionDiT, draw_batch: DrawBatch, noise: NoiseWeights, seed: int) -> Objective:
    """The objective of the tiny transformer, at V3's noise schedule."""
    settings = ObjectiveSettings(noise, checkpointing=False)
    return denoiser_objective.denoising_objective(dit, draw_batch, prediction_of(EasyAnimateV3), settings, seed)


def train_images(run: Path, steps: int = 2500, batch: int = 96) -> None:
    torch.manual_seed(SEED)
    data = LatentBatches(run)
    dit = reset_parameters(MotionDiT(replace(DIT, motion=()), **OPS))
    dit.initialize_weights()
    noise = NoiseWeights(0.05, 50.0)
    objective = denoising_objective(dit, lambda _, rng: data.images(batch, rng), noise, SEED)
    fit(run / "images", dit, objective, TrainingPlan(steps, 1.5e-3, 100, 0.999, 1.0, SEED, precision="auto"))
    write_safetensors(run / "images.safetensors", copy_weights(dit))


def train_videos(run: Path, steps: int = 6000, batch: int = 32) -> None:
    torch.manual_seed(SEED)
    data = LatentBatches(run)
    dit = reset_parameters(MotionDiT(DIT, **OPS))
    dit.initialize_weights()
    load_image_weights(dit, read_tensors(run / "images.safetensors"), EasyAnimateV3)
    objective = denoising_objective(dit, data.mixed(batch), NoiseWeights(0.05, 50.0), SEED + 7)
    fit(run / "videos", dit, objective, TrainingPlan(steps, 1e-3, 100, 0.999, 1.0, SEED + 7, precision="auto"))
    write_safetensors(run / "videos.safetensors", copy_weights(dit))


def fine_tune(run: Path, steps: int = 3400, batch: int = 32) -> None:
    """All of the transformer once more, mostly at the noise levels where colour, motion and shape are decided."""
    data = LatentBatches(run)
    dit = MotionDiT(DIT, **OPS)
    dit.load_state_dict(read_tensors(run / "videos.safetensors"))
    noise = NoiseWeights(0.1, 20.0, power=0.5, decisive=(280, 780))
    objective = denoising_objective(dit, data.mixed(batch), noise, SEED + 11)
    fit(run / "fine_tune", dit, objective, TrainingPlan(steps, 1e-3, 100, 0.999, 1.0, SEED + 11, precision="auto"))
    write_safetensors(run / "transformer.safetensors", copy_weights(dit))


def released_vae() -> SliceVAE:
    """The built-in VAE, for training."""
    vae = SliceVAE(VAE, **OPS)
    vae.load_state_dict(read_float32(TINY / "vae"))
    return vae.eval().to(memory_format=memory_format())


def read_float32(folder: Path) -> dict[str, Tensor]:
    """The weights of a component, in float32."""
    return {k: v.float() for k, v in load_file(next(folder.glob("*.safetensors"))).items()}


def read_tensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the device of the training."""
    return load_file(file, device=str(torch.get_default_device()))


def memory_format() -> torch.memory_format:
    """Of a VAE's weights: channels last makes training twice as fast on a CPU, and 1.7 times as slow on a GPU."""
    on_cpu = torch.get_default_device().type == "cpu"
    return torch.channels_last_3d if on_cpu else torch.contiguous_format


def copy_weights(module: nn.Module) -> dict[str, Tensor]:
    """The weights of a module; those it holds under several names are copied for each."""
    return {k: v.detach().contiguous().clone() for k, v in module.state_dict().items()}


def _load_vae(run: Path) -> SliceVAE:
    vae = SliceVAE(VAE, **OPS)
    vae.load_state_dict(read_tensors(run / "vae.safetensors"))
    return vae.eval().to(memory_format=memory_format())


def load_t5(run: Path):
    t5 = CaptionClassifier(T5).t5
    t5.load_state_dict(read_tensors(run / "text_encoder.safetensors"))
    return t5.eval()


def restore(run: Path, folder: Path = TINY) -> None:
    """Continue from the weights of a release folder: `latents` and `fine_tune` come next."""
    run.mkdir(parents=True, exist_ok=True)
    for name, target in (("vae", "vae"), ("transformer", "videos"), ("text_encoder", "text_encoder")):
        tensors = read_float32(folder / name)
        if name == "text_encoder":
            tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
        write_safetensors(run / f"{target}.safetensors", tensors)


def export(run: Path, folder: Path = TINY) -> None:
    """The trained weights as a release folder in fp16, with V3's own latent scale."""
    tensors, scale = read_tensors(run / "latents.safetensors"), SliceLatents.scale_factor
    vae = _load_vae(run)
    set_latent_scale(vae, tensors["mean"], tensors["deviation"] * scale)
    colours = json.loads((run / COLOURS).read_text(encoding="utf-8"))
    configs = {
        "transformer": EasyAnimateV3.config_json(DIT) | colours | {DEFAULT_CFG: CFG},
        "vae": EasyAnimateV3.vae_config_json(replace(VAE, scaling_factor=scale)) | DEFAULT_VIDEO,
        "text_encoder": {k: v for k, v in T5.to_diff_dict().items() if k != "transformers_version"},
    }
    weights = {
        "transformer": read_tensors(run / "transformer.safetensors"),
        "vae": copy_weights(vae),
        "text_encoder": read_tensors(run / "text_encoder.safetensors"),
    }
    weights["text_encoder"].pop("encoder.embed_tokens.weight", None)
    for name, config in configs.items():
        write_float16(folder / name, config, weights[name])


@torch.no_grad()
def set_latent_scale(vae: SliceVAE, mean: Tensor, deviation: Tensor) -> None:
    """Make `vae` give `(latents - mean) / deviation` per channel, and decode those: exact, in its 1x1 convolutions."""
    channels = vae.config.latent_channels
    encode, decode = vae.quant_conv, vae.post_quant_conv
    encode.weight[:channels] /= deviation.view(-1, 1, 1, 1, 1)
    encode.bias[:channels] = (encode.bias[:channels] - mean) / deviation
    encode.bias[channels:] -= 2 * deviation.log()
    decode.bias += decode.weight[:, :, 0, 0, 0] @ mean
    decode.weight *= deviation.view(1, -1, 1, 1, 1)


def write_float16(folder: Path, config: dict, weights: dict[str, Tensor]) -> None:
    """A component of the built-in model, readable for everyone."""
    name = "model.safetensors" if folder.name == "text_encoder" else WEIGHTS
    write_component(folder, config, {k: v.half() for k, v in weights.items()}, name).chmod(0o644)


STAGES: dict[str, Callable[[Path], None]] = {
    "text_encoder": train_text_encoder,
    "vae": train_tiny_vae,
    "latents": encode_latents,
    "images": train_images,
    "videos": train_videos,
    "fine_tune": fine_tune,
    "export": export,
}
