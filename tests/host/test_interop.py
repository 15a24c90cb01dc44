"""Each stock node on EasyAnimate, on the host under test; `docs/interop.md` must say what is measured here.

`--write-docs` writes the columns of this host instead.
"""

import shutil

import pytest

import support.interop_control_rows
import support.interop_output_rows
import support.interop_step_rows  # noqa: F401  (each adds its rows)
from support.interop import Bench, Cell, Unsupported, read_table, write_table
from support.interop_models import MODELS, V3, models
from support.interop_rows import CONTROL, ROWS, SAVED, UPSCALER
from support.stand_ins import pixart_control, stand_ins
from tools import comfyui
from tools.workflows import client

measured: dict[str, dict[str, Cell]] = {model.release: {} for model in MODELS}
CELLS = [(model.release, row) for model in MODELS for row in ROWS if model.release in row.releases]


@pytest.fixture(scope="module")
def benches(server):
    remove_saved()
    with stand_ins(V3.lora, UPSCALER), pixart_control(CONTROL), models():
        yield {model.release: Bench(server, model) for model in MODELS}
    remove_saved()


def remove_saved() -> None:
    for folder in ("diffusion_models", "loras"):  # where the host looks for what it saved
        shutil.rmtree(comfyui.OUTPUT / folder / SAVED, ignore_errors=True)


@pytest.mark.parametrize(("release", "row"), CELLS, ids=[f"{release}-{row.name}" for release, row in CELLS])
def test_a_stock_node_works(benches, release, row):
    bench = benches[release]
    remove_saved()
    try:
        if row.error:
            with pytest.raises(client.WorkflowError, match=row.error):
                row.check(bench)
        else:
            bench.sampled.clear()
            row.check(bench)
            for count in row.videos:
                row.check_batch(bench, count)
        measured[release][row.name] = Cell(row.reason, row.videos)
    except Unsupported as missing:
        measured[release][row.name] = Cell(str(missing))


@pytest.mark.parametrize("release", [model.release for model in MODELS])
def test_the_table_says_what_was_measured(benches, release, request):
    cells, column = measured[release], benches[release].column
    if missing := [row.name for of, row in CELLS if of == release and row.name not in cells]:
        pytest.skip(f"not measured in this run: {', '.join(missing)}")
    table = read_table()
    if request.config.getoption("--write-docs"):
        write_table(table | {column: cells}, list(dict.fromkeys(row.name for row in ROWS)))
    elif column not in table:
        pytest.skip(f"there is no column for {column} yet; --write-docs adds it")
    else:
        assert table[column] == cells
