"""Each stock node on EasyAnimate, on the host under test; `docs/interop.md` must say what is measured here.

`--write-docs` writes the column of this host instead.
"""

import shutil

import pytest

import support.interop_output_rows  # noqa: F401  (adds its rows)
from support.interop import Bench, Cell, Unsupported, read_table, write_table
from support.interop_rows import CONTROL, LORA, ROWS, SAVED, UPSCALER
from support.stand_ins import pixart_control, stand_ins
from tools import comfyui
from tools.workflows import client

measured: dict[str, Cell] = {}


@pytest.fixture(scope="module")
def bench(server):
    remove_saved()
    with stand_ins(LORA, UPSCALER), pixart_control(CONTROL):
        yield Bench(server)
    remove_saved()


def remove_saved() -> None:
    for folder in ("diffusion_models", "loras"):  # where the host looks for what it saved
        shutil.rmtree(comfyui.OUTPUT / folder / SAVED, ignore_errors=True)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_stock_node_works(bench, row):
    try:
        if row.error:
            with pytest.raises(client.WorkflowError, match=row.error):
                row.check(bench)
        else:
            bench.sampled.clear()
            row.check(bench)
            for count in row.videos:
                row.check_batch(bench, count)
        measured[row.name] = Cell(row.reason, row.videos)
    except Unsupported as missing:
        measured[row.name] = Cell(str(missing))


def test_the_table_says_what_was_measured(bench, request):
    names = [row.name for row in ROWS]
    if missing := [name for name in names if name not in measured]:
        pytest.skip(f"not measured in this run: {', '.join(missing)}")
    table = read_table()
    if request.config.getoption("--write-docs"):
        write_table(table | {bench.version: measured}, names)
    elif bench.version not in table:
        pytest.skip(f"there is no column for {bench.version} yet; --write-docs adds it")
    else:
        assert table[bench.version] == measured
