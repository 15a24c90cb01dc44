"""The page that shows what was kept and why: whole reasons, the worst clips first, nothing that runs."""

import re

import pytest

from support.pack import part

stages = part("easyanimate_models.data.stages")
filters = part("easyanimate_models.data.filters")
report = part("easyanimate_models.data.report")
report_picture = part("easyanimate_models.data.report_picture")
split = part("easyanimate_models.data.split")
PixelScores = part("easyanimate_models.data.pixel_scores").PixelScores
Motion = part("easyanimate_models.data.motion").Motion

HERE, SHORT = stages.IN_PROCESS, split.SplitSettings(0.5, 2.0)


def test_the_report_shows_what_was_kept_and_why(footage, tmp_path):
    home = tmp_path / "set"
    stages.split_footage(footage, home, SHORT, HERE)
    stages.score_clips(home, [PixelScores(), Motion()], HERE)
    rows = stages.choose_clips(home, filters.Limits())
    page = report.write_report(home, rows, filters.Limits()).read_text(encoding="utf-8")
    accepted = sum(not row["rejected"] for row in rows)
    assert f"{accepted} of {len(rows)} clips kept" in page
    assert "Worst kept" in page and "Best rejected" in page and page.count("<svg") >= 3
    assert page.count("data:image/jpeg;base64,") >= 4 and "http" not in page.replace("http://www.w3.org", "")
    assert all(name in page for name in ("clips/pan_001.mp4", "broken.mp4", "日本_ü_001.mp4"))


def test_the_report_counts_whole_reasons(tmp_path):
    broken = "b.mp4 can't be read as a video (Invalid data); replace it."
    rows = [
        {"file": "a.mp4", "motion": 2.0, "text_area": 0.5},
        {"file": "b.mp4", "wrong": broken},
        {"file": "c; d.mp4", "hash": "00ff"},
        {"file": "e.mp4", "hash": "00ff"},
    ]
    judged = list(filters.apply_limits(rows, filters.Limits()))
    by_hand = {"file": "f.mp4", "rejected": "too dark; leave it out"}
    assert [filters.reasons_of(row) for row in [*judged, by_hand]] == [
        ["motion 2 is below 3", "text_area 0.5 is above 0.02"], [broken], [],
        ["copy of c; d.mp4"], [by_hand["rejected"]],
    ]  # fmt: skip
    page = report.write_report(tmp_path, [*judged, by_hand], filters.Limits()).read_text(encoding="utf-8")
    table = page[page.index("<table>") : page.index("</table>")]
    counted = re.findall("<td>(.*?)</td><td>1</td>", table)
    assert set(counted) == {
        "motion is below 3", "text_area is above 0.02", "unusable file", "copy", "too dark; leave it out",
    }  # fmt: skip


def test_the_picture_says_the_same_with_a_red_line_at_each_limit():
    motions = (2.0, 4.0, 5.0, 9.0)
    rows = list(
        filters.apply_limits([{"file": f"{m}.mp4", "motion": m} for m in motions], filters.Limits(motion=(3, 8)))
    )
    assert report_picture.summary_lines(rows) == ["2 of 4 clips kept", "1 x motion is below 3", "1 x motion is above 8"]
    picture = report_picture.report_picture(rows, filters.Limits(motion=(3, 8)))
    red = [x for x in range(picture.width) if picture.getpixel((x, picture.height - 40)) == (200, 68, 47)]
    span = picture.width - 2 * report_picture.MARGIN
    assert {round((x - report_picture.MARGIN) / span * 7) for x in red} == {1, 6}  # of motions from 2 to 9


@pytest.mark.parametrize(
    ("name", "limit", "order"),
    [
        ("shake", (None, None), [0.9, 0.5, 0.1]),
        ("text_area", (None, 1.0), [0.9, 0.5, 0.1]),
        ("text_area", (None, None), [0.9, 0.5, 0.1]),
        ("aesthetics", (None, None), [0.1, 0.5, 0.9]),
        ("aesthetics", (0.0, None), [0.1, 0.5, 0.9]),
        ("motion", (0.0, 1.2), [0.1, 0.9, 0.5]),
    ],
)
def test_the_worst_come_first_whichever_way_the_limit_is(name, limit, order):
    rows = [{"file": f"{value}.mp4", name: value} for value in (0.1, 0.5, 0.9)]
    assert [row[name] for row in report._by_margin(rows, name, limit)] == order


def test_a_report_cannot_be_made_to_run_anything(footage, tmp_path):
    home = tmp_path / "set"
    rows = stages.split_footage(footage, home, SHORT, HERE)
    evil = [{**row, "text": "<script>alert(1)</script>", "rejected": ""} for row in rows]
    assert "<script>" not in report.write_report(home, evil, filters.Limits()).read_text(encoding="utf-8")
