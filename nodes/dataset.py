"""Footage -> clips -> scores -> what is kept -> captions: a data set for the training nodes.

Between these nodes a data set is the folder that holds it. What data preparation needs is imported when it begins.
"""

import hashlib
import os
from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import folder_paths
from comfy_api.latest import io

from ..easyanimate_models.files.model_files import plain_name
from ..easyanimate_models.host import require_choice, show_text
from .previews import PREVIEW_CLIPS, as_image, clip_sheet, show_images
from .schema import schema

CATEGORY = "EasyAnimate/data"
DATASETS = "easyanimate_data"  # in the host's output folder
BY_HAND = "captions by hand only"
NONE = "none"
ANY = 1e6  # as a limit: none


def input_folders() -> list[str]:
    """Folders in the host's input folder, where footage lies."""
    root = Path(folder_paths.get_input_directory())
    return sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


def input_folder(name: str) -> Path:
    """The folder of that name in the host's input folder. Raises `ValueError` for names that lead elsewhere."""
    return Path(folder_paths.get_input_directory()) / require_choice("folder in ComfyUI's input", name, input_folders())


def input_digest(folder: str) -> str:
    """A digest of the files in an input folder: when they change, the host runs the node again."""
    return folder_digest(input_folder(folder)) if folder in input_folders() else ""


def folder_digest(root: Path) -> str:
    """A digest of the names, sizes and times of the files in a folder, without hidden ones."""
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(root).parts):
            stat = file.stat()
            digest.update(f"{file.relative_to(root)} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}\n".encode())
    return digest.hexdigest()


def data_sets() -> list[str]:
    """Data sets that were made here."""
    root = Path(folder_paths.get_output_directory()) / DATASETS
    return sorted(f.name for f in root.iterdir() if f.is_dir()) if root.is_dir() else []


def dataset_folders() -> list[str]:
    """Where data sets may be: those that were made here, and the folders of the input folder."""
    return [*(f"output/{name}" for name in data_sets()), *(f"input/{name}" for name in input_folders())]


def captioners() -> dict[str, Path]:
    """Vision-language models in LLM or VLM among the host's models: each is a folder with its config.json."""
    known = folder_paths.folder_names_and_paths
    found = {}
    for kind in ("LLM", "VLM"):
        for root in [*map(Path, known.get(kind, ([],))[0]), Path(folder_paths.models_dir) / kind]:
            for file in [*root.glob("*/config.json"), *root.glob("*/*/config.json")]:
                found.setdefault(f"{kind}/{file.parent.relative_to(root).as_posix()}", file.parent)
    return dict(sorted(found.items()))


def aesthetic_predictors() -> list[str]:
    """Aesthetic predictors in models/aesthetics."""
    root = Path(folder_paths.models_dir) / "aesthetics"
    kinds = {".safetensors", ".pth", ".pt", ".bin"}
    return sorted(f.name for f in root.iterdir() if f.suffix in kinds) if root.is_dir() else []


def dataset_folder(dataset: str) -> Path:
    """The folder of a data set, in the host's output or input folder. Raises `ValueError` for any other."""
    folder = Path(os.path.abspath(dataset))  # not resolved: a link in the input folder may lead to another disk
    roots = folder_paths.get_output_directory(), folder_paths.get_input_directory()
    if not any(Path(os.path.abspath(root)) in folder.parents for root in roots):
        raise ValueError(f"{dataset} is not in ComfyUI's output or input folder; connect a node that makes a dataset.")
    return folder


def _dataset_in() -> io.String.Input:
    return io.String.Input("dataset", force_input=True, tooltip="The dataset folder, from the previous node.")


def _outputs() -> list:
    return [
        io.String.Output(display_name="dataset", tooltip="The dataset folder."),
        io.Image.Output(display_name="preview", tooltip=f"One frame of each clip, for up to {PREVIEW_CLIPS} clips."),
    ]


def fps_input(tooltip: str) -> io.Float.Input:
    """The frame rate that footage or clips are resampled to."""
    return io.Float.Input("fps", default=0.0, min=0.0, max=240.0, step=0.01, optional=True, tooltip=tooltip)


