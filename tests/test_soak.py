"""One server, many runs: it takes no more memory than at first, and makes the same as at first."""

import client
import psutil
import pytest
import torch
from conftest import NEIGHBOURS, part
from graphs import node
from own_server import own_server
from seeing import read_pictures
from troubled import report, settle, small, wait_until

LORA = part("easyanimate_models.model_files").BUILT_IN_LORA
RUNS, SETTLED, MOST = 50, 5, 1.02
FREE = {"unload_models": True, "free_memory": True}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A server that has done nothing yet, and its process."""
    packs = ("--extra-model-paths-config", str(NEIGHBOURS / "extra_model_paths.yaml"))
    with own_server(tmp_path_factory.mktemp("server"), *packs) as server:
        yield server


def prompt(number: int) -> dict:
    """Another seed each time, and a LoRA in two of three runs: the fifth, and the fiftieth."""
    nodes = small(length=8)
    nodes["sampler"]["inputs"]["seed"] = number
    if number % 3:
        nodes["lora"] = node("EasyAnimateLoadLora", model=["model", 0], lora=LORA, strength_model=1.0)
        nodes["sampler"]["inputs"]["model"] = ["lora", 0]
    return nodes


def pictures(port: int, number: int) -> torch.Tensor:
    return read_pictures(client.run(port, prompt(number)))


def used(port: int, process: psutil.Process) -> tuple[int, int]:
    """Bytes of the process, and of the tensors in it."""
    settle(port)
    tensors = report(port)["tensor_bytes"]  # first: it also gives back what nobody uses
    return process.memory_info().rss, tensors


def free(port: int) -> None:
    """Ask for all memory back, and wait for it."""
    client.post(port, "/free", FREE)
    wait_until(lambda: report(port)["loaded"] == 0)


def test_fifty_runs_take_no_more_memory_than_five_and_all_of_it_comes_back(alone, record_property):
    port, process = alone
    untouched = used(port, process)
    pictures(port, 0)
    free(port)
    once = used(port, process)  # what Python has imported since stays
    first, levels = {}, {}
    for number in range(1, RUNS + 1):
        made = pictures(port, number)
        first.setdefault(number, made) if number <= 2 else None
        if number in (SETTLED, RUNS):
            levels[number] = used(port, process)
    for number, made in first.items():
        again = pictures(port, number)
        assert torch.equal(again, made)
    free(port)
    freed = used(port, process)
    for name, value in {"untouched": untouched, "once": once, **levels, "freed": freed}.items():
        record_property(str(name), value)
    assert levels[RUNS][0] <= MOST * levels[SETTLED][0]
    assert levels[RUNS][1] == levels[SETTLED][1] > untouched[1]
    assert freed[0] <= MOST * once[0]
    assert freed[1] == once[1] == untouched[1]
