"""Every shipped workflow: written from its description, run on the server, with what should come out of it."""

import dataclasses
import itertools
import json
import re

import pytest
from PIL import Image

from support.interop import Bench
from support.interop_models import V3
from support.pack import ROOT
from support.stand_ins import files_for, swapped
from support.videos import assert_shows, read_video, saved_files
from tools import comfyui
from tools.workflows import author, client, files, graphs, tiny, translations

FOLDER = ROOT / "workflows"
WORKFLOWS = {make.__name__: make() for make in graphs.WORKFLOWS}
AUTHORED_ON = "0.3.75"  # whose nodes' inputs the files list; newer hosts add theirs on loading
THUMBNAIL = 60_000  # bytes
FOLDERS = {
    "EasyAnimateLoadTransformer": "diffusion_models",
    "EasyAnimateLoadTextEncoder": "text_encoders",
    "EasyAnimateLoadVAE": "vae",
    "EasyAnimateLoadImageEncoder": "clip_vision",
    "CheckpointLoaderSimple": "checkpoints",
    "ControlNetLoader": "controlnet",
}
OWN_FILES = ["easyanimate-style-lora.safetensors"]  # for a file of the user
REPOSITORIES = [  # whose files are known by name; the hub can't be asked from here
    ["Kijai", "EasyAnimate-bf16"],
    ["comfyanonymous", "flux_text_encoders"],
    ["alibaba-pai", "EasyAnimateV3-XL-2-InP-512x512"],
    ["openai", "clip-vit-large-patch14"],
    *(["alibaba-pai", model] for model in files.V51_MODELS),
    ["Comfy-Org", "stable-diffusion-v1-5-archive"],
    ["comfyanonymous", "ControlNet-v1-1_fp16_safetensors"],
]
IMAGE_APPS = [WORKFLOWS[f"{release}image_to_video"] for release in ("", "v4_", "v51_")]
APPS = [
    *IMAGE_APPS,
    *(WORKFLOWS[f"{which}text_to_video"] for which in ("", "v4_", "v51_")),
    WORKFLOWS["text_to_video_tiny"],
]
HOST_PICTURE = "example.png"  # in the input folder of every ComfyUI, not in that of tests
NOT_LATIN = re.compile(r"[\u3040-\u9fff]")
FILE_NAME = re.compile(r"[A-Za-z0-9_./-]+\.(?:safetensors|pth|md)")
ERROR_BADGE = 32  # pixels below a node in Nodes 2.0
STEPS = 8  # enough to see colour and motion

every_workflow = pytest.mark.parametrize("workflow", WORKFLOWS.values(), ids=list(WORKFLOWS))


@pytest.fixture(scope="module")
def bench(server):
    tiny.bring_inputs(comfyui.BASE)
    with files_for(WORKFLOWS.values()):
        yield Bench(server, V3)


def run(bench: Bench, workflow: author.Workflow, **changed) -> dict:
    """What the written file makes with the tiny model and stand-ins; `changed` are inputs of nodes."""
    prompt = swapped(tiny.as_tiny(client.load(bench.port, FOLDER / f"{workflow.name}.json"), workflow))
    for inputs in (node["inputs"] for node in prompt.values() if "steps" in node["inputs"]):
        inputs["steps"] = min(inputs["steps"], STEPS)
    for name, inputs in changed.items():
        prompt[str(workflow.ids()[name])]["inputs"].update(inputs)
    return client.run(bench.port, bench.filled(prompt))


@every_workflow
def test_a_workflow_makes_what_it_should(bench, workflow):
    outputs = run(bench, workflow)
    for name, (frames, side) in workflow.tiny.saves.items():
        (file,) = saved_files({name: outputs[str(workflow.ids()[name])]})
        video = read_video(file)
        assert video.shape == (frames, side, side, 3)
        assert video.std() > 0.01
        if workflow.tiny.shows:
            assert_shows(video, *workflow.tiny.shows, frames=frames, side=side)


def test_the_control_net_holds_the_refined_frames(bench):
    """Random weights draw noise, but another noise with the ControlNet than without it."""
    workflow = WORKFLOWS["controlnet_refine"]

    def refined(**changed):
        return read_video(saved_files(run(bench, workflow, **changed))[0])

    with_it, without = refined(), refined(steered={"strength": 0.0})
    assert (with_it - without).abs().mean() > 0.01


