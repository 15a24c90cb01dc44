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
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ..inpainting import inpaint_latents
from ..text_encoders.prompt_cleaning import clean_prompt
from .batches import Batches
from .buckets import Bucket
from .dataset import DatasetError, Item, read_frames
from .dit import Batch
from .export import write_whole
from .loop import share

PLACE, INDEX = ".easyanimate", "index.json"
MOST_GIVEN = 4  # frames at either end, as the original trains its inpainting models
SAMPLED = 256  # numbers of each tensor that tell one encoder from another

Progress = Callable[[int, int], None]  # (done, of)


@dataclass(frozen=True)
class Example:
    """One clip in one size: the files that hold its latents and its text."""

    latents: Path
    text: Path


@dataclass(frozen=True)
class EncodedSet:
    """All examples by size, and the file of the empty text."""

    examples: dict[Bucket, list[Example]]
    empty: Path

    def batches(self, batch: int, seed: int, text_dropout: float) -> Callable[[int, random.Random], Batch]:
        """What `noise_objective` draws from: this process's share of each batch."""
        plan = Batches({bucket: len(found) for bucket, found in self.examples.items()}, batch, seed)
        mine = share(batch)

        def batches(step: int, _: random.Random) -> Batch:
            bucket, places = plan(step)
            rows = []
            for place in range(mine.start, mine.stop):
                chance = random.Random(f"{seed} {step} {place}")
                rows.append(self._row(self.examples[bucket][places[place]], chance, text_dropout))
            given = [row["given"] for row in rows if "given" in row]
            stacked = (torch.stack([row[name] for row in rows]) for name in ("latents", "context", "mask"))
            return Batch(*stacked, torch.stack(given) if given else None, first=mine.start, of=batch)

        return batches

    def _row(self, example: Example, chance: random.Random, text_dropout: float) -> dict[str, Tensor]:
        told = _read(self.empty if chance.random() < text_dropout else example.text)
        shown = _read(example.latents)
        row = {"latents": shown["latents"].float(), "context": told["context"].float(), "mask": told["mask"]}
        return {**row, "given": _given(shown, chance).float()} if "none" in shown else row


def encode_dataset(
    folder: Path, buckets: dict[Bucket, list[Item]], vae, clip, inpainting: bool, every: int = 1, progress=None
) -> EncodedSet:
    """Encode what is not encoded yet, by the host's `vae` and `clip`, and write the index.

    Takes every so many frames of a clip, from its beginning. A clip that fails is named in the log and left out.
    """
    place = folder / PLACE
    place.mkdir(parents=True, exist_ok=True)
    makers = fingerprint(vae.first_stage_model), fingerprint(clip.cond_stage_model)
    total, done = sum(map(len, buckets.values())), 0
    examples: dict[Bucket, list[Example]] = {}
    for bucket, items in buckets.items():
        for item in items:
            try:
                made = Example(
                    _encoded_clip(place, item, bucket, vae, makers[0], inpainting, every),
                    _encoded_text(place, item.text, clip, makers[1]),
                )
                examples.setdefault(bucket, []).append(made)
            except OSError as error:
                logging.warning("%s It is left out.", error)
            done += 1
            if progress is not None:
                progress(done, total)
    if not examples:
        raise DatasetError(f"No clip of {folder} could be encoded; see the log.")
    found = EncodedSet(examples, _encoded_text(place, "", clip, makers[1]))
    _write_index(place, found, inpainting)
    return found


def read_encoded(folder: Path, inpainting: bool) -> EncodedSet:
    """What `encode_dataset` left. Raises `DatasetError` when there is nothing, or nothing for this kind of model."""
    place = Path(folder) / PLACE
    try:
        index = json.loads((place / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{folder} is not encoded yet ({error}); run the encode stage on it first.") from error
    if inpainting and not index["inpainting"]:
        raise DatasetError(f"{folder} was encoded for text to video only; encode it again with inpainting on.")
    examples: dict[Bucket, list[Example]] = {}
    for row in index["examples"]:
        example = Example(*(place / Path(row[name]).name for name in ("latents", "text")))
        examples.setdefault(Bucket(*row["bucket"]), []).append(example)
    return EncodedSet(examples, place / Path(index["empty"]).name)


def is_inpainting(model) -> bool:
    """Whether a MODEL is told what is given of a clip."""
    config = model.model.diffusion_model.config
    return config.in_channels > config.latent_channels


def fingerprint(network: torch.nn.Module) -> str:
    """A short name for weights: the same for the same, another for others (from a few numbers of every tensor)."""
    found = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        flat = tensor.flatten()
        few = flat[:: max(1, len(flat) // SAMPLED)][:SAMPLED]
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(few.float().cpu().numpy().tobytes())
    return found.hexdigest()[:12]


def _encoded_clip(place: Path, item: Item, bucket: Bucket, vae, maker: str, inpainting: bool, every: int) -> Path:
    size = f"{bucket.frames}x{bucket.height}x{bucket.width}"
    kind = "inp" if inpainting else "t2v"
    file = place / f"{item.file.stem}.{item.version()}.{size}.{every}.{kind}.{maker}.safetensors"
    if not _is_whole(file):
        pixels = fit_into(read_frames(item, 0, bucket.frames, every), bucket.height, bucket.width)
        tensors = {"latents": vae.encode(pixels)[0]}
        if inpainting:
            tensors |= _all_given(vae, pixels)
        write_whole(file, {name: tensor.half() for name, tensor in tensors.items()})
    return file


def _encoded_text(place: Path, text: str, clip, maker: str) -> Path:
    file = place / f"text.{hashlib.sha256(text.encode()).hexdigest()[:16]}.{maker}.safetensors"
    if not _is_whole(file):
        context, more = clip.encode_from_tokens_scheduled(clip.tokenize(clean_prompt(text)))[0]
        mask = more.get("attention_mask", torch.ones(context.shape[:2]))
        write_whole(file, {"context": context[0].half(), "mask": mask[0].float()})
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


def _given(shown: dict[str, Tensor], chance: random.Random) -> Tensor:
    """What is told of a clip, drawn as the original does: nothing, the start, or both ends."""
    given, kind = shown["none"].clone(), chance.choice(("none", "start", "both"))
    if "start" in shown and kind != "none":
        start = chance.choice(list(shown["start"]))
        given[:, : start.shape[1]] = start
        if kind == "both":
            end = chance.choice(list(shown["end"]))
            given[:, -end.shape[1] :] = end
    return given


def _write_index(place: Path, found: EncodedSet, inpainting: bool) -> None:
    rows = [
        {"bucket": [bucket.frames, bucket.height, bucket.width], "latents": e.latents.name, "text": e.text.name}
        for bucket, examples in found.examples.items()
        for e in examples
    ]
    index = {"inpainting": inpainting, "empty": found.empty.name, "examples": rows}
    partial = place / f"{INDEX}.part"
    partial.write_text(json.dumps(index, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    partial.replace(place / INDEX)


def _is_whole(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0


def _read(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise OSError(f"{file} can't be read ({error}); remove it and encode the data set again.") from error
