"""A data set as latents and text embeddings, computed once and kept beside the clips in `.easyanimate`.

A file is named after what it is of and who made it: another VAE, text encoder, caption or size makes another file, and
what is there is not made again. Training reads the index and these files; neither VAE nor T5 need be in memory.
"""

import hashlib
import json
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...conditioning.inpainting import inpaint_latents
from ...data.dataset_file import DatasetError
from ...dit.motion_dit import CLIP_TOKENS
from ...files.atomic import make_folder, write_safetensors, write_text
from ...files.checkpoint import fingerprint
from ...media.errors import MediaError
from ...model_base import clip_tokens
from ...text_encoders.prompt import embeddings_of, encode_prompt
from ..denoiser.objective import Batch
from ..devices import local_shard
from .batches import Batches
from .buckets import Bucket
from .dataset import Item, read_frames
from .tensor_cache import Kept

PLACE, INDEX = ".easyanimate", "index.json"
MOST_GIVEN = 4  # frames at either end, as the original trains its inpainting models

Progress = Callable[[int, int], None]  # (done, of)
Read = Callable[[list[str]], tuple[Tensor, Tensor]]  # texts to context [B, L, D] and mask [B, L]


@dataclass(frozen=True)
class Example:
    """One window of a clip in one size: the file that holds its latents, what it shows, and how CLIP sees its start."""

    latents: Path
    text: str
    seen: Path | None = None


@dataclass(frozen=True)
class EncodedSet:
    """All examples by size, and the files of all texts, the empty one among them; none where T5 is to learn."""

    examples: dict[Bucket, list[Example]]
    texts: dict[str, Path]

    @property
    def count(self) -> int:
        """How many examples there are."""
        return sum(map(len, self.examples.values()))

    def batches(
        self, batch: int, seed: int, text_dropout: float, clip_dropout: float = 0.5, read: Read | None = None
    ) -> Callable[[int, random.Random], Batch]:
        """What `noise_objective` draws from: this process's share of each batch. Files are kept once they are read.

        Texts are `read` anew, by default as they were encoded.
        """
        plan = Batches({bucket: len(found) for bucket, found in self.examples.items()}, batch, seed)
        mine, kept = local_shard(batch), Kept()
        read = read or partial(self._encoded, kept)

        def batches(step: int, _: random.Random) -> Batch:
            bucket, places = plan(step)
            rows, texts = [], []
            for place in range(mine.start, mine.stop):
                chance = random.Random(f"{seed} {step} {place}")
                example = self.examples[bucket][places[place]]
                texts.append("" if chance.random() < text_dropout else example.text)
                rows.append(_shown(example, kept, chance, clip_dropout))
            shown = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            context, mask = read(texts)
            return Batch(**shown, context=context, mask=mask, first=mine.start, global_batch=batch)

        return batches

    def _encoded(self, kept: Kept, texts: list[str]) -> tuple[Tensor, Tensor]:
        told = [kept(self.texts[text]) for text in texts]
        return torch.stack([text["context"].float() for text in told]), torch.stack([text["mask"] for text in told])


def encode_dataset(
    folder: Path,
    buckets: dict[Bucket, list[Item]],
    vae,
    clip,
    inpainting: bool,
    every: int = 1,
    progress: Progress | None = None,
    image_encoder=None,
) -> EncodedSet:
    """Encode what is not encoded yet, by the host's `vae`, `clip` and `image_encoder`, and write the index.

    Takes every so many frames of a clip, from its `start` on. A clip that fails is named in the log and left out.
    Without `clip` texts stay as they are; without `image_encoder` (CLIP_VISION) starts are not shown to it.
    """
    place = make_folder(folder / PLACE)
    maker = fingerprint(vae.first_stage_model)
    eye = None if image_encoder is None else fingerprint(image_encoder.model)
    wanted = [(bucket, item) for bucket, items in buckets.items() for item in items]
    examples: dict[Bucket, list[Example]] = {}
    for done, (bucket, item) in enumerate(wanted, 1):
        try:
            latents = _encoded_clip(place, item, bucket, vae, maker, inpainting, every)
            seen = None if eye is None else _encoded_start(place, item, bucket, image_encoder, eye)
            examples.setdefault(bucket, []).append(Example(latents, item.text, seen))
        except MediaError as error:
            logging.warning("%s It is left out.", error)
        if progress is not None:
            progress(done, len(wanted))
    if not examples:
        raise DatasetError(f"No clip of {folder} could be encoded; see the log.")
    found = EncodedSet(examples, _encoded_texts(place, examples, clip) if clip is not None else {})
    _write_index(place, found, inpainting)
    return found


