"""A recipe of a data set: one TOML file that says which footage becomes which clips, and how."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..files.toml_settings import RecipeError, read_section, read_toml, read_value, resolve_path
from .caption import PROMPT, REWRITING, Captioner
from .dataset_file import write_original
from .filters import Limits
from .motion import Motion
from .pixel_scores import PixelScores
from .report import write_report
from .split import SplitSettings
from .stages import IN_PROCESS, Execution, Progress, choose_clips, describe_clips, score_clips, split_footage
from .text_area import TextArea

SECTIONS = ("split", "scores", "limits", "captions", "run")


@dataclass(frozen=True)
class ScoreSettings:
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
            raise ValueError("sets only one of image_encoder and aesthetics_head; set both, or neither.")


@dataclass(frozen=True)
class CaptionSettings:
    """The model that describes clips, "" for captions by hand only; see `caption.Captioner`."""

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
    scores: ScoreSettings
    limits: Limits
    captions: CaptionSettings
    execution: Execution


def read_data_recipe(file: str | Path) -> DataRecipe:
    """The recipe in a TOML file; `source` and `folder` are relative to the file's folder. Raises `RecipeError`."""
    file = Path(file)
    table = read_toml(file, {"source", "folder", "original", *SECTIONS})
    if "folder" not in table or "source" not in table:
        raise RecipeError(f"{file}: set source (the footage) and folder (the dataset) at the top.")
    return DataRecipe(
        split=read_section(file, "split", SplitSettings, table),
        scores=read_section(file, "scores", ScoreSettings, table),
        limits=read_section(file, "limits", Limits, table),
        captions=read_section(file, "captions", CaptionSettings, table),
        execution=read_section(file, "run", Execution, table),
        source=resolve_path(file, table["source"]),
        folder=resolve_path(file, table["folder"]),
        original=read_value(file, table, "original", bool, False),
    )


def run_recipe(recipe: DataRecipe, progress_of: Callable[[str], Progress | None] = lambda stage: None) -> Path:
    """Split, score, choose, describe, report; returns the folder of the data set. `progress_of(stage)` may show it."""
    folder, execution = recipe.folder, recipe.execution
    split_footage(recipe.source, folder, recipe.split, execution, progress_of("split"))
    score_clips(folder, make_scorers(recipe.scores), execution, progress_of("score"))
    if recipe.scores.aesthetics_head:
        score_clips(folder, [_make_aesthetics(recipe.scores)], IN_PROCESS, progress_of("looks"))
    choose_clips(folder, recipe.limits)
    rows = describe_clips(folder, _make_captioner(recipe.captions), IN_PROCESS, progress_of("describe"))
    if recipe.original:
        write_original(folder, rows)
    report = write_report(folder, rows, recipe.limits)
    kept = [row for row in rows if not row.get("rejected")]
    logging.info("%d of %d clips kept; %s shows which ones and why.", len(kept), len(rows), report)
    return folder


def make_scorers(scores: ScoreSettings) -> list:
    """The scorers that run on any CPU."""
    raft = Path(scores.raft) if scores.raft else None
    return [PixelScores(), *([Motion(raft)] if scores.motion else []), *([TextArea()] if scores.text_area else [])]


def _make_aesthetics(scores: ScoreSettings):
    from ..sd import load_image_encoder
    from .aesthetics import clip_vision_aesthetics

    return clip_vision_aesthetics(load_image_encoder(scores.image_encoder), Path(scores.aesthetics_head))


def _make_captioner(captions: CaptionSettings) -> Captioner | None:
    """The captioner, None for captions by hand only."""
    if not captions.model:
        return None
    return Captioner(
        Path(captions.model),
        captions.prompt,
        captions.frames,
        captions.longest,
        Path(captions.rewriter) if captions.rewriter else None,
        captions.rewriting,
        captions.device,
        captions.batch,
    )
