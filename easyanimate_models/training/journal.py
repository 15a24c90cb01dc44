"""What a run leaves to look at: `log.csv`, `loss.png`, and TensorBoard's events where it is installed."""

import csv
from pathlib import Path

import numpy
from PIL import Image


class Journal:
    """The log of a run, in its folder. Rows from `start` on, of a run that was cut off, are forgotten."""

    def __init__(self, folder: Path, start: int):
        self.path = folder / "log.csv"
        self.board = _board(folder, start)
        rows = read_log(self.path) if self.path.exists() else []
        kept = [row for row in rows if int(row["step"]) < start]
        if len(kept) < len(rows):
            self.path.unlink()
            for row in kept:
                _append(self.path, row)

    def write(self, step: int, figures: dict[str, float]) -> None:
        _append(self.path, {"step": step, **{name: f"{value:.6g}" for name, value in figures.items()}})
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)

    def picture(self, step: int, image: Image.Image) -> None:
        """For TensorBoard alone; who makes a picture keeps it."""
        if self.board is not None:
            self.board.add_image("sample", numpy.asarray(image), step, dataformats="HWC")

    def close(self) -> None:
        if self.board is not None:
            self.board.close()
        if self.path.exists():
            plot_loss(self.path.parent)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of `log.csv`; a last one that was cut off is left out."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]


def plot_loss(folder: Path) -> None:
    """`loss.png` from `log.csv`."""
    from matplotlib.figure import Figure

    rows = read_log(folder / "log.csv")
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([int(r["step"]) for r in rows], [float(r["loss"]) for r in rows], linewidth=0.8)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=folder.name)
    axes.grid(alpha=0.3)
    figure.savefig(folder / "loss.png", dpi=110)


def _append(path: Path, row: dict) -> None:
    """One row more; figures that were not there before get a column of their own."""
    columns = _columns(path)
    if set(row) <= set(columns):
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns, restval="").writerow(row)
        return
    rows = [*(read_log(path) if columns else []), row]
    partial = path.with_suffix(".part")
    with partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, [*columns, *(name for name in row if name not in columns)], restval="")
        writer.writeheader()
        writer.writerows(rows)
    partial.replace(path)


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _board(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard", purge_step=start)
