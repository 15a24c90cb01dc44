"""What users give the nodes that prepare data and that train, and the error."""

from tools import comfyui
from tools.workflows.author import node

from .bad_files import DATA, FOLDER, LISTS
from .bad_graphs import NOT_OURS, OURS_ONLY, SD, Row, good, grey

SPLIT, SCORE, FILTER, CAPTION = (
    f"EasyAnimate{kind}" for kind in ("SplitVideos", "ScoreClips", "FilterClips", "CaptionClips")
)
LOAD, LORA, MOTION = (f"EasyAnimate{kind}" for kind in ("LoadDataset", "TrainLora", "TrainMotionModule"))
NO_SUCH = r"^There is no [\w' ]+ named '{}'; refresh and choose again\.$"
WINDOWS = "can't be the name of a {}, because Windows reserves it; choose another"
BY_HAND, ELSEWHERE = (
    "captions by hand only",
    "is not in ComfyUI's output or input folder; connect a node that makes a data",
)
CLIPS = "clips that are connected"


def input_folder(name: str = "") -> str:
    """A folder of the host's input, by its path as nodes hand it on."""
    return str(comfyui.BASE / "input" / (f"{DATA}-{name}" if name else DATA))


def alone(kind: str, **inputs) -> dict:
    """The node and a preview of its picture, without the nodes of the good graph."""
    nodes = {"alone": node(kind, **inputs), "save": node("PreviewImage", images=["alone", 1])}
    return {**dict.fromkeys(good()), **nodes}


def split(**changed) -> dict:
    defaults = {"folder": DATA, "name": FOLDER, "min_seconds": 0.5, "max_seconds": 4.0}
    return alone(SPLIT, **(defaults | changed))


def scored(dataset: str, **changed) -> dict:
    return alone(SCORE, dataset=dataset, **({"motion": False, "text_area": False, "aesthetics": "none"} | changed))


def filtered(dataset: str, **changed) -> dict:
    limits = {"min_motion": 0.0, "max_motion": 9.0, "max_text_area": 1.0, "min_aesthetics": 0.0, "min_side": 0}
    return alone(FILTER, dataset=dataset, copies=True, **(limits | changed))


def described(dataset: str, **changed) -> dict:
    return alone(CAPTION, dataset=dataset, **({"model": BY_HAND, "prompt": "What is seen?", "frames": 1} | changed))


def trained(kind: str = LORA, more: dict | None = None, **changed) -> dict:
    """Training, of the good graph's models unless `changed` replaces them."""
    links = {name: [name, 0] for name in ("model", "vae", "clip")}
    defaults = {"name": FOLDER, "folder": DATA, "steps": 1, "learning_rate": 1e-3, "resolution": 64, "frames": 8}
    defaults |= {"batch_size": 1, "seed": 0} | ({"rank": 2} if kind == LORA else {})
    loaders = {name: nodes for name, nodes in good().items() if name in links}
    return {**alone(kind, **(links | defaults | changed)), **loaders, **(more or {})}


def _names() -> list[Row]:
    """Names that are no name of a folder or file, or not on every system."""
    names = {"../up": None, "a/b": None, "a\\b": None, "": None, "x.": None, "x" * 300: None, "CON": 1, "nul.txt": 1}
    rows = []
    for name, reserved in names.items():
        error = WINDOWS if reserved else "can't be the name of a {}; use letters, digits"
        rows.append(Row(f"data called {name:.9}", SPLIT, error.format("folder"), split(name=name)))
        rows.append(Row(f"a LoRA called {name:.9}", LORA, error.format("file"), trained(name=name)))
    return [*rows, Row("a module called COM1", MOTION, WINDOWS.format("file"), trained(MOTION, name="COM1"))]


def _lists() -> list[Row]:
    """Lists of clips that can't be read, for each node that reads them."""
    rows = []
    for name, (_, error) in LISTS.items():
        rows.append(Row(f"{name} to filter", FILTER, error, filtered(input_folder(name))))
        rows.append(Row(f"{name} to caption", CAPTION, error, described(input_folder(name))))
    return rows


