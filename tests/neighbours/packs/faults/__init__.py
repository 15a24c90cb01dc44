"""A pack for tests: a layer that waits for Cancel or runs out of memory, and a node that goes online."""

import contextlib
import ctypes
import gc
import subprocess
import sys
import time
import weakref

import comfy.model_management as mm
import comfy.utils
import torch
from aiohttp import web
from server import PromptServer

TIMEOUT = 60  # seconds until a test that never cancels has failed
READING = "reading"  # in place of a layer: the next file that is read


class Any(str):
    """A type that fits every socket."""

    def __ne__(self, other):
        return False


ANY = Any("*")


class Fault:
    """Counts the calls of a layer; from number `first` on, `times` of them fail."""

    def __init__(self, kind: str, first: int, times: int):
        self.kind, self.failing = kind, range(first, first + times)
        self.calls, self.waiting, self.layer_input = 0, False, lambda: None

    def __call__(self, _layer, inputs: tuple, named: dict) -> None:
        self.calls += 1
        if self.calls not in self.failing:
            return
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor)]
        self.layer_input = weakref.ref(tensors[0]) if tensors else self.layer_input
        if self.kind == "memory":
            raise mm.OOM_EXCEPTION("Allocation on device failed: this is a test.")
        self._wait()

    def _wait(self) -> None:
        self.waiting, deadline = True, time.monotonic() + TIMEOUT
        while not mm.processing_interrupted() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.waiting = False

    def memory(self) -> dict:
        """`held`: whether the failing layer's input is still in memory; the host's loaded models; bytes of tensors.

        The host's handling of errors leaves a reference cycle around them, so the collector runs first; then glibc
        returns its reserve, so that the memory of the process is what it uses.
        """
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        tensors = sum(_storages().values())
        return {"held": self.layer_input() is not None, "loaded": len(mm.loaded_models()), "tensor_bytes": tensors}


class InjectFault:
    """Passes on a MODEL, VAE or CLIP of which a layer will fail, or the name of a file to be read."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "inject", (ANY,)
    last = Fault("memory", 0, 0)

    @classmethod
    def INPUT_TYPES(cls):
        fault = {"layer": ("STRING",), "fault": (["interrupt", "memory"],), "first": ("INT",), "times": ("INT",)}
        return {"required": {**fault, "target": (ANY,), "number": ("INT",)}}

    def inject(self, layer, fault, first, times, target, number):
        fault = InjectFault.last = Fault(fault, first, times)
        if layer == READING:
            _inject_into_reading(fault)
        else:
            _network(target).get_submodule(layer).register_forward_pre_hook(fault, with_kwargs=True)
        return (target,)


def _storages() -> dict[int, int]:
    """Addresses of the storages of all living tensors, and their bytes."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            with contextlib.suppress(NotImplementedError):  # another thread frees it just now
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


def _network(thing):
    if hasattr(thing, "first_stage_model"):
        return thing.first_stage_model
    return thing.cond_stage_model if hasattr(thing, "cond_stage_model") else thing.model.diffusion_model


def _inject_into_reading(fault: Fault) -> None:
    """Into the next file only; then all is as it was."""
    read = comfy.utils.load_torch_file

    def faulty(*args, **kwargs):
        comfy.utils.load_torch_file = read
        fault(None, (), {})
        return read(*args, **kwargs)

    comfy.utils.load_torch_file = faulty


class Online:
    """Runs a line of Python here and in a subprocess, and says how each ended."""

    CATEGORY, FUNCTION, RETURN_TYPES, OUTPUT_NODE = "tests", "go", (), True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"line": ("STRING",), "number": ("INT",)}}

    def go(self, line, number):
        done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True)
        try:
            exec(line, {})
            here = "done"
        except Exception as error:
            here = f"{type(error).__name__}: {error}"
        return {"ui": {"ended": [here, done.stderr]}}


@PromptServer.instance.routes.get("/easyanimate_tests/fault")
async def fault(_request) -> web.Response:
    return web.json_response({"calls": InjectFault.last.calls, "waiting": InjectFault.last.waiting})


@PromptServer.instance.routes.get("/easyanimate_tests/memory")
async def memory(_request) -> web.Response:
    return web.json_response(InjectFault.last.memory())


NODE_CLASS_MAPPINGS = {
    "EasyAnimateTestFault": InjectFault,
    "EasyAnimateTestOnline": Online,
}
