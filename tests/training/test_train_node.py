"""The nodes that train on a real server: from a folder, from connected clips, stopped, and asked for nonsense."""

import shutil
import threading
from pathlib import Path

import client
import pytest
import tiny
from conftest import dev, part
from graphs import node
from PIL import Image
from seeing import saved_files, watch
from test_dataset import write_clip, write_image
from test_server import graph
from test_server_releases import NAMES, chain, files  # noqa: F401  (a fixture)

BUILT_IN_LORA = part("easyanimate_models.files.model_files").BUILT_IN_LORA
NAME, FOLDER = "easyanimate-test-lora", "easyanimate-test-set"
RUN = dev.OUTPUT / "easyanimate_training" / NAME
MOTION_RUN = RUN.with_name(f"{NAME}_mm")
FILE = dev.BASE / "models" / "loras" / f"{NAME}.safetensors"
MOTION_FILE = dev.BASE / "models" / "diffusion_models" / f"{NAME}_mm.safetensors"
MOTION = "EasyAnimateTrainMotionModule"
SAMPLED = {"sample_every": 2, "sample_prompt": "a red ball"}


@pytest.fixture
def folder():
    """A data set of two clips and an image in the host's input folder; nothing is left of it, nor of the run."""
    place = dev.BASE / "input" / FOLDER
    for name in ("a.mp4", "b.mp4"):
        write_clip(place / name, frames=9, width=64, height=64).with_suffix(".txt").write_text("a grey picture")
    write_image(place / "c.png").with_suffix(".txt").write_text("a red picture")
    yield place
    shutil.rmtree(place)
    for run in (RUN, MOTION_RUN):
        shutil.rmtree(run, ignore_errors=True)
    for file in (FILE, MOTION_FILE):
        file.unlink(missing_ok=True)


def training(kind: str = "EasyAnimateTrainLora", **changed) -> dict:
    """A graph that trains; `changed` are other inputs of the node."""
    loaded = {name: graph()[name] for name in ("model", "vae", "clip")}
    inputs = {"name": NAME, "folder": FOLDER, "steps": 6, "learning_rate": 1e-3, "resolution": 64}
    inputs |= {"frames": 8, "batch_size": 1, "seed": 0} | ({"rank": 2} if kind == "EasyAnimateTrainLora" else {})
    links = {name: [name, 0] for name in ("model", "vae", "clip")}
    learnt = node(kind, **links | inputs | changed)
    curve = node("SaveImage", images=["learnt", 1], filename_prefix="tests/curve")
    return {**loaded, "learnt": learnt, "curve": curve}


def test_a_folder_becomes_a_lora_with_its_curve(server, folder):
    progress = []
    outputs = client.run(server, training(), lambda *event: progress.append(event))
    assert [event for event in progress if event[0] == "EasyAnimateTrainLora"][-1] == ("EasyAnimateTrainLora", 6, 6)
    assert FILE.stat().st_size > 10_000
    (curve,) = saved_files(outputs)
    with Image.open(curve) as picture:
        assert picture.width > 400
    assert (folder / ".easyanimate" / "index.json").exists()
    stock = node("LoraLoaderModelOnly", model=["model", 0], lora_name=FILE.name, strength_model=1.0)
    client.run(server, graph(lora=stock, sampler={**graph()["sampler"], "inputs": {
        **graph()["sampler"]["inputs"], "model": ["lora", 0], "steps": 2}}))  # fmt: skip


def test_samples_are_kept_meanwhile(server, folder):
    client.run(server, training(**SAMPLED, steps=2))
    with Image.open(RUN / "samples" / "step_000002.webp") as video:
        assert video.size == (64, 64) and video.n_frames == 8


def test_an_image_transformer_learns_to_move(server, folder, files):  # noqa: F811
    """V1's way: its motion modules are a file of their own, which the loader puts into the image transformer again."""
    loaders = {name: chain("V1")[name] for name in ("model", "vae")}
    loaders["model"]["inputs"]["motion_module"] = "none"
    learning = training(MOTION, **SAMPLED, steps=2) | loaders
    seen = {"decode": node("EasyAnimateDecode", latent=["sampler", 0], vae=["vae", 0], tile_size=0)}
    rest = {name: chain("V1")[name] for name in ("prompt", "empty", "sampler", "video", "save")} | seen
    rest["sampler"]["inputs"]["model"] = ["learnt", 0]
    client.run(server, learning | rest)
    assert MOTION_FILE.exists() and (MOTION_RUN / "samples" / "step_000002.webp").exists()
    loaded = chain("V1")["model"]
    loaded["inputs"]["motion_module"] = MOTION_FILE.name
    assert watch(client.run(server, chain("V1", model=loaded))).shape == (10, 48, 64, 3)


