"""What the front end shows of the nodes, in every language: `nodeDefs.json`, and tables of inputs in the help pages.

English comes from the schemas. The other languages are written by hand; their pages take names and tooltips from them.
Standard library only.
"""

import json
from collections.abc import Iterator
from pathlib import Path

from . import comfyui
from .environment import ROOT, print_line

DOCS = ROOT / "web" / "docs"
HEADINGS = {  # of a page: what goes in, what comes out, and the head of the column that explains them
    "en": ("Inputs", "Outputs", "description"),
    "zh": ("输入", "输出", "说明"),
    "ja": ("入力", "出力", "説明"),
}
DEFAULT = {"en": " Default: `{}`.", "zh": "默认：`{}`。", "ja": "既定値：`{}`。"}


def words(arguments: list[str]) -> int:
    """`dev.py words`: write what comes from the schemas of a running server."""
    with comfyui.server() as port:
        nodes = comfyui.our_nodes(port)
    for path in write(nodes):
        print_line(str(path.relative_to(ROOT)))
    return 0


def english(nodes: dict) -> dict:
    """`nodeDefs` of nodes as the server's `/object_info` describes them."""
    return {name: _english(node) for name, node in nodes.items()}


def _english(node: dict) -> dict:
    tooltips = node["output_tooltips"]
    return {
        "display_name": node["display_name"],
        "description": node["description"],
        "inputs": {
            name: {"name": options.get("display_name") or name, "tooltip": options["tooltip"]}
            for name, options in _inputs(node)
        },
        "outputs": {
            str(i): {"name": name, "tooltip": tooltip}
            for i, (name, tooltip) in enumerate(zip(node["output_name"], tooltips, strict=True))
        },
    }


def _inputs(node: dict) -> Iterator[tuple[str, dict]]:
    """Names of inputs with their options, in the order of the schema."""
    for kind in ("required", "optional"):
        for name, spec in node["input"].get(kind, {}).items():
            yield name, spec[1]


def read(language: str) -> dict:
    """The `nodeDefs` of a language, as committed."""
    return json.loads(_file(language).read_text(encoding="utf-8"))


def page(node: str, language: str) -> Path:
    """Where the front end looks for a node's help; English is what other languages fall back to."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def write(nodes: dict) -> Iterator[Path]:
    """Rewrite the English file and the tables of all pages; yields what was written."""
    _file("en").write_text(as_text(english(nodes)), encoding="utf-8", newline="\n")
    yield _file("en")
    for language in HEADINGS:
        for name, definition in read(language).items():
            file = page(name, language)
            text = with_tables(file.read_text(encoding="utf-8"), language, definition, nodes[name])
            file.write_text(text, encoding="utf-8", newline="\n")
            yield file


def as_text(definitions: dict) -> str:
    """`nodeDefs` as the file holds them."""
    return json.dumps(definitions, indent=2, ensure_ascii=False) + "\n"


def with_tables(text: str, language: str, definition: dict, node: dict) -> str:
    """A page with the tables below its two headings replaced by those of its language's `definition`."""
    inputs, outputs, about = HEADINGS[language]
    rows = [_row(definition["inputs"][name], name, options, language) for name, options in _inputs(node)]
    text = _with_table(text, inputs, about, rows)
    return _with_table(text, outputs, about, [(o["name"], o["tooltip"]) for o in definition["outputs"].values()])


def _with_table(text: str, heading: str, about: str, rows: list[tuple[str, str]]) -> str:
    before, mark, after = text.partition(f"\n## {heading}\n")
    if not mark:
        raise ValueError(f"The page has no heading {heading!r}: {text.splitlines()[0]}")
    rest = after.lstrip("\n").splitlines(keepends=True)
    while rest and rest[0].startswith("|"):
        rest.pop(0)
    lines = "".join(f"| {name} | {cell} |\n" for name, cell in [("", about), ("---", "---"), *rows])
    return f"{before}{mark}\n{lines}\n{''.join(rest).lstrip()}"


def _row(words: dict, name: str, options: dict, language: str) -> tuple[str, str]:
    """Two columns only, the panel is narrow. Files and scripts know an input by the name in its schema."""
    schema_name = "" if words["name"] == name else f"`{name}`: "
    default = options.get("default")
    shown = default not in (None, "") and not options.get("multiline")
    return words["name"], schema_name + words["tooltip"] + (DEFAULT[language].format(_plain(default)) if shown else "")


def _plain(value) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value}"


def _file(language: str) -> Path:
    return ROOT / "locales" / language / "nodeDefs.json"
