"""What a stage has done, a line of JSON each, in a file that only grows: killed anywhere, nothing is done twice."""

import json
import os
from pathlib import Path
from typing import Any

from ..files.atomic import explain_write_errors, make_folder

Row = dict[str, Any]


class Ledger:
    """Rows by key, in the order in which they were last written. A line that a crash cut off counts as not written."""

    def __init__(self, file: Path):
        self.file = file
        self.rows: dict[str, Row] = {}
        make_folder(file.parent)
        content = file.read_bytes() if file.is_file() else b""
        for line in content.splitlines():
            try:
                entry = json.loads(line)
                self._put(entry["key"], entry["row"])
            except (ValueError, KeyError, TypeError):
                continue
        self.last_line_cut = bool(content) and not content.endswith(b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> Row:
        return self.rows[key]

    def write(self, key: str, row: Row) -> None:
        """Add a row; it is on the disk when this returns. Raises `WriteError`."""
        line = json.dumps({"key": key, "row": row}, ensure_ascii=False) + "\n"
        after_cut_line, self.last_line_cut = self.last_line_cut, True  # until this line is written whole
        with explain_write_errors(self.file), self.file.open("a", encoding="utf-8") as out:
            out.write("\n" + line if after_cut_line else line)
            out.flush()
            os.fsync(out.fileno())
        self._put(key, row)
        self.last_line_cut = False

    def _put(self, key: str, row: Row) -> None:
        self.rows.pop(key, None)
        self.rows[key] = row
