"""What templates say in other languages, from `translations/*.md`. Standard library only.

ComfyUI translates nodes, but no groups or notes: a template carries their words, and `web/words.js` puts them in.
"""

import functools
from pathlib import Path

FOLDER = Path(__file__).with_suffix("")
TITLES = "Titles"


def translations(name: str, titles: set[str]) -> dict[str, dict]:
    """By language: `titles` of groups and nodes, and the note of the template `name`, if it has one."""
    return {path.stem: _translated(path, name, titles) for path in sorted(FOLDER.glob("*.md"))}


def _translated(path: Path, name: str, titles: set[str]) -> dict:
    sections = _sections(path)
    known = dict(line.split(" | ") for line in sections[TITLES].splitlines())
    if missing := titles - set(known):
        raise ValueError(f"{path.name} does not translate {', '.join(sorted(missing))}; add a line for each.")
    return {"titles": {title: known[title] for title in sorted(titles)}, "note": sections.get(name, "")}


@functools.cache
def _sections(path: Path) -> dict[str, str]:
    """The text below each heading."""
    parts = ("\n" + path.read_text(encoding="utf-8")).split("\n# ")[1:]
    return {head: text.strip() for head, text in (part.split("\n", 1) for part in parts)}
