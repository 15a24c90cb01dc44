"""Whatever users hand to nodes on a real server, a sentence says what is wrong and what to do; nothing breaks."""

import re
import time
from pathlib import Path

import pytest
from PIL import Image

from support.bad_control import CONTROL
from support.bad_files import DATA, EXECUTED, FOLDER, bad_files
from support.bad_graphs import Row, good
from support.bad_loading import LOADING
from support.bad_sampling import CONDITIONING, SAMPLING
from support.bad_training import TRAINING
from support.pack import HOST, ROOT, part
from support.videos import saved_files
from tools import comfyui
from tools.workflows import client

GROUPS = (LOADING, CONDITIONING, CONTROL, SAMPLING, TRAINING)
ROWS = [row for group in GROUPS for row in group]
WRITABLE = (comfyui.OUTPUT, *(comfyui.BASE / name for name in ("temp", "input", "models")))
GOOD = comfyui.OUTPUT / "tests"  # where good graphs save
LONGEST = 420  # letters
REFUSED = "ComfyUI refused the workflow: "
NOT_LISTED = r'"Value not in list", "details": "\w+: \''
PATH = re.compile(r"(?:/[\w.~ -]+){2,}")


@pytest.fixture(scope="module")
def files():
    with bad_files():
        yield


@pytest.fixture(scope="module")
def picture(server, files) -> bytes:
    """What the good graph makes before anything bad is tried."""
    return good_pixels(server)


def good_pixels(port: int) -> bytes:
    """The pixels of the good graph's frames, sampled again: no bad graph has this seed."""
    steps, graph = [], good()
    graph["sampler"]["inputs"]["seed"] = 1
    outputs = client.run(port, graph, lambda kind, *_: steps.append(kind))
    assert "EasyAnimateSampler" in steps
    pixels = b""
    for file in saved_files(outputs):
        with Image.open(file) as frame:
            pixels += frame.tobytes()
        file.unlink()
    return pixels


def listing() -> dict[Path, tuple[int, int]]:
    """Every file that a node could have written, with its size and time."""
    found = {}
    for folder in WRITABLE:
        for file in folder.rglob("*"):
            if file.is_file() and file.name != "server.log" and GOOD not in file.parents:
                status = file.stat()
                found[file] = status.st_size, status.st_mtime_ns
    return found


def answer(port: int, row: Row) -> str:
    """The error message, behind the type of the node that raises it."""
    prompt = {name: node for name, node in good(**row.nodes).items() if node}
    if not row.deleted:
        with pytest.raises(client.WorkflowError) as error:
            client.run(port, prompt)
        return str(error.value)
    slow = good()
    slow["sampler"]["inputs"] |= {"steps": 40, "seed": 3}
    client.post(port, "/prompt", {"prompt": slow})
    number = client.post(port, "/prompt", {"prompt": prompt})["prompt_id"]
    (comfyui.BASE / "models" / row.deleted).unlink()
    return failure(port, number)


def failure(port: int, number: str) -> str:
    """Why a prompt that waited in the queue failed."""
    for _ in range(1200):
        if ran := client.get(port, f"/history/{number}").get(number):
            message = dict(ran["status"]["messages"]).get("execution_error", {})
            return f"{message['node_type']}: {message['exception_message'].strip()}"
        time.sleep(0.05)
    raise AssertionError(f"prompt {number} did not end")


def assert_a_sentence(message: str) -> None:
    """One that an artist understands: no more than two, about the inputs, without code or paths of the machine."""
    assert message.endswith(".") and "\n" not in message and len(message) <= LONGEST, message
    assert len(re.findall(r"\. [A-Z]", message)) <= 1, message
    assert not re.search(r"Traceback|Error\b|NoneType|object (has|is)|tensor\(|\bargument", message), message
    paths = (path for path in PATH.findall(message) if path.startswith((str(HOST), str(ROOT))))
    assert all(FOLDER in path or DATA in path for path in paths), message


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.kind[11:]}: {row.name}" for row in ROWS])
def test_a_sentence_says_what_is_wrong_and_nothing_breaks(server, files, picture, row):
    before = listing()
    message = answer(server, row)
    if message.startswith(REFUSED) and row.by in ("host", "list"):
        named = f"{row.error}.*{row.kind}" if row.by == "host" else NOT_LISTED  # the choices fill the rest
        assert re.search(named, message) and "Traceback" not in message
    else:
        kind, _, message = message.partition(": ")
        assert kind == row.kind and row.by != "host", message
        assert re.search(row.error, message), message
        assert_a_sentence(message)
    gone = {comfyui.BASE / "models" / row.deleted} if row.deleted else set()
    assert listing() == {file: status for file, status in before.items() if file not in gone}
    if row in [group[-1] for group in GROUPS]:
        assert good_pixels(server) == picture


def test_every_node_and_enough_is_tried():
    assert {row.kind for row in ROWS} >= {cls.GET_SCHEMA().node_id for cls in part("nodes").NODES}
    assert len(ROWS) >= 60 and len({row.name for row in ROWS}) == len(ROWS)


def test_no_pickle_was_executed():
    assert not EXECUTED.exists()
