"""What the C library keeps of models that are gone goes back to the system."""

import ctypes
import gc
import subprocess
import sys
import time
import weakref

import pytest
import torch

from support.control_arithmetic import pixart_file
from support.pack import HOST, ROOT, part
from support.stand_ins import write_image_encoder

memory = part("easyanimate_models.memory")
sd = part("easyanimate_models.sd")
TINY = part("easyanimate_models.files.model_files").TINY
LOADERS = {  # what loads a network, and where in the result it is
    "transformer": lambda _: sd.load_transformer(TINY).model.diffusion_model,
    "VAE": lambda _: sd.load_vae(TINY).first_stage_model,
    "text encoder": lambda _: sd.load_text_encoder(TINY).cond_stage_model,
    "image encoder": lambda folder: sd.load_image_encoder(write_image_encoder(folder)).model,
    "ControlNet": lambda folder: sd.load_controlnet(_control(folder)).patcher.model,
}
ON_THE_HEAP = """
import time, importlib.util
from pathlib import Path
from comfy.cli_args import args
args.cpu = True
import torch

spec = importlib.util.spec_from_file_location("memory", {file!r})
memory = importlib.util.module_from_spec(spec)
spec.loader.exec_module(memory)

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))

def network():
    return torch.nn.Sequential(*(torch.nn.Linear(512, 512) for _ in range(120)))

memory.DELAY, before = 0.5, anonymous()
large, above = network(), torch.ones(2**18)
memory.return_when_gone(large)
loaded = anonymous()
del large
freed = anonymous()
time.sleep(5 * memory.DELAY)
print(*(level - before for level in (loaded, freed, anonymous())))
"""


def _control(folder):
    pixart_file(folder / "control.safetensors")
    return folder / "control.safetensors"


@pytest.mark.parametrize("load", LOADERS.values(), ids=list(LOADERS))
def test_every_loader_gives_memory_back_when_its_network_is_gone(load, tmp_path, monkeypatch):
    alive = []
    monkeypatch.setattr(memory, "LARGE", 0)
    monkeypatch.setattr(memory, "DELAY", 0.1)
    monkeypatch.setattr(memory, "return_unused", lambda: alive.append(reference() is not None))
    network = load(tmp_path)
    reference = weakref.ref(network)
    assert alive == []
    del network
    gc.collect()
    deadline = time.monotonic() + 30
    while not alive and time.monotonic() < deadline:
        time.sleep(0.05)
    assert alive == [False]


def test_small_networks_are_not_worth_it(monkeypatch):
    announced = []
    monkeypatch.setattr(memory, "_return_soon", lambda: announced.append(True))
    network = torch.nn.Linear(2, 2)
    memory.return_when_gone(network)
    del network
    assert not announced


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="of glibc")
def test_what_lies_below_a_tensor_in_use_goes_back():
    """126 MB of weights on the heap and a tensor above them."""
    script = ON_THE_HEAP.format(file=str(ROOT / "easyanimate_models" / "memory.py"))
    variables = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "PYTHONPATH": str(HOST), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HOST, env=variables, capture_output=True, text=True, check=True
    )
    loaded, freed, returned = map(int, done.stdout.split()[-3:])
    assert loaded > 120e6 and freed > 120e6 and returned < 20e6


def test_without_glibc_nothing_happens(monkeypatch):
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda _: object())
    memory.return_unused()