def test_clips_that_are_connected_do_as_well(server, folder):
    tiny.bring_inputs(dev.BASE)
    wired = {
        "file": node("LoadVideo", file="easyanimate/clip.mp4"),
        "parts": node("GetVideoComponents", video=["file", 0]),
        "said": node("PrimitiveString", value="a red ball moves to the left"),
    }
    changed = {"folder": "clips that are connected", "clips": ["parts", 0], "captions": ["said", 0]}
    client.run(server, {**training(**changed), **wired})
    assert FILE.exists()


@pytest.mark.parametrize(
    ("kind", "file", "run"), [("EasyAnimateTrainLora", FILE, RUN), (MOTION, MOTION_FILE, MOTION_RUN)]
)
def test_stopped_it_keeps_what_it_has_and_goes_on(server, folder, kind, file, run):
    """Cancel in the middle, then the same again: the steps that were done are not done again."""
    seen: list[int] = []

    def cancel(node_type: str, value: int, _: int) -> None:
        if node_type == kind:
            seen.append(value)
            if value == 5:
                threading.Thread(target=client.post, args=(server, "/interrupt", {})).start()

    with pytest.raises(client.WorkflowError, match="interrupted"):
        client.run(server, training(kind, steps=60), cancel)
    assert (run / "state.pt").exists() and not file.exists()
    stopped_at, again = max(seen), []
    client.run(server, training(kind, steps=60), lambda of, value, _: again.append(value) if of == kind else None)
    assert file.exists()
    assert min(again) >= stopped_at


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"rank": 0}, "A LoRA of rank 0 can't learn anything; give a rank of 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"name": "../escape"}, "can't be the name of a file; use letters"),
        ({"folder": "clips that are connected"}, "nothing to learn from; choose a folder, or connect clips"),
        ({"resolution": 1024}, "None of 3 clips fits"),
        ({"sample_every": 5}, "Samples need a prompt; say what should be seen"),
        ({"kind": MOTION, "name": "../escape"}, "can't be the name of a file; use letters"),
        ({"kind": MOTION, "frames": 1}, "no motion in images; give clips, and let frames be more than 1"),
    ],
)
def test_nonsense_is_answered_before_anything_is_made(server, folder, wrong, said):
    with pytest.raises(client.WorkflowError, match=said):
        client.run(server, training(**wrong))
    assert not any(path.exists() for path in (FILE, MOTION_FILE, RUN / "state.pt", MOTION_RUN / "state.pt"))


def test_motion_modules_are_not_taught_under_a_lora(server, folder):
    lora = node("EasyAnimateLoadLora", model=["model", 0], lora=BUILT_IN_LORA, strength_model=1.0)
    with pytest.raises(client.WorkflowError, match="has a LoRA on it, .* connect the transformer as it was loaded"):
        client.run(server, training(MOTION, model=["lora", 0]) | {"lora": lora})


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _silent(folder: Path) -> None:
    (folder / "a.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "said"), [(_empty, "holds no clips or images"), (_silent, r"1 of 3 files .* have no caption \(a.mp4\)")]
)
def test_a_folder_that_teaches_nothing_is_said(server, folder, spoil, said):
    spoil(folder)
    with pytest.raises(client.WorkflowError, match=said):
        client.run(server, training())


def test_other_settings_need_another_name(server, folder):
    client.run(server, training())
    with pytest.raises(client.WorkflowError, match="begun with seed = 0, now it is 4; set it back to go on"):
        client.run(server, training(seed=4))


def test_another_clip_in_the_folder_is_learnt_from_too(server, folder):
    """The host keeps what a node gave for the same inputs; a folder that has changed is another input."""
    told = []

    def trained(**changed) -> list:
        told.clear()
        client.run(server, training(**changed), lambda *event: told.append(event))
        return [event for event in told if event[0] == "EasyAnimateTrainLora"]

    assert trained() and not trained()
    write_image(folder / "d.png").with_suffix(".txt").write_text("another picture")
    with pytest.raises(client.WorkflowError, match="begun with clips = 3, now it is 4"):
        trained()


def test_a_broken_clip_is_left_out(server, folder):
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("something")
    client.run(server, training())
    assert FILE.exists()
