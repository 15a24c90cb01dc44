"""What nodes, workflows and files rely on in each other."""

import ast
import functools
import inspect
import json
import re
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from comfy_api.latest import io

import nodes as host_nodes
from support.pack import HOST, ROOT, part
from tools import environment

NODES = {cls.GET_SCHEMA().node_id: cls for cls in part("nodes").NODES}
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
OF_THE_EDITOR = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode"}
BESIDE = ("tools", "tests", "benchmarks")
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
WITH_BROWSER = ("front_end.py", "pictures.py")  # of tools
FOLDERS = (ROOT / "nodes", ROOT / "easyanimate_models")
PACKAGE = [ROOT / "__init__.py", *sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))]
OURS = [*PACKAGE, *ROOT.glob("*.py"), *(f for d in BESIDE for f in (ROOT / d).rglob("*.py"))]

every_node = pytest.mark.parametrize("node", NODES.values(), ids=list(NODES))
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=[path.stem for path in WORKFLOWS])


@every_node
def test_inputs_are_the_parameters_of_execute(node):
    parameters = inspect.signature(node.execute).parameters
    inputs = node.GET_SCHEMA().inputs
    assert [i.id for i in inputs] == list(parameters)
    assert [i.id for i in inputs if i.optional] == [p.name for p in parameters.values() if p.default is not p.empty]


@every_node
def test_a_node_says_what_it_is_and_where_it_belongs(node):
    schema = node.GET_SCHEMA()
    assert re.fullmatch(r"EasyAnimate[A-Z]\w+", schema.node_id)
    assert re.fullmatch(r"EasyAnimate/\w+", schema.category)
    assert schema.display_name and schema.description.endswith(".")


@every_node
def test_every_input_has_a_tooltip(node):
    assert [i.id for i in node.GET_SCHEMA().inputs if not i.tooltip] == []


@every_node
def test_a_seed_says_whether_it_changes_by_itself(node):
    """The editor adds that choice to seeds that say nothing, and workflows written without it shift by one value."""
    seeds = [i for i in node.GET_SCHEMA().inputs if i.id in ("seed", "noise_seed")]
    assert [i.id for i in seeds if i.control_after_generate is None] == []


def test_every_node_has_words_in_three_languages_to_be_found_by():
    aliases = part("nodes.schema").ALIASES
    assert list(aliases) and set(aliases) == set(NODES)
    for words in aliases.values():
        assert len(set(words)) == len(words) >= 3
        assert any(word.isascii() for word in words) and sum(not word.isascii() for word in words) >= 2


@pytest.mark.parametrize("text", ["text to video", "i2v", "t5", "图生视频", "動画"])
def test_a_search_finds_our_nodes(text):
    """0.33's search looks into the aliases; 0.3.75 takes none."""
    assert any(text in word for words in part("nodes.schema").ALIASES.values() for word in words)
    sent = [getattr(node.GET_SCHEMA(), "search_aliases", None) for node in NODES.values()]
    if part("easyanimate_models.host").knows_search_aliases():
        assert any(text in word for words in sent for word in words)
    else:
        assert not any(sent)


def test_every_node_is_listed_once():
    written = re.findall(r"^class (\w+)\(io\.ComfyNode\)", "".join(map(_read, PACKAGE)), re.MULTILINE)
    assert sorted(written) == sorted(cls.__name__ for cls in part("nodes").NODES)
    assert len(NODES) == len(part("nodes").NODES)


def test_there_are_workflows():
    assert WORKFLOWS


@every_workflow
def test_a_workflow_uses_our_nodes_and_stock_ones(path):
    types = {node["type"] for node in _workflow(path)["nodes"]}
    assert types - set(NODES) - _stock_nodes() - OF_THE_EDITOR == set()


