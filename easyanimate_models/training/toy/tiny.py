"""The built-in tiny model, trained from nothing: text encoder, VAE, image transformer, motion (the paper's order)."""

import json
import random
from dataclasses import replace
from pathlib import Path

import comfy.ops
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import T5Config

from ...dit.motion_dit import LongSkips, MotionConfig, MotionDiT, MotionDiTConfig
from ...files.model_files import TINY
from ...model_detection import RELEASED_SCALING
from ...text_encoders.t5 import T5Tokenizer
from ...vae.slice_vae import SliceVAE, SliceVAEConfig
from ..denoiser import objective as dit_training
from ..export import set_latent_scale, transformer_config, vae_config
from ..loop import fit, initialise
from ..training_plan import Plan
from ..vae.reconstruct import VAEStage, encode_moments, vae_objective
from .shapes import FRAMES, Scene, caption, render, split_scenes
from .text_encoder import CaptionReader, reader_objective

SEED = 0
TEXT_DROPOUT = 0.1
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
OPS = {"dtype": torch.float32, "device": None, "operations": comfy.ops.disable_weight_init}


class Words:
    """Captions to token ids, cut to the longest of the batch."""

    def __init__(self):
        self.tokenizer = T5Tokenizer()
        self.known: dict[str, list[int]] = {}

    def __call__(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        for text in set(texts) - self.known.keys():
            self.known[text] = [token for token, _ in self.tokenizer.tokenize_with_weights(text)[0]]
        ids = torch.tensor([self.known[text] for text in texts])
        mask = (ids != 0).long()
        length = int(mask.sum(1).max())
        return ids[:, :length], mask[:, :length]


def train_text_encoder(run: Path) -> None:
    torch.manual_seed(SEED)
    reader = CaptionReader(T5)
    nn.init.normal_(reader.t5.shared.weight, std=0.05)
    plan = Plan(steps=1500, learning_rate=2e-3, warmup=50, ema=0.99, clip=1.0, seed=SEED)
    fit(run / "text_encoder", reader, reader_objective(reader, Words(), split_scenes()[0], 64, SEED), plan)
    save_file(plain(reader.t5), run / "text_encoder.safetensors")


def train_vae(run: Path, steps: int = 2200) -> None:
    torch.manual_seed(SEED)
    vae = initialise(SliceVAE(VAE, **OPS)).to(memory_format=layout())
    stages = (
        VAEStage(from_step=0, batch=32, frames=1, crop=32),
        VAEStage(from_step=steps * 12 // 100, batch=8, frames=FRAMES, crop=32),
        VAEStage(from_step=steps * 80 // 100, batch=4, frames=FRAMES, crop=64),
    )
    plan = Plan(steps=steps, learning_rate=2e-3, warmup=100, ema=0.998, clip=1.0, seed=SEED)
    fit(run / "vae", vae, vae_objective(vae, training_clips(), stages, 1e-3, SEED), plan)
    save_file(plain(vae), run / "vae.safetensors")


def training_clips():
    scenes = split_scenes()[0]
    return lambda batch, frames, rng: render([rng.choice(scenes) for _ in range(batch)], rng, frames)


@torch.no_grad()
def encode_dataset(run: Path) -> None:
    """Latents of clips and of stills, computed once, with the mean and deviation of each channel."""
    vae = _load_vae(run)
    rng = random.Random(SEED + 1)
    stills, clips, names, colours = [], [], [], []
    for index, scene in enumerate(split_scenes()[0]):
        pixels, _ = render([scene] * CLIPS_PER_SCENE, rng)
        clips += [encode_moments(vae, few)[0] for few in pixels.split(8)]  # more would wait for memory
        images = pixels[:, :, [0, FRAMES // 2]].transpose(1, 2).flatten(0, 1)[:, :, None]
        stills += [vae.moments(few)[0] for few in images.split(16)]
        colours.append(F.avg_pool3d(images, (1, 8, 8)))
        names += [index] * CLIPS_PER_SCENE
    moving, still = torch.cat(clips), torch.cat(stills)
    mean, deviation = moving.mean((0, 2, 3, 4)), moving.std((0, 2, 3, 4))
    tensors = {"clips": moving.half(), "stills": still.half(), "scene": torch.tensor(names)}
    tensors |= {"mean": mean, "deviation": deviation}
    tensors["preview"] = _preview_colours(_standard(still, mean, deviation), torch.cat(colours))
    save_file({k: v.contiguous() for k, v in tensors.items()}, run / "latents.safetensors")


def _standard(latents: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    shape = (1, -1, 1, 1, 1)
    return (latents - mean.view(shape)) / deviation.view(shape)


def _preview_colours(latents: Tensor, colours: Tensor) -> Tensor:
    """The linear map from latents (and 1) to the colours of their 8x8 pixels, `[5, 3]`, by least squares."""
    x = latents.transpose(0, 1).flatten(1).T
    x = torch.cat([x, torch.ones(len(x), 1)], dim=1)
    return torch.linalg.lstsq(x, colours.transpose(0, 1).flatten(1).T).solution


class Captions:
    """What the transformer is told of scenes: freshly worded captions, some left empty, read by T5."""

    def __init__(self, run: Path):
        self.words, self.t5 = Words(), load_t5(run)

    def __call__(self, scenes: list[Scene], rng: random.Random, moving: bool = True) -> tuple[Tensor, Tensor]:
        """Context and mask. Of stills (not `moving`), a quarter of the captions name a motion."""
        texts = []
        for scene in scenes:
            said = moving or rng.random() < 0.25
            texts.append("" if rng.random() < TEXT_DROPOUT else caption(scene, rng, said))
        ids, mask = self.words(texts)
        with torch.no_grad():
            return self.t5(input_ids=ids, attention_mask=mask).last_hidden_state, mask


class Latents:
    """Batches of cached latents with freshly worded captions."""

    def __init__(self, run: Path):
        tensors = read(run / "latents.safetensors")
        self.mean, self.deviation = tensors["mean"], tensors["deviation"]
        self.clips, self.stills, self.scene = tensors["clips"], tensors["stills"], tensors["scene"]
        self.scenes, self.captions = split_scenes()[0], Captions(run)

    def images(self, batch: int, rng: random.Random) -> dit_training.Batch:
        """Half stills, half single latent frames of clips: what the spatial layers will see in either."""
        index = torch.tensor([rng.randrange(len(self.clips)) for _ in range(batch)])
        half = batch // 2
        stills = self.stills[index[:half] * 2 + torch.tensor([rng.randrange(2) for _ in range(half)])]
        frame = torch.tensor([rng.randrange(self.clips.shape[2]) for _ in range(batch - half)])
        frames = self.clips[index[half:], :, frame][:, :, None]
        return self._batch(torch.cat([stills, frames]), index, rng, moving=False)

    def videos(self, batch: int, rng: random.Random) -> dit_training.Batch:
        index = torch.tensor([rng.randrange(len(self.clips)) for _ in range(batch)])
        return self._batch(self.clips[index], index, rng, moving=True)

    def mixed(self, batch: int) -> dit_training.Batches:
        """Nine batches of clips, then one of images, so that single frames are not forgotten."""
        return lambda step, rng: self.images(3 * batch, rng) if step % 10 == 9 else self.videos(batch, rng)

    def _batch(self, latents: Tensor, index: Tensor, rng: random.Random, moving: bool) -> dit_training.Batch:
        scenes = [self.scenes[i] for i in self.scene[index].tolist()]
        clean = _standard(latents.float(), self.mean, self.deviation)
        return dit_training.Batch(clean, *self.captions(scenes, rng, moving))


def train_images(run: Path, steps: int = 2500, batch: int = 96) -> None:
    torch.manual_seed(SEED)
    data = Latents(run)
    dit = initialise(MotionDiT(replace(DIT, motion=()), **OPS))
    dit_training.initialise_dit(dit)
    weights = dit_training.NoiseWeights(0.05, 50.0)
    objective = dit_training.noise_objective(dit, lambda _, rng: data.images(batch, rng), weights, SEED)
    fit(run / "images", dit, objective, Plan(steps, 1.5e-3, 100, 0.999, 1.0, SEED, precision="auto"))
    save_file(plain(dit), run / "images.safetensors")


def train_videos(run: Path, steps: int = 6000, batch: int = 32) -> None:
    torch.manual_seed(SEED)
    data = Latents(run)
    image = MotionDiT(replace(DIT, motion=()), **OPS)
    image.load_state_dict(read(run / "images.safetensors"))
    dit = initialise(MotionDiT(DIT, **OPS))
    dit_training.initialise_dit(dit)
    dit_training.grow_motion(image, dit)

    weights = dit_training.NoiseWeights(0.05, 50.0)
    objective = dit_training.noise_objective(dit, data.mixed(batch), weights, SEED + 7)
    fit(run / "videos", dit, objective, Plan(steps, 1e-3, 100, 0.999, 1.0, SEED + 7, precision="auto"))
    save_file(plain(dit), run / "videos.safetensors")


def fine_tune(run: Path, steps: int = 3400, batch: int = 32) -> None:
    """All of the transformer once more, mostly at the noise levels where colour, motion and shape are decided."""
    data = Latents(run)
    dit = MotionDiT(DIT, **OPS)
    dit.load_state_dict(read(run / "videos.safetensors"))
    weights = dit_training.NoiseWeights(0.1, 20.0, power=0.5, decisive=(280, 780))
    objective = dit_training.noise_objective(dit, data.mixed(batch), weights, SEED + 11)
    fit(run / "fine_tune", dit, objective, Plan(steps, 1e-3, 100, 0.999, 1.0, SEED + 11, precision="auto"))
    save_file(plain(dit), run / "transformer.safetensors")


def released_vae() -> SliceVAE:
    """The built-in VAE, for training."""
    vae = SliceVAE(VAE, **OPS)
    vae.load_state_dict(read_float(TINY / "vae"))
    return vae.eval().to(memory_format=layout())


def read_float(folder: Path) -> dict[str, Tensor]:
    """The weights of a component, widened."""
    return {k: v.float() for k, v in load_file(next(folder.glob("*.safetensors"))).items()}


def read(file: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the device that trains."""
    return load_file(file, device=str(torch.get_default_device()))


def layout() -> torch.memory_format:
    """Of a VAE's weights: on a CPU the last makes training twice as fast, on a GPU it takes 1.7 times as long."""
    on_cpu = torch.get_default_device().type == "cpu"
    return torch.channels_last_3d if on_cpu else torch.contiguous_format


def plain(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().contiguous().clone() for k, v in module.state_dict().items()}


def _load_vae(run: Path) -> SliceVAE:
    vae = SliceVAE(VAE, **OPS)
    vae.load_state_dict(read(run / "vae.safetensors"))
    return vae.eval().to(memory_format=layout())


def load_t5(run: Path):
    t5 = CaptionReader(T5).t5
    t5.load_state_dict(read(run / "text_encoder.safetensors"))
    return t5.eval()


def restore(run: Path, folder: Path = TINY) -> None:
    """Weights of a release folder as where training goes on: `latents` and `fine_tune` come next."""
    run.mkdir(parents=True, exist_ok=True)
    for name, target in (("vae", "vae"), ("transformer", "videos"), ("text_encoder", "text_encoder")):
        tensors = read_float(folder / name)
        if name == "text_encoder":
            tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].clone()
        save_file(tensors, run / f"{target}.safetensors")


def export(run: Path, folder: Path = TINY) -> None:
    """The trained weights as a release folder in fp16, with V3's own latent scale."""
    tensors = read(run / "latents.safetensors")
    vae = _load_vae(run)
    set_latent_scale(vae, tensors["mean"], tensors["deviation"] * RELEASED_SCALING)
    preview = [[round(v, 4) for v in row] for row in tensors["preview"].tolist()]
    configs = {
        "transformer": transformer_config(DIT) | {"latent_rgb_factors": preview[:4], "latent_rgb_bias": preview[4]},
        "vae": vae_config(replace(VAE, scaling_factor=RELEASED_SCALING)),
        "text_encoder": {k: v for k, v in T5.to_diff_dict().items() if k != "transformers_version"},
    }
    weights = {
        "transformer": read(run / "transformer.safetensors"),
        "vae": plain(vae),
        "text_encoder": read(run / "text_encoder.safetensors"),
    }
    weights["text_encoder"].pop("encoder.embed_tokens.weight", None)
    for name, config in configs.items():
        write_component(folder / name, config, weights[name])


def write_component(folder: Path, config: dict, weights: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    name = "model" if folder.name == "text_encoder" else "diffusion_pytorch_model"
    file = folder / f"{name}.safetensors"
    save_file({k: v.half() for k, v in weights.items()}, file, {"format": "pt"})
    file.chmod(0o644)


STAGES = {
    "text_encoder": train_text_encoder,
    "vae": train_vae,
    "latents": encode_dataset,
    "images": train_images,
    "videos": train_videos,
    "fine_tune": fine_tune,
    "export": export,
}
