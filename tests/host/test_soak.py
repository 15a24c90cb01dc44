"""One server, many runs: it takes no more memory than at first, and makes the same as at first."""

import contextlib
import gc
import sys
import weakref
from concurrent.futures import ThreadPoolExecutor

import comfy.model_management as mm
import psutil
import pytest
import torch

from support.faults import memory, wait_until
from support.own_server import own_server
from support.pack import NEIGHBOURS, part
from support.prompts import text_to_frames
from support.videos import read_pictures
from tools.workflows import client
from tools.workflows.author import node

files = part("easyanimate_models.files.model_files")
sd = part("easyanimate_models.sd")
decoding, latents, prompts, sampling = (part(f"nodes.{n}") for n in ("decoding", "latents", "prompts", "sampling"))
LORA, TINY = files.BUILT_IN_LORA, files.TINY
RUNS, SETTLED, GROWTH = 50, 5, 1.02
REPEATED = 3  # of these runs
RETURN_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**16)}  # so that glibc returns freed tensors at once
NEARLY_NOTHING = 1_000_000  # bytes; the tiny model has 28 times as many


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A server that has done nothing yet, and its process."""
    packs = ("--extra-model-paths-config", str(NEIGHBOURS / "extra_model_paths.yaml"))
    with own_server(tmp_path_factory.mktemp("server"), *packs, **RETURN_MEMORY) as server:
        yield server


def prompt(number: int) -> dict:
    """Another seed each time, and a LoRA in two of three runs: the fifth, and the fiftieth."""
    nodes = text_to_frames(length=8)
    nodes["sampler"]["inputs"]["seed"] = number
    if number % 3:
        nodes["lora"] = node("EasyAnimateLoadLora", model=["model", 0], lora=LORA, strength_model=1.0)
        nodes["sampler"]["inputs"]["model"] = ["lora", 0]
    return nodes


def pictures(port: int, number: int) -> torch.Tensor:
    return read_pictures(client.run(port, prompt(number)))


def used(port: int, process: psutil.Process) -> tuple[int, int]:
    """Bytes of the process, and of the tensors in it."""
    tensors = memory(port)["tensor_bytes"]  # first: it also gives back what nobody uses
    return process.memory_info().rss, tensors


def free(port: int) -> None:
    """Ask the server to free all memory until it has; it may miss half of a request, so it is asked again."""

    def is_free() -> bool:
        client.post(port, "/free", {"unload_models": True, "free_memory": True})
        state = memory(port)
        return state["loaded"] == 0 and state["tensor_bytes"] < NEARLY_NOTHING

    wait_until(is_free)


def test_fifty_runs_take_no_more_memory_than_five_and_all_of_it_comes_back(alone, record_property):
    """Nor do they make anything else than the first runs did: without a LoRA, and with one that came and went."""
    port, process = alone
    levels = {"untouched": used(port, process)}
    pictures(port, 0)
    free(port)
    levels["once"] = used(port, process)  # what Python has imported since stays
    first_runs = {}
    for number in range(1, RUNS + 1):
        frames = pictures(port, number)
        if number <= REPEATED:
            first_runs[number] = frames
        if number in (SETTLED, RUNS):
            levels[f"run {number}"] = used(port, process)
    assert all(torch.equal(pictures(port, number), frames) for number, frames in first_runs.items())
    free(port)
    with contextlib.suppress(TimeoutError):  # a second after a model is gone the pack gives its memory back
        wait_until(lambda: used(port, process)[0] <= GROWTH * levels["once"][0])
    levels["freed"] = used(port, process)
    for name, (resident, tensors) in levels.items():
        record_property(name, (resident, tensors))
        sys.stdout.write(f"{name}: {resident / 2**20:.1f} MiB, {tensors} bytes of tensors\n")
    settled, last = levels[f"run {SETTLED}"], levels[f"run {RUNS}"]
    assert last[0] <= GROWTH * settled[0] and levels["freed"][0] <= GROWTH * levels["once"][0]
    assert last[1] == settled[1] > levels["untouched"][1] == levels["once"][1] == levels["freed"][1]


def test_two_prompts_queued_at_once_make_what_they_make_alone(alone):
    port, _ = alone
    numbers = (101, 102)
    with ThreadPoolExecutor() as pool:
        together = list(pool.map(lambda number: pictures(port, number), numbers))
    free(port)
    for number, frames in zip(numbers, together, strict=True):
        assert torch.equal(pictures(port, number), frames)


def test_unloading_leaves_nothing_of_what_a_run_had_in_memory():
    model, vae, clip = sd.load_transformer(TINY), sd.load_vae(TINY), sd.load_text_encoder(TINY)
    text, no_text = prompts.EasyAnimateEncodePrompt.execute(clip, "a red ball", "", True).args
    latent = latents.EasyAnimateEmptyLatent.execute(64, 64, 8, 1).args[0]
    settings = {"seed": 1, "steps": 2, "cfg": 2.0, "sampler": "euler", "scheduler": "easyanimate", "denoise": 1.0}
    samples = sampling.EasyAnimateSampler.execute(model, text, no_text, latent, **settings).args[0]
    images = decoding.EasyAnimateDecode.execute(samples, vae, 0).args[0]
    networks = (model.model.diffusion_model, vae.first_stage_model, clip.cond_stage_model)
    references = [weakref.ref(thing) for thing in (*networks, samples["samples"], images, text[0][0])]
    mm.unload_all_models()
    del networks, model, vae, clip, text, no_text, latent, samples, images
    gc.collect()
    mm.cleanup_models()
    assert mm.loaded_models() == [] and [reference() for reference in references] == [None] * len(references)
