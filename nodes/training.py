"""Clips + MODEL -> a LoRA. What training needs is imported when it begins."""

from pathlib import Path

import comfy.model_management as mm
import comfy.utils
import folder_paths
import numpy
import torch
from comfy_api.latest import io
from PIL import Image

from ..easyanimate_models.host import say_in_node

CATEGORY = "EasyAnimate/training"
NO_FOLDER = "clips that are connected"


def input_folders() -> list[str]:
    """Folders in the host's input folder, where data sets lie."""
    root = Path(folder_paths.get_input_directory())
    return sorted(f.name for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))


class EasyAnimateTrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateTrainLora",
            display_name="EasyAnimate Train LoRA",
            category=CATEGORY,
            description="Teaches the transformer a look, a thing or a motion from a few clips, as a LoRA file in "
            "models/loras. Stopped, it goes on where it was.",
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer that is to learn."),
                io.Clip.Input("clip", tooltip="The T5 text encoder, to read the captions."),
                io.Vae.Input("vae", tooltip="The EasyAnimate VAE, to see the clips."),
                io.String.Input("name", default="my_lora", tooltip="Name of the LoRA file and of the run's folder."),
                io.Combo.Input(
                    "folder",
                    options=[NO_FOLDER, *input_folders()],
                    tooltip="A folder in ComfyUI's input folder: clips or images, each with a caption in a .txt file.",
                ),
                io.Int.Input("steps", default=500, min=1, max=1_000_000, tooltip="20 clips need 300 to 2000."),
                io.Float.Input(
                    "learning_rate",
                    default=1e-4,
                    min=0.0,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="How fast it learns; the original uses 0.0001. Too fast, and pictures fall apart.",
                ),
                io.Int.Input("rank", default=16, min=0, max=1024, tooltip="How much it can learn; bigger files."),
                io.Int.Input("resolution", default=512, min=32, max=2048, step=16, tooltip="About this, squared."),
                io.Int.Input("frames", default=48, min=1, max=1024, tooltip="At most; taken from the beginning."),
                io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Clips per step; more need more memory."),
                io.Int.Input("seed", default=0, min=0, max=2**31 - 1, tooltip="The same seed teaches the same."),
                io.Image.Input("clips", optional=True, tooltip="Instead of a folder: frames of a clip, or a list of."),
                io.String.Input(
                    "captions", optional=True, force_input=True, tooltip="What the connected clips show, one for each."
                ),
                io.Boolean.Input(
                    "motion_modules",
                    default=True,
                    optional=True,
                    tooltip="Off: a look only, movement stays as it was.",
                ),
                io.Int.Input("every", default=1, min=1, max=16, optional=True, tooltip="Take every so many frames."),
                io.Combo.Input(
                    "names",
                    options=["comfyui", "original"],
                    optional=True,
                    tooltip="How layers are called in the file: as ComfyUI does, or as EasyAnimate's own trainer.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The transformer with what it has learnt."),
                io.Image.Output(display_name="loss", tooltip="How the error fell."),
                io.String.Output(display_name="file"),
            ],
        )

    @classmethod
    def execute(
        cls, model, clip, vae, name, folder, steps, learning_rate, rank, resolution, frames, batch_size, seed,
        clips=None, captions=None, motion_modules=(True,), every=(1,), names=("comfyui",),
    ) -> io.NodeOutput:  # fmt: skip
        from ..easyanimate_models.training.dataset import in_memory, read_dataset
        from ..easyanimate_models.training.lora import LoraSettings
        from ..easyanimate_models.training.lora_run import DataSettings, train_lora
        from ..easyanimate_models.training.plan import Plan

        home = None if folder[0] == NO_FOLDER else Path(folder_paths.get_input_directory()) / folder[0]
        items = in_memory(clips or [], captions or []) if home is None else read_dataset(home)
        plan = Plan(steps[0], learning_rate[0], min(100, steps[0] // 10), 0.99, 1.0, seed[0], "constant")
        seen = _Seen(cls.hidden.unique_id, steps[0])
        trained = train_lora(
            name[0],
            (model[0], clip[0], vae[0]),
            items,
            DataSettings(resolution[0], frames[0], every[0], batch_size[0]),
            LoraSettings(rank[0], rank[0], motion_modules[0]),
            plan,
            names[0],
            home,
            seen.encoding,
            seen.learning,
        )
        return io.NodeOutput(trained.model, _picture(trained.folder / "loss.png"), trained.file.name)


class _Seen:
    """What the artist sees meanwhile: the bar, the loss, and that Cancel works."""

    def __init__(self, node: str, steps: int):
        self.node, self.bar = node, comfy.utils.ProgressBar(steps)

    def encoding(self, done: int, of: int) -> None:
        say_in_node(self.node, f"encoded {done} of {of} clips")
        mm.throw_exception_if_processing_interrupted()

    def learning(self, done: int, figures: dict[str, float]) -> None:
        self.bar.update_absolute(done)
        say_in_node(self.node, f"step {done}, loss {figures['loss']:.4f}")
        mm.throw_exception_if_processing_interrupted()


def _picture(file: Path) -> torch.Tensor:
    """A picture as IMAGE, `[1, H, W, 3]`."""
    with Image.open(file) as image:
        return torch.from_numpy(numpy.asarray(image.convert("RGB")).copy())[None].float() / 255


NODES = [EasyAnimateTrainLora]
