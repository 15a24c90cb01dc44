"""Camera paths: what poses become, how they fill a video, and what stock nodes make of them."""

import json
import math

import pytest
import torch
from comfy_extras.nodes_camera_trajectory import WanCameraEmbedding
from comfy_extras.nodes_wan import WanCameraImageToVideo

from support.node_texts import shown_by
from support.pack import part
from support.recorded import relative_error
from support.tiny_networks import random

poses = part("easyanimate_models.conditioning.poses")
camera = part("easyanimate_models.conditioning.camera")
control = part("nodes.control")
CameraPath = control.EasyAnimateCameraPath
WIDTH, HEIGHT, LENGTH = 48, 32, 9
FOCAL = 0.5


@pytest.fixture(autouse=True)
def texts(monkeypatch) -> list[str]:
    """What nodes say while they run."""
    return shown_by(control, monkeypatch)


def turned(degrees: float) -> torch.Tensor:
    """A rotation about the vertical."""
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return torch.tensor([[cosine, 0, sine], [0, 1, 0], [-sine, 0, cosine]], dtype=torch.float64)


def row(position=(0.0, 0.0, 0.0), degrees: float = 0.0, time: float = 0.0, focal: float = FOCAL) -> list[float]:
    """A camera at `position`, turned, as a row of a pose file."""
    world_to_camera = turned(degrees).T
    moved = -world_to_camera @ torch.tensor(position, dtype=torch.float64)
    matrix = torch.cat([world_to_camera, moved[:, None]], dim=1)
    return [time, focal, focal, 0.5, 0.5, 0, 0, *matrix.flatten().tolist()]


def as_text(rows: list[list[float]]) -> str:
    return "\n".join(" ".join(map(str, values)) for values in rows)


def execute(text: str, length: int = LENGTH, **options):
    return CameraPath.execute(text, WIDTH, HEIGHT, length, **options).result


def angle(rotation: torch.Tensor) -> float:
    return math.degrees(math.atan2(float(rotation[0, 2]), float(rotation[0, 0])))


class TestPoses:
    ROWS = [row((0, 0, n / 4), degrees=5 * n, time=n) for n in range(3)]

    @pytest.mark.parametrize(
        "text",
        [
            as_text(ROWS),
            "https://example.com/clip\n\n" + as_text(ROWS) + "\n",
            as_text(ROWS).replace(" ", ", "),
            json.dumps(ROWS),
            json.dumps([values[1:] for values in ROWS]),
            json.dumps(
                [
                    {"time": v[0], "intrinsics": v[1:5], "w2c": torch.tensor(v[7:]).double().view(3, 4).tolist()}
                    for v in ROWS
                ]
            ),
            json.dumps([{"intrinsics": v[1:5], "w2c": [*v[7:], 0, 0, 0, 1]} for v in ROWS]),
        ],
        ids=["rows", "below an address", "commas", "JSON", "without times", "objects", "4x4"],
    )
    def test_every_form_is_the_same_path(self, text):
        ours, theirs = poses.parse_poses(text), poses.parse_poses(as_text(self.ROWS))
        torch.testing.assert_close(ours.camera_to_world, theirs.camera_to_world, rtol=0, atol=1e-6)
        assert torch.equal(ours.intrinsics, theirs.intrinsics)

    @pytest.mark.parametrize(
        ("text", "error"),
        [
            ("", "There are no poses; paste"),
            ("[]", "There are no poses; paste"),
            ("{}", "must be a JSON list"),
            ("[1", r"not valid JSON \(Expecting ',' delimiter in line 1, column 3\); correct"),
            ("[" * 10**5, "not valid JSON .a number or a nesting is too long"),
            ("[5]", "Pose 1 is 5; it must be a list of 19 numbers"),
            ('[{"w2c": []}]', "Pose 1 has no list 'intrinsics'"),
            ('[{"intrinsics": [1], "w2c": [1, 2]}]', "Pose 1 has 1 numbers in intrinsics and 2 in w2c"),
            (json.dumps([{"intrinsics": [1, 1, 0, 0], "w2c": [*row()[7:], 1, 2, 3, 1]}]), "w2c of pose 1 must end"),
            (as_text([row(), row()[:-1]]), "Pose 2 has 18 numbers, but a row has 19"),
            (as_text([row(), [*row()[:-1], "far"]]), "Pose 2, column 19 is 'far'; write a number"),
            (as_text([row(), [*row()[:-1], math.nan]]), "Pose 2, column 19 is nan; write a number"),
            (json.dumps([[True, *row()[1:]]]), "Pose 1, column 1 is True"),
            (json.dumps([[10**400, *row()[1:]]]), "Pose 1, column 1 is a huge number"),
            (as_text([row(focal=0)]), "Pose 1, column 2 is 0.*; write intrinsics as fractions"),
            (as_text([[0, 500, 500, 320, 240, *row()[5:]]]), "Pose 1, column 4 is 320.*, not in pixels"),
            (as_text([row(), [*row()[:7], *range(12)]]), "matrix of pose 2, columns 8 to 19, is not a rotation"),
            (as_text([[*row()[:7], -1, *row()[8:]]]), "matrix of pose 1, columns 8 to 19, is not a rotation"),
        ],
    )
    def test_a_sentence_says_what_is_wrong_where(self, text, error):
        with pytest.raises(ValueError, match=error):
            poses.parse_poses(text)


