"""What `dev.py` says when it cannot do what it is asked, where its commands find files, and where tests may write."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import folder_paths
import pytest

from support.pack import HOST, ROOT, TESTS
from tools import checks, comfyui, environment, modules
from tools.browser import install


def dev(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    """`dev.py` in a process of its own, started in `folder`."""
    return subprocess.run([sys.executable, ROOT / "dev.py", *arguments], cwd=folder, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nonsense"], "python3 dev.py demo"),
        ([], "python3 dev.py demo"),
        (["test", "--host"], "--host needs a folder: the one that holds ComfyUI's main.py."),
        (
            ["test", "--host", str(ROOT / "tests")],
            "there is no ComfyUI in it; point it to the folder that holds main.py.",
        ),
    ],
)
def test_a_mistake_is_answered_with_what_to_do(arguments, sentence):
    done = dev(*arguments)
    assert done.returncode == 1 and sentence in done.stderr


@pytest.mark.parametrize(
    ("command", "sentence"),
    [(modules.train, "train needs a recipe"), (modules.data, "data needs a recipe"), (modules.clips, "needs a folder")],
)
def test_a_command_without_its_file_says_what_is_missing(command, sentence):
    with pytest.raises(SystemExit, match=sentence):
        command([])


@pytest.mark.parametrize("command", [modules.train, modules.data, modules.clips])
def test_files_are_relative_to_where_a_command_is_given(command, tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(modules, "run_module", lambda name, arguments, *_: started.append(arguments))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    command(["file"])
    assert started == [[str(tmp_path / "file")]]


@pytest.mark.parametrize(
    ("arguments", "passed"),
    [
        (["tests/parity"], ["parity"]),
        (["unit/test_lora.py", "-k", "fp8"], ["unit/test_lora.py", "-k", "fp8"]),
        (["tests/unit/test_dev.py::test_x[a::b]"], ["unit/test_dev.py::test_x[a::b]"]),
        (["-k", "tests", "-x", "tests/unit"], ["-k", "tests", "-x", "unit"]),
        (["no/such/file.py"], ["no/such/file.py"]),
    ],
)
def test_paths_may_begin_at_the_project_or_at_its_tests(arguments, passed):
    assert checks.pytest_arguments(arguments) == passed


def test_true_size_runs_nothing_else(monkeypatch):
    started = []
    monkeypatch.setattr(
        checks.subprocess, "run", lambda command, **_: started.append(command[2:]) or SimpleNamespace(returncode=0)
    )
    assert checks.test(["--true-size", "-k", "bf16"]) == 0
    assert started[-1] == ["pytest", "--true-size", "-k", "bf16", "host/test_true_size.py"]


def test_the_browser_tests_run_again_on_the_newest_front_end(monkeypatch):
    runs = []
    monkeypatch.setattr(checks.install, "bring_browser", lambda: None)
    monkeypatch.setattr(checks.install, "newest_front_end", lambda: Path("newest"))
    monkeypatch.setattr(checks, "report_coverage", lambda: 0)
    monkeypatch.setattr(
        checks.subprocess, "run", lambda command, env, **_: runs.append((command, env)) or SimpleNamespace(returncode=0)
    )
    assert checks.test(["--browser", "--newest-front-end"]) == 0
    with_browser = [env.get(install.FRONT_END) for command, env in runs if "--browser" in command]
    assert with_browser == [None, "newest"]


def test_without_a_browser_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(install, "pip", lambda *arguments: None)
    monkeypatch.setattr(install, "COMMANDS", ())
    monkeypatch.setattr(install, "PATHS", ())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(SystemExit, match="apt install chromium"):
        install.bring_browser()


def test_a_test_process_has_folders_of_its_own():
    """Two of them, each with a server, would overwrite each other's files; and a user's ComfyUI stays as it is."""
    assert comfyui.BASE not in (HOST, ROOT) and comfyui.BASE.parent == ROOT / "output" / "tests"
    folders = folder_paths.models_dir, folder_paths.get_input_directory(), folder_paths.get_output_directory()
    assert [Path(folder).parent for folder in folders] == [comfyui.BASE] * 3
    assert Path(folder_paths.get_output_directory()) == comfyui.OUTPUT


@pytest.mark.parametrize("path", sorted(TESTS.rglob("*.py")), ids=lambda path: path.relative_to(TESTS).as_posix())
def test_tests_write_nowhere_else(path):
    shared = re.compile(r"\b(HOST / \"(models|input|output|user|temp|custom_nodes)\"|ROOT / \"output\")")
    if path.name not in ("conftest.py", "pack.py", "test_dev.py"):  # which make them
        assert not shared.search(path.read_text(encoding="utf-8")), "use comfyui.BASE, or comfyui.OUTPUT"


def test_another_comfyui_has_an_environment_of_its_own():
    here, there = environment.venv_of(Path("/a/ComfyUI")), environment.venv_of(Path("/b/ComfyUI"))
    assert len({here, there, environment.SHARED_VENV}) == 3
    assert environment.venv_of(environment.OWN_HOST) == environment.SHARED_VENV


def test_another_comfyui_leaves_venv_as_it_is(tmp_path, monkeypatch):
    """What .venv has is found from there, and installing goes into the other environment only."""
    venv, installed = tmp_path / "venv-other", []
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", venv)
    monkeypatch.setattr(environment, "PYTHON", venv / environment.IN_VENV)
    monkeypatch.setattr(
        environment, "_installed", lambda folder: "" if folder == venv else "\n".join(environment.SHARED)
    )
    monkeypatch.setattr(environment, "install", lambda python, packages: installed.append(python))
    environment.set_up()
    assert installed == [venv / environment.IN_VENV] and (venv / "installed.txt").exists()
    ask = "import sys; followed = 'coverage' in sys.modules; import pytest; print(followed, pytest.__file__)"
    variables = {**os.environ, "COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml")}
    answer = subprocess.run([installed[0], "-c", ask], cwd=tmp_path, env=variables, capture_output=True, text=True)
    followed, imported = answer.stdout.split()
    assert followed == "True", "coverage must see the processes that tests start"
    assert Path(imported).resolve().is_relative_to(environment.SHARED_VENV.resolve())


def test_a_module_that_is_interrupted_may_finish_its_work(monkeypatch):
    waits = [KeyboardInterrupt(), KeyboardInterrupt(), 130]

    class Module:
        def __init__(self, *_, **__):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def wait(self) -> int:
            if isinstance(waits[0], KeyboardInterrupt):
                raise waits.pop(0)
            return waits[0]

    monkeypatch.setattr(subprocess, "Popen", Module)
    assert environment.run_module("support", []) == 130 and len(waits) == 1
