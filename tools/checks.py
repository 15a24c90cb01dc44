"""`dev.py test`: lint, types, tests, coverage. Standard library only."""

import os
import re
import subprocess
import sys
from pathlib import Path

from .browser import install
from .environment import HOST, IN_VENV, PYTHON, ROOT, SHARED_VENV, print_line

TESTS = ROOT / "tests"
LINT_PYTHON = SHARED_VENV / IN_VENV  # what it finds doesn't depend on the host
CHECKS = (["ruff", "check"], ["ruff", "format", "--check"], ["mypy"])
TAKE_A_VALUE = ("-c", "-k", "-m", "-n", "-o", "-p", "-r", "-W")  # options of pytest
TRUE_SIZE = "--true-size"
BROWSER_TESTS = ["pytest", "--browser", "browser"]
PARALLEL = ["-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder"]
NEWEST = "--newest-front-end"


def test(arguments: list[str]) -> int:
    """Lint, types, tests; of the whole suite, on several cores, also how much of the code it runs.

    The tests run from their own folder: from the root, our `nodes` would hide the host's.
    """
    newest = NEWEST in arguments
    arguments = [argument for argument in arguments if argument != NEWEST]
    if "--browser" in arguments:
        install.bring_browser()
    variables = {**os.environ, "COMFYUI_PATH": str(HOST), "OMP_NUM_THREADS": "1"}
    if TRUE_SIZE in arguments:  # nothing else, and on all cores
        arguments = [*arguments, "host/test_true_size.py"]
        del variables["OMP_NUM_THREADS"]
    variables["COVERAGE_RCFILE"] = str(ROOT / "pyproject.toml")
    if recordings := os.environ.get("EASYANIMATE_GOLDEN"):
        variables["EASYANIMATE_GOLDEN"] = str(Path(recordings).resolve())
    whole = not set(arguments) - {"--browser"}
    tests = [["pytest", *pytest_arguments(arguments)]]
    if whole:
        tests = [["coverage", "erase"], ["coverage", "run", "-m", "pytest", *PARALLEL], ["coverage", "combine", "-q"]]
        if arguments:  # alone: without a GPU a browser needs a core to draw
            tests.append(BROWSER_TESTS)
    for folder, python, steps in ((ROOT, LINT_PYTHON, CHECKS), (TESTS, PYTHON, tests)):
        for step in steps:
            code = subprocess.run([str(python), "-m", *step], cwd=folder, env=variables).returncode
            if code and step == BROWSER_TESTS:  # a busy machine may draw too late: what failed gets a second try
                code = subprocess.run([str(python), "-m", *step, "--last-failed"], cwd=folder, env=variables).returncode
            if code:
                return code
    code = report_coverage() if whole else 0
    if not code and newest:
        code = test_newest_front_end(variables)
    return code


def test_newest_front_end(variables: dict[str, str]) -> int:
    """The tests in a browser again, on the newest front end there is, if it is another than the host's.

    Of the templates one is enough: what they compute does not depend on the front end.
    """
    folder = install.newest_front_end()
    if folder is None:
        return 0
    command = [str(PYTHON), "-m", *BROWSER_TESTS, "-k", "not template_opens or text_to_video_tiny"]
    return subprocess.run(command, cwd=TESTS, env={**variables, install.FRONT_END: str(folder)}).returncode


def pytest_arguments(arguments: list[str]) -> list[str]:
    """The same arguments with paths relative to `tests`, where they were relative to the project or to here."""
    before = ["", *arguments]
    return [
        argument if argument.startswith("-") or previous in TAKE_A_VALUE else _from_tests(argument)
        for previous, argument in zip(before, arguments, strict=False)
    ]


def _from_tests(argument: str) -> str:
    """`tests/unit/test_x.py::test_y` as `unit/test_x.py::test_y`; anything that is no path as it is."""
    path, separator, test_id = argument.partition("::")
    if (TESTS / path).exists():
        return argument
    for folder in (ROOT, Path.cwd()):
        if (folder / path).exists():
            return Path(os.path.relpath(folder / path, TESTS)).as_posix() + separator + test_id
    return argument


def report_coverage() -> int:
    """The total, and the files of which a fifth or more never ran; an error below what pyproject.toml asks for."""
    command = [str(PYTHON), "-m", "coverage", "report", "--data-file=tests/.coverage", "--sort=cover"]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    for line in done.stdout.splitlines():
        percent = re.search(r"([\d.]+)%$", line)
        if not percent or float(percent[1]) < 80 or line.startswith("TOTAL"):
            print_line(line)
    return done.returncode


def test_on_host(arguments: list[str]) -> int:
    """`test --host FOLDER …`: the same in a process of its own, with FOLDER as COMFYUI_PATH."""
    if not arguments:
        sys.exit("--host needs a folder: the one that holds ComfyUI's main.py.")
    variables = {**os.environ, "COMFYUI_PATH": str(Path(arguments[0]).resolve())}
    command = [sys.executable, str(ROOT / "dev.py"), "test", *arguments[1:]]
    return subprocess.run(command, env=variables).returncode
