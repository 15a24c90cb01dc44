"""A data set as latents and text embeddings, computed once and kept beside the clips in `.easyanimate`.

A file is named after the contents of its source and its encoder: another clip, VAE, text encoder, caption or size makes
another file, and what is there is not made again. Training reads the index and these files; neither VAE nor T5 need be
in memory.
"""

import hashlib
import json
import logging
import os
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import comfy.model_base
import torch
from torch import Tensor

from ...conditioning.inpainting import inpaint_latents
from ...data.dataset_file import DatasetError
from ...dit.motion_dit import CLIP_TOKENS
from ...files.atomic import make_folder, write_safetensors, write_text
from ...files.messages import shorten
from ...media.errors import MediaError
from ...model_base import clip_tokens
from ...text_encoders.prompt import cleaned, embeddings_of, encode_prompt
from ..denoiser.objective import Batch
from ..devices import local_shard
from ..identity import Contents, digest, fingerprint, model_fingerprint
from .batches import BatchSchedule
from .buckets import Bucket
from .dataset import Item, read_frames
from .tensor_cache import TensorCache

CACHE, INDEX = ".easyanimate", "index.json"
MAX_GIVEN = 4  # frames at either end, as the original trains its inpainting models
NAME_BYTES = 40  # of a clip's name in the names of its files

Progress = Callable[[int, int], None]  # (done, of)
EncodeTexts = Callable[[list[str]], tuple[Tensor, Tensor]]  # texts to context [B, L, D] and mask [B, L]


@dataclass(frozen=True)
class Example:
    """A window of a clip in one size: the file of its latents, its caption, and the file of how CLIP sees its start."""

    latents: Path
    text: str
    clip_embeds: Path | None = None


@dataclass(frozen=True)
class LatentDataset:
    """All examples by size, and the file of every text, the empty one too; none where the text encoder is trained.

    `contents` has the digests of the clips, the captions and the encoders.
    """

    examples: dict[Bucket, list[Example]]
    texts: dict[str, Path]
    contents: Contents = field(default_factory=dict)

    @property
    def count(self) -> int:
        """How many examples there are."""
        return sum(map(len, self.examples.values()))

    def batches(
        self,
        batch: int,
        seed: int,
        text_dropout: float,
        clip_dropout: float = 0.5,
        encode_texts: EncodeTexts | None = None,
    ) -> Callable[[int, random.Random], Batch]:
        """What `denoising_objective` draws from: called with a step, this process's shard of its batch.

        Texts are encoded by `encode_texts`, by default read from the cache.
        """
        schedule = BatchSchedule({bucket: len(found) for bucket, found in self.examples.items()}, batch, seed)
        shard, cache = local_shard(batch), TensorCache()
        encode = encode_texts or partial(self._read_texts, cache)

        def draw(step: int, _: random.Random) -> Batch:
            bucket, indices = schedule(step)
            rows, texts = [], []
            for row in range(shard.start, shard.stop):
                rng = random.Random(f"{seed} {step} {row}")
                example = self.examples[bucket][indices[row]]
                texts.append("" if rng.random() < text_dropout else example.text)
                rows.append(_draw_row(example, cache, rng, clip_dropout))
            tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            context, mask = encode(texts)
            return Batch(**tensors, context=context, mask=mask, first=shard.start, global_batch=batch)

        return draw

    def _read_texts(self, cache: TensorCache, texts: list[str]) -> tuple[Tensor, Tensor]:
        found = [cache(self.texts[text]) for text in texts]
        return torch.stack([text["context"].float() for text in found]), torch.stack([text["mask"] for text in found])


def encode_dataset(
    folder: Path,
    buckets: dict[Bucket, list[Item]],
    vae,
    clip,
    inpainting: bool,
    every: int = 1,
    progress: Progress | None = None,
    image_encoder=None,
) -> LatentDataset:
    """Encode what is not in the cache yet, by the host's `vae`, `clip` and `image_encoder`, and write the index.

    One in `every` frames is taken, from an item's `start` on. A clip that can't be read is named in the log and left
    out. Without `clip` texts are not encoded; without `image_encoder` (CLIP_VISION) examples have no `clip_embeds`.
    Raises `DatasetError` when nothing is left, `WriteError` when the cache can't be written.
    """
    cache = make_folder(folder / CACHE)
    encode_clip = partial(_encode_clip, cache, vae, fingerprint(vae.first_stage_model), inpainting, every)
    encode_start = None
    if image_encoder is not None:
        encode_start = partial(_encode_start, cache, image_encoder, fingerprint(image_encoder.model))
    items = [(bucket, item) for bucket, found in buckets.items() for item in found]
    examples: dict[Bucket, list[Example]] = {}
    encoded: list[Item] = []
    for done, (bucket, item) in enumerate(items, 1):
        try:
            latents = encode_clip(item, bucket)
            clip_embeds = encode_start(item, bucket) if encode_start else None
            examples.setdefault(bucket, []).append(Example(latents, item.text, clip_embeds))
            encoded.append(item)
        except MediaError as error:
            logging.warning("%s The clip is skipped.", error)
        if progress is not None:
            progress(done, len(items))
    if not examples:
        raise DatasetError(f"No clip in {folder} could be encoded; see the log.")
    texts = _encode_texts(cache, examples, clip) if clip is not None else {}
    contents = contents_of(encoded, with_captions=True) | _encoder_contents(vae, clip, image_encoder)
    dataset = LatentDataset(examples, texts, contents)
    _write_index(cache, dataset, inpainting)
    return dataset


