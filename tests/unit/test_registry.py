"""What the Comfy registry and GitHub read about this pack, and which files the registry ships."""

import re
import subprocess

import pytest
import yaml
from comfy_config import config_parser
from packaging.specifiers import SpecifierSet
from pathspec import GitIgnoreSpec
from PIL import Image

from support.pack import ROOT
from tools import environment

PROJECT = config_parser.load_pyproject_settings(ROOT / "pyproject.toml")
UPSTREAM = PROJECT.project["urls"]["Repository"].removeprefix("https://github.com/")
SIZE_LIMIT = 40_000_000  # bytes, of which the built-in model takes 23
SHIPPED = [
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "LICENSE",
    "README.md",
    "nodes/loaders.py",
    "easyanimate_models/training/recipes/lora_v3.toml",
    "easyanimate_models/tiny/transformer/diffusion_pytorch_model.safetensors",
    "easyanimate_models/tiny/lora/grey.safetensors",
    "workflows/01 Text to Video (EasyAnimate built-in).json",
    "workflows/01 Text to Video (EasyAnimate built-in).jpg",
    "subgraphs/Text to Video (EasyAnimate).json",
    "locales/zh/nodeDefs.json",
    "web/words.js",
    "web/docs/EasyAnimateSampler/ja.md",
    "web/docs/pictures/EasyAnimateSampler.png",
]
NOT_SHIPPED = (
    "tests/",
    "benchmarks/",
    ".",
    "dev.py",
    "tools/",
    "docs/curves/",
    "CONTRIBUTING.md",
    "easyanimate_models/tiny_v51/",  # in training
)


@pytest.fixture(scope="module")
def packed() -> list[str]:
    """The files that the registry's client puts into its archive: those of git, without what `.comfyignore` names."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    ignored = GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    return [file for file in listed.stdout.splitlines() if not ignored.match_file(file)]


def test_comfyui_reads_what_the_registry_asks_for():
    read = config_parser.extract_node_configuration(str(ROOT))
    assert re.fullmatch(r"[a-z][a-z0-9]*([-_.][a-z0-9]+)*", read.project.name) and "comfyui" not in read.project.name
    assert re.fullmatch(r"\d+\.\d+\.\d+", read.project.version)
    assert (ROOT / read.project.license.file).is_file() and read.project.description
    assert read.project.urls.repository == f"https://github.com/{UPSTREAM}"
    assert all(url.startswith("https://") for url in (read.project.urls.documentation, read.project.urls.issues))
    assert read.project.supported_os == ["OS Independent"]
    assert read.project.supported_accelerators == ["GPU :: NVIDIA CUDA"]
    assert read.tool_comfy.publisher_id and read.tool_comfy.display_name


@pytest.mark.parametrize(("version", "runs"), [("0.3.74", False), ("0.3.75", True), ("0.33.0", True)])
def test_the_versions_of_comfyui_that_it_runs_on_are_listed(version, runs):
    read = config_parser.extract_node_configuration(str(ROOT))
    assert (version in SpecifierSet(read.project.supported_comfyui_version)) == runs


def test_nothing_is_installed_with_it():
    assert PROJECT.project["dependencies"] == []


def test_the_icon_is_a_square_of_at_most_400_pixels():
    folder = f"https://raw.githubusercontent.com/{UPSTREAM}/main/"
    url = PROJECT.tool["comfy"]["Icon"]
    assert url.startswith(folder)
    with Image.open(ROOT / url.removeprefix(folder)) as icon:
        assert icon.width == icon.height <= 400


def test_the_archive_holds_what_runs(packed):
    assert set(SHIPPED) <= set(packed)
    code = {str(path.relative_to(ROOT).as_posix()) for path in (ROOT / "easyanimate_models").rglob("*.py")}
    assert code <= set(packed)
    workflows = {file for file in packed if file.endswith(".json") and file.startswith("workflows/")}
    assert {file.replace(".json", ".jpg") for file in workflows} <= set(packed)


def test_the_archive_holds_nothing_else_and_is_small(packed):
    assert [file for file in packed if file.startswith(NOT_SHIPPED)] == []
    assert sum((ROOT / file).stat().st_size for file in packed) < SIZE_LIMIT


def test_extras_are_what_the_tests_install():
    extras = PROJECT.project["optional-dependencies"]
    assert extras["training"] == environment.TRAINING
    assert set(extras["data"] + extras["cluster"]) <= {*environment.DATA, *environment.WITHOUT_DEPENDENCIES}


def test_ruff_is_the_same_everywhere():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (ruff,) = (repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit"))
    assert f"ruff=={ruff.removeprefix('v')}" in environment.TOOLS


def test_only_a_tested_new_version_of_the_upstream_is_published():
    jobs = _github("workflows/publish.yml")["jobs"]
    assert jobs["version"]["if"] == f"github.repository == '{UPSTREAM}'"
    assert jobs["test"]["needs"] == "version" and jobs["publish"]["needs"] == "test"
    assert jobs["test"]["uses"] == "./.github/workflows/test.yml"
    given = jobs["publish"]["steps"][-1]["with"]
    assert given["personal_access_token"] == "${{ secrets.REGISTRY_ACCESS_TOKEN }}"


def test_the_tests_of_github_are_those_of_ci():
    (job,) = _github("workflows/test.yml")["jobs"].values()
    assert job["steps"][-1] == {"run": ".ci/run --newest-front-end"}
    oldest = SpecifierSet(PROJECT.project["requires-python"])
    assert all(version in oldest for version in job["strategy"]["matrix"]["python"])


def test_github_tests_each_comfyui_that_we_support_and_the_newest():
    (job,) = _github("workflows/test.yml")["jobs"].values()
    versions = job["strategy"]["matrix"]["comfyui"]
    assert versions == [f"v{environment.HOST_VERSION}", "v0.33.0", "newest"]
    for row in job["strategy"]["matrix"]["exclude"]:
        assert row["comfyui"] in versions and row["python"] in job["strategy"]["matrix"]["python"]
    clone = job["steps"][-2]["run"]
    assert "git clone" in clone and "COMFYUI_PATH=" in clone and "${{ matrix.comfyui }}" in clone


def test_who_reports_a_bug_is_asked_for_what_is_needed_to_find_it():
    form = _github("ISSUE_TEMPLATE/bug.yml")
    fields = {field["id"]: field["attributes"]["label"] for field in form["body"]}
    assert {"error", "workflow", "files", "comfyui", "gpu"} <= set(fields)
    assert _github("ISSUE_TEMPLATE/question.yml")["body"] and _github("ISSUE_TEMPLATE/config.yml")["contact_links"]


def _github(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / name).read_text(encoding="utf-8"))
