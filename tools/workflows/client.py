"""Runs saved workflows and prompts on a ComfyUI server, as the browser does. Standard library only."""

import base64
import json
import os
import socket
import struct
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3")
Progress = Callable[[str, int, int], None]  # node type, steps done, steps in all


class WorkflowError(RuntimeError):
    """The server rejected a workflow or could not finish it; the message is the server's."""


def get(port: int, path: str):
    """The answer to a GET request, decoded from JSON."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as reply:
        return json.load(reply)


def post(port: int, path: str, body: dict) -> dict:
    """The answer to a POST request, decoded from JSON; `WorkflowError` if the server rejects it."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read() or "{}")
    except urllib.error.HTTPError as error:
        raise WorkflowError(f"ComfyUI refused the workflow: {error.read().decode()[:2000]}") from error


def load(port: int, workflow: Path) -> dict:
    """A saved workflow (the editor's format) as a prompt (the server's format)."""
    return as_prompt(json.loads(workflow.read_text(encoding="utf-8")), get(port, "/object_info"))


def as_prompt(saved: dict, object_info: dict) -> dict:
    """A workflow in the editor's format as a prompt."""
    links = {link[0]: [str(link[1]), link[2]] for link in saved["links"]}
    prompt = {}
    for node in saved["nodes"]:
        kind = node["type"]
        if kind in object_info:  # others are notes
            prompt[str(node["id"])] = {"class_type": kind, "inputs": _inputs(node, object_info[kind], links)}
    return prompt


def _inputs(node: dict, info: dict, links: dict) -> dict:
    """The values of a node's widgets, in the order of its schema, and its links."""
    linked = {i["name"]: links[i["link"]] for i in node.get("inputs", []) if i.get("link") is not None}
    values, inputs = list(node.get("widgets_values", [])), {}
    for name, spec in {**info["input"].get("required", {}), **info["input"].get("optional", {})}.items():
        options = spec[1] if len(spec) > 1 else {}
        if is_widget(spec) and values:  # inputs that a newer host added to the end keep their defaults
            inputs[name] = values.pop(0)
            if options.get("control_after_generate"):
                values.pop(0)
        if name in linked:
            inputs[name] = linked[name]
    return inputs


def is_widget(spec: list) -> bool:
    """Whether an input of `/object_info` has a widget, so that it need not be linked."""
    return isinstance(spec[0], list) or (spec[0] in WIDGETS and not (len(spec) > 1 and spec[1].get("forceInput")))


def default(spec: list):
    """The initial value of a widget."""
    options = spec[1] if len(spec) > 1 else {}
    choices = spec[0] if isinstance(spec[0], list) else options.get("options") or ()
    first = next(iter(choices), "")
    return options.get("default", first["key"] if isinstance(first, dict) else first)


def run(port: int, prompt: dict, progress: Progress | None = None) -> dict:
    """Queue a prompt and follow its progress; returns the outputs of each node. `WorkflowError` if one fails."""
    client = uuid.uuid4().hex
    for event in _events(port, client):
        data = event.get("data", {})
        if event["type"] == "listening":
            post(port, "/prompt", {"prompt": prompt, "client_id": client})
        elif event["type"] == "progress" and progress:
            progress(prompt.get(data.get("node"), {}).get("class_type", ""), data["value"], data["max"])
        elif event["type"] == "execution_error":
            raise WorkflowError(f"{data['node_type']}: {data['exception_message'].strip()}")
        elif event["type"] == "execution_interrupted":
            raise WorkflowError("interrupted")
        elif event["type"] == "execution_success":
            return _outputs(port, data["prompt_id"])
    raise WorkflowError("ComfyUI stopped before the workflow was done; its log says why.")


def _outputs(port: int, prompt_id: str) -> dict:
    """From the server's history, which is written a moment after success is announced."""
    for _ in range(200):
        history = get(port, f"/history/{prompt_id}")
        if prompt_id in history:
            return history[prompt_id]["outputs"]
        time.sleep(0.05)
    raise WorkflowError("ComfyUI finished the workflow but does not say what it made; look into its output folder.")


def _events(port: int, client: str) -> Iterator[dict]:
    """The JSON messages on the server's websocket: just enough of RFC 6455 to receive them."""
    with socket.create_connection(("127.0.0.1", port)) as s:
        key = base64.b64encode(os.urandom(16)).decode()
        s.sendall(
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        stream = s.makefile("rb")
        while stream.readline().strip():
            pass
        yield {"type": "listening"}
        while len(head := stream.read(2)) == 2:
            kind, size = head
            if size >= 126:
                size = struct.unpack("!H" if size == 126 else "!Q", stream.read(2 if size == 126 else 8))[0]
            payload = stream.read(size)
            if kind & 15 == 1:
                yield json.loads(payload)
