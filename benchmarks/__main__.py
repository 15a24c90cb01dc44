"""`python -m benchmarks [NAME ...]`: run all benchmarks, or those named, each on its own; then write RESULTS.md."""

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
    "memory",
    "pace",
    "loading",
    "seams",
    "length",
    "estimates",
    "caching",
    "training",
    "data",
)
HEADING = """# What is measured, and what came out

Written by `python3 dev.py bench`; a single table again by `python3 dev.py bench NAME`. Ratios come from one run, times
are medians of runs taken in turn, peaks are those of a process of its own.
"""


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in SCRIPTS]
    if unknown:
        sys.exit(f"There is no benchmark {unknown[0]}; there are {', '.join(SCRIPTS)}.")
    failed = [
        name for name in names or SCRIPTS if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode
    ]
    (HERE / "RESULTS.md").write_text(page())
    return len(failed)


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
