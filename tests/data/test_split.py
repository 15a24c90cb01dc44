"""Footage into clips of one shot each: cuts that are there, none that aren't, not a frame lost or changed."""

import random

import av
import numpy
import pytest

from support.footage import pan, pictures, real_clip, texture, write_video
from support.pack import part

cuts = part("easyanimate_models.data.cuts")
split = part("easyanimate_models.data.split")
video_file = part("easyanimate_models.media.video_file")

BIKES = [30, 76, 137, 187, 242]  # the cuts of the film, found by watching it
NAMES = ("bikes", "bigbuckbunny", "carphone_pristine")
SIZE = (256, 144)
TRIALS = 8


@pytest.fixture(scope="module")
def shots() -> list[list[numpy.ndarray]]:
    """Real shots of 25 frames and more, in one size."""
    films = {name: pictures(real_clip(name), SIZE) for name in NAMES}
    borders = [0, *BIKES]
    shots = [films["bikes"][a:b] for a, b in zip(borders, BIKES, strict=False)]
    return [*shots, films["bigbuckbunny"], films["carphone_pristine"]]


def found(film: list[numpy.ndarray]) -> list[int]:
    return list(cuts.find_cuts(numpy.ascontiguousarray(picture[..., ::-1]) for picture in film))


def test_the_cuts_of_a_real_film_are_found_to_the_frame():
    assert split_cuts(real_clip("bikes")) == BIKES


@pytest.mark.parametrize("name", NAMES[1:])
def test_a_single_real_shot_has_none(name):
    assert split_cuts(real_clip(name)) == []


def split_cuts(file) -> list[int]:
    pieces, _ = split.find_segments(split.read_footage(file), split.SplitSettings(0.01, 1e6))
    return [piece.start for piece in pieces if piece.start]


def test_joins_of_real_shots_are_found_and_nothing_else(shots):
    """Recall and precision of 0.95 and more, over films of five shots in every order."""
    hits = reported = true = 0
    for seed in range(TRIALS):
        film, joins = [], set()
        for shot in random.Random(seed).sample(shots, 5):
            start = random.Random(seed).randrange(0, max(1, len(shot) - 30))
            joins |= {len(film)} if film else set()
            film += shot[start : start + 30]
        cuts_found = set(found(film))
        hits, reported, true = hits + len(cuts_found & joins), reported + len(cuts_found), true + len(joins)
    assert hits / true >= 0.95 and hits / reported >= 0.95, (hits, reported, true)


def test_flashes_are_no_cuts(shots):
    white = numpy.full((*SIZE[::-1], 3), 255, numpy.uint8)
    for shot in shots:
        bright = [numpy.clip(picture.astype(int) * 2 + 60, 0, 255).astype(numpy.uint8) for picture in shot]
        for flash in ([white], [white, white], bright[12:14]):
            assert found(shot[:12] + flash + shot[12 + len(flash) :]) == []


@pytest.mark.parametrize("length", [4, 8, 12])
def test_fading_out_and_in_again_is_no_cut(shots, length):
    levels = [1 - i / length for i in range(length)] + [0.0] * 6 + [i / length for i in range(length)]
    for shot in shots[1:]:
        still = [(shot[10] * level).astype(numpy.uint8) for level in levels]
        assert found(shot[:11] + still + shot[11:]) == []


def test_fading_through_black_to_another_shot_is_one_cut(shots):
    out = [(shots[1][20] * (1 - i / 8)).astype(numpy.uint8) for i in range(8)]
    black = [numpy.zeros_like(out[0])] * 5
    back = [(shots[5][0] * (i + 1) / 8).astype(numpy.uint8) for i in range(8)]
    cuts_found = found(shots[1][:20] + out + black + back + shots[5][:30])
    assert len(cuts_found) == 1 and 27 <= cuts_found[0] <= 36


def test_a_fast_pan_is_no_cut():
    assert found(pan(speed=400, width=256, height=144, grain=48)) == []


