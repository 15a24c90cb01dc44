"""What is measured of clips, on footage whose truth is known: speed, writing, light, copies, looks."""

import json
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import save_file

from support.footage import pan, pictures, real_clip, texture, write_video
from support.pack import part
from support.recorded import golden

motion = part("easyanimate_models.data.motion")
text_area = part("easyanimate_models.data.text_area")
basics = part("easyanimate_models.data.pixel_scores")
aesthetics = part("easyanimate_models.data.aesthetics")
filters = part("easyanimate_models.data.filters")
CheckpointError = part("easyanimate_models.files.checkpoint").CheckpointError

SPEEDS = (0, 8, 16, 32, 64, 100)  # pixels a second
LINES = {
    "latin": "Breaking news tonight",
    "cyrillic": "Новости дня",
    "greek": "ΝΕΑ ΤΗΣ ΗΜΕΡΑΣ",
    "japanese": "今日のニュース速報です",
    "chinese": "中文字幕新聞報道",
}


def scored(tmp_path: Path, frames, **options) -> dict[str, float]:
    return motion.Motion()(write_video(tmp_path / "clip.mp4", frames, **options))


@pytest.fixture(scope="module")
def photo() -> numpy.ndarray:
    """A real picture, large enough for a camera to pass over at 720p."""
    large = (2560, 1440)
    return numpy.asarray(
        Image.fromarray(pictures(real_clip("bigbuckbunny"))[0]).resize(large, Image.Resampling.BICUBIC)
    )


def passing(photo: numpy.ndarray, speed: float, frames: int = 51) -> list[numpy.ndarray]:
    """A camera that passes over it, so many pixels a second, at 720p and 25 frames a second."""
    return [photo[300:1020, 200 + (x := int(i * speed / 25)) : 1480 + x] for i in range(frames)]


def test_motion_rises_with_speed_and_is_nothing_where_nothing_moves(tmp_path, photo):
    found = [scored(tmp_path, passing(photo, speed))["motion"] for speed in SPEEDS]
    assert found == sorted(found) and found[0] < 1 and found[-1] > 25


def test_slow_motion_scores_as_the_original_does_on_whole_frames(tmp_path, photo):
    """The original's limits of 3 to 8 then mean the same here."""
    for speed in (6, 12, 26):
        film = passing(photo, speed)
        steps = zip(film[6::12], film[18::12], strict=False)
        whole = numpy.mean([numpy.linalg.norm(motion.farneback(a, b), axis=-1).mean() for a, b in list(steps)[:2]])
        assert scored(tmp_path, film)["motion"] == pytest.approx(float(whole), rel=0.15)


def test_motion_is_in_pixels_of_the_clip_whatever_is_compared(tmp_path):
    small = scored(tmp_path, pan(24, width=320, height=192))["motion"]
    large = scored(tmp_path, pan(72, width=960, height=576, grain=24))["motion"]
    assert large == pytest.approx(3 * small, rel=0.15)


def test_a_hand_that_shakes_is_no_pan(tmp_path):
    wide = texture(420, 292, seed=2)
    way = numpy.random.default_rng(1).integers(0, 100, (75, 2))
    shaking = [wide[y : y + 192, x : x + 320] for x, y in way]
    assert scored(tmp_path, pan(32))["shake"] < 0.1
    assert scored(tmp_path, shaking)["shake"] > 0.5
    assert scored(tmp_path, pan(0))["shake"] == 0


def trembling(hertz: float, reach: int, speed: float = 0, fps: int = 24, seconds: int = 3) -> list[numpy.ndarray]:
    """A camera that goes up and down by so many pixels so often a second, and sideways by `speed`."""
    wide = texture(640 + int(speed * seconds) + 1, 360 + reach + 1, 16, seed=3)
    times = [i / fps for i in range(fps * seconds)]
    places = [(round(reach * (0.5 + 0.5 * numpy.sin(2 * numpy.pi * hertz * t + 0.4))), int(speed * t)) for t in times]
    return [wide[y : y + 360, x : x + 640] for y, x in places]


