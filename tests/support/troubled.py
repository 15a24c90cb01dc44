"""A prompt in which a layer goes wrong on the server: it waits for Cancel, or runs out of memory."""

import itertools
import threading
import time
from collections.abc import Callable

import client
from graphs import node
from test_server import graph

numbers = itertools.count()
PATIENCE = 60  # seconds


def small(steps: int = 3, length: int = 24) -> dict:
    """Prompt to frames, saved as pictures."""
    nodes = graph(save=node("SaveImage", images=["decode", 0], filename_prefix="tests/steady"))
    nodes["sampler"]["inputs"] |= {"steps": steps}
    nodes["empty"]["inputs"] |= {"length": length}
    return {name: value for name, value in nodes.items() if name != "video"}


def troubled(nodes: dict, source: str, layer: str, trouble: str, first: int = 1, times: int = 1) -> dict:
    """`nodes` with trouble in what comes out of `source`."""
    watch = node(
        "EasyAnimateTestTrouble",
        layer=layer, trouble=trouble, first=first, times=times, thing=[source, 0], number=next(numbers),
    )  # fmt: skip
    changed = {name: {**made, "inputs": {**made["inputs"]}} for name, made in nodes.items()}
    for made in changed.values():
        for name, value in made["inputs"].items():
            if value == [source, 0]:
                made["inputs"][name] = ["trouble", 0]
    return changed | {"trouble": watch}


def report(port: int) -> dict:
    """What became of the trouble."""
    return client.get(port, "/easyanimate_tests/trouble")


def memory(port: int) -> dict:
    """What the server has in memory, once it is through with its prompt."""
    settle(port)
    return client.get(port, "/easyanimate_tests/memory")


def wait_until(happened: Callable[[], bool]) -> None:
    """Looks again and again until it is so; raises `TimeoutError` when it takes too long."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing happened for {PATIENCE} seconds.")
        time.sleep(0.02)


def cancelled(port: int, prompt: dict) -> None:
    """Run a prompt and cancel it as soon as its trouble waits for that; `WorkflowError` says that it was."""

    def cancel() -> None:
        wait_until(lambda: report(port)["waiting"])
        client.post(port, "/interrupt", {})

    other = threading.Thread(target=cancel)
    other.start()
    try:
        client.run(port, prompt)
    finally:
        other.join()


def settle(port: int) -> None:
    """Wait until the server is through with its prompt; it tells of the end a moment before."""
    wait_until(lambda: not client.get(port, "/queue")["queue_running"])


def last_messages(port: int) -> dict[str, dict]:
    """What the server said of its last prompt: kind -> the message."""
    settle(port)
    (entry,) = client.get(port, "/history?max_items=1").values()
    return {kind: told for kind, told in entry["status"]["messages"]}