class TestLength:
    def test_as_many_poses_as_frames_are_used_one_by_one(self, texts):
        path = poses.parse_poses(as_text([row((0, 0, n**2)) for n in range(LENGTH)]))
        assert poses.resampled(path, LENGTH) is path
        execute(as_text([row()] * LENGTH))
        assert texts == []

    def test_between_two_poses_the_camera_moves_and_turns_evenly(self):
        path = poses.parse_poses(as_text([row(), row((4, 0, 8), degrees=90, focal=1.0)]))
        between = poses.resampled(path, 5)
        assert [angle(pose) for pose in between.camera_to_world] == pytest.approx([0, 22.5, 45, 67.5, 90])
        assert between.camera_to_world[:, :3, 3].tolist() == pytest.approx(
            torch.tensor([[n, 0, 2 * n] for n in range(5)]).double().numpy()
        )
        assert between.intrinsics[:, 0].tolist() == pytest.approx([0.5, 0.625, 0.75, 0.875, 1.0])

    @pytest.mark.parametrize(("times", "there"), [((0, 3, 4), 1 / 3), ((0, 0, 0), 0.5), ((0, 5, 4), 0.5)])
    def test_times_count_where_they_increase(self, times, there):
        rows = [row((n, 0, 0), time=time) for n, time in enumerate(times)]
        second = poses.resampled(poses.parse_poses(as_text(rows)), 5).camera_to_world[1]
        assert float(second[0, 3]) == pytest.approx(there)

    def test_more_poses_than_frames_show_the_whole_path(self):
        rows = [row((n, 0, 0), degrees=n) for n in range(17)]
        fitted = poses.resampled(poses.parse_poses(as_text(rows)), 9).camera_to_world
        assert [angle(pose) for pose in fitted] == pytest.approx([2.0 * n for n in range(9)], abs=1e-6)

    @pytest.mark.parametrize("length", [1, 9])
    def test_one_pose_stands_still(self, length):
        embedding, *_ = execute(as_text([row((1, 2, 3), degrees=30)]), length)
        maps = camera.unpack(embedding)
        assert len(maps) == length and torch.equal(maps, maps[:1].expand_as(maps))
        assert maps[:, :3].abs().max() == 0  # the first camera is the origin

    def test_half_a_turn_may_be_either_way(self):
        with pytest.raises(ValueError, match="From pose 2 to pose 3 the camera turns by half a circle"):
            execute(as_text([row(), row(degrees=10), row(degrees=190)]))

    def test_the_node_says_what_it_did(self, texts):
        assert execute(as_text([row(), row((1, 0, 0))]), 12)[1:] == (WIDTH, HEIGHT, 9)
        assert texts == ["2 poses are interpolated to 9 frames."]


