"""Finding a browser, and bringing one where that is possible. Standard library only."""

import os
import shutil
import subprocess
import sys

from ..environment import pip, print_line, run_module

PACKAGES = ["playwright>=1.49"]  # what only `test --browser` and `pictures` need, beside one of these browsers
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


def pictures(arguments: list[str]) -> int:
    """`dev.py pictures`: take all screenshots again."""
    bring_browser()
    return run_module("tools.browser.pictures", arguments)