def contents_of(items: Iterable[Item], with_captions: bool) -> Contents:
    """The digests of clips and their captions, in the order that batches are drawn from; file names don't matter."""
    items = list(items)
    contents = {"clips": digest(item.digest() for item in items)}
    return {**contents, "captions": digest(item.text for item in items)} if with_captions else contents


def _encoder_contents(vae, clip, image_encoder) -> Contents:
    contents = {"VAE": fingerprint(vae.first_stage_model)}
    if clip is not None:
        contents["text encoder"] = model_fingerprint(clip.patcher)
    if image_encoder is not None:
        contents["image encoder"] = fingerprint(image_encoder.model)
    return contents


def read_encoded(folder: Path, inpainting: bool) -> LatentDataset:
    """What `encode_dataset` left. Raises `DatasetError` when there is nothing, or nothing for this kind of model."""
    cache = Path(folder) / CACHE
    try:
        index = json.loads((cache / INDEX).read_text(encoding="utf-8"))
        texts = {text: cache / Path(name).name for text, name in index["texts"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder} is not encoded yet ({error}); run the encode stage on it first.") from error
    if inpainting and not index["inpainting"]:
        raise DatasetError(f"{folder} was encoded for text to video only; encode it again with inpainting on.")
    examples: dict[Bucket, list[Example]] = {}
    for row in index["examples"]:
        clip_embeds = cache / Path(row["seen"]).name if row["seen"] else None
        example = Example(cache / Path(row["latents"]).name, row["text"], clip_embeds)
        examples.setdefault(Bucket(*row["bucket"]), []).append(example)
    return LatentDataset(examples, texts, index.get("contents", {}))


def require_trainable(model) -> None:
    """Raise `ValueError` for releases whose objective training does not know."""
    release = model.model.model_config
    if release.prediction != comfy.model_base.ModelType.EPS:
        raise ValueError(
            f"EasyAnimate {release.latent_format.release} can't be trained here, only V1 to V3 can; connect a "
            "transformer of one of these."
        )


def is_inpainting(model) -> bool:
    """Whether a MODEL takes the given frames of a clip beside its latents."""
    return model.model.model_config.is_inpainting


def wants_clip_tokens(model, image_encoder) -> bool:
    """Whether a MODEL is to get CLIP embeddings of start images; a missing image encoder is named in the log."""
    takes = model.model.model_config.sees_start_image
    if takes and not image_encoder:
        logging.warning(
            "This transformer can see start images through CLIP, but no image encoder is given; it is trained without "
            "CLIP."
        )
    return takes and bool(image_encoder)


def log_unreadable_captions(items: Iterable[Item], clip) -> None:
    """Name in the log the clips whose captions the text encoder would see as empty, such as Chinese ones by T5."""
    for item in items:
        if item.text and not cleaned(clip, item.text).strip():
            logging.warning(
                "The caption of %s (%s) has nothing in it that the text encoder can read, so the clip is trained "
                "without a caption; write it in English.",
                item.file,
                shorten(item.text),
            )


def _encode_clip(
    cache: Path, vae, encoder_fingerprint: str, inpainting: bool, every: int, item: Item, bucket: Bucket
) -> Path:
    """The file of a clip's latents and, for an inpainting model, of all that it can be given of them."""
    size = f"{bucket.frames}x{bucket.height}x{bucket.width}"
    kind = "inp" if inpainting else "t2v"
    window = f"{every}{_rate(item)}.from{item.start}" if item.start else f"{every}{_rate(item)}"
    file = _cache_file(cache, item, f"{size}.{window}.{kind}.{encoder_fingerprint}")
    if not _is_complete(file):
        pixels = fit_into(read_frames(item, item.start, bucket.frames, every), bucket.height, bucket.width)
        tensors = {"latents": vae.encode(pixels)[0]}
        if inpainting:
            tensors |= _encode_given(vae, pixels)
        write_safetensors(file, {name: tensor.half() for name, tensor in tensors.items()})
    return file


def _encode_start(cache: Path, image_encoder, encoder_fingerprint: str, item: Item, bucket: Bucket) -> Path:
    """The file of the CLIP embedding of a clip's first frame."""
    window = f"{bucket.height}x{bucket.width}{_rate(item)}.from{item.start}"
    file = _cache_file(cache, item, f"{window}.clip.{encoder_fingerprint}")
    if not _is_complete(file):
        first = fit_into(read_frames(item, item.start, 1), bucket.height, bucket.width)
        embeds, _ = clip_tokens(image_encoder.encode_image(first), None)
        write_safetensors(file, {"embeds": embeds[0].half()})
    return file


def _encode_texts(cache: Path, examples: dict[Bucket, list[Example]], clip) -> dict[str, Path]:
    encoder_fingerprint = model_fingerprint(clip.patcher)
    texts = {"", *(example.text for found in examples.values() for example in found)}
    return {text: _encoded_text(cache, text, clip, encoder_fingerprint) for text in sorted(texts)}


def _encoded_text(cache: Path, text: str, clip, encoder_fingerprint: str) -> Path:
    file = cache / f"text.{hashlib.sha256(text.encode()).hexdigest()[:16]}.{encoder_fingerprint}.safetensors"
    if not _is_complete(file):
        context, mask = embeddings_of(encode_prompt(clip, [text]))
        write_safetensors(file, {"context": context[0].half(), "mask": mask[0].float()})
    return file


def fit_into(pixels: Tensor, height: int, width: int) -> Tensor:
    """A clip `[T, H, W, 3]` scaled so that it covers this size, and cut to it in the middle."""
    scale = max(height / pixels.shape[1], width / pixels.shape[2])
    size = [max(least, round(side * scale)) for side, least in zip(pixels.shape[1:3], (height, width), strict=True)]
    if scale != 1:
        frames = pixels.movedim(-1, 1)
        frames = torch.nn.functional.interpolate(frames, size=size, mode="bicubic", antialias=True)
        pixels = frames.clamp(0, 1).movedim(1, -1)
    top, left = (pixels.shape[1] - height) // 2, (pixels.shape[2] - width) // 2
    return pixels[:, top : top + height, left : left + width]


def _encode_given(vae, pixels: Tensor) -> dict[str, Tensor]:
    """What an inpainting model can be given of a clip, as latents: nothing ("none"), or 1 to 4 frames at either end.

    Slices are encoded apart, so "start" and "end" `[N, C, F, H, W]` hold the first and the last one alone.
    """
    slices = vae.plan.encode(len(pixels))
    given = {"none": inpaint_latents(vae, pixels, torch.ones(pixels.shape[:3]))[0]}
    if len(slices) > 1:
        for name, part in (("start", pixels[: slices[0].stop]), ("end", pixels[slices[-1].start :])):
            counts = range(1, min(MAX_GIVEN, len(part)) + 1)
            given[name] = torch.stack([inpaint_latents(vae, part, _mask_all_but(part, name, n))[0] for n in counts])
    return given


def _mask_all_but(pixels: Tensor, end: str, given: int) -> Tensor:
    """The mask `[T, H, W]` of a clip `[T, H, W, 3]` of which so many frames at one end are given: 1 elsewhere."""
    mask = torch.ones(pixels.shape[:3])
    mask[slice(0, given) if end == "start" else slice(len(pixels) - given, None)] = 0
    return mask


def _draw_row(example: Example, cache: TensorCache, rng: random.Random, clip_dropout: float) -> dict[str, Tensor]:
    """One row of a batch: latents and, for an inpainting model, what is given of them and the start's embedding."""
    clip = cache(example.latents)
    row = {"latents": clip["latents"].float()}
    if "none" in clip:
        given, starts = _draw_given(clip, rng)
        row["given"] = given.float()
        if example.clip_embeds is not None:
            strength = float(starts and rng.random() >= clip_dropout)
            row["clip_embeds"] = cache(example.clip_embeds)["embeds"].float() * strength
            row["clip_mask"] = torch.full([CLIP_TOKENS], strength)
    return row


def _draw_given(clip: dict[str, Tensor], rng: random.Random) -> tuple[Tensor, bool]:
    """What is given of a clip, drawn as the original does (nothing, the start, or both ends), and if the start is."""
    given, kind = clip["none"].clone(), rng.choice(("none", "start", "both"))
    starts = "start" in clip and kind != "none"
    if starts:
        start = rng.choice(list(clip["start"]))
        given[:, : start.shape[1]] = start
        if kind == "both":
            end = rng.choice(list(clip["end"]))
            given[:, -end.shape[1] :] = end
    return given, starts


def _write_index(cache: Path, dataset: LatentDataset, inpainting: bool) -> None:
    rows = []
    for bucket, examples in dataset.examples.items():
        for example in examples:
            embeds = example.clip_embeds.name if example.clip_embeds else None
            files = {"latents": example.latents.name, "text": example.text, "seen": embeds}
            rows.append({"bucket": [bucket.frames, bucket.height, bucket.width], **files})
    texts = {text: file.name for text, file in dataset.texts.items()}
    index = {"inpainting": inpainting, "contents": dataset.contents, "texts": texts, "examples": rows}
    write_text(cache / INDEX, json.dumps(index, indent=1, ensure_ascii=False) + "\n")


def _cache_file(cache: Path, item: Item, kind: str) -> Path:
    """The file of a clip, of a kind; it begins with the clip's name, for people, cut off where that is long."""
    stem = os.fsencode(item.file.stem)[:NAME_BYTES].decode(errors="ignore")
    return cache / f"{stem}.{item.digest()}.{kind}.safetensors"


def _rate(item: Item) -> str:
    """The rate that a clip is resampled to, for the names of its files."""
    return f".{item.fps:g}fps" if item.resampled else ""


def _is_complete(file: Path) -> bool:
    return file.is_file() and file.stat().st_size > 0
