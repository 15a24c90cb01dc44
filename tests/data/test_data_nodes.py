"""The nodes that prepare data on a real server: footage to a data set, stopped, filtered again, given nonsense."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from support.footage import pan, texture, write_sound, write_video
from support.pack import part
from support.tiny_captioner import write_captioner
from support.videos import saved_files
from tools import comfyui
from tools.workflows import client
from tools.workflows.author import node

video_file = part("easyanimate_models.media.video_file")

NAME, FOLDER = "easyanimate-test-data", "easyanimate-test-footage"
HOME = comfyui.OUTPUT / "easyanimate_data" / NAME
MODEL = comfyui.BASE / "models" / "LLM" / "easyanimate-test-captioner"
LIMITS = {
    "min_motion": 0.5, "max_motion": 50.0, "max_text_area": 0.02, "min_aesthetics": 4.0, "min_side": 0, "copies": False,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def captioner():
    """A small model in models/LLM; nothing is left of it."""
    write_captioner(MODEL)
    yield MODEL
    shutil.rmtree(MODEL)


@pytest.fixture
def footage():
    """A film of two shots, a still one and a broken file in the host's input folder; nothing is left of them."""
    path = comfyui.BASE / "input" / FOLDER
    write_video(path / "film.mp4", [*pan(16, frames=40), *pan(24, frames=40)[::-1], *[texture(320, 192)] * 30])
    write_video(path / "moving.mp4", pan(16, frames=40, grain=16)).with_suffix(".txt").write_text("a pan")
    (path / "broken.mp4").write_bytes(b"no video")
    yield path
    shutil.rmtree(path)
    shutil.rmtree(HOME, ignore_errors=True)


def chain(model: str = "captions by hand only", **changed) -> dict:
    """From footage to captions; `changed` are other inputs of a node."""
    cut = {"folder": FOLDER, "name": NAME, "min_seconds": 0.5, "max_seconds": 4.0}
    steps = {
        "split": ("EasyAnimateSplitVideos", cut),
        "score": ("EasyAnimateScoreClips", {"motion": True, "text_area": False, "aesthetics": "none"}),
        "filter": ("EasyAnimateFilterClips", LIMITS),
        "describe": ("EasyAnimateCaptionClips", {"model": model, "prompt": "Say what is seen.", "frames": 2}),
    }
    names = list(steps)
    nodes = {name: node(kind, **inputs | changed.get(name, {})) for name, (kind, inputs) in steps.items()}
    for before, after in zip(names, names[1:], strict=False):
        nodes[after]["inputs"]["dataset"] = [before, 0]
    return nodes | {"sheet": node("SaveImage", images=["filter", 1], filename_prefix="tests/sheet")}


def rows() -> dict[str, dict]:
    lines = (HOME / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["file"]: row for row in map(json.loads, lines)}


def test_footage_becomes_a_data_set_with_a_sheet_and_a_report(server, footage):
    progress = []
    outputs = client.run(server, chain(), lambda *event: progress.append(event))
    found = rows()
    assert found["clips/moving_001.mp4"]["text"] == "a pan" and not found["clips/moving_001.mp4"]["rejected"]
    assert "can't be read as a video" in found["broken.mp4"]["wrong"]
    assert any("is below" in row["rejected"] for row in found.values())
    (sheet,) = saved_files({"sheet": outputs["sheet"]})
    with Image.open(sheet) as picture:
        assert picture.width > 400
    shown = {name: len(outputs[name]["images"]) for name in ("split", "score", "filter", "describe")}
    assert shown == {"split": 1, "score": 1, "filter": 2, "describe": 1}  # the filter's report, too
    assert "clips kept" in (HOME / "report.html").read_text(encoding="utf-8")
    assert ("EasyAnimateSplitVideos", 3, 3) in progress
    scored = [event for event in progress if event[0] == "EasyAnimateScoreClips"]
    assert scored[-1][1] == scored[-1][2] and len(scored) > 1  # hosts show some of them


def test_clips_come_at_the_rate_asked_for_and_sound_without_pictures_is_named(server, footage):
    write_sound(footage / "sound.mp4")
    for fps in ({"fps": 24.0}, {}):  # the latter as in workflows saved before there was a rate
        client.run(server, {"split": chain(split=fps)["split"]})
        found = rows()
        assert "sound.mp4 has audio but no video; remove it" in found["sound.mp4"]["wrong"]
        clips = [HOME / name for name, row in found.items() if not row.get("wrong")]
        assert {video_file.probe(clip).fps for clip in clips} == {fps.get("fps", 25)}


def test_other_limits_choose_anew_and_measure_nothing(server, footage):
    client.run(server, chain())
    before = {row["file"]: row.get("motion") for row in rows().values()}
    done = {file: file.stat().st_mtime_ns for file in (HOME / ".done").iterdir()}
    client.run(server, chain(filter={"min_motion": 0.0, "max_motion": 1000.0}))
    assert {row["file"]: row.get("motion") for row in rows().values()} == before
    assert {file: file.stat().st_mtime_ns for file in (HOME / ".done").iterdir()} == done


def test_a_local_model_captions_what_is_kept(server, footage):
    client.run(server, chain(model=f"LLM/{MODEL.name}"))
    found = rows()
    accepted = [row for row in found.values() if not row["rejected"]]
    assert len(accepted) > 1 and all(row["text"] for row in accepted)
    assert found["clips/moving_001.mp4"]["text"] == "a pan"
    loaded = {"loaded": node("EasyAnimateLoadDataset", folder=f"output/{NAME}")}
    loaded["sheet"] = node("SaveImage", images=["loaded", 1], filename_prefix="tests/sheet")
    client.run(server, loaded)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"split": {"name": "../outside"}}, "can't be the name of a folder"),
        ({"split": {"min_seconds": 3.0, "max_seconds": 4.0}}, "make the maximum at least twice the minimum"),
        ({"split": {"min_seconds": 30.0, "max_seconds": 60.0}}, "contains no usable clips"),
        ({"filter": {"min_motion": 900.0, "max_motion": 1000.0}}, "passes the limits .*loosen them"),
        ({"filter": {"min_motion": 9.0, "max_motion": 8.0}}, "can't be at least 9 and at most 8"),
        ({"score": {"dataset": "/etc"}}, "is not in ComfyUI's output or input folder"),
        ({"score": {"dataset": "../../.."}}, "is not in ComfyUI's output or input folder"),
    ],
)
def test_nonsense_is_answered_in_a_sentence(server, footage, changed, message):
    graph = chain(**changed)
    for name, inputs in changed.items():
        graph[name]["inputs"].update(inputs)
    with pytest.raises(client.WorkflowError, match=message):
        client.run(server, graph)
    assert not (HOME.parent / "outside").exists() and not Path(HOME.parent.parent / "outside").exists()


def test_stopped_it_goes_on(server, footage):
    """Cancel after the first video, then the same again."""
    done = []

    def cancel(kind: str, value: int, _: int) -> None:
        if kind == "EasyAnimateSplitVideos" and value and not done:
            done.append(value)
            client.post(server, "/interrupt", {})

    with pytest.raises(client.WorkflowError):
        client.run(server, chain(), cancel)
    assert done
    lines = (HOME / ".done" / "split.jsonl").read_text().splitlines()
    client.run(server, chain())
    assert (HOME / ".done" / "split.jsonl").read_text().splitlines()[: len(lines)] == lines
    assert len((HOME / ".done" / "split.jsonl").read_text().splitlines()) == 3