@pytest.mark.parametrize(
    ("length", "parts"), [(74, []), (75, [75]), (250, [250]), (251, [125, 126]), (520, [173, 173, 174])]
)
def test_shots_are_divided_evenly_into_three_to_ten_seconds(length, parts):
    pieces = split.divide(1000, 1000 + length, 25.0, split.SplitSettings())
    assert [piece.stop - piece.start for piece in pieces] == parts
    assert not pieces or (pieces[0].start, pieces[-1].stop) == (1000, 1000 + length)


def test_clips_are_cut_without_encoding_where_the_film_allows(tmp_path):
    """The film has a key frame at each cut: what is in the clips is what was in the film, to the bit."""
    clips = split.split(split.read_footage(real_clip("bikes")), tmp_path, "bikes", split.SplitSettings(1.0, 4.0))
    film, borders = pictures(real_clip("bikes")), [0, *BIKES]
    assert [clip.name for clip in clips] == [f"bikes_{i:03}.mp4" for i in range(1, 6)]
    for clip, start, stop in zip(clips, borders, BIKES, strict=False):
        frames = pictures(clip)
        assert len(frames) == stop - start
        assert all(numpy.array_equal(a, b) for a, b in zip(frames, film[start:stop], strict=True))
    assert sorted(file.suffix for file in tmp_path.iterdir()) == [".mp4"] * 5


def test_where_it_does_not_clips_are_encoded_so_that_no_eye_sees_it(tmp_path):
    clips = split.split(
        split.read_footage(real_clip("bigbuckbunny")), tmp_path, "rabbit", split.SplitSettings(1.0, 3.0)
    )
    film = pictures(real_clip("bigbuckbunny"))
    frames = [picture for clip in clips for picture in pictures(clip)]
    assert [len(pictures(clip)) for clip in clips] == [66, 66] and len(frames) == len(film)
    error = numpy.mean(
        [numpy.square(a.astype(float) - b).mean() for a, b in zip(frames[::10], film[::10], strict=True)]
    )
    assert 10 * numpy.log10(255**2 / error) > 40


def test_clips_are_turned_even_and_in_eight_bits(tmp_path):
    frames = [texture(66, 48, seed=1)] * 30
    turned = write_video(tmp_path / "turned.mp4", frames, prepare=lambda stream: stream.set_display_rotation(90))
    deep = write_video(tmp_path / "deep.mp4", frames, pix_fmt="yuv420p10le")
    uneven = write_video(tmp_path / "uneven.mp4", frames, ticks=[i * 40 + (i > 10) * 400 for i in range(30)])
    odd = write_video(tmp_path / "odd.mkv", [texture(67, 49)] * 30, codec="ffv1", pix_fmt="bgr0", options={})
    settings = split.SplitSettings(0.5, 4.0)
    for file, size in ((turned, (48, 66)), (deep, (66, 48)), (uneven, (66, 48)), (odd, (66, 48))):
        (clip,) = split.split(split.read_footage(file), tmp_path / "clips", file.stem, settings)
        probed = video_file.probe(clip)
        assert (probed.width, probed.height) == size and probed.even and not probed.rotated and probed.depth == 8, file


COLOURS = ((170, 0, 0), (12, 220, 2), (20, 40, 230), (128, 128, 128), (240, 230, 60))
TAGS = ("colorspace", "color_range", "color_primaries", "color_trc")
LUMA = {1: (0.2126, 0.0722), 5: (0.299, 0.114), 6: (0.299, 0.114)}  # colour space of H.273: weights of red and blue


def yuv_of(colour: tuple[int, int, int], space: int, full: bool) -> list[int]:
    r, g, b = (c / 255 for c in colour)
    kr, kb = LUMA[space]
    y = kr * r + (1 - kr - kb) * g + kb * b
    u, v = (b - y) / (2 - 2 * kb), (r - y) / (2 - 2 * kr)
    luma, chroma, black = (255, 255, 0) if full else (219, 224, 16)
    return [round(black + luma * y), round(128 + chroma * u), round(128 + chroma * v)]


