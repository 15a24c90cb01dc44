"""A recipe of a data set: one TOML file that says which footage becomes which clips, and how."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files.toml_settings import RecipeError, read_section, read_toml, read_value, resolve_path
from .caption import PROMPT, REWRITING, Captioner
from .dataset_file import write_original
from .filters import Limits
from .ledger import Row
from .motion import Motion
from .pixel_scores import Basics
from .report import write_report
from .split import SplitSettings
from .stages import HERE, Hands, Progress, choose_clips, describe_clips, score_clips, split_footage
from .text_area import TextArea

SECTIONS = ("split", "scores", "limits", "captions", "run")


@dataclass(frozen=True)
class Scores:
    """What is measured beside size, length, light and change. Files are on this disk; "" is none.

    `raft` are torchvision's weights, instead of Farneback's flow. Aesthetics need both CLIP (`image_encoder`, a release
    folder has one) and LAION's predictor (`aesthetics_head`).
    """

    motion: bool = True
    text_area: bool = True
    raft: str = ""
    image_encoder: str = ""
    aesthetics_head: str = ""

    def __post_init__(self):
        if bool(self.image_encoder) != bool(self.aesthetics_head):
            raise ValueError("names one of image_encoder and aesthetics_head; looks need both, or neither.")


@dataclass(frozen=True)
class Captions:
    """By which model clips are described, "" for captions by hand only; see `caption.Captioner`."""

    model: str = ""
    prompt: str = PROMPT
    frames: int = 8
    longest: int = 256
    rewriter: str = ""
    rewriting: str = REWRITING
    device: str = "cpu"
    batch: int = 1


@dataclass(frozen=True)
class DataRecipe:
    """Footage below `source` becomes a data set in `folder`; with `original`, its list in the original's form too."""

    source: Path
    folder: Path
    original: bool
    split: SplitSettings
    scores: Scores
    limits: Limits
    captions: Captions
    hands: Hands


def read_data_recipe(file: str | Path) -> DataRecipe:
    """The recipe in a TOML file; `source` and `folder` start from its folder. Raises `RecipeError`."""
    file = Path(file)
    told = read_toml(file, {"source", "folder", "original", *SECTIONS})
    if "folder" not in told or "source" not in told:
        raise RecipeError(f"{file}: source (the footage) and folder (of the data set) must be named at the top.")
    kinds = (SplitSettings, Scores, Limits, Captions, Hands)
    parts: list[Any] = [read_section(file, name, kind, told) for name, kind in zip(SECTIONS, kinds, strict=True)]
    source, folder = resolve_path(file, told["source"]), resolve_path(file, told["folder"])
    return DataRecipe(source, folder, read_value(file, told, "original", bool, False), *parts)


def follow(recipe: DataRecipe, watch: Callable[[str], Progress | None] = lambda stage: None) -> Path:
    """Split, score, choose, describe, report; the folder that came out. `watch(stage)` gives its progress."""
    folder, hands = recipe.folder, recipe.hands
    split_footage(recipe.source, folder, recipe.split, hands, watch("split"))
    score_clips(folder, cpu_works(recipe.scores), hands, watch("score"))
    if recipe.scores.aesthetics_head:
        score_clips(folder, [aesthetics(recipe.scores)], HERE, watch("looks"))
    choose_clips(folder, recipe.limits)
    rows = describe_clips(folder, captioner(recipe.captions), HERE, watch("describe"))
    return finish(folder, rows, recipe.limits, recipe.original)


def finish(folder: Path, rows: list[Row], limits: Limits, original: bool) -> Path:
    """The report, and the original's list where it is wanted."""
    if original:
        write_original(folder, rows)
    report = write_report(folder, rows, limits)
    kept = [row for row in rows if not row.get("rejected")]
    logging.info("%d of %d clips are kept; %s shows which and why.", len(kept), len(rows), report)
    return folder


def cpu_works(scores: Scores) -> list:
    """What any worker can measure."""
    raft = Path(scores.raft) if scores.raft else None
    return [Basics(), *([Motion(raft)] if scores.motion else []), *([TextArea()] if scores.text_area else [])]


def aesthetics(scores: Scores):
    """What a device measures."""
    from ..sd import load_image_encoder
    from .aesthetics import by_host

    return by_host(load_image_encoder(scores.image_encoder), Path(scores.aesthetics_head))


def captioner(told: Captions) -> Captioner | None:
    """Who describes clips, if anyone."""
    if not told.model:
        return None
    rewriter = Path(told.rewriter) if told.rewriter else None
    numbers = told.prompt, told.frames, told.longest
    return Captioner(Path(told.model), *numbers, rewriter, told.rewriting, told.device, told.batch)
