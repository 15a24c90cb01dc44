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
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from ...data.dataset_file import DatasetError
from ...dit.motion_dit import CLIP_TOKENS
from ...files.atomic import make_folder, write_safetensors, write_text
from ...files.messages import shorten
from ...latent_formats import alike
from ...media.errors import MediaError
from ...text_encoders.prompt import cleaned, embeddings_of, encode_prompt, second_embeddings_of
from ..denoiser.objective import Batch
from ..devices import local_shard
from ..identity import Contents, digest, fingerprint, model_fingerprint
from .batches import BatchSchedule
from .buckets import Bucket
from .captions import AS_WRITTEN, TagOrder
from .dataset import Item, fit_into, read_frames
from .given_inputs import TEXT_ONLY, GivenInputs, Window
from .settings import DataSettings
from .tensor_cache import TensorCache

CACHE, INDEX = ".easyanimate", "index.json"
HALF_MAX = 65504.0
NAME_BYTES = 40  # of a clip's name in the names of its files

Progress = Callable[[int, int], None]  # (done, of)
EncodeTexts = Callable[[list[str]], dict[str, Tensor]]  # texts to `text_tensors`, a row each


@dataclass(frozen=True)
class Example:
    """A window of a clip in one size: the file of its latents, its caption, and the file of how CLIP sees its start.

    One that is `held_out` is for validation.
    """

    latents: Path
    text: str
    clip_embeds: Path | None = None
    held_out: bool = False


class StartImageEncoder:
    """Called with an image `[1, H, W, 3]`: the embeddings and the mask that the networks of a MODEL take of it."""

    def __init__(self, clip_vision, model):
        self.clip_vision, self.start_image = clip_vision, model.model.start_image
        self.fingerprint = fingerprint(clip_vision.model)

    def __call__(self, image: Tensor) -> tuple[Tensor, Tensor]:
        return self.start_image(self.clip_vision.encode_image(image))


