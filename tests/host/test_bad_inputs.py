"""Whatever users hand to nodes on a real server, a sentence says what is wrong and what to do; nothing breaks."""

import re
import time
from pathlib import Path

import client
import pytest
from bad_files import DATA, FOLDER, bad_files
from bad_graphs import Row, good
from bad_learning import LEARNING
from bad_loading import LOADING
from bad_sampling import CONDITIONING, SAMPLING
from conftest import HOST, ROOT, dev, part
from PIL import Image
from seeing import saved_files

GROUPS = (LOADING, CONDITIONING, SAMPLING, LEARNING)
ROWS = [row for group in GROUPS for row in group]
WATCHED = (dev.OUTPUT, *(dev.BASE / name for name in ("temp", "input", "models")))
GOOD = dev.OUTPUT / "tests"  # where good graphs save
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
    return made(server)


def made(port: int) -> bytes:
    """The pixels of the good graph's frames, sampled anew: no bad graph has this seed."""
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
    for folder in WATCHED:
        for file in folder.rglob("*"):
            if file.is_file() and file.name != "server.log" and GOOD not in file.parents:
                seen = file.stat()
                found[file] = seen.st_size, seen.st_mtime_ns
    return found


def answer(port: int, row: Row) -> str:
    """What is said, behind the kind of the node that says it."""
    prompt = {name: node for name, node in good(**row.nodes).items() if node}
    if not row.gone:
        with pytest.raises(client.WorkflowError) as error:
            client.run(port, prompt)
        return str(error.value)
    slow = good()
    slow["sampler"]["inputs"] |= {"steps": 40, "seed": 3}
    client.post(port, "/prompt", {"prompt": slow})
    number = client.post(port, "/prompt", {"prompt": prompt})["prompt_id"]
    (dev.BASE / "models" / row.gone).unlink()
    return failure(port, number)


def failure(port: int, number: str) -> str:
    """Why a prompt that waited in the queue failed."""
    for _ in range(1200):
        if ran := client.get(port, f"/history/{number}").get(number):
            said = dict(ran["status"]["messages"]).get("execution_error", {})
            return f"{said['node_type']}: {said['exception_message'].strip()}"
        time.sleep(0.05)
    raise AssertionError(f"prompt {number} did not end")


def assert_a_sentence(said: str) -> None:
    """One that an artist understands: no more than two, of what was given, no code and no place of the machine."""
    assert said.endswith(".") and "\n" not in said and len(said) <= LONGEST, said
    assert len(re.findall(r"\. [A-Z]", said)) <= 1, said
    assert not re.search(r"Traceback|Error\b|NoneType|object (has|is)|tensor\(|\bargument", said), said
    places = (path for path in PATH.findall(said) if path.startswith((str(HOST), str(ROOT))))
    assert all(FOLDER in place or DATA in place for place in places), said


@pytest.mark.parametrize("row", ROWS, ids=[f"{row.kind[11:]}: {row.name}" for row in ROWS])
def test_a_sentence_says_what_is_wrong_and_nothing_breaks(server, files, picture, row):
    before = listing()
    said = answer(server, row)
    if said.startswith(REFUSED) and row.by in ("host", "list"):
        named = f"{row.says}.*{row.kind}" if row.by == "host" else NOT_LISTED  # lists fill what is shown of an answer
        assert re.search(named, said) and "Traceback" not in said
    else:
        kind, _, said = said.partition(": ")
        assert kind == row.kind and row.by != "host", said
        assert re.search(row.says, said), said
        assert_a_sentence(said)
    gone = {dev.BASE / "models" / row.gone} if row.gone else set()
    assert listing() == {file: seen for file, seen in before.items() if file not in gone}
    if row in [group[-1] for group in GROUPS]:
        assert made(server) == picture


def test_every_node_and_enough_is_tried():
    assert {row.kind for row in ROWS} >= {cls.GET_SCHEMA().node_id for cls in part("nodes").NODES}
    assert len(ROWS) >= 60 and len({row.name for row in ROWS}) == len(ROWS)


def test_no_pickle_was_executed():
    assert not Path(__file__).with_name("executed").exists()
