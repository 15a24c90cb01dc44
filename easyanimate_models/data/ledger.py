"""What a stage has done, a line of JSON each, in a file that only grows: killed anywhere, nothing is done twice."""

import json
import os
from pathlib import Path
from typing import Any

from ..files.atomic import explain_write_errors, make_folder

Row = dict[str, Any]


class Ledger:
    """Rows by key. A line that was cut off by a crash counts as not written."""

    def __init__(self, file: Path):
        self.file, self.rows = file, {}
        make_folder(file.parent)
        whole = file.read_bytes() if file.is_file() else b""
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self.rows[row["key"]] = row["row"]
            except (ValueError, KeyError, TypeError):
                continue
        self.torn = bool(whole) and not whole.endswith(b"\n")

    def __contains__(self, key: str) -> bool:
        return key in self.rows

    def __getitem__(self, key: str) -> Row:
        return self.rows[key]

    def write(self, key: str, row: Row) -> None:
        """Remember it, on disk before anything else happens. Raises `WriteError`."""
        line = json.dumps({"key": key, "row": row}, ensure_ascii=False) + "\n"
        torn, self.torn = self.torn, True
        with explain_write_errors(self.file), self.file.open("a", encoding="utf-8") as out:
            out.write("\n" + line if torn else line)
            out.flush()
            os.fsync(out.fileno())
        self.rows[key], self.torn = row, False