@dataclass(frozen=True)
class LatentDataset:
    """All examples by size, and the file of every text, the empty one too; none where the text encoder is trained.

    `contents` has the digests of the clips, the captions and the encoders. `given` is what the
    network is given of each.
    """

    examples: dict[Bucket, list[Example]]
    texts: dict[str, Path]
    contents: Contents = field(default_factory=dict)
    given: GivenInputs = TEXT_ONLY

    @property
    def count(self) -> int:
        """How many examples there are."""
        return sum(map(len, self.examples.values()))

    def part(self, held_out: bool) -> "LatentDataset":
        """The examples for validation, or those for training."""
        chosen = {bucket: [e for e in few if e.held_out == held_out] for bucket, few in self.examples.items()}
        return replace(self, examples={bucket: few for bucket, few in chosen.items() if few})

    def batches(
        self,
        batch: int,
        seed: int,
        text_dropout: float,
        clip_dropout: float = 0.5,
        encode_texts: EncodeTexts | None = None,
        order: TagOrder = AS_WRITTEN,
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
                texts.append("" if rng.random() < text_dropout else order.draw(example.text, rng))
                rows.append(self._draw_row(example, cache, rng, clip_dropout))
            tensors = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
            return Batch(**tensors, **encode(texts), first=shard.start, global_batch=batch)

        return draw

    def _read_texts(self, cache: TensorCache, texts: list[str]) -> dict[str, Tensor]:
        found = [cache(self.texts[text]) for text in texts]
        return {name: torch.stack([text[name].float() for text in found]) for name in found[0]}

    def _draw_row(self, example: Example, cache: TensorCache, rng: random.Random, dropout: float) -> dict[str, Tensor]:
        """One row of a batch: latents, what is given of them, and the start's embedding for CLIP."""
        clip = cache(example.latents)
        drawn = self.given.draw(clip, rng)
        row = {"latents": clip["latents"].float(), **drawn.rows}
        if example.clip_embeds is not None:
            strength = float(drawn.starts and rng.random() >= dropout)
            view = cache(example.clip_embeds)
            row["clip_embeds"] = view["embeds"].float() * strength
            row["clip_mask"] = view.get("mask", torch.ones(CLIP_TOKENS)).float() * strength
        return row


def encode_dataset(
    folder: Path,
    buckets: dict[Bucket, list[Item]],
    vae,
    clip,
    given: GivenInputs = TEXT_ONLY,
    data: DataSettings | None = None,
    progress: Progress | None = None,
    image_encoder: StartImageEncoder | None = None,
) -> LatentDataset:
    """Encode what is not in the cache yet, by the host's `vae`, `clip` and `image_encoder`, and write the index.

    `data` says which frames are taken, from an item's `start` on, and in which orders tags are. A clip that can't be
    read is named in the log and left out. Without `clip` texts are not encoded; without `image_encoder` examples have
    no `clip_embeds`. `given` says what else the network is to know of each clip. Raises `DatasetError` when nothing is
    left, `WriteError` when the cache can't be written.
    """
    cache = make_folder(folder / CACHE)
    every, order = (data.every, data.tag_order) if data else (1, AS_WRITTEN)
    encode_clip = partial(_encode_clip, cache, vae, fingerprint(vae.first_stage_model), given, every)
    encode_start = None
    if image_encoder is not None:
        encode_start = partial(_encode_start, cache, image_encoder)
    items = [(bucket, item) for bucket, found in buckets.items() for item in found]
    examples: dict[Bucket, list[Example]] = {}
    encoded: list[Item] = []
    for done, (bucket, item) in enumerate(items, 1):
        try:
            latents = encode_clip(item, bucket)
            clip_embeds = encode_start(item, bucket) if encode_start else None
            examples.setdefault(bucket, []).append(Example(latents, item.text, clip_embeds, item.held_out))
            encoded.append(item)
        except MediaError as error:
            logging.warning("%s The clip is skipped.", error)
        if progress is not None:
            progress(done, len(items))
    if not examples:
        raise DatasetError(f"No clip in {folder} could be encoded; see the log.")
    texts = _encode_texts(cache, examples, clip, order) if clip is not None else {}
    contents = contents_of(encoded, with_captions=True) | _encoder_contents(vae, clip, image_encoder)
    dataset = LatentDataset(examples, texts, contents, given)
    _write_index(cache, dataset)
    return dataset


def contents_of(items: Iterable[Item], with_captions: bool) -> Contents:
    """The digests of clips and their captions, in the order that batches are drawn from; file names don't matter."""
    items = list(items)
    contents = {"clips": digest(_digest_in_size(item) for item in items)}
    return {**contents, "captions": digest(item.text for item in items)} if with_captions else contents


def _digest_in_size(item: Item) -> str:
    """A digest of an item and of the size that it has of its own."""
    return f"{item.digest()} {item.side} {item.most_frames}" if item.side or item.most_frames else item.digest()


def _encoder_contents(vae, clip, image_encoder) -> Contents:
    contents = {"VAE": fingerprint(vae.first_stage_model)}
    if clip is not None:
        contents["text encoder"] = model_fingerprint(clip.patcher)
    if image_encoder is not None:
        contents["image encoder"] = image_encoder.fingerprint
    return contents


def read_encoded(folder: Path, given: GivenInputs = TEXT_ONLY) -> LatentDataset:
    """What `encode_dataset` left. Raises `DatasetError` when there is nothing, or nothing for this kind of model."""
    cache = Path(folder) / CACHE
    try:
        index = json.loads((cache / INDEX).read_text(encoding="utf-8"))
        texts = {text: cache / Path(name).name for text, name in index["texts"].items()}
    except (OSError, ValueError, KeyError) as error:
        raise DatasetError(f"{folder} is not encoded yet ({error}); run the encode stage on it first.") from error
    kind = index.get("given", "inp" if index["inpainting"] else TEXT_ONLY.kind)
    if given.kind not in (kind, TEXT_ONLY.kind):
        raise DatasetError(f"{folder} was encoded for another kind of transformer; encode it again for this one.")
    examples: dict[Bucket, list[Example]] = {}
    for row in index["examples"]:
        clip_embeds = cache / Path(row["seen"]).name if row["seen"] else None
        held_out = row.get("held_out", False)
        example = Example(cache / Path(row["latents"]).name, row["text"], clip_embeds, held_out)
        examples.setdefault(Bucket(*row["bucket"]), []).append(example)
    return LatentDataset(examples, texts, index.get("contents", {}), given)


def require_latents_of(model, vae) -> None:
    """Raise `ValueError` when the latents of `vae` are for transformers of another release than the MODEL.

    An image transformer may learn those of any VAE with as many channels, as in the paper's first stage.
    """
    needed, found = model.model.latent_format, vae.latent_format
    if needed.release == found.release:
        return
    if model.model.model_config.is_image_transformer and needed.latent_channels == found.latent_channels:
        logging.warning(
            "The VAE is that of %s, which an image transformer has to be adapted to first (image_transformer_v3.toml).",
            found.release,
        )
        return
    raise ValueError(
        f"The VAE is that of {found.release}, but the transformer is {needed.release}; load the VAE of the "
        f"transformer's release{alike(found.release, needed.release)}."
    )


def start_image_encoder(model, clip_vision) -> StartImageEncoder | None:
    """How a MODEL sees start images through CLIP_VISION, if it does; a missing one is named in the log."""
    takes = model.model.model_config.sees_start_image
    if takes and clip_vision is None:
        logging.warning(
            "This transformer can see start images through CLIP, but no image encoder is given; it is trained without "
            "CLIP."
        )
    return StartImageEncoder(clip_vision, model) if takes and clip_vision is not None else None


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
    cache: Path, vae, encoder_fingerprint: str, given: GivenInputs, every: int, item: Item, bucket: Bucket
) -> Path:
    """The file of a clip's latents and of all that the network can be given of them."""
    size = f"{bucket.frames}x{bucket.height}x{bucket.width}"
    window = f"{every}{_rate(item)}.from{item.start}" if item.start else f"{every}{_rate(item)}"
    file = _cache_file(cache, item, f"{size}.{window}.{given.kind}.{encoder_fingerprint}")
    if not _is_complete(file):
        pixels = fit_into(read_frames(item, item.start, bucket.frames, every), bucket.height, bucket.width)
        tensors = {"latents": vae.encode(pixels)[0]}
        tensors |= given.encode(vae, pixels, Window(item, bucket.frames, bucket.height, bucket.width, every))
        write_safetensors(file, {name: tensor.half() for name, tensor in tensors.items()})
    return file