@every_workflow
def test_a_workflow_is_what_its_description_writes(bench, workflow):
    if bench.version != AUTHORED_ON:
        pytest.skip(f"written on {AUTHORED_ON}")
    committed = (FOLDER / f"{workflow.name}.json").read_text(encoding="utf-8")
    assert author.as_text(workflow, bench.object_info) == committed, "run `python3 dev.py workflows`"


def made_up() -> author.Workflow:
    """A widget that takes a link, a seed with its button, a picture with its upload."""
    nodes = {
        "picture": graphs.node("LoadImage", image="example.png"),
        "first": graphs.node("EasyAnimateEmptyLatent", width=64, height=32, length=9),
        "second": graphs.node("EasyAnimateEmptyLatent", width=32, height=64, length=["first", 1]),
        "noise": graphs.node("RandomNoise", noise_seed=7),
        "scaled": graphs.node("ImageScaleBy", image=["picture", 0], upscale_method="area", scale_by=0.5),
    }
    return author.Workflow("made_up", nodes, [author.Stage("1. Load", [list(nodes)])], author.TinyRun({}))


@pytest.mark.parametrize("workflow", [*WORKFLOWS.values(), made_up()], ids=lambda workflow: workflow.name)
def test_the_editor_reads_what_the_description_says(bench, workflow, tmp_path):
    ids = workflow.ids()
    read = client.load(bench.port, author.write(workflow, bench.object_info, tmp_path))
    for name, described in workflow.nodes.items():
        if described["class_type"] == author.NOTE:
            continue
        given = {k: [str(ids[v[0]]), v[1]] if isinstance(v, list) else v for k, v in described["inputs"].items()}
        assert read[str(ids[name])]["class_type"] == described["class_type"]
        assert given.items() <= read[str(ids[name])]["inputs"].items()


@every_workflow
def test_a_download_is_what_its_loader_names(workflow):
    """The editor offers a file that is missing when the node names it, and looks for it in that folder of models."""
    for node in json.loads((FOLDER / f"{workflow.name}.json").read_text(encoding="utf-8"))["nodes"]:
        named = [value for value in node["widgets_values"] if str(value).endswith(".safetensors")]
        offered = node["properties"].get("models", [])
        assert [model["name"] for model in offered] == [name for name in named if name not in OWN_FILES]
        for model in offered:
            assert model["directory"] == FOLDERS[node["type"]]
            assert re.fullmatch(r"https://huggingface\.co/[\w./-]+/resolve/main/[\w./-]+\.safetensors", model["url"])
            assert model["url"].split("/")[3:5] in REPOSITORIES


@every_workflow
def test_app_mode_asks_for_widgets_and_shows_what_is_saved(workflow):
    saved = json.loads((FOLDER / f"{workflow.name}.json").read_text(encoding="utf-8"))
    nodes = {node["id"]: node["type"] for node in saved["nodes"]}
    app = saved["extra"].get("linearData", {"inputs": [], "outputs": []})
    asked = [(nodes[number], widget) for number, widget in app["inputs"]]
    size = "EasyAnimateEmptyLatent" if "empty" in workflow.nodes else "EasyAnimateImageToVideo"
    image = [("LoadImage", "image")] if workflow in IMAGE_APPS else []
    expected = [*image, ("EasyAnimateEncodePrompt", "positive"), (size, "length"), ("EasyAnimateSampler", "seed")]
    assert asked == (expected if workflow in APPS else [])
    assert {nodes[number] for number in app["outputs"]} == ({"SaveVideo"} if workflow in APPS else set())


def test_every_picture_and_clip_is_there_to_choose(bench):
    """Templates open without a word about missing media on a fresh ComfyUI: its own picture, and the clip we bring."""
    for kind, widget in {"LoadVideo": "file", "LoadImage": "image", "LoadImageMask": "image"}.items():
        spec = bench.object_info[kind]["input"]["required"][widget]
        choices = spec[0] if isinstance(spec[0], list) else spec[1]["options"]
        nodes = [node for workflow in WORKFLOWS.values() for node in workflow.nodes.values()]
        named = {node["inputs"][widget] for node in nodes if node["class_type"] == kind}
        assert named - {HOST_PICTURE} <= set(choices)


