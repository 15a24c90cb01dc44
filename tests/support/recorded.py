"""Recorded numbers of the original: models, their inputs and outputs, and whole sampling runs.

The repository's own lie in `tests/golden`. `EASYANIMATE_GOLDEN=FOLDER` lets `tests/parity` compare with another set in
the same format instead: everything is found there by listing, and by what its JSON says.
"""

import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

GOLDEN = Path(__file__).parent.parent / "golden"
RECORDED = Path(os.environ.get("EASYANIMATE_GOLDEN") or GOLDEN)
SUPPORTED = ("v[1-5]*_*", "qwen2_vl", "bert_mt5")  # folders of what is implemented
TOLERANCE = 1e-4  # relative, where the JSON names no other
WEIGHTS_FILE = "weights_file"  # in the JSON of further cases of a model: the recording that holds it
CLASSES = {  # reference_class, without its package -> kind
    "Transformer3DModel": "transformer",
    "AutoencoderKL": "image VAE",
    "AutoencoderKLMagvit": "video VAE",
    "T5EncoderModel": "text encoder",
    "Qwen2VLForConditionalGeneration": "Qwen2-VL",
    "BertModel": "BERT",
    "CLIPVisionModelWithProjection": "image encoder",
}


@dataclass(frozen=True)
class Golden:
    """One recorded model or run: its JSON, weights, and all tensors by their recorded names."""

    config: dict
    weights: dict[str, torch.Tensor]
    tensors: dict[str, torch.Tensor]

    def inputs(self, case: str) -> dict[str, torch.Tensor]:
        return self._under(f"inputs.{case}.")

    def outputs(self, case: str) -> dict[str, torch.Tensor]:
        return self._under(f"outputs.{case}.")

    def _under(self, prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): v for k, v in self.tensors.items() if k.startswith(prefix)}


def golden(name: str, folder: Path = GOLDEN) -> Golden:
    """`FOLDER/NAME.safetensors` with its JSON; float16 storage is lossless and widened."""
    stored = load_file(folder / f"{name}.safetensors")
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in stored.items()}
    weights = {k.removeprefix("weights."): v for k, v in tensors.items() if k.startswith("weights.")}
    return Golden(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")), weights, tensors)


@functools.cache
def recorded(name: str) -> Golden:
    """The same from the set under comparison; read once. Skips a test whose recording isn't there."""
    if not (RECORDED / f"{name}.safetensors").exists():
        pytest.skip(f"{RECORDED} holds no {name}")
    return golden(name, RECORDED)


@functools.cache
def config_of(name: str) -> dict:
    """Only the JSON of a recording."""
    return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))


def model_of(name: str) -> str:
    """The recording that holds the weights and the constructor of a recording."""
    return config_of(name).get(WEIGHTS_FILE, name)


@functools.cache
def shapes_of(name: str) -> dict[str, list[int]]:
    """Only the names and shapes of a recording's tensors."""
    with safe_open(RECORDED / f"{name}.safetensors", "pt") as file:
        return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118  (not a dict)


@functools.cache
def names(kind: str) -> list[str]:
    """Recordings of a kind: one of `CLASSES`, "run" or "LoRA"."""
    files = sorted(file for folder in SUPPORTED for file in RECORDED.glob(f"{folder}/*.json"))
    found = [file.relative_to(RECORDED).with_suffix("").as_posix() for file in files]
    return [name for name in found if (RECORDED / f"{name}.safetensors").exists() and _kind(config_of(name)) == kind]


def _kind(config: dict | list) -> str | None:
    if not isinstance(config, dict):
        return None
    if WEIGHTS_FILE in config:
        return _kind(config_of(config[WEIGHTS_FILE]))
    if "pipeline" in config:
        return "run"
    if "base_model" in config and "multiplier" in config:
        return "LoRA"
    return CLASSES.get(config.get("reference_class", "").split(".")[-1].split(" ")[0])


def cases(kind: str, *tensors: str) -> list[tuple[str, str]]:
    """(name, case) of every case of a kind that holds these tensors, such as `inputs.{}.pixels`."""
    return [
        (name, case)
        for name in names(kind)
        for case in config_of(name).get("cases", {})
        if all(tensor.format(case) in shapes_of(name) for tensor in tensors)
    ]


def texts_of(kind: str) -> list[tuple[str, str, str]]:
    """(name, recording, case) of every text that a text encoder `name` of a kind read; some are in files of their own.

    The tokens of a case are `inputs.CASE.input_ids`.
    """
    found = []
    for name in names(kind):
        folder = (RECORDED / name).parent
        for file in sorted(f"{folder.name}/{path.stem}" for path in folder.glob("*.json")):
            if file == name or config_of(file).get("weights_file") == name:
                keys = [key.split(".") for key in shapes_of(file)]
                found += [(name, file, key[1]) for key in keys if key[0] == "inputs" and key[-1] == "input_ids"]
    return found


def each(arguments: str, found: Iterable, ids=None):
    """`pytest.mark.parametrize` over recordings; a single skipped test with a reason where there are none."""
    found = list(found)
    if not found:
        reason = pytest.mark.skip(reason=f"{RECORDED} holds no such recordings")
        found = [pytest.param(*[None] * len(arguments.split(",")), marks=reason, id="none recorded")]
    return pytest.mark.parametrize(arguments, found, ids=ids)


def tolerance(name: str, case: str | None = None) -> float:
    """The relative error that is allowed: of a case, of a recording, or `TOLERANCE`."""
    config = config_of(name)
    return config.get("cases", {}).get(case, {}).get("tolerance", config.get("tolerance", TOLERANCE))


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """||ours - theirs|| / ||theirs||."""
    assert ours.shape == theirs.shape
    return float((ours.float() - theirs).norm() / theirs.norm())