class EasyAnimateSplitVideos(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateSplitVideos",
            display_name="EasyAnimate Split Videos",
            category=CATEGORY,
            description="Cuts footage into single-shot clips, without re-encoding where an exact cut allows it. A "
            ".txt caption beside a video applies to all its clips. Can be interrupted and resumed.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input("folder", options=input_folders(), tooltip="A folder of videos in ComfyUI/input."),
                io.String.Input("name", default="my_footage", tooltip="Dataset name, under output/easyanimate_data."),
                io.Float.Input(
                    "min_seconds",
                    default=3.0,
                    min=0.1,
                    max=600.0,
                    step=0.1,
                    tooltip="Shorter shots are dropped; the paper uses 3.",
                ),
                io.Float.Input(
                    "max_seconds",
                    default=10.0,
                    min=0.2,
                    max=1200.0,
                    step=0.1,
                    tooltip="Longer shots are split evenly; the paper uses 10. At least twice min_seconds.",
                ),
                fps_input(
                    "Resamples the videos to this frame rate: 24 for V3 and V4, 8 for V5 and V5.1. 0 = each video's "
                    "own rate."
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, folder, **_) -> str:
        return input_digest(folder)

    @classmethod
    def execute(cls, folder, name, min_seconds, max_seconds, fps=0.0) -> io.NodeOutput:
        from ..easyanimate_models.data.split import SplitSettings
        from ..easyanimate_models.data.stages import split_footage

        source, settings = input_folder(folder), SplitSettings(min_seconds, max_seconds, fps)
        home = Path(folder_paths.get_output_directory()) / DATASETS / plain_name(name, "folder")
        rows = split_footage(source, home, settings, _threads(), _progress(cls, "videos"))
        return _with_sheet(home, rows)


class EasyAnimateScoreClips(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateScoreClips",
            display_name="EasyAnimate Score Clips",
            category=CATEGORY,
            description="Measures the size, length, brightness and change of each clip and, optionally, motion, "
            "on-screen text and aesthetics. Keeps every clip; limits are set later, in Filter Clips.",
            hidden=[io.Hidden.unique_id],
            inputs=[
                _dataset_in(),
                io.Boolean.Input("motion", default=True, tooltip="Mean optical flow over half a second, in pixels."),
                io.Boolean.Input("text_area", default=True, tooltip="Fraction of the frame covered by text."),
                io.Combo.Input(
                    "aesthetics",
                    options=[NONE, *aesthetic_predictors()],
                    tooltip="LAION's aesthetic predictor, a file in models/aesthetics. Needs the image encoder.",
                ),
                io.ClipVision.Input("clip_vision", optional=True, tooltip="CLIP ViT-L/14, for the aesthetic score."),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, dataset, motion, text_area, aesthetics, clip_vision=None) -> io.NodeOutput:
        from ..easyanimate_models.data.recipe import ScoreSettings, make_scorers
        from ..easyanimate_models.data.stages import IN_PROCESS, score_clips

        home = dataset_folder(dataset)
        if (
            require_choice("aesthetic predictor", aesthetics, [NONE, *aesthetic_predictors()]) != NONE
            and clip_vision is None
        ):
            raise ValueError("Aesthetics need an image encoder; connect CLIP ViT-L/14 to clip_vision, or choose none.")
        rows = score_clips(home, make_scorers(ScoreSettings(motion, text_area)), _threads(), _progress(cls, "scores"))
        if aesthetics != NONE:
            from ..easyanimate_models.data.aesthetics import clip_vision_aesthetics

            head = Path(folder_paths.models_dir) / "aesthetics" / aesthetics
            scorer = clip_vision_aesthetics(clip_vision, head)
            rows = score_clips(home, [scorer], IN_PROCESS, _progress(cls, "aesthetic scores"))
        return _with_sheet(home, rows)


class EasyAnimateFilterClips(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        def least(name: str, default: float, most: float, tooltip: str) -> io.Float.Input:
            return io.Float.Input(name, default=default, min=0.0, max=most, step=0.01, tooltip=tooltip)

        return schema(
            node_id="EasyAnimateFilterClips",
            display_name="EasyAnimate Filter Clips",
            category=CATEGORY,
            description="Keeps the clips whose scores are within the limits and writes report.html, which shows what "
            "was kept and why. No clip is deleted: change the limits to select again.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                _dataset_in(),
                least("min_motion", 3.0, 1000.0, "Below this, hardly anything moves. 0 = no limit."),
                least("max_motion", 8.0, ANY, "Above this, too much moves or the camera shakes. 1000 = no limit."),
                least("max_text_area", 0.02, 1.0, "Fraction of the frame covered by text; 0.02 is 2 %. 1 = no limit."),
                least("min_aesthetics", 4.0, 10.0, "Out of 10; applies only to clips that were scored. 0 = no limit."),
                io.Int.Input("min_side", default=0, min=0, max=8192, tooltip="Shorter side, in pixels. 0 = no limit."),
                io.Boolean.Input("copies", default=False, tooltip="Keep clips that duplicate another one."),
            ],
            outputs=[
                *_outputs(),
                io.Int.Output(display_name="kept", tooltip="Number of clips kept."),
                io.String.Output(display_name="report", tooltip="Path of the report; open it in a browser."),
            ],
        )

    @classmethod
    def execute(cls, dataset, min_motion, max_motion, max_text_area, min_aesthetics, min_side, copies) -> io.NodeOutput:
        from ..easyanimate_models.data.filters import Limits
        from ..easyanimate_models.data.report import write_report
        from ..easyanimate_models.data.report_picture import report_picture, summary_lines
        from ..easyanimate_models.data.stages import choose_clips

        home = dataset_folder(dataset)
        limits = Limits(
            motion=(min_motion, max_motion),
            text_area=(None, max_text_area),
            aesthetics=(min_aesthetics, None),
            side=(min_side, None),
            copies=copies,
        )
        rows = choose_clips(home, limits)
        kept = _accepted_rows(rows)
        if not kept:
            first = next((row["rejected"] for row in rows), "there are no clips")
            raise ValueError(f"No clip of {home.name} passes the limits (first reason: {first}); loosen them.")
        sheet = clip_sheet(home, kept)
        report = str(write_report(home, rows, limits))
        if cls.hidden is not None:
            show_text(cls.hidden.unique_id, "\n".join(summary_lines(rows)))
        shown = show_images([as_image(report_picture(rows, limits)), sheet])
        return io.NodeOutput(str(home), sheet, len(kept), report, ui=shown)


class EasyAnimateCaptionClips(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        from ..easyanimate_models.data.caption import PROMPT

        return schema(
            node_id="EasyAnimateCaptionClips",
            display_name="EasyAnimate Caption Clips",
            category=CATEGORY,
            description="Captions the kept clips with a vision-language model from models/LLM or models/VLM (any "
            "folder that transformers can load). A .txt file beside a clip takes precedence. Can be interrupted and "
            "resumed.",
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                _dataset_in(),
                io.Combo.Input(
                    "model",
                    options=[BY_HAND, *captioners()],
                    tooltip="Captioning model: a folder in models/LLM or models/VLM.",
                ),
                io.String.Input("prompt", default=PROMPT, multiline=True, tooltip="Instruction for the model."),
                io.Int.Input(
                    "frames",
                    default=8,
                    min=1,
                    max=64,
                    tooltip="Frames of each clip shown to the model: 4 to 16. More take longer.",
                ),
                io.Combo.Input(
                    "rewriter",
                    options=[NONE, *captioners()],
                    optional=True,
                    tooltip="A text model that rewrites each caption.",
                ),
            ],
            outputs=[*_outputs(), io.String.Output(display_name="captions", tooltip="One caption per line.")],
        )

    @classmethod
    def execute(cls, dataset, model, prompt, frames, rewriter=NONE) -> io.NodeOutput:
        from ..easyanimate_models.data.caption import Captioner, forget_models
        from ..easyanimate_models.data.stages import describe_clips

        home, captioner, folders = dataset_folder(dataset), None, captioners()
        require_choice("captioning model", model, [BY_HAND, *folders])
        require_choice("captioning model", rewriter, [NONE, *folders])
        if model != BY_HAND:
            mm.unload_all_models()  # the host's can come back; this one is not the host's
            device = str(mm.get_torch_device())
            captioner = Captioner(folders[model], prompt, frames, rewriter=folders.get(rewriter), device=device)
        try:
            rows = _accepted_rows(describe_clips(home, captioner, progress=_progress(cls, "captions")))
        finally:
            forget_models()
        return _with_sheet(home, rows, "\n".join(str(row["text"]) for row in rows))


class EasyAnimateLoadDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateLoadDataset",
            display_name="EasyAnimate Load Dataset",
            category=CATEGORY,
            description="Loads an existing dataset, or a folder of captioned clips, for the training nodes.",
            inputs=[
                io.Combo.Input(
                    "folder",
                    options=dataset_folders(),
                    tooltip="A folder in output/easyanimate_data or in ComfyUI/input.",
                )
            ],
            outputs=[
                *_outputs(),
                io.Int.Output(display_name="clips", tooltip="Number of clips available for training."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, folder) -> str:
        return folder_digest(cls.dataset_path(folder))

    @classmethod
    def dataset_path(cls, folder: str) -> Path:
        root, _, name = require_choice("dataset", folder, dataset_folders()).partition("/")
        output = Path(folder_paths.get_output_directory()) / DATASETS
        return (output if root == "output" else Path(folder_paths.get_input_directory())) / name

    @classmethod
    def execute(cls, folder) -> io.NodeOutput:
        from ..easyanimate_models.training.clips.dataset import read_dataset

        home = cls.dataset_path(folder)
        items = read_dataset(home, within=True)
        rows = [{"file": item.file.relative_to(home).as_posix()} for item in items]
        return _with_sheet(home, rows, len(items))


def _with_sheet(home: Path, rows: list[dict], *more) -> io.NodeOutput:
    """The data set, a frame of each clip, which the node shows too, and further outputs."""
    sheet = clip_sheet(home, rows)
    return io.NodeOutput(str(home), sheet, *more, ui=show_images([sheet]))


def _threads():
    """Threads, since the scorers release Python's lock; processes would start the host again."""
    from ..easyanimate_models.data.stages import Execution

    return Execution("threads")


def _progress(cls: type[io.ComfyNode], what: str):
    """A callback that moves the bar, shows the count in the node, and lets Cancel work."""
    node, bars = cls.hidden.unique_id, {}

    def progress(done: int, of: int) -> None:
        bar = bars.setdefault(of, comfy.utils.ProgressBar(of))
        bar.update_absolute(done)
        show_text(node, f"{done} of {of} {what}")
        mm.throw_exception_if_processing_interrupted()

    return progress


def _accepted_rows(rows: list[dict]) -> list[dict]:
    return [row for row in rows if not row.get("rejected") and not row.get("wrong")]


NODES = [
    EasyAnimateSplitVideos,
    EasyAnimateScoreClips,
    EasyAnimateFilterClips,
    EasyAnimateCaptionClips,
    EasyAnimateLoadDataset,
]