@pytest.mark.parametrize("fps", [24, 30, 60])
@pytest.mark.parametrize("speed", [0, 60])
def test_a_tremor_faster_than_two_pictures_a_second_is_shake(tmp_path, fps, speed):
    assert scored(tmp_path, trembling(8, 20, speed, fps), fps=fps)["shake"] > 0.5


@pytest.mark.parametrize("speed", [0, 6, 15, 60, 100])
def test_stills_and_pans_are_no_shake(tmp_path, speed):
    assert scored(tmp_path, trembling(0, 0, speed), fps=24)["shake"] < 0.16


def test_raft_is_used_where_its_weights_are(tmp_path):
    raft_large = pytest.importorskip("torchvision").models.optical_flow.raft_large
    torch.manual_seed(0)
    network = raft_large(weights=None).eval()
    torch.save(network.state_dict(), tmp_path / "raft.pth")
    file = write_video(tmp_path / "clip.mp4", pan(16, frames=26, width=192, height=128))
    found = motion.Motion(tmp_path / "raft.pth")(file)["motion"]
    before, after = (motion.upright(f, motion.SIDE) for f in motion.frames(file, motion.FPS, rough=True))
    pair = [torch.from_numpy(p.copy()).movedim(-1, 0)[None].float() / 127.5 - 1 for p in (before, after)]
    with torch.inference_mode():
        assert found == pytest.approx(float(network(*pair)[-1][0].norm(dim=0).mean()), rel=1e-4)
    save_file({"a.weight": torch.zeros(2)}, tmp_path / "no.safetensors")
    with pytest.raises(CheckpointError, match="is not a complete RAFT"):
        motion.Motion(tmp_path / "no.safetensors")(file)


def font(size: int) -> ImageFont.FreeTypeFont:
    package = Path(pytest.importorskip("matplotlib_fontja").__file__).parent
    return ImageFont.truetype(str(package / "fonts" / "ipaexg.ttf"), size)


@pytest.mark.parametrize("script", LINES)
@pytest.mark.parametrize("size", [40, 70])
def test_the_area_of_writing_is_that_of_the_ink(script, size):
    """Within 20 % of the box around the letters, on a real picture."""
    image = Image.fromarray(pictures(real_clip("bigbuckbunny"))[0])
    draw, letters = ImageDraw.Draw(image), font(size)
    left, top, right, bottom = draw.textbbox((60, 300), LINES[script], font=letters)
    draw.rectangle((left - 6, top - 6, right + 6, bottom + 6), fill="black")
    draw.text((60, 300), LINES[script], font=letters, fill="white")
    drawn = (right - left) * (bottom - top) / (image.width * image.height)
    assert text_area.covered(numpy.asarray(image)) == pytest.approx(drawn, rel=0.2)


@pytest.mark.parametrize("name", ["bikes", "carphone_pristine"])
def test_sampledwithout_writing_have_none(name):
    assert text_area.TextArea()(real_clip(name))["text_area"] < 0.01


SUBTITLES = {
    "latin": ("I never thought it would come to this,", "but here we are at the end of the road."),
    "cyrillic": ("Я никогда не думал, что до этого дойдёт,", "но вот мы в конце пути, и всё позади."),
    "greek": ("Δεν πίστευα ποτέ ότι θα φτάσουμε εδώ,", "αλλά να που τελειώνει ο δρόμος."),
    "japanese": ("まさかこんなことになるとは思わなかったが", "とうとう道の終わりに来てしまった"),
    "chinese": ("我從來沒想到會變成這樣", "但我們終於走到了道路的盡頭"),
}
SHARE = 0.02  # the original's limit


