"""The rows of the matrix that only later releases have: control videos, cameras, positions, flow matching."""

from torch import Tensor

from tools.workflows.author import node

from .interop import DIFFERENT, SAME, Bench, distance, sampler
from .interop_models import CAMERA, CONTROL
from .interop_rows import NONE, patched, row

LATER, FLOW = ("V4", "V5.1"), ("V5.1",)
OTHERS = ("V3", "V4")
IDENTITY = {f"{change}_{axis}": neutral for axis in "xyt" for change, neutral in (("scale", 1.0), ("shift", 0.0))}


@row("ModelSamplingSD3", releases=FLOW)
def _(bench):
    same, other = (patched(bench, "ModelSamplingSD3", shift=shift) for shift in (2.718281828459045, 8.0))
    assert distance(same, bench.plain) < DIFFERENT < distance(other, bench.plain)


@row(
    "ModelSamplingSD3",
    error="that node out",
    reason="only V5.1 is a flow matching model; the pack says so and stops",
    videos=NONE,
    releases=OTHERS,
)
def _(bench):
    patched(bench, "ModelSamplingSD3", shift=3.0)


@row(
    "ModelSamplingDiscrete",
    error="that node out",
    reason="V5.1 is a flow matching model; the pack says so and stops",
    videos=NONE,
    releases=FLOW,
)
def _(bench):
    patched(bench, "ModelSamplingDiscrete", sampling="v_prediction")


@row("ScaleROPE", releases=LATER)
def _(bench):
    assert distance(patched(bench, "ScaleROPE", **IDENTITY), bench.plain) < SAME
    for axis in "xyt" if bench.model.release == "V5.1" else "xy":
        assert distance(patched(bench, "ScaleROPE", **IDENTITY | {f"scale_{axis}": 3.0}), bench.plain) > SAME


def controlled(bench: Bench, kind: str, model: dict = CONTROL, drawn: dict | None = None, **inputs) -> Tensor:
    """The latent that a Control transformer makes with a conditioning node, which may use `film`, `picture`, `path`.

    `drawn` are further nodes that it may use.
    """
    size = {"width": 64, "height": 64, "length": bench.model.length}
    return bench.latent(
        **(drawn or {}),
        film=node("EmptyImage", width=64, height=64, batch_size=bench.model.length, color=0x20C020),
        picture=node("EmptyImage", width=64, height=64, batch_size=1, color=0xE02020),
        path=node("WanCameraEmbedding", camera_pose="Zoom In", **size),
        model=model,
        given=node(
            kind, positive=["prompt", 0], negative=["prompt", 1], vae=["vae", 0], batch_size=1, **size, **inputs
        ),
        sampler=sampler(positive=["given", 0], negative=["given", 1]),
    )


def ours(bench: Bench, model: dict = CONTROL, **inputs) -> Tensor:
    return controlled(bench, "EasyAnimateControlToVideo", model, **inputs)


@row("WanFunControlToVideo", releases=FLOW)
def _(bench):
    film, picture = {"control_video": ["film", 0]}, ["picture", 0]
    both = controlled(bench, "WanFunControlToVideo", **film, start_image=picture)
    assert distance(both, ours(bench, **film, ref_image=picture)) < SAME
    alone = controlled(bench, "WanFunControlToVideo", **film)
    assert distance(alone, ours(bench, **film)) < SAME
    assert distance(alone, both) > SAME


@row("Wan22FunControlToVideo", releases=FLOW)
def _(bench):
    inputs = {"control_video": ["film", 0], "ref_image": ["picture", 0]}
    stock = controlled(bench, "Wan22FunControlToVideo", **inputs)
    assert distance(stock, ours(bench, **inputs)) < SAME
    assert distance(stock, ours(bench, control_video=["film", 0])) > SAME


@row("WanCameraEmbedding", releases=FLOW)
def _(bench):
    assert distance(ours(bench, CAMERA, camera_conditions=["path", 0]), ours(bench, CAMERA)) > SAME


@row("WanCameraImageToVideo", releases=FLOW)
def _(bench):
    path, picture = {"camera_conditions": ["path", 0]}, ["picture", 0]
    stock = controlled(bench, "WanCameraImageToVideo", CAMERA, **path, start_image=picture)
    assert distance(stock, ours(bench, CAMERA, **path, ref_image=picture)) < SAME
    assert distance(stock, ours(bench, CAMERA, **path)) > SAME


@row("Canny", releases=FLOW)
def _(bench):
    """Its edges of a picture, as a control video of one frame."""
    drawn = {
        "white": node("EmptyImage", width=32, height=32, batch_size=1, color=0xFFFFFF),
        "black": node("EmptyImage", width=64, height=64, batch_size=1, color=0),
        "square": node("ImageCompositeMasked", destination=["black", 0], source=["white", 0], x=16, y=16),
        "edges": node("Canny", image=["square", 0], low_threshold=0.1, high_threshold=0.3),
    }
    edges, square, nothing = (
        controlled(bench, "EasyAnimateControlToVideo", drawn=drawn, control_video=[name, 0])
        for name in ("edges", "square", "black")
    )
    assert distance(edges, nothing) > SAME
    assert distance(edges, square) > SAME