@every_workflow
def test_every_link_of_a_workflow_fits_at_both_ends(path):
    workflow = _workflow(path)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    links = {link[0]: link for link in workflow["links"]}
    assert len(nodes) == len(workflow["nodes"]) and len(links) == len(workflow["links"])
    for number, source, out, target, into, kind in links.values():
        output, taken = nodes[source]["outputs"][out], nodes[target]["inputs"][into]
        assert number in output["links"] and taken["link"] == number
        assert kind == output["type"] and taken["type"] in (kind, "*")
    ends = {i["link"] for node in nodes.values() for i in node.get("inputs", []) if i.get("link") is not None}
    starts = {n for node in nodes.values() for o in node.get("outputs", []) for n in o.get("links") or ()}
    assert starts == ends == set(links)


@every_workflow
def test_sockets_and_widgets_of_our_nodes_are_those_of_the_schema(path):
    for node in _workflow(path)["nodes"]:
        if node["type"] not in NODES:
            continue
        schema = NODES[node["type"]].GET_SCHEMA()
        widgets = [i for i in schema.inputs if isinstance(i, io.WidgetInput) and not getattr(i, "force_input", None)]
        seeds = [i for i in widgets if getattr(i, "control_after_generate", None)]  # "fixed", "randomize", ...
        required = [i for i in widgets if not i.optional]  # what was added later may be missing
        count = len(node.get("widgets_values", [])) - len(seeds)
        assert len(required) <= count <= len(widgets), node["type"]
        given = {i["name"]: i["type"] for i in node["inputs"]}
        assert given.items() <= {i.id: str(i.get_io_type()) for i in schema.inputs}.items()
        sockets = {i.id for i in schema.inputs if i not in widgets and not i.optional}
        assert sockets <= set(given)
        assert [o["type"] for o in node["outputs"]] == [str(o.get_io_type()) for o in schema.outputs]


@pytest.mark.parametrize("name", ["README.md", "README.zh.md", "README.ja.md"])
def test_a_readme_shows_every_workflow_and_only_what_is_there(name):
    text = _read(ROOT / name)
    files = {unquote(link) for link in re.findall(r'(?:\]\(|src=")(?!https?:)((?:[^()"#]|\([^()]*\))+)', text)}
    assert [file for file in files if not (ROOT / file).exists()] == []
    assert {f"workflows/{path.stem}{end}" for path in WORKFLOWS for end in (".json", ".jpg")} <= files


def test_the_readme_lists_every_node():
    assert set(re.findall(r"^\| `(EasyAnimate\w+)`", _read(ROOT / "README.md"), re.MULTILINE)) == set(NODES)


FLOW = (  # imports go down this list, never up (the map in easyanimate_models/__init__.py)
    *("__init__", "nodes", "training", "data", "sd", "lora", "model_detection", "supported_models"),
    *("model_base", "names", "configs", "conditioning", "sampling", "latent_formats", "media"),
    *("text_encoders", "dit", "vae", "files", "memory", "host", "easyanimate_models"),
)