@every_workflow
def test_a_workflow_has_a_thumbnail(workflow):
    """A square that moves; the template browser asks for this name alone, and browsers look at what is inside."""
    path = FOLDER / f"{workflow.name}.jpg"
    assert path.stat().st_size < THUMBNAIL
    with Image.open(path) as picture:
        assert picture.width == picture.height > 100
        assert picture.n_frames >= 12


def test_templates_are_found_by_the_name_of_the_pack_and_sorted_by_their_own():
    """ComfyUI shows the names of the files, and searches nothing else."""
    names = [workflow.name for workflow in WORKFLOWS.values()]
    assert names == sorted(names)
    assert all(re.fullmatch(r"\d\d .+ \(EasyAnimate( V[\d.]+| built-in)?\)", name) for name in names)


@every_workflow
def test_a_template_speaks_chinese_and_japanese(workflow):
    """Groups, titles and the note; no note has code in it, which Nodes 2.0 shows dark on dark."""
    saved = json.loads((FOLDER / f"{workflow.name}.json").read_text(encoding="utf-8"))
    notes = [node["widgets_values"][0] for node in saved["nodes"] if node["type"] == author.NOTE]
    titles = {group["title"] for group in saved["groups"]} | {
        node["title"] for node in saved["nodes"] if "title" in node
    }
    assert "`" not in "".join(notes)
    assert sorted(saved["extra"]["easyanimate"]) == ["ja", "zh"]
    for words in saved["extra"]["easyanimate"].values():
        said = [*words["titles"].values(), *([words["note"]] if notes else [])]
        assert set(words["titles"]) == titles and all(NOT_LATIN.search(text) for text in said)
        assert set(FILE_NAME.findall(words["note"])) == set(FILE_NAME.findall("".join(notes)))


def test_every_file_has_a_description():
    assert sorted(path.stem for path in FOLDER.glob("*.json")) == [workflow.name for workflow in WORKFLOWS.values()]


@every_workflow
def test_the_editor_opens_the_whole_graph_in_view(workflow):
    """Beside its bars, in a window of 1600 x 900, and no smaller than that needs."""
    saved = json.loads((FOLDER / f"{workflow.name}.json").read_text(encoding="utf-8"))
    scale, offset = saved["extra"]["ds"]["scale"], saved["extra"]["ds"]["offset"]
    corners = [
        [scale * (box["bounding"][axis] + size * box["bounding"][axis + 2] + offset[axis]) for axis in (0, 1)]
        for box in saved["groups"]
        for size in (0, 1)
    ]
    left, top, right, bottom = (side(corner[axis] for corner in corners) for side in (min, max) for axis in (0, 1))
    assert left >= 75 and top >= 115 and right <= 1600 and bottom <= 860
    assert right - left > 1400 or bottom - top > 650


@every_workflow
def test_nothing_overlaps(workflow):
    """Neither in the classic editor nor in Nodes 2.0, whose nodes are taller: measured in 1.58.1's."""
    boxes = {}
    for node in json.loads((FOLDER / f"{workflow.name}.json").read_text(encoding="utf-8"))["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        slots = max(len(node["inputs"]), len(node["outputs"]))
        vue = 36 + 20 * slots + 36 * len(node["widgets_values"]) + 32  # the last is the badge of our nodes
        bottom = y + height if node["type"] == author.NOTE else y - author.TITLE + max(author.TITLE + height, vue)
        boxes[node["id"]] = (x, y - author.TITLE, x + width, bottom + ERROR_BADGE * (node["type"] != author.NOTE))
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1], (one, other)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"decode": graphs.node("EasyAnimateDekode")}, "knows no node EasyAnimateDekode"),
        ({"decode": graphs.node("EasyAnimateDecode", latent=["sampler", 0])}, "needs vae"),
        ({"vae": graphs.node("EasyAnimateLoadVAE", file="x")}, "has no input file"),
        ({"more": graphs.node("EasyAnimateLoadVAE")}, "compare {'more'}"),
    ],
)
def test_mistakes_in_a_description_are_named(bench, wrong, words):
    good = WORKFLOWS["text_to_video_tiny"]
    with pytest.raises(ValueError, match=words):
        author.as_text(dataclasses.replace(good, nodes={**good.nodes, **wrong}), bench.object_info)


def test_a_title_without_a_translation_is_named():
    with pytest.raises(ValueError, match=r"ja\.md does not translate Look here"):
        translations.translations("made_up", {"1. Load", "Look here"})
