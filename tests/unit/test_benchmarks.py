"""The benchmarks' page says what was measured, and their tools measure what is there."""

import json
import os
import subprocess
import sys
import time

import torch

from support.pack import HOST, ROOT, part

measure = part("benchmarks.measure")
SCRIPTS = part("benchmarks.__main__").SCRIPTS
MEGABYTE = 1_000_000


def test_the_page_is_what_was_measured():
    page = part("benchmarks.__main__").page()
    assert (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8") == page
    files = {name: ROOT / "benchmarks" / "results" / f"{name}.json" for name in SCRIPTS}
    measured = {name: file for name, file in files.items() if file.exists()}
    assert measured.keys() == files.keys()
    for file in measured.values():
        rows = json.loads(file.read_text())["rows"]
        assert rows and all(row["question"] in page and row["how"] for row in rows)


def test_a_benchmark_that_is_not_there_is_named():
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HOST), os.environ["PYTHONPATH"]])}
    command = [sys.executable, "-m", "benchmarks", "nonsense"]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"There is no benchmark nonsense; there are {', '.join(SCRIPTS)}." in done.stderr


def _filled(megabytes: int) -> int:
    return measure.peak_above(lambda: [torch.ones(megabytes * MEGABYTE // 4) for _ in range(2)])


def _one_after_another(megabytes: int) -> int:
    return measure.peak_above(lambda: [float(torch.ones(megabytes * MEGABYTE // 4).sum()) for _ in range(5)])


def test_a_peak_is_that_of_what_is_alive():
    both = measure.in_own_process(_filled, 40) / MEGABYTE
    one = measure.in_own_process(_one_after_another, 40) / MEGABYTE
    assert 79 < both < 90
    assert 39 < one < 50


def test_works_are_timed_in_turn():
    order = []
    took = measure.alternating(
        3, slow=lambda: (order.append("slow"), time.sleep(0.02)), quick=lambda: order.append("quick")
    )
    assert order == ["slow", "quick"] * 4
    assert took["slow"] > took["quick"]