@pytest.mark.parametrize("path", PACKAGE, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    own = _group(_name(path))
    below = FLOW[FLOW.index(own) :]
    assert {_group(name) for name in _imports(path)[0]} <= set(below)


@pytest.mark.parametrize(("folder", "reaching"), [("dit", "rotary.py"), ("vae", "host_vae.py")])
def test_networks_know_torch_einops_and_the_host_only(folder, reaching):
    """One file in each also knows how hosts differ."""
    for path in (ROOT / "easyanimate_models" / folder).glob("*.py"):
        inside, outside = _imports(path)
        assert {_group(name) for name in inside} <= {folder, "host" if path.name == reaching else folder}, path.name
        assert outside - sys.stdlib_module_names <= {"torch", "einops", "comfy"}, path.name


def test_size_arithmetic_needs_nothing():
    inside, outside = _imports(ROOT / "easyanimate_models" / "vae" / "slicing.py")
    assert inside == set() and outside <= sys.stdlib_module_names
    inside, outside = _imports(ROOT / "easyanimate_models" / "vae" / "video_sizes.py")
    assert inside <= {"easyanimate_models.vae.slicing"} and outside <= sys.stdlib_module_names


def test_what_mypy_reads_is_installed_whichever_comfyui_is_tested():
    """Found by `dev.py test --host` in a fresh clone: only the host's own environment had these packages."""
    brought_by_torch_and_tools = {"torch", "PIL", "numpy", "safetensors", "matplotlib"}
    without_types = {"comfy", "comfy_api", "folder_paths", "latent_preview", "node_helpers", "playwright", "server"}
    known = {*sys.stdlib_module_names, "_typeshed", "tools", "tqdm", *brought_by_torch_and_tools, *without_types}
    files = [file for folder in ("easyanimate_models", "tools") for file in (ROOT / folder).rglob("*.py")]
    imported = set().union(*(_imports(file)[1] for file in files))
    assert imported - known == {re.split("[<>=]", name)[0] for name in environment.TYPES}


def test_only_their_own_nodes_reach_data_and_training():
    for path in PACKAGE:
        if _group(_name(path)) not in ("data", "training") and _name(path) not in ("nodes.dataset", "nodes.training"):
            assert not {_group(name) for name in _imports(path)[0]} & {"data", "training"}, path


def test_the_pack_imports_itself_by_relative_paths_only():
    for path in PACKAGE:
        assert not _imports(path)[1] & {"easyanimate_models", "nodes"}, path


@pytest.mark.parametrize("path", sorted(set(OURS)), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_is_longer_than_400_lines(path):
    assert len(_read(path).splitlines()) <= 400


def test_the_package_never_prints():
    for path in PACKAGE:
        calls = [node.func for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
        assert "print" not in {f.id for f in calls if isinstance(f, ast.Name)}, path


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_no_test_file_imports_another(path):
    """What they share lies in `support`, and in the conftest.py of their folder."""
    folders = {path.parent.name for path in TESTS}
    others = {name for name in _imports(path)[1] if name.startswith("test_") or name in {"conftest", *folders}}
    assert others == set()


def test_the_tools_need_the_standard_library_only():
    """They run before anything is installed."""
    for path in (ROOT / "tools").rglob("*.py"):
        if path.name not in WITH_BROWSER:
            assert _imports(path)[1] <= {*sys.stdlib_module_names, "_winapi"}, path


def test_nothing_must_be_installed():
    lines = [line.strip() for line in _read(ROOT / "requirements.txt").splitlines()]
    assert [line for line in lines if line and not line.startswith("#")] == []


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _workflow(path: Path) -> dict:
    return json.loads(_read(path))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(_read(path))


@functools.cache
def _stock_nodes() -> set[str]:
    """The host's node types; those of `comfy_extras` are read, not run."""
    extras = "".join(map(_read, (HOST / "comfy_extras").glob("*.py")))
    v3 = set(re.findall(r'node_id="(\w+)"', extras))
    mappings = re.findall(r"^NODE_CLASS_MAPPINGS = \{(.*?)^\}", extras, re.MULTILINE | re.DOTALL)
    return set(host_nodes.NODE_CLASS_MAPPINGS) | v3 | set(re.findall(r'"(\w+)":', "".join(mappings)))


def _name(path: Path) -> str:
    """`easyanimate_models.vae.slicing`; a package is named without its `__init__`, the pack itself is `__init__`."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def _group(name: str) -> str:
    """What stands for a module in `FLOW`: its folder, or itself."""
    parts = name.split(".")
    return parts[1] if parts[0] == "easyanimate_models" and len(parts) > 1 else parts[0]


def _imports(path: Path) -> tuple[set[str], set[str]]:
    """Modules of the pack, and first names of others, that a file imports."""
    inside, outside = set(), set()
    package = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            outside |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            outside.add(node.module.split(".")[0])
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], *(node.module or "").split(".")]
            base = [name for name in base if name]
            parts = [[*base, alias.name] for alias in node.names]
            inside |= {".".join(p if _is_module(p) else base) for p in parts}
    return inside, outside


def _is_module(parts: list[str]) -> bool:
    path = ROOT.joinpath(*parts)
    return path.is_dir() or path.with_suffix(".py").is_file()
