"""What a run shows of itself: a progress bar, `log.csv`, `loss.png`, and TensorBoard's events where it is installed."""

import csv
from collections.abc import Iterable
from pathlib import Path

import numpy
from PIL import Image
from tqdm import tqdm

from ..files.atomic import atomic_write
from ..files.packages import require_package
from .metrics import Smoothed

VALIDATION, PSNR = "validation", "psnr"  # the loss of clips that are held out; that of VAEs in dB, of these clips too


class Journal:
    """The log of a run, in its folder; rows from step `start` on, of a run that is resumed before them, are dropped.

    Nothing is written unless `enabled`: in several processes, only the main one writes.
    """

    def __init__(self, folder: Path, start: int, enabled: bool = True):
        require_package("matplotlib")
        self.folder, self.start, self.enabled = folder, start, enabled
        self.path = folder / "log.csv"
        self.progress: tqdm | None = None
        self.board = _tensorboard(folder, start) if enabled else None
        if enabled and self.path.exists():
            self._drop_rows(start)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_) -> None:
        if self.progress is not None:
            self.progress.close()
        if self.board is not None:
            self.board.close()
        if self.enabled and self.path.exists():
            plot_loss(self.folder)

    def steps(self, total: int) -> Iterable[int]:
        """The steps that are left of so many, with a progress bar."""
        rest = range(self.start, total)
        if not self.enabled:
            return rest
        self.progress = tqdm(rest, initial=self.start, total=total, desc=self.folder.name, mininterval=5)
        return self.progress

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """Log the metrics of a step, in a row of its own."""
        if not self.enabled:
            return
        if self.progress is not None:
            self.progress.set_postfix({name: f"{value:.4g}" for name, value in metrics.items()})
        _append(self.path, {"step": step, **{name: f"{value:.6g}" for name, value in metrics.items()}})
        if self.board is not None:
            for name, value in metrics.items():
                self.board.add_scalar(name, value, step)

    def add_image(self, step: int, image: Image.Image) -> None:
        """Show a preview in TensorBoard."""
        if self.board is not None:
            self.board.add_image("sample", numpy.asarray(image), step, dataformats="HWC")

    def _drop_rows(self, start: int) -> None:
        rows = read_log(self.path)
        kept = [row for row in rows if int(row["step"]) < start]
        if not kept and rows:
            self.path.unlink()
        elif len(kept) < len(rows):
            _write(self.path, list(kept[0]), kept)


def read_log(path: Path) -> list[dict[str, str]]:
    """The rows of `log.csv`, without a last one that was cut off."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [row for row in rows if None not in row.values()]


def plot_loss(folder: Path) -> None:
    """`loss.png` from `log.csv`: the loss of each step, smoothed, and of held-out clips, for VAEs with their PSNR."""
    from matplotlib.figure import Figure

    rows = read_log(folder / "log.csv")
    steps, losses = _series(rows, "loss")
    smoothed, (measured, validation) = Smoothed(), _series(rows, VALIDATION)
    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, losses, linewidth=0.6, alpha=0.35, color="C0", label="loss")
    axes.plot(steps, [smoothed.add(loss) for loss in losses], linewidth=1.4, color="C0", label="smoothed")
    if measured:
        axes.plot(measured, validation, linewidth=1.4, marker="o", markersize=3, color="C1", label=VALIDATION)
    axes.set(xlabel="step", ylabel="loss", yscale="log", title=folder.name)
    axes.legend()
    _plot_psnr(axes, rows)
    axes.grid(alpha=0.3)
    with atomic_write(folder / "loss.png") as partial:
        figure.savefig(partial, dpi=110, format="png")


def _plot_psnr(axes, rows: list[dict[str, str]]) -> None:
    """The PSNR of clips that were held out, if it was measured, on an axis of its own."""
    measured, psnr = _series(rows, f"{VALIDATION}_{PSNR}")
    if measured:
        right = axes.twinx()
        right.plot(measured, psnr, linewidth=1.4, linestyle="--", color="C2", label=f"{VALIDATION} {PSNR}")
        right.set(ylabel=f"{VALIDATION} {PSNR.upper()}, dB")
        right.legend(loc="lower right")


def _series(rows: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    """The steps at which something was measured, and what it was."""
    measured = [row for row in rows if row.get(name)]
    return [int(row["step"]) for row in measured], [float(row[name]) for row in measured]


def _append(path: Path, row: dict) -> None:
    """Append a row; a metric that was not there before gets a column of its own."""
    columns = _columns(path)
    if set(row) <= set(columns):
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns, restval="").writerow(row)
        return
    rows = [*(read_log(path) if columns else []), row]
    _write(path, [*columns, *(name for name in row if name not in columns)], rows)


def _write(path: Path, columns: list[str], rows: list[dict]) -> None:
    with atomic_write(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _tensorboard(folder: Path, start: int):
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder / "tensorboard", purge_step=start)
