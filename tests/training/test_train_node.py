"""The nodes that train on a real server: from a folder, from connected clips, stopped, and given nonsense."""

import json
import os
import shutil
import threading
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from support.footage import write_clip, write_image
from support.prompts import BUILT_IN_LORA, loaders, sampler, text_to_video
from support.releases import release_to_video
from support.videos import first_video, saved_files
from tools import comfyui
from tools.workflows import client, tiny
from tools.workflows.author import node

NAME, FOLDER = "easyanimate-test-lora", "easyanimate-test-set"
RUN = comfyui.OUTPUT / "easyanimate_training" / NAME
MOTION_RUN = RUN.with_name(f"{NAME}_mm")
FILE = comfyui.BASE / "models" / "loras" / f"{NAME}.safetensors"
MOTION_FILE = comfyui.BASE / "models" / "diffusion_models" / f"{NAME}_mm.safetensors"
MOTION = "EasyAnimateTrainMotionModule"
SAMPLED = {"sample_every": 2, "sample_prompt": "a red ball"}


@pytest.fixture
def folder():
    """A data set of two clips and an image in the input folder; it and the run are removed afterwards."""
    path = comfyui.BASE / "input" / FOLDER
    for name in ("a.mp4", "b.mp4"):
        write_clip(path / name, frames=9, width=64, height=64).with_suffix(".txt").write_text("a grey picture")
    write_image(path / "c.png").with_suffix(".txt").write_text("a red picture")
    yield path
    shutil.rmtree(path)
    for run in (RUN, MOTION_RUN):
        shutil.rmtree(run, ignore_errors=True)
    for file in (FILE, MOTION_FILE):
        file.unlink(missing_ok=True)


def training(kind: str = "EasyAnimateTrainLora", **changed) -> dict:
    """A graph that trains; `changed` are other inputs of the node."""
    inputs = {"name": NAME, "folder": FOLDER, "steps": 6, "learning_rate": 1e-3, "resolution": 64}
    inputs |= {"frames": 8, "batch_size": 1, "seed": 0} | ({"rank": 2} if kind == "EasyAnimateTrainLora" else {})
    links = {name: [name, 0] for name in ("model", "vae", "clip")}
    trained = node(kind, **links | inputs | changed)
    curve = node("SaveImage", images=["trained", 1], filename_prefix="tests/curve")
    return {**loaders(), "trained": trained, "curve": curve}


def test_a_folder_becomes_a_lora_with_its_curve(server, folder):
    progress = []
    outputs = client.run(server, training(), lambda *event: progress.append(event))
    assert [event for event in progress if event[0] == "EasyAnimateTrainLora"][-1] == ("EasyAnimateTrainLora", 6, 6)
    shown = client.get(server, f"/view_metadata/loras?filename={FILE.name}")
    assert (shown["modelspec.title"], shown["modelspec.architecture"]) == (NAME, "easyanimate-v3/lora")
    assert (shown["ss_steps"], shown["ss_network_dim"], shown["ss_num_train_images"]) == ("6", "2", "3")
    (curve,) = saved_files(outputs)
    with Image.open(curve) as picture:
        assert picture.width > 400
    assert (folder / ".easyanimate" / "index.json").exists()
    stock = node("LoraLoaderModelOnly", model=["model", 0], lora_name=FILE.name, strength_model=1.0)
    client.run(server, text_to_video(lora=stock, sampler=sampler(model=["lora", 0], steps=2)))


def test_a_lora_goes_on_from_another_and_is_kept_on_the_way(server, folder):
    """Every new input at once; the built-in LoRA has its own rank."""
    image = {"image": node("EmptyImage", width=64, height=64, batch_size=1, color=0)}
    more = {"start_from": BUILT_IN_LORA, "save_every": 2, "validation": 0.3, "validation_every": 2}
    more |= {"sample_steps": 1, "sample_cfg": 1.0, "sample_frames": 8, "sample_width": 48, "sample_height": 32}
    more |= {"sample_prompt": "a red ball\n\na blue box", "sample_every": 4}
    client.run(server, {**training(**more, steps=4), **image})
    step = FILE.with_stem(f"{NAME}_step00002")
    assert load_file(step).keys() == load_file(FILE).keys()
    step.unlink()
    header = client.get(server, f"/view_metadata/loras?filename={FILE.name}")
    assert header["ss_network_dim"] != "2" and header["ss_num_train_images"] == "2"
    with Image.open(RUN / "samples" / "step_000004_2.webp") as video:
        assert video.size == (48, 32) and video.n_frames == 8
    rows = (RUN / "log.csv").read_text().splitlines()
    assert "validation" in rows[0] and len(rows) == 6
    with pytest.raises(client.WorkflowError, match="can't start samples from an image; remove the image"):
        client.run(server, {**training(**more, steps=4, sample_image=["image", 0]), **image})


