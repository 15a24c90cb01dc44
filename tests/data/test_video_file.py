"""Video files as they are read: turned, uneven, deep, HDR, broken, gone."""

from fractions import Fraction

import av
import numpy
import pytest

from support.footage import texture, write_sound, write_video
from support.pack import part

video_file = part("easyanimate_models.media.video_file")
probe, frames, picture, MediaError = video_file.probe, video_file.frames, video_file.upright, video_file.MediaError

SHOWN = [texture(64, 48, seed=i) for i in range(30)]


def close(a: numpy.ndarray, b: numpy.ndarray) -> bool:
    return a.shape == b.shape and float(numpy.abs(a.astype(int) - b).mean()) < 12  # colour is kept at half the size


def test_a_plain_file_is_what_was_written(tmp_path):
    file = write_video(tmp_path / "a.mp4", SHOWN, fps=25)
    info = probe(file)
    assert (info.width, info.height, info.fps, info.even, info.rotated, info.depth) == (64, 48, 25, True, False, 8)
    assert info.seconds == pytest.approx(1.2) and info.codec == "h264"
    assert all(close(picture(frame), pixels) for frame, pixels in zip(frames(file), SHOWN, strict=True))


@pytest.mark.parametrize("turned", [90, 180, 270])
def test_a_rotation_flag_is_honoured(tmp_path, turned):
    file = write_video(tmp_path / "a.mp4", SHOWN, prepare=lambda stream: stream.set_display_rotation(turned))
    info, first = probe(file), picture(next(frames(file)))
    assert info.rotated and (info.height, info.width) == first.shape[:2]
    assert close(first, numpy.rot90(SHOWN[0], turned // 90))


@pytest.mark.parametrize(("count", "fps", "ticks"), [(1, 2, 1), (7, 2, 1), (60, 2, 5), (60, 25, 60), (60, 50, 120)])
def test_writtencome_at_the_rate_asked_for(tmp_path, count, fps, ticks):
    file = write_video(tmp_path / "a.mp4", [SHOWN[i % 30] for i in range(count)], fps=25)
    assert len(list(frames(file, fps))) == ticks


def test_an_uneven_rate_is_evened_out(tmp_path):
    ticks = [i * 40 + (i > 10) * 400 for i in range(30)]  # it hangs for ten frames' time after the eleventh
    file = write_video(tmp_path / "a.mp4", SHOWN, ticks=ticks)
    assert not probe(file).even
    pictures = [picture(frame) for frame in frames(file, 25)]
    assert len(pictures) == 40 and all(close(pixels, SHOWN[10]) for pixels in pictures[10:20])
    assert close(pictures[20], SHOWN[11]) or close(pictures[21], SHOWN[11])


def test_ten_bits_are_seen_as_eight(tmp_path):
    file = write_video(tmp_path / "a.mp4", SHOWN, pix_fmt="yuv420p10le")
    assert probe(file).depth == 10 and close(picture(next(frames(file))), SHOWN[0])


@pytest.mark.parametrize(("trc", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_named_and_not_guessed_at(tmp_path, trc, name):
    def prepare(stream):
        stream.codec_context.color_trc = trc

    file = write_video(tmp_path / "a.mp4", SHOWN, pix_fmt="yuv420p10le", prepare=prepare)
    with pytest.raises(MediaError, match=rf"a\.mp4 is HDR \({name}\); convert it to SDR"):
        probe(file)


@pytest.mark.parametrize("side", [33, 47])
def test_odd_sizes_are_read(tmp_path, side):
    written = [texture(side, side + 2, seed=i) for i in range(3)]
    file = write_video(tmp_path / "a.mkv", written, codec="ffv1", pix_fmt="bgr0", options={})
    assert (probe(file).width, probe(file).height) == (side, side + 2)
    assert numpy.array_equal(picture(next(frames(file))), written[0])


def test_pictures_spread_over_a_clip_come_from_the_middle_of_each_part(tmp_path):
    file = write_video(tmp_path / "a.mp4", SHOWN)
    pictures = video_file.sample_frames(file, 3)
    assert all(close(pixels, SHOWN[i]) for pixels, i in zip(pictures, (5, 15, 25), strict=True))
    assert len(video_file.sample_frames(file, 100)) == 30


def test_files_that_are_no_videos_are_named_with_what_to_do(tmp_path):
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no video")
    write_sound(tmp_path / "sound.mp4")
    write_sound(tmp_path / "covered.mp4", cover=True)
    whole = write_video(tmp_path / "whole.mp4", SHOWN).read_bytes()
    (tmp_path / "short.mp4").write_bytes(whole[: len(whole) // 2])
    for name, why in {
        "empty": "can't be read as a video .*; replace it",
        "text": "can't be read as a video .*; replace it",
        "short": "can't be read as a video .*; replace it",
        "sound": "has audio but no video; remove it",
        "covered": "has audio but no video; remove it",
        "gone": "no longer exists",
    }.items():
        with pytest.raises(MediaError, match=rf"{name}\.mp4 {why}"):
            probe(tmp_path / f"{name}.mp4")


def test_a_file_that_breaks_off_says_where(tmp_path):
    written = [texture(160, 120, seed=i) for i in range(40)]
    file = write_video(
        tmp_path / "a.mp4", written, prepare=lambda stream: stream.container.options.update(movflags="faststart")
    )
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert probe(file).width == 160
    with pytest.raises(MediaError, match=r"a\.mp4 (ends after|can't be read beyond frame) \d+ .*; replace it"):
        list(frames(file))


@pytest.mark.parametrize(("suffix", "codec"), [("mkv", "libx264"), ("webm", "libvpx")])
@pytest.mark.parametrize("sound", [False, True])
def test_a_matroska_file_that_breaks_off_is_named(tmp_path, suffix, codec, sound):
    """Its header counts no frames."""

    def prepare(stream):
        if sound:
            stream.container.add_stream("libopus", rate=48000)

    written = [texture(160, 120, seed=i) for i in range(40)]
    file = write_video(tmp_path / f"a.{suffix}", written, codec=codec, options={}, prepare=prepare)
    assert len(list(frames(file))) == 40
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match=r"(ends after|can't be read beyond frame) .*; replace it"):
        list(frames(file))


@pytest.mark.parametrize(
    ("kind", "codec", "pix_fmt"), [("matroska", "ffv1", "bgra"), ("mov", "png", "rgba"), ("apng", "apng", "rgba")]
)
@pytest.mark.parametrize("fps", [None, 24])
def test_transparent_frames_are_on_white(tmp_path, kind, codec, pix_fmt, fps):
    """As transparent images are; colours below are not seen."""
    layers = [numpy.dstack([pixels, numpy.full((48, 64), 255, numpy.uint8)]) for pixels in SHOWN[:12]]
    for layer in layers:
        layer[:20, :, 3], layer[20:30, :, 3] = 0, 128
    with av.open(str(tmp_path / "a.mov"), "w", format=kind) as out:
        stream = out.add_stream(codec, rate=24)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pix_fmt
        for layer in layers:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(layer, format="rgba").reformat(format=pix_fmt)))
        out.mux(stream.encode())
    seen = [picture(frame) for frame in frames(tmp_path / "a.mov", fps)]
    assert len(seen) == 12
    for pixels, shown in zip(seen, SHOWN, strict=False):
        assert (pixels[:20] == 255).all() and numpy.array_equal(pixels[30:], shown[30:])
        assert numpy.abs(pixels[20:30].astype(int) - (shown[20:30].astype(int) + 255) / 2).max() <= 1


def test_rates_are_fractions(tmp_path):
    file = write_video(tmp_path / "a.mp4", SHOWN, fps=Fraction(30000, 1001))
    assert probe(file).fps == Fraction(30000, 1001)