GREY = {"grey": grey(8)}
CONNECTED = {"clips": ["grey", 0], "folder": CLIPS}
TRAINING = (
    *_names(),
    *_lists(),
    Row("footage out of the input folder", SPLIT, NO_SUCH.format(r"\.\./\.\./"), split(folder="../../"), by="list"),
    Row("footage at the root of the disk", SPLIT, NO_SUCH.format("/etc"), split(folder="/etc"), by="list"),
    Row("a folder without videos", SPLIT, "contains no videos .*; add some", split(folder=f"{DATA}-empty")),
    Row("shots longer than their most", SPLIT, "make the maximum at least twice the minimum", split(min_seconds=3.0)),
    Row("no seconds", SPLIT, "min_seconds", split(min_seconds=0.0), by="host"),
    Row("data from anywhere to score", SCORE, ELSEWHERE, scored("/etc")),
    Row(
        "data that is gone to score",
        SCORE,
        "The folder .* does not exist; choose the one that contains the videos",
        scored(input_folder("gone")),
    ),
    Row(
        "aesthetics without an image encoder",
        SCORE,
        "Aesthetics need an image encoder; connect CLIP ViT-L/14",
        scored(input_folder(), aesthetics=f"{FOLDER}.safetensors"),
    ),
    Row(
        "a predictor out of the folder",
        SCORE,
        NO_SUCH.format(r"\.\./x\.pth"),
        scored(input_folder(), aesthetics="../x.pth"),
        by="list",
    ),
    Row("data from anywhere to filter", FILTER, ELSEWHERE, filtered("../../..")),
    Row(
        "limits the wrong way around",
        FILTER,
        "can't be at least 9 and at most 8; swap them",
        filtered(input_folder(), min_motion=9.0, max_motion=8.0),
    ),
    Row("data from anywhere to caption", CAPTION, ELSEWHERE, described("/etc")),
    Row(
        "a captioner that nobody has",
        CAPTION,
        NO_SUCH.format("LLM/none"),
        described(input_folder(), model="LLM/none"),
        by="list",
    ),
    Row(
        "a rewriter that nobody has",
        CAPTION,
        NO_SUCH.format("/etc"),
        described(input_folder(), rewriter="/etc"),
        by="list",
    ),
    Row(
        "a captioner that is none",
        CAPTION,
        "can't be used for image-text-to-text .*; choose another",
        described(input_folder("silent"), model=f"LLM/{FOLDER}"),
    ),
    Row(
        "a data set from anywhere",
        LOAD,
        NO_SUCH.format(r"input/\.\./\.\."),
        alone(LOAD, folder="input/../.."),
        by="list",
    ),
    Row(
        "a data set without clips",
        LOAD,
        "contains no clips or images; add some",
        alone(LOAD, folder=f"input/{DATA}-empty"),
    ),
    Row(
        "a data set without captions",
        LOAD,
        "1 of 1 files in .* have no caption .*; describe each one",
        alone(LOAD, folder=f"input/{DATA}-silent"),
    ),
    Row("clips from anywhere", LORA, NO_SUCH.format(r"\.\./\.\."), trained(folder="../.."), by="list"),
    Row("a data set from anywhere to learn from", LORA, ELSEWHERE, trained(dataset="/etc")),
    Row("nothing in the folder", LORA, "contains no clips or images; add some", trained(folder=f"{DATA}-empty")),
    Row("no captions", LORA, "have no caption", trained(folder=f"{DATA}-silent")),
    Row(
        "a list that leads outside to learn from",
        LORA,
        "is outside .*; move it there",
        trained(folder=f"{DATA}-outside"),
    ),
    Row("no rank", LORA, "rank is 0; set it to 1 or more", trained(rank=0)),
    Row("no learning rate", LORA, "learning_rate is 0.0; it must be above 0", trained(learning_rate=0.0)),
    Row(
        "prodigy at AdamW's rate",
        LORA,
        "prodigy finds the rate by itself .*; set it to 1",
        trained(optimizer="prodigy"),
    ),
    Row("an optimizer that nobody has", LORA, NO_SUCH.format("sgd"), trained(optimizer="sgd"), by="list"),
    Row("no steps to learn in", LORA, "steps", trained(steps=0), by="host"),
    Row("clips smaller than the resolution", LORA, "None of the 2 clips fit", trained(resolution=1024)),
    Row("samples of nothing", LORA, "Samples need a prompt; enter one", trained(sample_every=1)),
    Row("names that nobody uses", LORA, NO_SUCH.format("kohya"), trained(names="kohya"), by="list"),
    Row(
        "clips without a caption",
        LORA,
        "There are 1 clips and 0 captions; provide one caption per clip",
        trained(more={**GREY, "captions": node("PrimitiveString", value=" ")}, **CONNECTED, captions=["captions", 0]),
    ),
    Row("no clips connected", LORA, "nothing to train on; choose a folder, or connect clips", trained(folder=CLIPS)),
    Row("an image model to teach", LORA, NOT_OURS, trained(more=SD, model=["sd", 0])),
    Row("Stable Diffusion's VAE to teach with", LORA, OURS_ONLY, trained(more=SD, vae=["sd", 2])),
    Row(
        "no text encoder to teach with",
        LORA,
        "^The node connected to clip outputs no text encoder",
        trained(
            more={
                "lora": node(
                    "EasyAnimateLoadLora",
                    model=["model", 0],
                    strength_model=1.0,
                    lora="built-in tiny LoRA (grey background)",
                )
            },
            clip=["lora", 1],
        ),
    ),
    Row(
        "Stable Diffusion's CLIP to teach with",
        LORA,
        "gives 768-dimensional embeddings, but this transformer needs 32",
        trained(more=SD, clip=["sd", 1]),
    ),
    Row(
        "motion out of images",
        MOTION,
        "Images contain no motion; use clips, and set frames above 1",
        trained(MOTION, frames=1),
    ),
    Row("motion from anywhere", MOTION, NO_SUCH.format(r"\.\./\.\."), trained(MOTION, folder="../.."), by="list"),
    Row("motion for an image model of another kind", MOTION, NOT_OURS, trained(MOTION, SD, model=["sd", 0])),
    Row(
        "motion under a LoRA",
        MOTION,
        "has a LoRA on it, .* connect the transformer directly from its loader",
        trained(
            MOTION,
            {
                "lora": node(
                    "EasyAnimateLoadLora",
                    model=["model", 0],
                    strength_model=1.0,
                    lora="built-in tiny LoRA (grey background)",
                )
            },
            model=["lora", 0],
        ),
    ),
)