OPTIONS = {"optimizer": "adafactor", "lr_schedule": "cosine", "weight_decay": 0.0, "caption_dropout": 0.5}
OPTIONS |= {"validation": 0.3, "validation_every": 1}
CAPTIONS = {"trigger_word": "sks", "caption_shuffles": 2, "keep_tags": 1}


def test_samples_are_kept_meanwhile(server, folder):
    """With an optimizer, a block in RAM, two folders in one, and clips whose only caption is the trigger word."""
    (folder / "a.txt").unlink()
    (folder / "dataset.toml").write_text('[[directory]]\npath = "."\nnum_repeats = 2\nresolutions = [64, 48]\n')
    outputs = client.run(server, training(**SAMPLED, **OPTIONS, **CAPTIONS, steps=2, blocks_to_swap=1))
    plan = json.loads((RUN / "plan.json").read_text())
    assert (plan["optimizer"], plan["schedule"], plan["text_dropout"]) == ("adafactor", "cosine", 0.5)
    index = json.loads((folder / ".easyanimate" / "index.json").read_text())
    assert {row["text"] for row in index["examples"]} == {"sks", "sks, a grey picture", "sks, a red picture"}
    assert len(index["examples"]) == 3 * 2 * 2
    assert [file["type"] for file in outputs["trained"]["images"]] == ["temp"] * 2  # loss curve and samples, shown
    with Image.open(RUN / "samples" / "step_000002.webp") as video:
        assert video.size == (64, 64) and video.n_frames == 8


def test_an_image_transformer_learns_to_move(server, folder, release_files):
    """V1's way: its motion modules are a file of their own, which the loader puts into the image transformer again."""
    loaders = {name: release_to_video("V1")[name] for name in ("model", "vae")}
    loaders["model"]["inputs"]["motion_module"] = "none"
    train = training(MOTION, **SAMPLED, steps=2) | loaders
    rest = {name: release_to_video("V1")[name] for name in ("prompt", "empty", "sampler", "decode", "video", "save")}
    rest["sampler"]["inputs"]["model"] = ["trained", 0]
    client.run(server, train | rest)
    assert MOTION_FILE.exists() and (MOTION_RUN / "samples" / "step_000002.webp").exists()
    loaded = release_to_video("V1")["model"]
    loaded["inputs"]["motion_module"] = MOTION_FILE.name
    assert first_video(client.run(server, release_to_video("V1", model=loaded))).shape == (10, 48, 64, 3)


def test_clips_that_are_connected_do_as_well(server, folder):
    tiny.bring_inputs(comfyui.BASE)
    wired = {
        "file": node("LoadVideo", file="easyanimate/clip.mp4"),
        "parts": node("GetVideoComponents", video=["file", 0]),
        "caption": node("PrimitiveString", value="a red ball moves to the left"),
    }
    changed = {"folder": "clips that are connected", "clips": ["parts", 0], "captions": ["caption", 0]}
    client.run(server, {**training(**changed), **wired})
    assert FILE.exists()


