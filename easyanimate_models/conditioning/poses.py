"""The text of a camera pose file -> a camera path.

Rows are those of RealEstate10K and CameraCtrl: `time fx fy cx cy 0 0`, then the 12 numbers of the 3x4 world-to-camera
matrix, row by row; above them, the video's address may stand. Intrinsics are fractions of width and height.

JSON is a list of such rows, with or without the time, or of objects: `intrinsics` is [fx, fy, cx, cy], `w2c` a 3x4 or
4x4 matrix, `time` may be missing.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..files.json_text import is_number, parse_json
from ..files.messages import shorten

COLUMNS = 19  # of a row; JSON as ComfyUI nodes write it leaves out the time
FOCAL_COLUMNS = (2, 3)
ROTATION_TOLERANCE = 1e-2
HALF_TURN = -0.999  # as a cosine


@dataclass(frozen=True)
class CameraPath:
    """T cameras, in float64.

    `times` `[T]` in any unit; `intrinsics` `[T, 4]`, focal lengths and principal point (fx, fy, cx, cy) as fractions
    of width and height; `camera_to_world` `[T, 4, 4]`, x right, y down, z forward.
    """

    times: Tensor
    intrinsics: Tensor
    camera_to_world: Tensor

    def __len__(self) -> int:
        return len(self.intrinsics)


def parse_poses(text: str) -> CameraPath:
    """The poses in `text`; raises `ValueError` that names the pose and column that can't be used."""
    rows = torch.tensor([_checked(row, n) for n, row in enumerate(_rows(text), 1)], dtype=torch.float64)
    return CameraPath(
        rows[:, 0].contiguous(), rows[:, 1:5], torch.linalg.inv(_square(rows[:, 7:].unflatten(1, (3, 4))))
    )


def resampled(path: CameraPath, frames: int) -> CameraPath:
    """The whole path in `frames` frames, unchanged where it has as many poses.

    Cameras between two poses are interpolated by the poses' times, or evenly where these do not increase: rotations on
    the shortest arc, all else linearly. Raises `ValueError` where a turn may go either way.
    """
    if len(path) == frames:
        return path
    times = path.times
    if not (times.diff() > 0).all():
        times = torch.arange(len(times), dtype=torch.float64)
    new_times = torch.linspace(float(times[0]), float(times[-1]), frames, dtype=torch.float64)
    before = (torch.searchsorted(times, new_times, right=True) - 1).clamp(0, max(len(times) - 2, 0))
    after = (before + 1).clamp(max=len(times) - 1)
    weights = (new_times - times[before]) / torch.where(after > before, times[after] - times[before], 1.0)
    start, end = path.camera_to_world[before], path.camera_to_world[after]
    poses = torch.lerp(start, end, weights[:, None, None])
    poses[:, :3, :3] = _between(start[:, :3, :3], end[:, :3, :3], weights, before)
    return CameraPath(new_times, torch.lerp(path.intrinsics[before], path.intrinsics[after], weights[:, None]), poses)


def _rows(text: str) -> list[list]:
    """Values of each pose in 19 columns, as yet of any type."""
    text = text.strip()
    if text[:1] in ("[", "{"):
        rows = _json_rows(text)
    else:
        lines = [line.replace(",", " ").split() for line in text.splitlines() if line.strip()]
        rows = [list(map(_number, words)) for words in (lines[1:] if lines and len(lines[0]) == 1 else lines)]
    if not rows:
        raise ValueError("There are no poses; paste the text of a pose file, or a JSON list of poses.")
    return rows


def _json_rows(text: str) -> list[list]:
    poses = parse_json(text, "poses")
    if not isinstance(poses, list):
        raise ValueError("The poses must be a JSON list; put them in square brackets.")
    return [_json_row(pose, number) for number, pose in enumerate(poses, 1)]


