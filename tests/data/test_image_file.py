"""Still images as a viewer shows them: turned upright, transparency on white, and broken ones named."""

from pathlib import Path

import numpy
import pytest
from PIL import Image

from support.footage import texture
from support.pack import part

image_file = part("easyanimate_models.media.image_file")
video_file = part("easyanimate_models.media.video_file")
MediaError = video_file.MediaError

SHOWN = texture(64, 48)
RIGHT_ANGLES = {3: 2, 6: 3, 8: 1}  # EXIF orientation: quarter turns to the left that a viewer makes


def photo(file: Path, orientation: int) -> Path:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(SHOWN).save(file, exif=exif)
    return file


@pytest.mark.parametrize("orientation", RIGHT_ANGLES)
@pytest.mark.parametrize("ending", ["png", "jpg", "webp"])
def test_a_photo_is_turned_as_its_camera_says(tmp_path, orientation, ending):
    file = photo(tmp_path / f"a.{ending}", orientation)
    plain = photo(tmp_path / f"plain.{ending}", 1)
    seen = image_file.read_image(file)
    assert numpy.array_equal(seen, numpy.rot90(image_file.read_image(plain), RIGHT_ANGLES[orientation]))
    about = video_file.probe(file)
    assert (about.height, about.width) == seen.shape[:2]
    assert numpy.array_equal(video_file.read_frames(file, 0, 1)[0], seen)


def test_a_mirrored_photo_is_mirrored_back(tmp_path):
    assert numpy.array_equal(image_file.read_image(photo(tmp_path / "a.png", 2)), SHOWN[:, ::-1])


def test_what_is_transparent_is_white(tmp_path):
    layer = numpy.dstack([SHOWN, numpy.full((48, 64), 255, numpy.uint8)])
    layer[:10, :, 3] = 0
    Image.fromarray(layer).save(tmp_path / "a.png")
    seen = image_file.read_image(tmp_path / "a.png")
    assert (seen[:10] == 255).all() and numpy.array_equal(seen[10:], SHOWN[10:])
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.putpixel((0, 0), 0)
    palette.save(tmp_path / "b.png", transparency=0)
    seen = image_file.read_image(tmp_path / "b.png")
    assert seen[0, 0].tolist() == [255] * 3 and seen[1, 1].tolist() == [9, 8, 7]


def test_sixteen_bits_are_seen_as_eight(tmp_path):
    Image.fromarray(numpy.array([[0, 257 * 100, 65535]], numpy.uint16)).save(tmp_path / "a.png")
    assert image_file.read_image(tmp_path / "a.png")[0, :, 1].tolist() == [0, 100, 255]


def test_two_views_in_one_photo_are_no_film(tmp_path):
    """As phones write portraits (MPO)."""
    first, second = Image.fromarray(SHOWN), Image.new("RGB", (64, 48))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second])
    assert image_file.is_image(tmp_path / "a.jpg") and video_file.count_frames(tmp_path / "a.jpg") == 1


def test_an_image_of_several_frames_is_a_film(tmp_path):
    frames = [Image.fromarray(texture(64, 48, seed=i)) for i in range(3)]
    frames[0].save(tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=40)
    assert not image_file.is_image(tmp_path / "a.png") and video_file.count_frames(tmp_path / "a.png") == 3


def test_an_image_can_be_sampled_as_a_clip_is(tmp_path):
    Image.fromarray(SHOWN).save(tmp_path / "a.png")
    (seen,) = video_file.sample_frames(tmp_path / "a.png", 4)
    assert numpy.array_equal(seen, SHOWN)
    assert len(list(video_file.frames(tmp_path / "a.png", fps=2))) == 1


def test_files_that_are_no_images_are_named(tmp_path):
    Image.fromarray(SHOWN).save(tmp_path / "short.png")
    (tmp_path / "short.png").write_bytes((tmp_path / "short.png").read_bytes()[:200])
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    for name, why in {
        "short.png": "can't be read as an image .*; replace it",
        "text.jpg": r"can't be read as an image \(no known format\); replace it",
        "empty.png": r"can't be read as an image \(no known format\); replace it",
        "gone.png": "no longer exists",
    }.items():
        with pytest.raises(MediaError, match=f"{name} {why}"):
            video_file.probe(tmp_path / name)
