"""Previews while training: a short video of each prompt after every so many steps, saved in the folder of the run.

They leave no trace in the run: weights, gradients and random numbers are afterwards what they were before.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import comfy.samplers
import torch
from PIL import Image
from torch import Tensor

from ..files.atomic import atomic_write
from ..files.messages import shorten
from ..host import training
from ..media.contact_sheet import contact_sheet, evenly_spaced
from ..sampling.sample import sample_latents
from ..text_encoders.prompt import Encode, encode_prompt
from ..vae.host_vae import HostVAE
from ..vae.video_sizes import latent_size
from .clips.given_inputs import GivenInputs
from .hooks import no_one
from .loop import Callback

FOLDER = "samples"  # in that of the run
SHEET_FRAMES = 6  # of a video on its contact sheet
QUALITY = 90

PreviewCallback = Callable[[int, Image.Image], None]  # (steps taken, contact sheet)


@dataclass(frozen=True)
class SampleSettings:
    """Which videos are sampled after `every` so many steps, 0 for none: one of `prompt`, and of each of `prompts`.

    `width` and `height` of 0 are `side`; that and `frames` of 0 are those of the clips. `steps`, `cfg`, `sampler` and
    `seed` are those of the host's sampler. `image` is the file of an image that all of them start from.
    """

    every: int = 0
    prompt: str = ""
    negative: str = ""
    steps: int = 25
    cfg: float = 7.0
    sampler: str = "euler"
    side: int = 0
    frames: int = 0
    seed: int = 0
    prompts: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    image: str = ""

    def __post_init__(self):
        for name, least in (("every", 0), ("side", 0), ("frames", 0), ("steps", 1), ("width", 0), ("height", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of samples is {getattr(self, name)}; it must be {least} or more.")
        if self.every and not self.all_prompts:
            raise ValueError("Samples need a prompt; enter one, or turn samples off by setting every to 0.")
        if self.sampler not in comfy.samplers.KSampler.SAMPLERS:
            raise ValueError(f"There is no sampler named {shorten(self.sampler)}; the releases use euler.")

    @property
    def all_prompts(self) -> list[str]:
        return [prompt for prompt in (self.prompt, *self.prompts) if prompt.strip()]


@dataclass(frozen=True)
class PreviewInputs:
    """What previews are sampled from: conditioning of each prompt, an empty latent, and the VAE that decodes them."""

    settings: SampleSettings
    vae: HostVAE
    positives: list[list]
    negative: list
    empty: Tensor
    fps: float
    callback: PreviewCallback | None = None


EncodePrompts = Callable[[PreviewInputs], tuple[list[list], list]]  # -> positive conditioning of each, and negative


@dataclass(frozen=True)
class StartImage:
    """An image `[1, H, W, 3]` that previews start from, and CLIP_VISION for transformers that see it through CLIP."""

    pixels: Tensor
    clip_vision: Any = None

    def seen(self) -> dict[str, Any]:
        """What positive conditioning holds beside what is given to all of it."""
        if self.clip_vision is None:
            return {}
        return {"clip_vision_output": self.clip_vision.encode_image(self.pixels)}


@dataclass(frozen=True)
class Monitor:
    """Who follows a run: `callback` is called after every step, previews are sampled from `preview`, `say` is told."""

    callback: Callback | None = None
    preview: PreviewInputs | None = None
    say: Callable[[str], None] = no_one


NO_MONITOR = Monitor()


def preview_inputs(
    settings: SampleSettings,
    data,
    clip,
    vae: HostVAE,
    given: GivenInputs,
    callback: PreviewCallback | None = None,
    start: StartImage | None = None,
) -> PreviewInputs | None:
    """None where no previews are asked for; the prompts are encoded here, so `clip` is not needed any more.

    `data` (`DataSettings`) has the size of the clips. Without a `start` nothing is `given`, as there is no clip.
    """
    if not settings.every:
        return None
    with torch.inference_mode(False), torch.no_grad():
        width, height = (side or settings.side or data.side for side in (settings.width, settings.height))
        size = latent_size(width, height, settings.frames or data.frames, vae.plan)
        extra = given.nothing(vae, size) if start is None else given.start(vae, size, start.pixels)
        seen = {} if start is None else start.seen()
        positives = [conditioning(clip, [prompt], {**extra, **seen}) for prompt in settings.all_prompts]
        negative = conditioning(clip, [settings.negative], extra)
        empty = torch.zeros([1, vae.latent_channels, *size])
        fps = (data.fps or vae.video.fps) / data.every
        return PreviewInputs(settings, vae, positives, negative, empty, fps, callback)


class VideoSampler:
    """The previews of a run: videos that a MODEL makes while it is trained; see `hooks.Sampler`.

    `restore_models` puts the models back where training needs them. `encode_prompts` is for a text encoder that is
    trained too; by default the prompts stay as they were encoded at first.
    """

    def __init__(
        self,
        inputs: PreviewInputs,
        model,
        run_folder: Path,
        restore_models: Callable[[], None],
        encode_prompts: EncodePrompts | None = None,
    ):
        self.inputs, self.model, self.folder = inputs, model, run_folder / FOLDER
        self.restore_models = restore_models
        self.encode_prompts = encode_prompts or (lambda inputs: (inputs.positives, inputs.negative))

    def is_due(self, steps: int) -> bool:
        """See `hooks.Sampler`."""
        return steps > 0 and steps % self.inputs.settings.every == 0 and not all(f.exists() for f in self._files(steps))

    def preview(self, steps: int) -> Image.Image:
        """Sample the videos and save them in the folder of the run; returns their contact sheet, a row each."""
        with torch.no_grad(), training(False), _preserved_rng(self.model.load_device):
            videos = self._videos()
        self.restore_models()
        for file, frames in zip(self._files(steps), videos, strict=True):
            write_webp(file, frames, self.inputs.fps)
        shown = [evenly_spaced(frames, SHEET_FRAMES) for frames in videos]
        sheet = contact_sheet([frame for frames in shown for frame in frames], len(shown[0]))
        if self.inputs.callback is not None:
            self.inputs.callback(steps, sheet)
        return sheet

    def _files(self, steps: int) -> list[Path]:
        """The file of each prompt."""
        name, count = f"step_{steps:06d}", len(self.inputs.positives)
        endings = [""] if count == 1 else [f"_{number}" for number in range(1, count + 1)]
        return [self.folder / f"{name}{ending}.webp" for ending in endings]

    def _videos(self) -> list[list[Image.Image]]:
        inputs = self.inputs
        positives, negative = self.encode_prompts(inputs)
        videos = []
        for positive in positives:
            latents = sample_latents(self.model, (positive, negative), inputs.empty, inputs.settings)
            video = inputs.vae.decode(latents)[0]
            videos.append([Image.fromarray(frame) for frame in video.mul(255).round().byte().cpu().numpy()])
        return videos


def make_sampler(
    monitor: Monitor,
    model,
    run_folder: Path,
    restore_models: Callable[[], None],
    encode_prompts: EncodePrompts | None = None,
) -> VideoSampler | None:
    """The sampler of the previews that `monitor` asks for, if any; see `VideoSampler`."""
    if monitor.preview is None:
        return None
    return VideoSampler(monitor.preview, model, run_folder, restore_models, encode_prompts)


def conditioning(clip, texts: list[str], extra: dict, encode: Encode | None = None) -> list:
    """Several prompts as one conditioning, a row each; `extra` is what else it holds. See `encode_prompt`.

    `extra` may be all of another prompt's: masks, and what a second text encoder made, are those of `texts`.
    """
    entries = encode_prompt(clip, texts, encode=encode)
    return [[context, {**extra, **options}] for context, options in entries]


def write_webp(file: Path, frames: list[Image.Image], fps: float) -> None:
    """An animation that loops; all of it is written, or nothing."""
    file.parent.mkdir(parents=True, exist_ok=True)
    options = {"append_images": frames[1:], "duration": round(1000 / fps), "loop": 0, "quality": QUALITY}
    with atomic_write(file) as partial:
        frames[0].save(partial, "WEBP", save_all=True, **options)


@contextmanager
def _preserved_rng(device: torch.device) -> Iterator[None]:
    """Afterwards random numbers go on as if none had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
