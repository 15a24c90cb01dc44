"""The sizes under which model files were published are those of the weights that the loaders expect."""

import pytest

from support import true_size
from support.pack import ROOT

ROWS = [row for row in true_size.rows() if row.published]
GB = 10**9


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_file_is_as_large_as_it_was_published(row):
    assert row.bytes / GB == pytest.approx(row.published, abs=0.006)


@pytest.mark.parametrize("size", ["7.21", "3.61", "6.84", "4.33", "2.4 ", "1.07", "1.05", "9.5 ", "1.71"])
def test_the_sizes_in_the_readme_are_among_them(size):
    files = [true_size.size_of(content) for row in ROWS for path, content in row.files.items() if "json" not in path]
    sizes = [*files, *(row.bytes for row in ROWS)]
    assert size.strip() in {f"{figure / GB:.{len(size.strip()) - 2}f}" for figure in sizes}
    assert f"{size.strip()} GB" in (ROOT / "README.md").read_text(encoding="utf-8")