def with_bars(pixels: numpy.ndarray, kind: str) -> numpy.ndarray:
    """Black rows above and below, or columns on both sides."""
    height, width = pixels.shape[:2]
    bar = {"": 0, "letterbox": height // 6, "pillarbox": width // 3}[kind]
    return numpy.pad(
        pixels, ((bar, bar) if kind == "letterbox" else (0, 0), (bar, bar) if kind == "pillarbox" else (0, 0), (0, 0))
    )


def subtitled(pixels: numpy.ndarray, script: str) -> numpy.ndarray:
    """Two lines at the bottom, white with a black edge."""
    image = Image.fromarray(pixels)
    letters = font(round(image.height * 0.06))
    text = "\n".join(SUBTITLES[script])
    at = (image.width / 2, image.height * 0.95)
    ImageDraw.Draw(image).text(
        at, text, "white", letters, "md", align="center", stroke_width=letters.size // 16 + 1, stroke_fill="black"
    )
    return numpy.asarray(image)


@pytest.fixture(scope="module")
def scenes() -> list[numpy.ndarray]:
    """Pictures without writing."""
    bikes, rabbit = pictures(real_clip("bikes"), (640, 360)), pictures(real_clip("bigbuckbunny"), (640, 360))
    phone = pictures(real_clip("carphone_pristine"), (640, 524))
    return [
        *(bikes[i] for i in (0, 40, 100, 150, 245)),
        rabbit[0],
        phone[0],
        *(texture(640, 360, g) for g in (8, 16, 32)),
    ]


def rejected(tmp_path: Path, clips: list[numpy.ndarray]) -> int:
    """How many clips of one picture have more writing than the limit."""
    score = text_area.TextArea()
    files = [write_video(tmp_path / f"{i}.mp4", [pixels] * 3) for i, pixels in enumerate(clips)]
    return sum(score(file)["text_area"] > SHARE for file in files)


def test_clips_without_writing_are_kept_with_bars_and_without(tmp_path, scenes):
    clips = [with_bars(scene, kind) for scene in scenes for kind in ("", "letterbox", "pillarbox")]
    assert len(clips) == 30 and rejected(tmp_path, clips) <= 1


def test_clips_with_subtitles_are_rejected_in_any_script(tmp_path, scenes):
    """Within the picture, and half of them with bars."""
    clips = [
        with_bars(subtitled(scene, script), kind)
        for script in SUBTITLES
        for scene in (scenes[0], scenes[5], scenes[6])
        for kind in ("", "letterbox" if scene is scenes[0] else "pillarbox")
    ]
    assert len(clips) == 30 and rejected(tmp_path, clips) >= 29


def test_writing_in_a_bar_and_large_titles_are_seen(scenes):
    in_the_bar = subtitled(with_bars(scenes[0], "letterbox"), "latin")
    image = Image.fromarray(scenes[5])
    ImageDraw.Draw(image).text((200, 120), "STOP", "white", font(110), stroke_width=4, stroke_fill="black")
    assert text_area.covered(in_the_bar) > SHARE and text_area.covered(numpy.asarray(image)) > SHARE


@pytest.mark.parametrize("colour", [0, 255])
def test_a_picture_of_one_colour_has_no_writing(colour):
    blank = numpy.full((90, 160, 3), colour, numpy.uint8)
    assert text_area.covered(blank) == 0 and text_area.crop_bars(blank).size == 0


def test_basics_are_what_the_clip_is(tmp_path):
    file = write_video(tmp_path / "a.mp4", [numpy.full((48, 64, 3), 128, numpy.uint8)] * 50, fps=25)
    scores = basics.PixelScores()(file)
    assert (scores["width"], scores["height"], scores["frames"], scores["fps"], scores["seconds"]) == (
        64,
        48,
        50,
        25.0,
        2.0,
    )
    assert scores["light"] == pytest.approx(0.5, abs=0.02) and scores["change"] < 0.002


def test_copies_share_a_hash_and_others_do_not(tmp_path):
    film = pictures(real_clip("bikes"), (320, 136))
    clips = {"a": film[:30], "again": film[:30], "b": film[76:137], "c": film[137:187], "d": film[187:242]}
    options = {"again": {"crf": "35"}}
    files = {n: write_video(tmp_path / f"{n}.mp4", f, options=options.get(n)) for n, f in clips.items()}
    hashes = {name: basics.PixelScores()(file)["hash"] for name, file in files.items()}
    assert basics.distance(hashes["a"], hashes["again"]) <= filters.SAME
    others = [hashes[name] for name in "abcd"]
    assert min(basics.distance(a, b) for i, a in enumerate(others) for b in others[:i]) > 3 * filters.SAME


def see(pictures: torch.Tensor) -> torch.Tensor:
    return torch.stack([pictures.mean((1, 2, 3)), pictures.std((1, 2, 3)), torch.ones(len(pictures))], dim=-1)


def head(file: Path, *widths: int) -> dict[str, torch.Tensor]:
    """A predictor as LAION saves it, layers numbered with gaps where dropouts were."""
    torch.manual_seed(1)
    numbers = [0, 2, 4, 6, 7]
    tensors = {}
    for number, wide, narrow in zip(numbers, widths, widths[1:], strict=False):
        tensors[f"layers.{number}.weight"], tensors[f"layers.{number}.bias"] = (
            torch.randn(narrow, wide),
            torch.randn(narrow),
        )
    torch.save(tensors, file)
    return tensors


def test_looks_are_the_predictors_mean_over_four_frames(tmp_path):
    tensors = head(tmp_path / "head.pth", 3, 5, 1)
    file = write_video(tmp_path / "a.mp4", [texture(64, 48, seed=i) for i in range(20)])
    found = aesthetics.Aesthetics(see, tmp_path / "head.pth")(file)["aesthetics"]
    sampled = torch.from_numpy(numpy.stack(aesthetics.sample_frames(file, 4)).astype(numpy.float32) / 255)
    x = torch.nn.functional.normalize(see(sampled), dim=-1)
    for number in (0, 2):
        x = x @ tensors[f"layers.{number}.weight"].T + tensors[f"layers.{number}.bias"]
    assert found == pytest.approx(float(x.mean()), rel=1e-4)


def test_looks_through_clip_are_scored_anew_with_another_clip(tmp_path):
    """The host's CLIP vision, of a few weights; its fingerprint is part of the settings."""
    recorded = golden("v3_e2e/clip_vision")
    (tmp_path / "config.json").write_text(json.dumps(recorded.config["constructor"]))
    save_file(recorded.weights, tmp_path / "model.safetensors")
    image_encoder = part("easyanimate_models.sd").load_image_encoder(tmp_path)
    head(tmp_path / "head.pth", recorded.config["constructor"]["projection_dim"], 1)
    file = write_video(tmp_path / "a.mp4", [texture(64, 48, seed=i) for i in range(8)])
    work = aesthetics.clip_vision_aesthetics(image_encoder, tmp_path / "head.pth")
    found = work(file)["aesthetics"]
    sampled = torch.from_numpy(numpy.stack(aesthetics.sample_frames(file, 4)).astype(numpy.float32) / 255)
    embeds = torch.nn.functional.normalize(image_encoder.encode_image(sampled).image_embeds.float(), dim=-1)
    ((weight, bias),) = aesthetics.read_layers(tmp_path / "head.pth")
    assert found == pytest.approx(float((embeds @ weight.T + bias).mean()), rel=1e-3)
    with torch.no_grad():
        next(image_encoder.model.parameters()).add_(1)
    assert aesthetics.clip_vision_aesthetics(image_encoder, tmp_path / "head.pth").encoder != work.encoder


def test_other_files_are_no_predictors(tmp_path):
    file = write_video(tmp_path / "a.mp4", [texture(64, 48)] * 5)
    save_file({"conv.weight": torch.zeros(2, 3, 1, 1)}, tmp_path / "conv.safetensors")
    with pytest.raises(CheckpointError, match=r"conv\.safetensors is not an aesthetic predictor"):
        aesthetics.Aesthetics(see, tmp_path / "conv.safetensors")(file)
    head(tmp_path / "wide.pth", 768, 16, 1)
    with pytest.raises(CheckpointError, match="768-dimensional embeddings, but the image encoder gives 3"):
        aesthetics.Aesthetics(see, tmp_path / "wide.pth")(file)
