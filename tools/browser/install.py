"""Finding a browser, and bringing one where that is possible. Standard library only."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from ..environment import HOST, PYTHON, ROOT, pip, print_line, run_module

PACKAGES = ["playwright>=1.49"]  # what only `test --browser` and `pictures` need, beside one of these browsers
FRONT_END_PACKAGE = "comfyui-frontend-package"
FRONT_END = "EASYANIMATE_FRONT_END"  # variable: the folder of another front end than the host brings
COMMANDS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
PATHS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
    r"C:\Program Files (x86)\Microsoft\Edge\Application\msedge.exe",
)


def bring_browser() -> None:
    """Install Playwright, and on a Debian with root rights Chromium; exits where there is no browser then."""
    pip("install", *PACKAGES)
    if find_browser() is None and shutil.which("apt-get") and os.geteuid() == 0:
        print_line("Installing Chromium")
        for step in (["update"], ["install", "-y", "chromium"]):
            subprocess.run(["apt-get", "-qq", *step], stdout=subprocess.DEVNULL)
    if find_browser() is None:
        sys.exit("Chromium or Chrome is missing; install one (Debian: apt install chromium) and run this again.")


def find_browser() -> str | None:
    """The program of the first of these browsers that is installed."""
    return next(filter(None, map(shutil.which, (*COMMANDS, *PATHS))), None)


def newest_front_end() -> Path | None:
    """The folder of the newest front end that there is; None when the host brings none newer, or it can't be had.

    It lies beside the ComfyUI that it is for.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [str(PYTHON), "-m", "pip", "download", "-q", "--no-deps", "-d", folder, FRONT_END_PACKAGE]
        if subprocess.run(command, capture_output=True).returncode:
            print_line("The newest front end could not be downloaded; only the host's own is tested.")
            return None
        wheel = next(Path(folder).glob("*.whl"))
        version = wheel.name.split("-")[1]
        if f"{FRONT_END_PACKAGE}=={version}" in (HOST / "requirements.txt").read_text(encoding="utf-8").split():
            return None
        target = ROOT / ".comfyui" / f"front_end-{version}"
        if not target.exists():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(target)
    print_line(f"Front end {version}")
    return target / "comfyui_frontend_package" / "static"


def pictures(arguments: list[str]) -> int:
    """`dev.py pictures`: take all screenshots again."""
    bring_browser()
    return run_module("tools.browser.pictures", arguments)
