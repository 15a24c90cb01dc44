"""Does the host know how much memory a size takes? Its estimates against peaks, real width, bfloat16.

With a GPU all peaks are measured and kept in `results/gpu.json`. Without one, those of the VAE are taken from there,
and a step is measured on the CPU, at two sizes; `step_memory` counts the others.
"""

import json

import comfy.model_management as mm
import torch

from easyanimate_models.dit.step_plan import StepPlan
from easyanimate_models.vae.host_vae import HostVAE

from .measure import CUDA, RESULTS, Row, in_own_process, machine, peak_above, report
from .networks import V3, host_vae, step_inputs, transformer

SIZES = ((256, 256, 16), (256, 256, 144), (512, 512, 48), (768, 768, 48), (512, 512, 144), (768, 768, 144))
SMALL = SIZES[:2]  # what a CPU measures; a minute
KEPT = RESULTS / "gpu.json"
DTYPE = torch.bfloat16
GB = 1e9
META = torch.device("meta")


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
    return measured + [peak for peak in json.loads(KEPT.read_text()) if peak["what"] != "sample"]


def estimate(vae: HostVAE, what: str, size: tuple[int, int, int]) -> float:
    """What the host reckons with, on a GPU with PyTorch's attention."""
    width, height, frames = size
    if what == "encode":
        return vae.memory_used_encode((1, 3, frames, height, width), DTYPE)
    shape = (1, 4, frames // 4, height // 8, width // 8)
    if what == "decode":
        return vae.memory_used_decode(shape, DTYPE)
    network = transformer(dtype=DTYPE, device=META)
    return network.step_bytes((2, *shape[1:]), DTYPE.itemsize, StepPlan())


def main() -> None:
    rows, vae = [], host_vae()
    vae.device = torch.device("cuda")  # what is reckoned with there
    for row in peaks():
        reckoned, peak = estimate(vae, row["what"], tuple(row["size"])), row["peak"]
        ratio = reckoned / peak
        question = "{}: estimate against peak, {}×{}×{}".format(row["what"], *row["size"])
        figure = f"{ratio:.2f} × ({reckoned / GB:.2f} of {peak / GB:.2f} GB)"
        rows.append(Row(question, "0.75 to 1.25", figure, abs(ratio - 1) <= 0.25, row["how"]))
    report(__file__, rows)


if __name__ == "__main__":
    main()
