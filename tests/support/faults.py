"""Prompts in which a layer fails on the server: it waits for Cancel, or runs out of memory (pack `faults`)."""

import itertools
import threading
import time
from collections.abc import Callable

from tools.workflows import client
from tools.workflows.author import node

numbers = itertools.count()
TIMEOUT = 60  # seconds


def with_fault(nodes: dict, source: str, layer: str, fault: str, first: int = 1, times: int = 1) -> dict:
    """`nodes` with a fault ("interrupt" or "memory") in a layer of the model that `source` outputs."""
    injected = node(
        "EasyAnimateTestFault",
        layer=layer, fault=fault, first=first, times=times, target=[source, 0], number=next(numbers),
    )  # fmt: skip
    changed = {name: {**each, "inputs": {**each["inputs"]}} for name, each in nodes.items()}
    for each in changed.values():
        for name, value in each["inputs"].items():
            if value == [source, 0]:
                each["inputs"][name] = ["fault", 0]
    return changed | {"fault": injected}


def report(port: int) -> dict:
    """`calls` of the faulty layer, and whether it is `waiting`."""
    return client.get(port, "/easyanimate_tests/fault")


def memory(port: int) -> dict:
    """What the server has in memory, once it is through with its prompt."""
    settle(port)
    return client.get(port, "/easyanimate_tests/memory")


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds; `TimeoutError` after `TIMEOUT`."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nothing happened for {TIMEOUT} seconds.")
        time.sleep(0.02)


def run_and_cancel(port: int, prompt: dict) -> None:
    """Run a prompt and cancel it as soon as its fault waits for that; raises `WorkflowError`: interrupted."""

    def cancel() -> None:
        wait_until(lambda: report(port)["waiting"])
        client.post(port, "/interrupt", {})

    thread = threading.Thread(target=cancel)
    thread.start()
    try:
        client.run(port, prompt)
    finally:
        thread.join()


def settle(port: int) -> None:
    """Wait until the server is through with its prompt; it announces the end a moment before."""
    wait_until(lambda: not client.get(port, "/queue")["queue_running"])


def last_messages(port: int) -> dict[str, dict]:
    """The server's messages about its last prompt, by type."""
    settle(port)
    (entry,) = client.get(port, "/history?max_items=1").values()
    return dict(entry["status"]["messages"])
