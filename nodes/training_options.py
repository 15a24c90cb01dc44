"""Inputs that both training nodes have: the optimizer, and what becomes of captions; few change them."""

from dataclasses import dataclass

from comfy_api.latest import io

from ..easyanimate_models.host import require_choice

OPTIMIZERS = ["adamw", "adamw8bit", "prodigy", "adafactor", "lion", "muon"]
SCHEDULES = ["constant", "cosine", "linear"]
CAPTIONS = ("trigger_word", "caption_shuffles", "keep_tags")
OPTIONS = ("optimizer", "lr_schedule", "weight_decay", "caption_dropout", *CAPTIONS)


@dataclass(frozen=True)
class TrainingOptions:
    """The values of these inputs; by default what was before there were any."""

    optimizer: str = "adamw"
    lr_schedule: str = "constant"
    weight_decay: float = 0.01
    caption_dropout: float = 0.1
    trigger_word: str = ""
    caption_shuffles: int = 0
    keep_tags: int = 1

    def __post_init__(self):
        require_choice("optimizer", self.optimizer, OPTIMIZERS)
        require_choice("learning rate schedule", self.lr_schedule, SCHEDULES)

    @classmethod
    def of(cls, *inputs: list) -> "TrainingOptions":
        """From the inputs of a node in this order, which are lists of one value."""
        return cls(*(values[0] for values in inputs))

    def of_data(self) -> dict:
        """For `DataSettings`."""
        return {"text_dropout": self.caption_dropout, **{name: getattr(self, name) for name in CAPTIONS}}

    def of_plan(self) -> dict:
        """For `TrainingPlan`."""
        return {"optimizer": self.optimizer, "schedule": self.lr_schedule, "weight_decay": self.weight_decay}


def every_input() -> io.Int.Input:
    """How many frames are left out."""
    return io.Int.Input(
        "every", default=1, min=1, max=16, optional=True, tooltip="Use only every n-th frame. 1 = all frames."
    )


def image_encoder_input() -> io.ClipVision.Input:
    """For models that see start images through CLIP."""
    tooltip = "The image encoder, for InP transformers that see start images through CLIP."
    return io.ClipVision.Input("clip_vision", optional=True, tooltip=tooltip)


def dataset_input() -> io.String.Input:
    """A data set of a node before."""
    tooltip = "Instead of a folder: a dataset, from EasyAnimate Caption Clips or Load Dataset."
    return io.String.Input("dataset", optional=True, force_input=True, tooltip=tooltip)


def blocks_to_swap_input() -> io.Int.Input:
    """How much of a frozen base waits in RAM."""
    return io.Int.Input(
        "blocks_to_swap",
        default=0,
        min=0,
        max=100,
        optional=True,
        tooltip="How many transformer blocks wait in RAM, to save GPU memory; slower. At most all but 2: V3 has 28, "
        "V4 40, V5.1 36 (7B) or 48 (12B). 0 = none.",
    )


def training_options() -> list:
    """The inputs."""
    return [
        io.Combo.Input(
            "optimizer",
            options=OPTIMIZERS,
            optional=True,
            tooltip="adamw8bit and adafactor take less memory. prodigy finds the learning rate: set learning_rate to "
            "1. lion: a third of adamw's learning_rate. muon: adamw's or more. adamw8bit, prodigy and lion need a "
            "package.",
        ),
        io.Combo.Input(
            "lr_schedule",
            options=SCHEDULES,
            optional=True,
            tooltip="The learning rate after the warm-up: stays, or falls along a cosine or a line.",
        ),
        io.Float.Input(
            "weight_decay",
            default=0.01,
            min=0.0,
            max=1.0,
            step=0.001,
            optional=True,
            tooltip="Pulls weights towards 0, against overfitting. 0 = none.",
        ),
        io.Float.Input(
            "caption_dropout",
            default=0.1,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            tooltip="Share of examples that are trained without their caption, which cfg needs. 0 = none.",
        ),
        io.String.Input(
            "trigger_word",
            default="",
            optional=True,
            tooltip="A word to put before every caption, or in place of [trigger] in it. Clips then need no caption.",
        ),
        io.Int.Input(
            "caption_shuffles",
            default=0,
            min=0,
            max=64,
            optional=True,
            tooltip="In how many random orders the comma-separated tags of a caption are learnt. 0 = as written.",
        ),
        io.Int.Input(
            "keep_tags",
            default=1,
            min=0,
            max=64,
            optional=True,
            tooltip="With caption_shuffles: how many tags stay in front, the trigger word among them.",
        ),
    ]
