"""Does the host know how much memory a size takes? Its estimates against peaks, real width, bfloat16.

With a GPU all peaks are measured and kept in `results/gpu.json`. Without one, those of the VAE are taken from there;
a step is measured on the CPU, at two sizes, from the larger of which the others follow. (An earlier state of the
network took 1.53 GB for 256×256×144 on an H100, and 1.54 GB on a CPU.)
"""

import json
import math

import comfy.model_management as mm
import torch

from easyanimate_models.supported_models import EasyAnimateV3
from easyanimate_models.vae.host_vae import HostVAE

from .measure import CUDA, RESULTS, Row, in_own_process, machine, peak_above, report
from .networks import V3, host_vae, step_inputs, transformer

SIZES = ((256, 256, 16), (256, 256, 144), (512, 512, 48), (768, 768, 48), (512, 512, 144), (768, 768, 144))
SMALL = SIZES[:2]  # what a CPU measures; a minute
KEPT = RESULTS / "gpu.json"
DTYPE = torch.bfloat16
GB = 1e9
RESERVED = 1.4  # GB that the host leaves to the system and to its own needs
VAE_TILE = 384


@torch.no_grad()
def steps() -> list[dict]:
    """Bytes above the weights in a step of batch 2 (cond and uncond)."""
    network = transformer(dtype=DTYPE)
    network(**step_inputs(V3, 2, 1, (4, 4), DTYPE))
    found = []
    for width, height, frames in SIZES if CUDA else SMALL:
        inputs = step_inputs(V3, 2, frames // 4, (height // 8, width // 8), DTYPE)
        found.append(_one("sample", (width, height, frames), lambda i=inputs: network(**i)))
    return found


def extrapolated(largest: dict) -> list[dict]:
    """Peaks of the other sizes: memory is linear in the tokens once they go through the feed-forward in parts."""
    each = largest["peak"] / math.prod(largest["size"])
    return [{"what": "sample", "size": size, "peak": each * math.prod(size)} for size in SIZES if size not in SMALL]


@torch.no_grad()
def codings() -> list[dict]:
    """Bytes above the weights in decoding and in encoding."""
    vae, found = host_vae(), []
    mm.load_models_gpu([vae.patcher], force_full_load=True)
    for width, height, frames in SIZES:
        z = torch.randn(1, 4, frames // 4, height // 8, width // 8)
        found.append(_one("decode", (width, height, frames), lambda z=z: vae.decode(z)))
        pixels = torch.rand(frames, height, width, 3)
        found.append(_one("encode", (width, height, frames), lambda p=pixels: vae.encode(p)))
    return found


def _one(what: str, size: tuple[int, int, int], work) -> dict:
    if CUDA:
        work()
    return {"what": what, "size": size, "peak": peak_above(work)}


def peaks() -> list[dict]:
    """What each size takes, and `how` that is known."""
    found = in_own_process(steps)
    if CUDA:
        found += in_own_process(codings)
        how = f"{machine()}, bfloat16"
        found = [{**peak, "how": how} for peak in found]
        KEPT.write_text(json.dumps(found, indent=1) + "\n")
        return found
    measured = [{**peak, "how": f"{machine()}, bfloat16"} for peak in found]
    followed = [{**peak, "how": "bytes per token of 256×256×144"} for peak in extrapolated(found[-1])]
    return measured + followed + [peak for peak in json.loads(KEPT.read_text()) if peak["what"] != "sample"]


def estimate(vae: HostVAE, what: str, size: tuple[int, int, int]) -> float:
    """What the host reckons with, on a GPU with PyTorch's attention."""
    width, height, frames = size
    if what == "encode":
        return vae.memory_used_encode((1, 3, frames, height, width), DTYPE)
    shape = (1, 4, frames // 4, height // 8, width // 8)
    if what == "decode":
        return vae.memory_used_decode(shape, DTYPE)
    area = 2 * shape[2] * shape[3] * shape[4]
    return area * DTYPE.itemsize * 0.01 * EasyAnimateV3.memory_usage_factor * 1024**2  # BaseModel.memory_required


def fits(step: float, weights: float, budget: float) -> str:
    """Whether a step fits: with all weights on the GPU, with a part of them streamed from RAM by the host, or not."""
    room = budget - RESERVED - step
    return "yes" if room >= weights else "weights streamed" if room >= 0.1 * weights else "no"


def table(vae: HostVAE) -> str:
    """What artists look for: which sizes fit which GPU."""
    weights = sum(p.numel() for p in transformer(dtype=DTYPE, device=torch.device("meta")).parameters()) * 2 / GB
    lines = ["| size | a step takes | decode, whole frames | 8 GB | 12 GB | 24 GB |", "|---|---|---|---|---|---|"]
    for size in SIZES:
        step, decode = (estimate(vae, what, size) / GB for what in ("sample", "decode"))
        cells = ["{}×{}, {} frames".format(*size), f"{step:.1f} GB", f"{decode:.1f} GB"]
        lines.append("| " + " | ".join([*cells, *(fits(step, weights, budget) for budget in (8, 12, 24))]) + " |")
    tile = estimate(vae, "decode", (VAE_TILE, VAE_TILE, 16)) / GB
    return (
        "\n".join(lines)
        + f"\n\nA step takes its memory above the transformer's weights, {weights:.1f} GB. Decoding in "
        f"the node's tiles of {VAE_TILE} pixels takes {tile:.1f} GB, whatever the size and length.\n"
    )


def main() -> None:
    rows, vae = [], host_vae()
    vae.device = torch.device("cuda")  # what is reckoned with there
    for row in peaks():
        reckoned, peak = estimate(vae, row["what"], tuple(row["size"])), row["peak"]
        ratio = reckoned / peak
        question = "{}: estimate against peak, {}×{}×{}".format(row["what"], *row["size"])
        figure = f"{ratio:.2f} × ({reckoned / GB:.2f} of {peak / GB:.2f} GB)"
        rows.append(Row(question, "0.75 to 1.25", figure, abs(ratio - 1) <= 0.25, row["how"]))
    report(__file__, rows, table(vae))


if __name__ == "__main__":
    main()