def _json_row(pose: Any, number: int) -> list:
    """A row with a time, from one with or without, or from an object."""
    if isinstance(pose, dict):
        if missing := [key for key in ("intrinsics", "w2c") if not isinstance(pose.get(key), list)]:
            raise ValueError(f"Pose {number} has no list {missing[0]!r}; give intrinsics and w2c for each pose.")
        intrinsics, matrix = _flat(pose["intrinsics"]), _flat(pose["w2c"])
        if len(intrinsics) != 4 or len(matrix) not in (12, 16):
            raise ValueError(
                f"Pose {number} has {len(intrinsics)} numbers in intrinsics and {len(matrix)} in w2c; give fx, fy, cx, "
                "cy, and a 3x4 or 4x4 matrix."
            )
        if matrix[12:] not in ([], [0, 0, 0, 1]):
            raise ValueError(f"w2c of pose {number} must end with 0, 0, 0, 1; write the matrix row by row.")
        return [pose.get("time", 0), *intrinsics, 0, 0, *matrix[:12]]
    if not isinstance(pose, list):
        raise ValueError(f"Pose {number} is {shorten(pose)}; it must be a list of {COLUMNS} numbers or an object.")
    return [0, *pose] if len(pose) == COLUMNS - 1 else pose


def _flat(values: list) -> list:
    return [inner for value in values for inner in (value if isinstance(value, list) else [value])]


def _number(word: str) -> float | str:
    try:
        return float(word)
    except ValueError:
        return word


def _checked(row: list, number: int) -> list[float]:
    """A row of which a camera can be made; raises `ValueError` otherwise."""
    if len(row) != COLUMNS:
        raise ValueError(
            f"Pose {number} has {len(row)} numbers, but a row has {COLUMNS}: time, fx, fy, cx, cy, 0, 0, and 12 of the "
            "world-to-camera matrix."
        )
    for column, value in enumerate(row, 1):
        if not is_number(value):
            raise ValueError(f"Pose {number}, column {column} is {shorten(value)}; write a number there.")
    for column, value in enumerate(row[1:5], 2):
        usable = value > 0 if column in FOCAL_COLUMNS else 0 <= value <= 1
        if not usable:
            raise ValueError(
                f"Pose {number}, column {column} is {shorten(value)}; write intrinsics as fractions of the width and "
                "height of the footage, not in pixels."
            )
    _require_rotation(row, number)
    return [float(value) for value in row]


def _require_rotation(row: list[float], number: int) -> None:
    rotation = torch.tensor(row[7:], dtype=torch.float64).reshape(3, 4)[:, :3]
    error = (rotation @ rotation.T - torch.eye(3, dtype=torch.float64)).abs().max()
    if error > ROTATION_TOLERANCE or torch.linalg.det(rotation) < 0:
        raise ValueError(
            f"The matrix of pose {number}, columns 8 to {COLUMNS}, is not a rotation with a translation; write the "
            "3x4 world-to-camera matrix row by row."
        )


def _square(matrices: Tensor) -> Tensor:
    """3x4 matrices `[T, 3, 4]` with a fourth row, `[T, 4, 4]`."""
    last = matrices.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(matrices), 1, 4)
    return torch.cat([matrices, last], dim=1)


def _between(start: Tensor, end: Tensor, weights: Tensor, poses: Tensor) -> Tensor:
    """Rotations `[N, 3, 3]` at `weights` `[N]` on the arc from `start` to `end`, the poses after number `poses`."""
    turn = start.mT @ end
    cosine = (turn.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2
    if (cosine < HALF_TURN).any():
        number = int(poses[cosine < HALF_TURN][0]) + 1
        raise ValueError(
            f"From pose {number} to pose {number + 1} the camera turns by half a circle, which may be either way; add "
            "a pose between them."
        )
    axis = (turn - turn.mT) / 2  # times the sine of the angle
    sine = torch.linalg.matrix_norm(axis) / math.sqrt(2)
    scale = torch.where(sine > 0, torch.atan2(sine, cosine) / torch.where(sine > 0, sine, 1.0), 1.0)
    return start @ torch.matrix_exp(axis * (scale * weights)[:, None, None])
