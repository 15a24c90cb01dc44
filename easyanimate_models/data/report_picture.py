"""The report as a picture, for the node: how many clips were kept, why others were not, a histogram of every score."""

from PIL import Image, ImageDraw, ImageFont

from .filters import Limits, score_of
from .ledger import Row
from .report import histogram, limits_in_words, reason_counts

WIDTH, BARS, LINE, MARGIN = 480, 72, 20, 12  # pixels
PAPER, INK, BAR, LIMIT = "white", "#222222", "#7a8ca3", "#c8442f"
MOST_REASONS = 8


def report_picture(rows: list[Row], limits: Limits) -> Image.Image:
    """What `report.write_report` says, at a glance."""
    lines = summary_lines(rows)
    scored = {name: values for name in limits.names() if (values := _scores(rows, name))}
    height = 2 * MARGIN + LINE * len(lines) + len(scored) * (BARS + 2 * LINE)
    picture = Image.new("RGB", (WIDTH, height), PAPER)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(size=14)
    y = MARGIN
    for line in lines:
        draw.text((MARGIN, y), line, INK, font)
        y += LINE
    for name, values in scored.items():
        limit = getattr(limits, name)
        draw.text((MARGIN, y), f"{name}: {limits_in_words(limit)}", INK, font)
        _draw_bars(draw, y + LINE, values, limit)
        y += BARS + 2 * LINE
    return picture


def summary_lines(rows: list[Row]) -> list[str]:
    """How many clips were kept, and how many were not for each reason."""
    kept = sum(not row.get("rejected") for row in rows)
    reasons = [f"{count} x {reason}" for reason, count in reason_counts(rows)[:MOST_REASONS]]
    return [f"{kept} of {len(rows)} clips kept", *reasons]


def _scores(rows: list[Row], name: str) -> list[float]:
    return [value for row in rows if (value := score_of(row, name)) is not None]


def _draw_bars(
    draw: ImageDraw.ImageDraw, y: int, values: list[float], limit: tuple[float | None, float | None]
) -> None:
    """The histogram of a score from `y` down, a red line at each limit."""
    low, span, counts = histogram(values, limit)
    step, tallest = (WIDTH - 2 * MARGIN) / len(counts), max(1, *counts)
    for i, count in enumerate(counts):
        left, top = MARGIN + i * step, y + BARS * (1 - count / tallest)
        if count:
            draw.rectangle((left, top, left + step - 1, y + BARS), BAR)
    for mark in (mark for mark in limit if mark is not None):
        x = MARGIN + (mark - low) / span * (WIDTH - 2 * MARGIN)
        draw.line((x, y, x, y + BARS), LIMIT, 2)
