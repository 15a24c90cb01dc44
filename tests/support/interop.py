"""Helpers of the stock-node matrix: runs of one small prompt on the server, and the table in `docs/interop.md`."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tools.workflows import client
from tools.workflows.author import node

from .interop_models import RELEASES, Model
from .pack import ROOT
from .prompts import decode, ksampler, text_to_latent
from .videos import assert_shows, pixels, saved_files

SAME, DIFFERENT = 1e-4, 1e-2  # relative distances
OTHER_PROMPT = "a green square goes down on a black background"
CFG = 2.0
STEPS = 8
TABLE = ROOT / "docs" / "interop.md"
HEAD = """# Stock nodes that work with EasyAnimate

Each column is a release on a version of ComfyUI. Each cell was run there, and the output was checked: the same as the
plain run where it should be, different where it should be, with the right shape (`tests/host/test_interop.py`; with
`--host FOLDER` and `--write-docs` it adds or updates columns). V3 is the built-in tiny model, whose videos were also
checked for the colour and motion of the prompt; V4 and V5.1 are as small, with random weights. An empty cell was not
run: the node is not for that release.

`ok ×2` and `ok ×2 ×3`: it was also run for 2 or 3 videos at once (`batch_size`), and each of them came out as it does
alone, from the same noise. Samplers that draw noise at every step, as euler_ancestral does, draw other noise for a
batch; there, each video was checked to be another one. What only encodes or saves has no batch.

"""


class Unsupported(Exception):
    """This host cannot run a row; the message is the footnote."""


@dataclass
class Bench:
    """A server, and what one prompt makes on it with a model when some of its nodes are replaced."""

    port: int
    model: Model
    object_info: dict = field(init=False)
    version: str = field(init=False)
    sampled: list[dict] = field(default_factory=list)  # the nodes that were replaced, of each run

    def __post_init__(self):
        self.object_info = client.get(self.port, "/object_info")
        self.version = client.get(self.port, "/system_stats")["system"]["comfyui_version"]

    @property
    def column(self) -> str:
        """Of the table."""
        return f"{self.model.release}, {self.version}"

    def graph(self) -> dict:
        """Prompt to latent: the plain run."""
        return text_to_latent(sampler=sampler()) | self.model.nodes

    def empty(self, **changed) -> dict:
        """The node `empty` of the plain run with other inputs."""
        plain = self.model.nodes["empty"]
        return {**plain, "inputs": plain["inputs"] | changed}

    def latent(self, **changed) -> Tensor:
        """What the node `sampler` outputs, `[B, C, F, H, W]`."""
        self.sampled.append(changed)
        return self.saved(self.latent_prompt(changed))

    def frames(self, **changed) -> Tensor:
        """What the node `decode` outputs, `[T, H, W, 3]` in 0..1, without loss."""
        self.sampled.append(changed)
        return self.saved(self.frames_prompt(changed))

    def latent_prompt(self, changed: dict) -> dict:
        """A prompt whose node `saved` saves the latent of `sampler`; `changed` replaces or adds nodes of `graph`."""
        saved = node("SaveLatent", samples=["sampler", 0], filename_prefix="tests/latent")
        return {**self.graph(), **changed, "saved": saved}

    def frames_prompt(self, changed: dict) -> dict:
        """The same for the frames of `decode`."""
        saved = node("SaveImage", images=["decode", 0], filename_prefix="tests/frame")
        return {**self.graph(), "decode": decode(), **changed, "saved": saved}

    def several(self, changed: dict, count: int) -> dict:
        """A prompt for so many videos at once, in half the width, height and steps; frames if `decode` is changed."""
        prompt = self.frames_prompt(changed) if "decode" in changed else self.latent_prompt(changed)
        halved = {name: {**each, "inputs": _halved(each["inputs"])} for name, each in prompt.items()}
        halved["empty"]["inputs"]["batch_size"] = count
        return halved

    def assert_shows(self, video: Tensor, side: int = 64) -> None:
        """A square video is what the prompt asks for, where the model was trained; else it is one that moves."""
        if self.model.trained:
            assert_shows(video, side=side)
        assert video.shape == (self.model.length, side, side, 3)
        assert video.std(0).mean() > 0.001

    def saved(self, prompt: dict) -> Tensor:
        """What the node `saved` of a prompt saves: a latent, or frames."""
        outputs = client.run(self.port, self.filled(prompt))
        if files := saved_files(outputs, "latents"):
            return load_file(files[0])["latent_tensor"].float()
        return torch.stack([pixels(Image.open(path)) for path in saved_files(outputs)])

    def run(self, kind: str, prompt: dict) -> list[Path]:
        """The files of `kind` that a prompt saves."""
        outputs = client.run(self.port, self.filled(prompt))
        return saved_files(outputs, kind)

    def filled(self, prompt: dict) -> dict:
        """`prompt` with the defaults of whatever else this host's nodes require."""
        return {name: {**node, "inputs": self._inputs(**node)} for name, node in prompt.items()}

    def _inputs(self, class_type: str, inputs: dict) -> dict:
        if class_type not in self.object_info:
            raise Unsupported(f"this version has no {class_type}")
        specs = self.object_info[class_type]["input"].get("required", {})
        missing = {name: spec for name, spec in specs.items() if name not in inputs and client.is_widget(spec)}
        return inputs | {name: client.default(spec) for name, spec in missing.items()}

    def slot(self, class_type: str, kind: str) -> int:
        """Which output of a node is of a type: hosts number them differently."""
        return self.object_info[class_type]["output"].index(kind)

    @functools.cached_property
    def plain(self) -> Tensor:
        return self.latent()

    @functools.cached_property
    def plain_frames(self) -> Tensor:
        return self.frames()