def _encode_start(cache: Path, image_encoder: StartImageEncoder, item: Item, bucket: Bucket) -> Path:
    """The file of the CLIP embedding of a clip's first frame."""
    window = f"{bucket.height}x{bucket.width}{_rate(item)}.from{item.start}"
    file = _cache_file(cache, item, f"{window}.clip.{image_encoder.fingerprint}")
    if not _is_complete(file):
        embeds, mask = image_encoder(fit_into(read_frames(item, item.start, 1), bucket.height, bucket.width))
        write_safetensors(file, {"embeds": embeds[0].half(), "mask": mask[0].float()})
    return file


def _encode_texts(cache: Path, examples: dict[Bucket, list[Example]], clip, order: TagOrder) -> dict[str, Path]:
    encoder_fingerprint = model_fingerprint(clip.patcher)
    captions = {example.text for found in examples.values() for example in found}
    texts = {"", *(text for caption in captions for text in order.variants(caption))}
    return {text: _encoded_text(cache, text, clip, encoder_fingerprint) for text in sorted(texts)}


def _encoded_text(cache: Path, text: str, clip, encoder_fingerprint: str) -> Path:
    file = cache / f"text.{hashlib.sha256(text.encode()).hexdigest()[:16]}.{encoder_fingerprint}.safetensors"
    if not _is_complete(file):
        encoded = text_tensors(encode_prompt(clip, [text]))
        write_safetensors(file, {name: _compact(tensor[0]) for name, tensor in encoded.items()})
    return file


def text_tensors(conditioning: list) -> dict[str, Tensor]:
    """The texts of a CONDITIONING as a `Batch` names them: context and mask, and those of a second text encoder."""
    first, second = embeddings_of(conditioning), second_embeddings_of(conditioning)
    tensors = {"context": first.context, "mask": first.mask}
    return tensors if second is None else {**tensors, "context_2": second.context, "mask_2": second.mask}


def _compact(tensor: Tensor) -> Tensor:
    """In half the size, unless large numbers in it (Qwen2-VL has some) would overflow."""
    return tensor.half() if tensor.abs().max() < HALF_MAX else tensor.float()


def _write_index(cache: Path, dataset: LatentDataset) -> None:
    rows = []
    for bucket, examples in dataset.examples.items():
        for example in examples:
            embeds = example.clip_embeds.name if example.clip_embeds else None
            files = {"latents": example.latents.name, "text": example.text, "seen": embeds}
            held_out = {"held_out": True} if example.held_out else {}
            rows.append({"bucket": [bucket.frames, bucket.height, bucket.width], **files, **held_out})
    texts = {text: file.name for text, file in dataset.texts.items()}
    kind = dataset.given.kind
    index = {"inpainting": kind == "inp", "given": kind, "contents": dataset.contents, "texts": texts, "examples": rows}
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
