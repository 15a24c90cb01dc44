"""Inputs that both training nodes have: models, clips, how long and fast to train, and samples meanwhile."""

from comfy_api.latest import io

from .dataset import input_folders

NO_FOLDER = "clips that are connected"


def models_and_folder(name: str, file: str, steps: io.Int.Input) -> list:
    """The models, the data set, the name of the result, and how long and fast to train."""
    return [
        io.Model.Input("model", tooltip="The EasyAnimate transformer to train."),
        io.Clip.Input("clip", tooltip="The text encoder of the transformer's release, for the captions."),
        io.Vae.Input("vae", tooltip="The EasyAnimate VAE, to encode the clips."),
        io.String.Input("name", default=name, tooltip=f"Name of the {file} and of the run folder."),
        io.Combo.Input(
            "folder",
            options=[NO_FOLDER, *input_folders()],
            tooltip="A folder in ComfyUI's input folder: clips or images, each with its caption in a .txt file.",
        ),
        steps,
        io.Float.Input(
            "learning_rate",
            default=1e-4,
            min=0.0,
            max=1.0,
            step=1e-6,
            round=False,
            tooltip="0.0001 for the releases, 0.003 for the tiny model. If it is too high, the picture falls apart.",
        ),
    ]


def clips_inputs() -> list:
    """In which size clips are learnt from, how many at once; clips that are connected."""
    side = "Scales clips to this resolution's area, keeping the aspect ratio: 512, 768 or 960; 64 for the tiny model."
    frames = (
        "Maximum number of frames, from the start of each clip: 48 to 144 for V3 and V4, 49 for V5 and V5.1, 24 for "
        "the tiny model."
    )
    return [
        io.Int.Input("resolution", default=512, min=32, max=2048, step=16, tooltip=side),
        io.Int.Input("frames", default=48, min=1, max=1024, tooltip=frames),
        io.Int.Input("batch_size", default=1, min=1, max=64, tooltip="Clips per step: 1 to 4. More take more memory."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**31 - 1,
            control_after_generate=False,  # a seed that changes by itself would start over instead of resuming
            tooltip="Random seed; the same seed gives the same result.",
        ),
        io.Image.Input(
            "clips", optional=True, tooltip="Instead of a folder: the frames of one clip, or a list of several."
        ),
        io.String.Input(
            "captions", optional=True, force_input=True, tooltip="One caption per clip, or one for all of them."
        ),
    ]


def sample_inputs() -> list:
    """Previews while training."""
    return [
        io.Int.Input(
            "sample_every",
            default=0,
            min=0,
            max=1_000_000,
            optional=True,
            tooltip="Makes a sample video every so many steps, shown on the node and saved in the run folder. 0 = "
            "none. Each takes as long as making a video.",
        ),
        io.String.Input(
            "sample_prompt",
            default="",
            multiline=True,
            optional=True,
            tooltip="Prompt for the sample videos; several, each for a video of its own, with an empty line between "
            "them.",
        ),
    ]
