"""One page that shows what was kept and why: a histogram of every score with its limits, and the clips next to them."""

import base64
import html
import io
import re
from collections import Counter
from functools import lru_cache
from pathlib import Path

import numpy
from PIL import Image

from ..files.atomic import write_text
from ..media.contact_sheet import contact_sheet
from ..media.errors import MediaError
from ..media.video_file import sample_frames
from .filters import Limits, reasons_of, score_of
from .ledger import Row

NAME = "report.html"
STRIP, SIDE = 4, 108  # frames of a clip, and the short side of each in pixels
LOW_IS_GOOD = {"text_area", "shake"}
NEAR = 6  # clips on either side of a limit
BINS, WIDTH, HEIGHT = 40, 640, 120
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222; }
h2 { margin-top: 2.5rem; } figure { display: inline-block; margin: .4rem; width: 17rem; vertical-align: top; }
figure img { width: 100%; border-radius: 4px; } figcaption { font-size: 12px; overflow-wrap: anywhere; }
.kept { border-top: 4px solid #2a9d5c; } .left-out { border-top: 4px solid #c8442f; }
svg { background: #f4f4f2; border-radius: 4px; } table { border-collapse: collapse; }
td { padding: .1rem .8rem .1rem 0; }
"""


def write_report(folder: Path, rows: list[Row], limits: Limits) -> Path:
    """`report.html` in the folder of a data set whose rows have been filtered; it needs no other files."""
    kept = [row for row in rows if not row.get("rejected")]
    parts = [f"<h1>{html.escape(folder.name)}</h1>", _summary(rows, kept)]
    for name in limits.names():
        scored = [row for row in rows if score_of(row, name) is not None]
        if scored:
            parts.append(_section(folder, name, scored, getattr(limits, name)))
    parts.append(_captions(folder, kept))
    parts.append(_unusable([row for row in rows if row.get("wrong")]))
    page = f'<!doctype html><meta charset="utf-8"><title>{html.escape(folder.name)}</title><style>{STYLE}</style>'
    return write_text(folder / NAME, page + "\n".join(parts))


def _summary(rows: list[Row], kept: list[Row]) -> str:
    lines = "".join(f"<tr><td>{html.escape(name)}</td><td>{count}</td></tr>" for name, count in reason_counts(rows))
    seconds = sum(float(row.get("seconds", 0)) for row in kept)
    return (
        f"<p><b>{len(kept)} of {len(rows)} clips kept</b>, {seconds / 60:.1f} minutes. Rejected clips by reason (a "
        f"clip can have several reasons):</p><table>{lines}</table>"
    )


def reason_counts(rows: list[Row]) -> list[tuple[str, int]]:
    """How many clips were rejected for each reason, the commonest first; a clip can have several."""
    return Counter(_kind(row, reason) for row in rows for reason in reasons_of(row)).most_common()


def _kind(row: Row, reason: str) -> str:
    """What clips are counted by: the limit, or the reason itself, without what is particular to the clip."""
    if row.get("wrong"):
        return "unusable file"
    if reason.startswith("copy of "):
        return "copy"
    return re.sub(r"^(\w+) \S+ is (below|above) ", r"\1 is \2 ", reason)


def _section(folder: Path, name: str, rows: list[Row], limit: tuple[float | None, float | None]) -> str:
    """A score: its histogram, and the clips nearest to its limits on both sides."""
    rows = sorted(rows, key=lambda row: _score(row, name))
    parts = [_histogram([_score(row, name) for row in rows], limit)]
    inside = [row for row in rows if not row.get("rejected")]
    outside = [row for row in rows if any(r.startswith(f"{name} ") for r in reasons_of(row))]
    for title, near in (
        ("Worst kept", _by_margin(inside, name, limit)[:NEAR]),
        ("Best rejected", _by_margin(outside, name, limit)[: -NEAR - 1 : -1]),
    ):
        if near:
            parts.append(f"<h3>{title}</h3>" + "".join(_figure(folder, row, name) for row in near))
    return f"<h2>{name}</h2><p>{limits_in_words(limit)}</p>" + "".join(parts)


def limits_in_words(limit: tuple[float | None, float | None]) -> str:
    """The least and the most that a score may be."""
    pairs = zip(("at least", "at most"), limit, strict=True)
    return ", ".join(f"{word} {value:g}" for word, value in pairs if value is not None) or "no limit"


def _by_margin(rows: list[Row], name: str, limit: tuple[float | None, float | None]) -> list[Row]:
    """The worst first: outside of the limit, then near it; without a limit, by what the score means."""
    if limit == (None, None):
        limit = (None, 0.0) if name in LOW_IS_GOOD else (0.0, None)
    return sorted(rows, key=lambda row: _margin(_score(row, name), limit))


def _score(row: Row, name: str) -> float:
    """A score of a clip that has it."""
    value = score_of(row, name)
    return 0.0 if value is None else value


def _margin(value: float, limit: tuple[float | None, float | None]) -> float:
    """How far a score is inside the nearest limit; negative outside."""
    least, most = limit
    return min(value - least if least is not None else numpy.inf, most - value if most is not None else numpy.inf)


def histogram(values: list[float], limit: tuple[float | None, float | None]) -> tuple[float, float, list[int]]:
    """Where the bars of a histogram begin, how far they reach, the count in each; limits lie within."""
    marks = [mark for mark in limit if mark is not None]
    low, high = min([*values, *marks]), max([*values, *marks])
    span = (high - low) or 1.0
    return low, span, numpy.histogram(values, bins=BINS, range=(low, low + span))[0].tolist()


def _histogram(values: list[float], limit: tuple[float | None, float | None]) -> str:
    low, span, counts = histogram(values, limit)
    marks = [mark for mark in limit if mark is not None]
    step, tallest = WIDTH / BINS, max(1, *counts)
    bars = "".join(
        f'<rect x="{i * step:.1f}" y="{HEIGHT * (1 - n / tallest):.1f}" width="{step - 1:.1f}" '
        f'height="{HEIGHT * n / tallest:.1f}" fill="#7a8ca3"/>'
        for i, n in enumerate(counts)
    )
    lines = "".join(
        f'<line x1="{(m - low) / span * WIDTH:.1f}" x2="{(m - low) / span * WIDTH:.1f}" y1="0" y2="{HEIGHT}" '
        f'stroke="#c8442f" stroke-width="2"><title>{m:g}</title></line>'
        for m in marks
    )
    axis = f'<text x="2" y="{HEIGHT + 15}" font-size="12">{low:.3g}</text>'
    axis += f'<text x="{WIDTH - 2}" y="{HEIGHT + 15}" font-size="12" text-anchor="end">{low + span:.3g}</text>'
    return f'<svg width="{WIDTH}" height="{HEIGHT + 20}" role="img">{bars}{lines}{axis}</svg>'


def _figure(folder: Path, row: Row, name: str | None = None) -> str:
    """A clip's strip of frames with its score, its caption, and why it is left out."""
    picture = _strip(folder / str(row["file"]))
    image = f'<img alt="" src="data:image/jpeg;base64,{picture}">' if picture else ""
    score = f"<b>{score_of(row, name):.3g}</b> " if name else ""
    words = " · ".join(html.escape(str(row[key])) for key in ("text", "rejected") if row.get(key))
    kind = "left-out" if row.get("rejected") else "kept"
    caption = f"{score}{html.escape(str(row['file']))}<br>{words}"
    return f'<figure class="{kind}">{image}<figcaption>{caption}</figcaption></figure>'


@lru_cache(maxsize=512)
def _strip(clip: Path) -> str:
    """Frames of a clip side by side, as a JPEG in base64; empty when the clip is gone."""
    try:
        frames = [Image.fromarray(pixels.copy()) for pixels in sample_frames(clip, STRIP, SIDE)]
    except MediaError:
        return ""
    out = io.BytesIO()
    contact_sheet(frames, 2).save(out, "JPEG", quality=80)
    return base64.b64encode(out.getvalue()).decode()


def _captions(folder: Path, kept: list[Row]) -> str:
    captioned = [row for row in kept if row.get("text")][: 2 * NEAR]
    return "<h2>Captions</h2>" + "".join(_figure(folder, row) for row in captioned) if captioned else ""


def _unusable(rows: list[Row]) -> str:
    lines = "".join(f"<li>{html.escape(str(row['wrong']))}</li>" for row in rows)
    return f"<h2>Unusable files</h2><ul>{lines}</ul>" if rows else ""
