"""Samples while training: a short video of one prompt after every so many steps, kept in the folder of the run.

Looking leaves no trace: weights, gradients and chance are afterwards what they were.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management as mm
import comfy.sample
import comfy.samplers
import torch
from PIL import Image
from torch import Tensor

from ..conditioning.inpainting import inpaint_latents
from ..host import training
from ..media.contact_sheet import contact_sheet, evenly_spaced
from ..sampling.schedules import release_sigmas
from ..text_encoders.prompt_cleaning import clean_prompt
from ..vae.host_vae import HostVAE
from ..vae.video_sizes import latent_size
from ..vae.video_vae import SPACE_RATIO
from .loop import Watch

FOLDER = "samples"  # in that of the run
SHOWN = 6  # frames of a video on its sheet
RATE = 24  # frames a second of clips
QUALITY = 90

Show = Callable[[int, Image.Image], None]  # (steps done, frames side by side)


@dataclass(frozen=True)
class SampleSettings:
    """Which video is made after `every` so many steps, 0 for none; in the size that is learnt unless it is said."""

    every: int = 0
    prompt: str = ""
    negative: str = ""
    steps: int = 25
    cfg: float = 7.0
    sampler: str = "euler"
    side: int = 0
    frames: int = 0
    seed: int = 0

    def __post_init__(self):
        for name, least in (("every", 0), ("side", 0), ("frames", 0), ("steps", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} of samples is {getattr(self, name)}; it must be {least} or more.")
        if self.every and not self.prompt.strip():
            raise ValueError("Samples need a prompt; say what should be seen in them, or take them out with every 0.")
        if self.sampler not in comfy.samplers.KSampler.SAMPLERS:
            raise ValueError(f"There is no sampler named {self.sampler!r}; the releases use euler.")


@dataclass(frozen=True)
class Subject:
    """What samples are of: the prompt as the text encoder reads it, an empty latent, and the VAE that shows it."""

    settings: SampleSettings
    vae: HostVAE
    positive: list
    negative: list
    empty: Tensor
    rate: float  # frames a second
    show: Show | None = None


Prompts = Callable[[Subject], tuple[list, list]]  # prompt and negative


@dataclass(frozen=True)
class Audience:
    """Who looks on: `watch` is told of every step, of `subject` samples are made."""

    watch: Watch | None = None
    subject: Subject | None = None


NOBODY = Audience()


def subject_of(settings: SampleSettings, data, encoders: tuple, inpainting: bool, show=None) -> Subject | None:
    """None where no samples are wanted; `encoders` (CLIP, VAE) read the prompt here, and only here.

    `data` (`DataSettings`) says in which size clips are shown. An inpainting model is told that nothing is given.
    """
    if not settings.every:
        return None
    clip, vae = encoders
    with torch.inference_mode(False), torch.no_grad():
        side = settings.side or data.side
        size = latent_size(side, side, settings.frames or data.frames, vae.plan)
        told = {"concat_latent_image": _nothing_given(vae, size)} if inpainting else {}
        prompt, negative = (conditioning(clip, [text], told) for text in (settings.prompt, settings.negative))
        empty = torch.zeros([1, vae.latent_channels, *size])
        return Subject(settings, vae, prompt, negative, empty, RATE / data.every, show)


class Samples:
    """Samples that a MODEL makes of a subject while it learns; see `loop.Look`.

    `settle` puts things back on the device as training needs them.
    """

    def __init__(self, subject: Subject, model, run: Path, settle: Callable[[], None], prompts: Prompts | None = None):
        self.subject, self.model, self.folder, self.settle = subject, model, run / FOLDER, settle
        self.prompts = prompts or (lambda subject: (subject.positive, subject.negative))

    def due(self, done: int) -> bool:
        return done > 0 and done % self.subject.settings.every == 0 and not self._file(done).exists()

    def make(self, done: int) -> Image.Image:
        with torch.no_grad(), training(False), _same_chances(self.model.load_device):
            frames = self._frames()
        self.settle()
        write_webp(self._file(done), frames, self.subject.rate)
        sheet = contact_sheet(evenly_spaced(frames, SHOWN))
        if self.subject.show is not None:
            self.subject.show(done, sheet)
        return sheet

    def _file(self, done: int) -> Path:
        return self.folder / f"step_{done:06d}.webp"

    def _frames(self) -> list[Image.Image]:
        subject = self.subject
        latents = sample_latents(self.model, self.prompts(subject), subject.empty, subject.settings)
        video = subject.vae.decode(latents)[0]
        return [Image.fromarray(frame) for frame in video.mul(255).round().byte().cpu().numpy()]


def samples_of(
    audience: Audience, model, run: Path, settle: Callable[[], None], prompts: Prompts | None = None
) -> Samples | None:
    """Samples for those who look on, if they want any; `prompts` reads theirs where the text encoder learns too."""
    return None if audience.subject is None else Samples(audience.subject, model, run, settle, prompts)


def sample_latents(model, texts: tuple[list, list], empty: Tensor, how, seed: int | None = None) -> Tensor:
    """Latents out of noise, through the host's sampler, spaced as the releases do; `texts` are prompt and negative.

    `how` has steps, cfg and sampler, and the seed unless one is given.
    """
    sigmas = release_sigmas(model, how.sampler, how.steps)
    noise = comfy.sample.prepare_noise(empty, how.seed if seed is None else seed)
    return comfy.sample.sample(
        model,
        noise,
        how.steps,
        how.cfg,
        how.sampler,
        "normal",
        *texts,
        empty,
        sigmas=sigmas,
        callback=lambda *_: mm.throw_exception_if_processing_interrupted(),
        disable_pbar=True,
    )


def conditioning(clip, texts: list[str], told: dict) -> list:
    """Several prompts as one conditioning, a row each."""
    parts = [clip.encode_from_tokens_scheduled(clip.tokenize(clean_prompt(text)))[0] for text in texts]
    masks = torch.cat([extra["attention_mask"] for _, extra in parts])
    return [[torch.cat([context for context, _ in parts]), {"attention_mask": masks, **told}]]


def write_webp(file: Path, frames: list[Image.Image], rate: float) -> None:
    """An endless animation, all there or not there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_suffix(".part")
    rest = {"append_images": frames[1:], "duration": round(1000 / rate), "loop": 0, "quality": QUALITY}
    frames[0].save(partial, "WEBP", save_all=True, **rest)
    partial.replace(file)


def _nothing_given(vae: HostVAE, size: tuple[int, int, int]) -> Tensor:
    shape = vae.plan.frames_for(size[0]), size[1] * SPACE_RATIO, size[2] * SPACE_RATIO
    return inpaint_latents(vae, torch.zeros(*shape, 3), torch.ones(shape))


@contextmanager
def _same_chances(device: torch.device) -> Iterator[None]:
    """Afterwards random numbers go on as if none had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        yield
