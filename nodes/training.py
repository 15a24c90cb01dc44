"""Clips + MODEL -> a LoRA, or motion modules. What training needs is imported when it begins."""

from pathlib import Path
from types import SimpleNamespace

import comfy.model_management as mm
import comfy.utils
import numpy
import torch
from comfy_api.latest import io
from PIL import Image

from ..easyanimate_models.host import chosen, say_in_node
from .dataset import dataset_folder, input_digest, input_folder, input_folders
from .decoding import require_slice_vae
from .prompts import require_text_encoder

CATEGORY = "EasyAnimate/training"
NO_FOLDER = "clips that are connected"
NAMES = ["comfyui", "original"]


def _models_and_folder(name: str, file: str, steps: io.Int.Input) -> list:
    """Which models learn, from what, under which name, for how long."""
    return [
        io.Model.Input("model", tooltip="The EasyAnimate transformer that is to learn."),
        io.Clip.Input("clip", tooltip="The T5 text encoder, to read the captions."),
        io.Vae.Input("vae", tooltip="The EasyAnimate VAE, to see the clips."),
        io.String.Input("name", default=name, tooltip=f"Name of the {file} and of the run's folder."),
        io.Combo.Input(
            "folder",
            options=[NO_FOLDER, *input_folders()],
            tooltip="A folder in ComfyUI's input folder: clips or images, each with a caption in a .txt file.",
        ),
        steps,
        io.Float.Input(
            "learning_rate",
            default=1e-4,
            min=0.0,
            max=1.0,
            step=1e-6,
            round=False,
            tooltip="How fast it learns: 0.0001 for the releases, 0.003 for the tiny model. Too fast, and "
            "pictures fall apart.",
        ),
    ]


def _clips() -> list:
    """In which size clips are learnt from, how many at once; clips that are connected."""
    side = "Clips are scaled to about this, squared, in their own shape: 512, 768 or 960, 64 for the tiny model."
    frames = "At most, from the beginning of each clip: 48 to 144 for V3, 24 for the tiny model."
    return [
        io.Int.Input("resolution", default=512, min=32, max=2048, step=16, tooltip=side),
        io.Int.Input("frames", default=48, min=1, max=1024, tooltip=frames),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Clips per step: 1 to 4; more need more memory."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=False,  # a seed that changes by itself would begin anew instead of going on
            tooltip="The same seed teaches the same.",
        ),
        io.Image.Input(
            "clips", optional=True, tooltip="Instead of a folder: the frames of one clip, or a list of several."
        ),
        io.String.Input(
            "captions", optional=True, force_input=True, tooltip="What the connected clips show, one for each."
        ),
    ]


def _every() -> io.Int.Input:
    return io.Int.Input(
        "every", default=1, min=1, max=16, optional=True, tooltip="Take every so many frames; 1 takes all."
    )


def _samples() -> list:
    """A look at what is learnt, meanwhile."""
    return [
        io.Int.Input(
            "sample_every",
            default=0,
            min=0,
            max=1_000_000,
            optional=True,
            tooltip="After every so many steps a video is made with what is learnt so far, shown here and kept in the "
            "run's folder; 0 makes none. Each takes the time of a video.",
        ),
        io.String.Input(
            "sample_prompt", default="", multiline=True, optional=True, tooltip="What those videos should show."
        ),
    ]


def _eye() -> io.ClipVision.Input:
    tooltip = "The image encoder, for InP transformers that see start images through CLIP."
    return io.ClipVision.Input("clip_vision", optional=True, tooltip=tooltip)


def _dataset() -> io.String.Input:
    tooltip = "Instead of a folder: a data set, from EasyAnimate Caption Clips or Load Dataset."
    return io.String.Input("dataset", optional=True, force_input=True, tooltip=tooltip)


def _outputs() -> list:
    return [
        io.Model.Output(tooltip="The transformer with what it has learnt."),
        io.Image.Output(display_name="loss", tooltip="How the error fell."),
        io.String.Output(display_name="file", tooltip="Name of the file that was saved."),
    ]


class EasyAnimateTrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        steps = io.Int.Input("steps", default=500, min=1, max=1_000_000, tooltip="20 clips need 300 to 2000.")
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
                *_models_and_folder("my_lora", "LoRA file", steps),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=0,
                    max=1024,
                    tooltip="How much it can learn, and how big the file is: 8 to 128, 16 is often enough.",
                ),
                *_clips(),
                io.Boolean.Input(
                    "motion_modules",
                    default=True,
                    optional=True,
                    tooltip="Off: a look only, movement stays as it was.",
                ),
                _every(),
                io.Combo.Input(
                    "names",
                    options=NAMES,
                    optional=True,
                    tooltip="How layers are called in the file: as ComfyUI does, or as EasyAnimate's own trainer.",
                ),
                *_samples(),
                io.Boolean.Input(
                    "text_encoder",
                    default=False,
                    optional=True,
                    tooltip="The text encoder learns too, for words that it doesn't know. It then stays in memory.",
                ),
                _eye(),
                _dataset(),
            ],
            outputs=[*_outputs(), io.Clip.Output(tooltip="The text encoder, with what it has learnt.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder, **_) -> str:
        return input_digest(folder[0])

    @classmethod
    def execute(
        cls, model, clip, vae, name, folder, steps, learning_rate, rank, resolution, frames, batch_size, seed,
        clips=None, captions=None, motion_modules=(True,), every=(1,), names=("comfyui",), sample_every=(0,),
        sample_prompt=("",), text_encoder=(False,), clip_vision=None, dataset=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..easyanimate_models.training.denoiser.lora import LoraSettings
        from ..easyanimate_models.training.node_run import train_lora

        asked = _asked(locals())
        chosen("way to name layers", asked.names, NAMES)
        lora = LoraSettings(rank[0], rank[0], motion_modules[0], text_encoder[0])
        trained = train_lora(_task(asked, clips, captions), lora, names[0], _seen(cls, asked))
        return _result(trained, trained.clip)


class EasyAnimateTrainMotionModule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        tooltip = "A new one needs many thousands, and many clips; one that can move already, some hundreds."
        steps = io.Int.Input("steps", default=2000, min=1, max=1_000_000, tooltip=tooltip)
        return io.Schema(
            node_id="EasyAnimateTrainMotionModule",
            display_name="EasyAnimate Train Motion Module",
            category=CATEGORY,
            description="Teaches motion alone: an image transformer (PixArt) gets V1's motion modules, a video "
            "transformer's own learn; all else stays as it is. The file lands in models/diffusion_models. Stopped, it "
            "goes on where it was.",
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *_models_and_folder("my_motion", "file, which ends in _mm,", steps),
                *_clips(),
                _every(),
                *_samples(),
                _eye(),
                _dataset(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, folder, **_) -> str:
        return input_digest(folder[0])

    @classmethod
    def execute(
        cls, model, clip, vae, name, folder, steps, learning_rate, resolution, frames, batch_size, seed,
        clips=None, captions=None, every=(1,), sample_every=(0,), sample_prompt=("",), clip_vision=None, dataset=None,
    ) -> io.NodeOutput:  # fmt: skip
        from ..easyanimate_models.training.node_run import train_motion_module

        asked = _asked(locals())
        return _result(train_motion_module(_task(asked, clips, captions), _seen(cls, asked)))


def _asked(inputs: dict) -> SimpleNamespace:
    """The first of each input: of all but clips and captions, which are lists, there is one."""
    return SimpleNamespace(**{name: value[0] for name, value in inputs.items() if isinstance(value, (list, tuple))})


def _task(asked: SimpleNamespace, clips: list | None, captions: list | None):
    """What is to be learnt, by the inputs that both nodes have."""
    from ..easyanimate_models.training.clips.dataset import in_memory, read_dataset
    from ..easyanimate_models.training.clips.settings import DataSettings
    from ..easyanimate_models.training.node_run import Task
    from ..easyanimate_models.training.samples import SampleSettings
    from ..easyanimate_models.training.training_plan import Plan

    steps, rate = asked.steps, asked.learning_rate
    home = _home(asked)
    return Task(
        asked.name,
        asked.model,
        require_text_encoder(asked.clip),
        require_slice_vae(asked.vae),
        in_memory(clips or [], captions or []) if home is None else read_dataset(home),
        DataSettings(asked.resolution, asked.frames, asked.every, asked.batch_size),
        Plan(steps, rate, min(100, steps // 10), 0.99, 1.0, asked.seed, "constant"),
        SampleSettings(asked.sample_every, asked.sample_prompt),
        home,
        getattr(asked, "clip_vision", None),
    )


def _home(asked: SimpleNamespace) -> Path | None:
    """The folder that holds what is learnt from; None for clips that are connected."""
    if dataset := getattr(asked, "dataset", None):
        return dataset_folder(dataset)
    return None if asked.folder == NO_FOLDER else input_folder(asked.folder)


def _seen(cls: type[io.ComfyNode], asked: SimpleNamespace):
    from ..easyanimate_models.training.node_run import Seen

    shown = _Shown(cls.hidden.unique_id, asked.steps)
    return Seen(shown.encoding, shown.learning, shown.sample)


def _result(trained, *more) -> io.NodeOutput:
    return io.NodeOutput(trained.model, _picture(trained.folder / "loss.png"), trained.file.name, *more)


class _Shown:
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

    def sample(self, done: int, sheet: Image.Image) -> None:
        self.bar.update_absolute(done, preview=("JPEG", sheet, None))


def _picture(file: Path) -> torch.Tensor:
    """A picture as IMAGE, `[1, H, W, 3]`."""
    with Image.open(file) as image:
        return torch.from_numpy(numpy.asarray(image.convert("RGB")).copy())[None].float() / 255


NODES = [EasyAnimateTrainLora, EasyAnimateTrainMotionModule]