def bars(file, space: int, full: bool, height: int, prepare=lambda stream: None, side: int = 64):
    """Flat bars of `COLOURS`, tagged."""
    widths = numpy.repeat(range(len(COLOURS)), side)
    planes = numpy.array([yuv_of(colour, space, full) for colour in COLOURS], numpy.uint8)[widths].T
    picture = numpy.ascontiguousarray(numpy.broadcast_to(planes[:, None], (3, height, planes.shape[1])))
    with av.open(str(file), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "4", "g": "250"})
        stream.width, stream.height, stream.pix_fmt = planes.shape[1], height, "yuv420p"
        prepare(stream)
        for _ in range(30):
            frame = av.VideoFrame.from_ndarray(picture, format="yuv444p")
            for tagged in (frame, stream.codec_context):
                tagged.colorspace = tagged.color_primaries = tagged.color_trc = space
                tagged.color_range = 2 if full else 1
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode())
    return file


def largest_difference(file, other, side: int = 64) -> float:
    """Between the colours of the bars of two files as they are decoded, in levels."""
    return float(numpy.abs(bar_colours(file, side) - bar_colours(other, side)).max())


def bar_colours(file, side: int) -> numpy.ndarray:
    """The mean of each bar away from its borders; bars that lie are stood up."""
    pixels = video_file.upright(next(video_file.frames(file))).astype(float)
    rows = pixels if pixels.shape[1] >= len(COLOURS) * side else pixels.swapaxes(0, 1)
    return numpy.array([rows[8:-8, n * side + 8 : (n + 1) * side - 8].mean((0, 1)) for n in range(len(COLOURS))])


@pytest.mark.parametrize("height", [180, 720])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("space", LUMA)
def test_colours_stay_what_they_are_when_encoded_anew(tmp_path, space, full, height):
    file = bars(tmp_path / "bars.mp4", space, full, height)
    clip = encoded(file, tmp_path)
    assert largest_difference(file, clip) <= 2
    first, again = (next(video_file.frames(f)) for f in (file, clip))
    assert all(getattr(first, tag) == getattr(again, tag) for tag in TAGS)


def encoded(file, folder):
    """The second half of a clip, which has no key frame at its start."""
    clip = folder / "clips" / "again.mp4"
    split.make_folder(clip.parent)
    split._encode(split.read_footage(file), {split.Segment(15, 30): clip})
    return clip


@pytest.mark.parametrize("turned", [0, 90, 270])
@pytest.mark.parametrize("full", [False, True])
def test_colours_stay_when_a_clip_is_turned_or_cut_to_even_sides(tmp_path, turned, full):
    file = bars(tmp_path / "bars.mp4", 1, full, 180, lambda stream: stream.set_display_rotation(turned))
    assert largest_difference(file, encoded(file, tmp_path)) <= 2


@pytest.mark.parametrize("pix_fmt", ["bgr0", "gray", "yuv444p", "yuv422p10le", "yuv444p10le"])
@pytest.mark.parametrize("height", [181, 720])
def test_colours_stay_whatever_the_source_is(tmp_path, pix_fmt, height):
    """Reading back 8 bits is off by up to 2 levels by itself, unlike reading 10."""
    flat = numpy.repeat(numpy.array(COLOURS, numpy.uint8), 64, axis=0)[None].repeat(height, axis=0)
    file = write_video(tmp_path / "bars.mkv", [flat] * 30, codec="ffv1", pix_fmt=pix_fmt, options={})
    assert largest_difference(file, encoded(file, tmp_path)) <= 2.5


def test_settings_that_leave_gaps_are_refused():
    with pytest.raises(ValueError, match="at least twice the minimum"):
        split.SplitSettings(6.0, 10.0)
