"""A pack for tests: a network that waits for Cancel in the middle, or runs out of memory; a node that goes online."""

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

PATIENCE = 60  # seconds until a test that never cancels has failed
READING = "reading"  # instead of a layer: whatever file is read next


class Any(str):
    """A type that fits every socket."""

    def __ne__(self, other):
        return False


ANY = Any("*")


class Watch:
    """Calls of one layer; from number `first` on, `times` of them go wrong."""

    def __init__(self, kind: str, first: int, times: int):
        self.kind, self.wrong = kind, range(first, first + times)
        self.calls, self.waiting, self.shown = 0, False, lambda: None

    def __call__(self, _layer, inputs: tuple, named: dict) -> None:
        self.calls += 1
        if self.calls not in self.wrong:
            return
        tensors = [value for value in (*inputs, *named.values()) if isinstance(value, torch.Tensor)]
        self.shown = weakref.ref(tensors[0]) if tensors else self.shown
        if self.kind == "memory":
            raise mm.OOM_EXCEPTION("Allocation on device failed: this is a test.")
        self._wait()

    def _wait(self) -> None:
        self.waiting, deadline = True, time.monotonic() + PATIENCE
        while not mm.processing_interrupted() and time.monotonic() < deadline:
            time.sleep(0.005)
        self.waiting = False

    def memory(self) -> dict:
        """For tests; `held` says whether what the layer was given when it went wrong is still in memory.

        The host's handling of errors leaves a cycle around them, so the collector runs first; then glibc gives back
        what it keeps for later, so that the memory of the process is what it uses.
        """
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)
        tensors = sum(_storages().values())
        return {"held": self.shown() is not None, "loaded": len(mm.loaded_models()), "tensor_bytes": tensors}


class Trouble:
    """Hands on a MODEL, VAE or CLIP of which a layer will go wrong, or the name of a file to be read."""

    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "watch", (ANY,)
    seen = Watch("memory", 0, 0)

    @classmethod
    def INPUT_TYPES(cls):
        told = {"layer": ("STRING",), "trouble": (["interrupt", "memory"],), "first": ("INT",), "times": ("INT",)}
        return {"required": {**told, "thing": (ANY,), "number": ("INT",)}}

    def watch(self, layer, trouble, first, times, thing, number):
        watch = Trouble.seen = Watch(trouble, first, times)
        if layer == READING:
            _watch_reading(watch)
        else:
            _network(thing).get_submodule(layer).register_forward_pre_hook(watch, with_kwargs=True)
        return (thing,)


def _storages() -> dict[int, int]:
    """Where the tensors lie that are alive, and how many bytes each such place has."""
    found = {}
    for thing in gc.get_objects():
        if issubclass(type(thing), torch.Tensor):
            with contextlib.suppress(NotImplementedError):  # another thread lets go of it just now
                storage = thing.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
    return found


def _network(thing):
    if hasattr(thing, "first_stage_model"):
        return thing.first_stage_model
    return thing.cond_stage_model if hasattr(thing, "cond_stage_model") else thing.model.diffusion_model


def _watch_reading(watch: Watch) -> None:
    """The next file only; then all is as it was."""
    read = comfy.utils.load_torch_file

    def watched(*args, **kwargs):
        comfy.utils.load_torch_file = read
        watch(None, (), {})
        return read(*args, **kwargs)

    comfy.utils.load_torch_file = watched


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


@PromptServer.instance.routes.get("/easyanimate_tests/trouble")
async def trouble(_request) -> web.Response:
    return web.json_response({"calls": Trouble.seen.calls, "waiting": Trouble.seen.waiting})


@PromptServer.instance.routes.get("/easyanimate_tests/memory")
async def memory(_request) -> web.Response:
    return web.json_response(Trouble.seen.memory())


NODE_CLASS_MAPPINGS = {
    "EasyAnimateTestTrouble": Trouble,
    "EasyAnimateTestOnline": Online,
}
