"""`python -m benchmarks [NAME ...]`: run all benchmarks, or those named, each on its own; then write RESULTS.md.

`--original FOLDER` is a checkout of the original, which the benchmark `original` compares with.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCRIPTS = (
    "dit_step",
    "mmdit_step",
    "hunyuan_dit",
    "pixart",
    "slice_vae",
    "original",
    "diffusers_v51",
    "step_memory",
    "streaming",
    "memory",
    "pace",
    "loading",
    "seams",
    "length",
    "estimates",
    "caching",
    "training",
    "training_memory",
    "sharding",
    "data",
)
HEADING = """# What is measured, and what came out

Written by `python3 dev.py bench`; a single table again by `python3 dev.py bench NAME`. Ratios come from one run, times
are medians of runs taken in turn, peaks are those of a process of its own.
"""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser("bench")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--original", metavar="FOLDER")
    given = parser.parse_args(arguments)
    unknown = [name for name in given.names if name not in SCRIPTS]
    if unknown:
        sys.exit(f"There is no benchmark {unknown[0]}; there are {', '.join(SCRIPTS)}.")
    if "original" in given.names and given.original is None:
        sys.exit("The benchmark original needs a checkout of the original; add --original FOLDER.")
    names = given.names or [name for name in SCRIPTS if name != "original" or given.original]
    failed = [name for name in names if _run(name, given.original)]
    (HERE / "RESULTS.md").write_text(page())
    return len(failed)


def _run(name: str, original: str | None) -> int:
    folder = [original] if name == "original" and original else []
    return subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *folder]).returncode


def page() -> str:
    """RESULTS.md from the results that the scripts have stored."""
    parts = [HEADING]
    for name in SCRIPTS:
        file = HERE / "results" / f"{name}.json"
        if not file.exists():
            continue
        found = json.loads(file.read_text())
        parts.append(f"\n## `python3 dev.py bench {name}`\n\nOn {found['machine']}.\n")
        parts.append("| what | target | measured | how |\n|---|---|---|---|")
        for row in found["rows"]:
            mark = "" if row["met"] is None else " ✓" if row["met"] else " ✗"
            parts.append(f"| {row['question']} | {row['target']} | {row['figure']}{mark} | {row['how']} |")
        if found.get("beside"):
            parts.append("\n" + found["beside"])
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