class TestMaps:
    def test_rays_are_of_length_one_and_at_right_angles_to_their_moments(self):
        path = poses.parse_poses(as_text([row((n, 0, 1), degrees=20 * n) for n in range(3)]))
        maps = camera.plucker_maps(path, HEIGHT, WIDTH, WIDTH / HEIGHT)
        assert maps.shape == (3, HEIGHT, WIDTH, 6)
        moments, directions = maps.split(3, dim=-1)
        torch.testing.assert_close(directions.norm(dim=-1), torch.ones(maps.shape[:3]))
        assert (moments * directions).sum(-1).abs().max() < 1e-5

    @pytest.mark.parametrize(("aspect", "fx", "fy"), [(4.0, 64, 16), (0.5, 24, 48)])
    def test_footage_of_another_shape_is_cut_in_the_middle(self, aspect, fx, fy):
        maps = camera.plucker_maps(poses.parse_poses(as_text([row()])), HEIGHT, WIDTH, aspect)
        x, y, z = maps[0, -1, -1, 3:]
        assert float(x / z) == pytest.approx(23.5 / fx) and float(y / z) == pytest.approx(15.5 / fy)

    def test_the_shape_of_the_footage_is_the_users(self):
        text = as_text([row()])
        wide, square = execute(text)[0], execute(text, pose_width=100, pose_height=100)[0]
        assert relative_error(square, wide) > 0.01
        assert torch.equal(wide, execute(text, pose_width=16, pose_height=9)[0])


class TestStockNodes:
    @pytest.mark.parametrize(
        ("preset", "move"), [("Static", (0, 0, 0)), ("Pan Left", (-1, 0, 0)), ("Zoom In", (0, 0, 2))]
    )
    def test_presets_are_the_same_as_their_poses(self, preset, move):
        rows = [row([1.5 * n / LENGTH * step for step in move]) for n in range(LENGTH)]
        theirs = WanCameraEmbedding.execute(preset, WIDTH, HEIGHT, LENGTH).result
        ours = execute(as_text(rows))
        assert ours[0].shape == theirs[0].shape == (1, 24, 3, HEIGHT, WIDTH) and ours[1:] == theirs[1:]
        assert (ours[0] - theirs[0]).abs().max() <= 1e-5

    @pytest.mark.parametrize("frames", [1, 5, 13])
    def test_nothing_is_lost_in_their_layout(self, frames):
        maps = random(frames, 6, 4, 8, seed=1)
        embedding = camera.pack(maps)
        assert embedding.shape == (1, 24, (frames + 3) // 4, 4, 8)
        assert torch.equal(camera.unpack(embedding), maps)
        assert torch.equal(embedding[0, 4:8, 0], maps[0, 1].expand(4, -1, -1))

    def test_a_stock_node_takes_our_path(self):
        embedding, width, height, length = execute(as_text([row(), row((1, 0, 0))]))
        text = [[torch.zeros(1, 3, 4), {}]]
        positive, _, latent = WanCameraImageToVideo.execute(
            text, text, None, width, height, length, 1, camera_conditions=embedding
        ).result
        given = positive[0][1]["camera_conditions"]
        assert camera.camera_latents(given, latent["samples"].shape).shape == (1, 6, 3, HEIGHT // 8, WIDTH // 8)


class TestLatents:
    def test_the_first_frame_is_resized_by_itself(self):
        maps = torch.zeros(5, 6, 16, 16)
        maps[0] = 1.0
        latents = camera.camera_latents(camera.pack(maps), (1, 16, 2, 2, 2))
        assert latents[:, :, 0].eq(6.0).all() and latents[:, :, 1].eq(0.0).all()

    def test_a_second_pass_is_larger(self):
        embedding = camera.pack(random(5, 6, 16, 32, seed=1))
        assert camera.camera_latents(embedding, (2, 16, 2, 4, 8)).shape == (1, 6, 2, 4, 8)

    @pytest.mark.parametrize(
        ("latent", "error"),
        [
            ((1, 16, 3, 2, 4), "for a video of 32x16 with 5 frames, but the latent is for 32x16 with 9 frames; set"),
            ((1, 16, 2, 4, 4), "for a video of 32x16 with 5 frames, but the latent is for 32x32 with 5 frames; set"),
        ],
    )
    def test_another_length_or_shape_is_refused(self, latent, error):
        with pytest.raises(ValueError, match=error):
            camera.camera_latents(camera.pack(random(5, 6, 16, 32, seed=1)), latent)

    @pytest.mark.parametrize("shape", [(1, 16, 2, 16, 32), (2, 24, 2, 16, 32), (24, 2, 16, 32)])
    def test_other_tensors_are_refused(self, shape):
        with pytest.raises(ValueError, match="can't be used; connect EasyAnimate Camera Path or WanCameraEmbedding"):
            camera.unpack(torch.zeros(shape))