def sampler(**changed) -> dict:
    """The stock KSampler in few steps; `changed` are other inputs."""
    return ksampler(**({"steps": STEPS, "cfg": CFG} | changed))


def _halved(inputs: dict) -> dict:
    sizes = ("width", "height", "steps", "start_at_step", "end_at_step")
    return inputs | {name: inputs[name] // 2 for name in sizes if name in inputs}


def one_of(prompt: dict, index: int) -> dict:
    """A prompt for one of the videos of `several`, from the same noise."""
    one = node("LatentFromBatch", samples=["several", 0], batch_index=index, length=1)
    return {**prompt, "several": prompt["empty"], "empty": one}


def distance(one: Tensor, other: Tensor) -> float:
    """||one - other|| / ||other||."""
    assert one.shape == other.shape and one.isfinite().all()
    return float((one - other).norm() / other.norm())


@dataclass(frozen=True)
class Row:
    """A line of the table: its check, and, where every host fails, the error message and the reason.

    What it samples is also sampled for each number of `videos` at once. `alike` says whether each video of a batch is
    the one that is sampled alone: samplers that draw noise at every step draw another for a batch. A name may have a
    row for some `releases` and another for others.
    """

    name: str
    check: Callable[[Bench], None]
    error: str = ""
    reason: str = ""
    videos: tuple[int, ...] = (2,)
    alike: bool = True
    releases: tuple[str, ...] = RELEASES

    def check_batch(self, bench: Bench, count: int) -> None:
        """What `check` sampled, for `count` videos at once."""
        for changed in bench.sampled:
            batch = bench.several(changed, count)
            videos = bench.saved(batch).chunk(count)
            assert len(videos) == count
            for index, video in enumerate(videos):
                assert all(distance(video, other) > DIFFERENT for other in videos[:index])
                if self.alike:
                    assert alike(video, bench.saved(one_of(batch, index)))


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether latents are the same but for rounding, or frames but for a level."""
    if one.ndim == 5:
        return distance(one, other) < SAME
    return one.shape == other.shape and float((one - other).abs().max()) < 2 / 255


@dataclass(frozen=True)
class Cell:
    """`ok`, for how many videos at once besides one; or a dash with its footnote."""

    note: str = ""
    videos: tuple[int, ...] = ()


def read_table() -> dict[str, dict[str, Cell]]:
    """The committed table: column -> row -> cell."""
    if not TABLE.exists():
        return {}
    lines = TABLE.read_text(encoding="utf-8").splitlines()
    notes = dict(line.removeprefix("[^").split("]: ") for line in lines if line.startswith("[^"))
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    table = {column: {} for column in head[1:]}
    for name, *cells in rows:
        for column, cell in zip(head[1:], cells, strict=True):
            if cell:
                table[column][name] = _read_cell(cell, notes)
    return table


def _read_cell(cell: str, notes: dict[str, str]) -> Cell:
    if cell.startswith("ok"):
        return Cell(videos=tuple(int(count) for count in cell.split(" ×")[1:]))
    return Cell(notes[cell.removeprefix("–[^").removesuffix("]")])


def write_table(table: dict[str, dict[str, Cell]], order: list[str]) -> None:
    """The table as a page, a column for each release on each version."""
    columns = sorted(table, key=lambda column: [[int(n) for n in part.split(".")] for part in column[1:].split(", ")])
    notes = sorted({cell.note for column in table.values() for cell in column.values() if cell.note})

    def text(cell: Cell | None) -> str:
        if cell is None:
            return ""
        return f"–[^{notes.index(cell.note) + 1}]" if cell.note else " ×".join(["ok", *map(str, cell.videos)])

    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    lines += [[name, *(text(table[column].get(name)) for column in columns)] for name in order]
    page = HEAD + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n\n"
    page += "".join(f"[^{number}]: {note}\n" for number, note in enumerate(notes, 1))
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(page, encoding="utf-8", newline="\n")