def read_encoded(folder: Path, inpainting: bool) -> EncodedSet:
    """What `encode_dataset` left. Raises `DatasetError` when there is nothing, or nothing for this kind of model."""
    place = Path(folder) / PLACE
    try:
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
        texts = {text: place / Path(name).name for text, name in index["texts"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder} is not encoded yet ({error}); run the encode stage on it first.") from error
    if inpainting and not index["inpainting"]:
        raise DatasetError(f"{folder} was encoded for text to video only; encode it again with inpainting on.")
    examples: dict[Bucket, list[Example]] = {}
    for row in index["examples"]:
        seen = place / Path(row["seen"]).name if row["seen"] else None
        example = Example(place / Path(row["latents"]).name, row["text"], seen)
        examples.setdefault(Bucket(*row["bucket"]), []).append(example)
    return EncodedSet(examples, texts)


def is_inpainting(model) -> bool:
    """Whether a MODEL is told what is given of a clip."""
    config = model.model.diffusion_model.config
    return config.in_channels > config.latent_channels


def wants_clip_tokens(model, image_encoder) -> bool:
    """Whether a MODEL is to be shown starts through an image encoder; one that lacks it is named in the log."""
    takes = model.model.diffusion_model.config.clip_tokens
    if takes and not image_encoder:
        logging.warning(
            "This transformer sees start images through CLIP, but no image encoder is given; it learns without them."
        )
    return takes and bool(image_encoder)


def _encoded_clip(place: Path, item: Item, bucket: Bucket, vae, maker: str, inpainting: bool, every: int) -> Path:
    size = f"{bucket.frames}x{bucket.height}x{bucket.width}"
    kind = "inp" if inpainting else "t2v"
    window = f"{every}.from{item.start}" if item.start else every
    file = place / f"{item.file.stem}.{item.version()}.{size}.{window}.{kind}.{maker}.safetensors"
    if not _is_whole(file):
        pixels = fit_into(read_frames(item, item.start, bucket.frames, every), bucket.height, bucket.width)
        tensors = {"latents": vae.encode(pixels)[0]}
        if inpainting:
            tensors |= _all_given(vae, pixels)
        write_safetensors(file, {name: tensor.half() for name, tensor in tensors.items()})
    return file


def _encoded_start(place: Path, item: Item, bucket: Bucket, image_encoder, maker: str) -> Path:
    """How CLIP sees the first frame, as the model is shown it."""
    window = f"{bucket.height}x{bucket.width}.from{item.start}"
    file = place / f"{item.file.stem}.{item.version()}.{window}.clip.{maker}.safetensors"
    if not _is_whole(file):
        first = fit_into(read_frames(item, item.start, 1), bucket.height, bucket.width)
        embeds, _ = clip_tokens(image_encoder.encode_image(first), None)
        write_safetensors(file, {"embeds": embeds[0].half()})
    return file


def _encoded_texts(place: Path, examples: dict[Bucket, list[Example]], clip) -> dict[str, Path]:
    maker = fingerprint(clip.cond_stage_model)
    texts = {"", *(example.text for found in examples.values() for example in found)}
    return {text: _encoded_text(place, text, clip, maker) for text in sorted(texts)}


def _encoded_text(place: Path, text: str, clip, maker: str) -> Path:
    file = place / f"text.{hashlib.sha256(text.encode()).hexdigest()[:16]}.{maker}.safetensors"
    if not _is_whole(file):
        context, mask = embeddings_of(encode_prompt(clip, [text]))
        write_safetensors(file, {"context": context[0].half(), "mask": mask[0].float()})
    return file


def fit_into(pixels: Tensor, height: int, width: int) -> Tensor:
    """A clip `[T, H, W, 3]` scaled so that it covers this size, and cut to it in the middle."""
    scale = max(height / pixels.shape[1], width / pixels.shape[2])
    size = [max(wanted, round(side * scale)) for side, wanted in zip(pixels.shape[1:3], (height, width), strict=True)]
    if scale != 1:
        frames = pixels.movedim(-1, 1)
        frames = torch.nn.functional.interpolate(frames, size=size, mode="bicubic", antialias=True)
        pixels = frames.clamp(0, 1).movedim(1, -1)
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _all_given(vae, pixels: Tensor) -> dict[str, Tensor]:
    """What an inpainting model can be told: nothing, or 1 to 4 frames at either end; slices are encoded apart."""
    slices = vae.plan.encode(len(pixels))
    told = {"none": inpaint_latents(vae, pixels, torch.ones(pixels.shape[:3]))[0]}
    if len(slices) > 1:
        for name, part in (("start", pixels[: slices[0].stop]), ("end", pixels[slices[-1].start :])):
            counts = range(1, min(MOST_GIVEN, len(part)) + 1)
            told[name] = torch.stack([inpaint_latents(vae, part, _made(part, name, n))[0] for n in counts])
    return told


def _made(pixels: Tensor, end: str, given: int) -> Tensor:
    """What is to be made of a clip `[T, H, W, 3]` of which so many frames are given, `[T, H, W]`."""
    made = torch.ones(pixels.shape[:3])
    made[slice(0, given) if end == "start" else slice(len(pixels) - given, None)] = 0
    return made


def _shown(example: Example, kept: Kept, chance: random.Random, clip_dropout: float) -> dict[str, Tensor]:
    """Latents, and where the model is told it, what is given of them, and how CLIP sees a start that is given."""
    clip = kept(example.latents)
    row = {"latents": clip["latents"].float()}
    if "none" in clip:
        given, starts = _given(clip, chance)
        row["given"] = given.float()
        if example.seen is not None:
            counts = float(starts and chance.random() >= clip_dropout)
            row["clip_embeds"] = kept(example.seen)["embeds"].float() * counts
            row["clip_mask"] = torch.full([CLIP_TOKENS], counts)
    return row


def _given(shown: dict[str, Tensor], chance: random.Random) -> tuple[Tensor, bool]:
    """What is told of a clip, drawn as the original does: nothing, the start, or both ends; whether a start is."""
    given, kind = shown["none"].clone(), chance.choice(("none", "start", "both"))
    starts = "start" in shown and kind != "none"
    if starts:
        start = chance.choice(list(shown["start"]))
        given[:, : start.shape[1]] = start
        if kind == "both":
            end = chance.choice(list(shown["end"]))
            given[:, -end.shape[1] :] = end
    return given, starts


def _write_index(place: Path, found: EncodedSet, inpainting: bool) -> None:
    rows = []
    for bucket, examples in found.examples.items():
        for example in examples:
            seen = example.seen.name if example.seen else None
            about = {"latents": example.latents.name, "text": example.text, "seen": seen}
            rows.append({"bucket": [bucket.frames, bucket.height, bucket.width], **about})
    texts = {text: file.name for text, file in found.texts.items()}
    index = {"inpainting": inpainting, "texts": texts, "examples": rows}
    write_text(place / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
