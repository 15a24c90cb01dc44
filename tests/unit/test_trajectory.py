"""Trajectories: where the spots are, what they look like, and which coordinates are understood."""

import json
import math

import pytest
import torch

from support.node_texts import shown_by
from support.pack import part

trajectory = part("easyanimate_models.conditioning.trajectory")
control = part("nodes.control")
WIDTH, HEIGHT = 640, 368  # a spot's radius is 25


@pytest.fixture(autouse=True)
def texts(monkeypatch) -> list[str]:
    """What nodes say while they run."""
    return shown_by(control, monkeypatch)


def video(coordinates, length: int = 5, width: int = WIDTH, height: int = HEIGHT) -> torch.Tensor:
    text = coordinates if isinstance(coordinates, str) else json.dumps(coordinates)
    return control.EasyAnimateTrajectory.execute(text, width, height, length).result[0]


def centre(frame: torch.Tensor) -> tuple[float, float]:
    """The centre of a frame's light, x and y."""
    light = frame[..., 0]
    x, y = (torch.arange(n).float() + 0.5 for n in (frame.shape[1], frame.shape[0]))
    return float((light.sum(0) * x).sum() / light.sum()), float((light.sum(1) * y).sum() / light.sum())


def box(frame: torch.Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is lit."""
    rows, columns = frame[..., 0].nonzero(as_tuple=True)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


class TestMovement:
    def test_key_points_are_joined_by_straight_lines(self, texts):
        frames = video([[100, 100], [300, 180], [500, 100]])
        expected = [(100, 100), (200, 140), (300, 180), (400, 140), (500, 100)]
        for frame, place in zip(frames, expected, strict=True):
            assert centre(frame) == pytest.approx(place, abs=0.6)
        assert texts == ["3 points are interpolated to 5 frames."]

    def test_a_point_per_frame_is_used_as_it_is(self, texts):
        places = [(100, 100), (110, 100), (300, 100), (310, 250), (500, 250)]
        for frame, place in zip(video(places), places, strict=True):
            assert centre(frame) == pytest.approx(place, abs=0.6)
        assert texts == []

    def test_more_points_than_frames_show_the_whole_track(self):
        frames = video([[100 + n, 100] for n in range(401)])
        assert [round(centre(frame)[0]) for frame in frames] == [100, 200, 300, 400, 500]

    def test_a_single_point_stands_still(self):
        frames = video([[100, 100]])
        assert torch.equal(frames, frames[:1].expand_as(frames))

    def test_several_tracks_are_drawn_into_one_picture(self):
        one, two = [[100, 100], [500, 100]], [[500, 110], [100, 110], [300, 110]]
        assert torch.equal(video([one, two]), torch.maximum(video([one]), video([two])))

    def test_lengths_and_sizes_are_those_of_latents(self):
        out = control.EasyAnimateTrajectory.execute("[[100, 100]]", 650, 370, 8).result
        assert out[0].shape == (5, 368, 640, 3) and out[1:] == (640, 368, 5)


class TestSpots:
    def test_a_spot_is_a_gaussian_in_a_disc(self):
        frame = video([[300, 200]], 1)[0]
        assert box(frame) == (275, 175, 325, 225)
        assert frame.max() > 0.99 and torch.equal(frame[..., 0], frame[..., 1])
        sigma = 25 * 40 / 100
        assert float(frame[200, 310, 0]) == pytest.approx(math.exp(-((10.5 / sigma) ** 2) / 2), abs=0.05)
        assert frame[176, 276, 0] == 0  # a corner of the box

    @pytest.mark.parametrize(("width", "height", "radius"), [(1280, 720, 50), (672, 384, 26), (64, 64, 3)])
    def test_its_size_is_by_the_area(self, width, height, radius):
        left, top, right, bottom = box(video([[width // 2, height // 2]], 1, width, height)[0])
        assert (right - left, bottom - top) == (2 * radius, 2 * radius)

    def test_at_a_border_it_is_squeezed(self):
        frame = video([[5, 200]], 1)[0]
        assert box(frame) == (0, 175, 30, 225) and frame.max() > 0.98

    def test_a_spot_goes_out_of_the_picture(self):
        frames = video([[100, 100], [-500, 100]])
        assert frames[0].any() and not frames[-1].any()


class TestCoordinates:
    POINTS = [[100, 200], [300, 150]]

    @pytest.mark.parametrize(
        "text",
        [
            json.dumps(POINTS),
            json.dumps([POINTS]),
            json.dumps([{"x": x, "y": y} for x, y in POINTS]),
            json.dumps([[{"x": x, "y": y} for x, y in POINTS]]),
            str([{"x": float(x), "y": float(y)} for x, y in POINTS]),
        ],
        ids=["lists", "a track", "objects", "a track of objects", "single quotes"],
    )
    def test_every_form_is_the_same_video(self, text):
        assert torch.equal(video(text), video(self.POINTS))

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("", r"coordinates are not valid JSON \(Expecting value in line 1, column 1\); correct"),
            ("[]", "There are no coordinates; write a list of points"),
            ('{"x": 1, "y": 2}', "There are no coordinates; write a list of points"),
            ("[5]", "Track 1 is 5; write a list of points"),
            ("[[[1, 2]], []]", r"Track 2 is \[\]; write a list of points"),
            ("[[1, 2], [3]]", r"Point 2 of track 1 is \[3\]; write it as two numbers"),
            ('[[1, 2], ["a", 3]]', r"Point 2 of track 1 is \['a', 3\]; write it as two numbers"),
            ("[[1, 2], [NaN, 3]]", r"Point 2 of track 1 is \[nan, 3\]; write it as two numbers"),
            ('[{"x": 1}]', r"Point 1 of track 1 is \{'x': 1\}; write it as two numbers"),
            ("[[1e19, 3]]", "No point comes into the picture of 640x368; give coordinates"),
            ("[[0.5, 0.5], [0.9, 0.1]]", "All points lie in the corner; give coordinates in pixels of 640x368"),
        ],
    )
    def test_a_sentence_says_what_is_wrong_where(self, text, error):
        with pytest.raises(ValueError, match=error):
            video(text)