@pytest.mark.parametrize(
    ("kind", "file", "run"), [("EasyAnimateTrainLora", FILE, RUN), (MOTION, MOTION_FILE, MOTION_RUN)]
)
def test_stopped_it_keeps_what_it_has_and_goes_on(server, folder, kind, file, run):
    """Cancel in the middle, then the same again: what was learnt can be used, and is not learnt again."""
    done: list[int] = []

    def cancel(node_type: str, value: int, _: int) -> None:
        if node_type == kind:
            done.append(value)
            if value == 5:
                threading.Thread(target=client.post, args=(server, "/interrupt", {})).start()

    with pytest.raises(client.WorkflowError, match="interrupted"):
        client.run(server, training(kind, steps=60), cancel)
    assert (run / "state.pt").exists() and not file.exists()
    (learnt,) = file.parent.glob(f"{file.stem}_step*.safetensors")
    assert learnt.stat().st_size > 10_000
    learnt.unlink()
    stopped_at, again = max(done), []
    client.run(server, training(kind, steps=60), lambda of, value, _: again.append(value) if of == kind else None)
    assert file.exists()
    assert min(again) >= stopped_at


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rank": 0}, "rank is 0; set it to 1 or more"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0; it must be above 0"),
        ({"name": "../escape"}, "can't be the name of a file; use letters"),
        ({"folder": "clips that are connected"}, "nothing to train on; choose a folder, or connect clips"),
        ({"resolution": 1024}, "None of the 3 clips fit"),
        ({"sample_every": 5}, "Samples need a prompt; enter one"),
        ({"kind": MOTION, "name": "../escape"}, "can't be the name of a file; use letters"),
        ({"kind": MOTION, "frames": 1}, "Images contain no motion; use clips, and set frames above 1"),
    ],
)
def test_nonsense_is_answered_before_anything_is_made(server, folder, wrong, message):
    with pytest.raises(client.WorkflowError, match=message):
        client.run(server, training(**wrong))
    assert not any(path.exists() for path in (FILE, MOTION_FILE, RUN / "state.pt", MOTION_RUN / "state.pt"))


def test_motion_modules_are_not_trained_under_a_lora(server, folder):
    lora = node("EasyAnimateLoadLora", model=["model", 0], lora=BUILT_IN_LORA, strength_model=1.0)
    with pytest.raises(
        client.WorkflowError, match="has a LoRA on it, .* connect the transformer directly from its loader"
    ):
        client.run(server, training(MOTION, model=["lora", 0]) | {"lora": lora})


def _empty(folder: Path) -> None:
    for file in folder.iterdir():
        file.unlink()


def _silent(folder: Path) -> None:
    (folder / "a.txt").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(_empty, "contains no clips or images"), (_silent, r"1 of 3 files .* have no caption \(a.mp4\)")],
)
def test_a_folder_that_teaches_nothing_is_an_error(server, folder, spoil, message):
    spoil(folder)
    with pytest.raises(client.WorkflowError, match=message):
        client.run(server, training())


def test_other_settings_need_another_name(server, folder):
    client.run(server, training())
    with pytest.raises(client.WorkflowError, match="started with seed = 0, but now it is 4; restore the old value"):
        client.run(server, training(seed=4))


def test_another_clip_in_the_folder_is_learnt_from_too(server, folder):
    """The host keeps what a node gave for the same inputs; a folder that has changed is another input."""
    events = []

    def trained(**changed) -> list:
        events.clear()
        client.run(server, training(**changed), lambda *event: events.append(event))
        return [event for event in events if event[0] == "EasyAnimateTrainLora"]

    assert trained() and not trained()
    write_image(folder / "d.png").with_suffix(".txt").write_text("another picture")
    with pytest.raises(client.WorkflowError, match="started with clips = 3, but now it is 4"):
        trained()


def test_a_clip_that_is_replaced_under_its_name_needs_another_run(server, folder):
    """Of the same name, size and time, so that only its contents tell."""
    file, other = folder / "c.bmp", folder.parent / "other.bmp"
    (folder / "c.png").rename(folder / "c.hidden")
    for path, red in ((file, 250), (other, 10)):
        Image.new("RGB", (64, 64), (red, 0, 0)).save(path)
        os.utime(path, (1_700_000_000, 1_700_000_000))
    client.run(server, training())
    before = FILE.read_bytes()
    client.run(server, training())
    other.replace(file)
    with pytest.raises(client.WorkflowError, match="was started before the clips changed; .* or choose another name"):
        client.run(server, training())
    assert FILE.read_bytes() == before


def test_a_broken_clip_is_left_out(server, folder):
    (folder / "broken.mp4").write_bytes(b"no video")
    (folder / "broken.txt").write_text("something")
    client.run(server, training())
    assert FILE.exists()
