"""Beside other packs: ours takes no name but its own and changes nothing, and theirs take nothing from it."""

import json
import re
import subprocess
import sys

import pytest
import torch

from support.pack import HOST, NEIGHBOURS, ROOT
from support.prompts import text_to_frames
from support.videos import read_pictures
from tools.workflows import client
from tools.workflows.author import node

OTHERS = [str(NEIGHBOURS / "packs" / name) for name in ("first", "second")]
HEAVY = {"transformers", "diffusers", "matplotlib", "cv2", "accelerate", "ray", "onnxruntime", "scenedetect"}
TIMEOUT = 600  # seconds


@pytest.fixture(scope="module")
def loaded():
    """What `load_packs` reports of ours between two others, on the real host, in a fresh process."""
    first, second = OTHERS
    command = [sys.executable, "support/load_packs.py", str(HOST), first, str(ROOT), second]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_no_module_but_those_of_the_pack_and_the_standard_library_appears(loaded):
    pack = str(ROOT).replace(".", "_x_")  # how the host calls a pack
    others = {name.split(".")[0] for name in loaded["modules"] if name != pack and not name.startswith(pack + ".")}
    assert others <= sys.stdlib_module_names and not others & HEAVY
    assert pack in loaded["modules"]


def test_names_that_others_have_taken_stay_theirs(loaded):
    assert loaded["names"]["nodes"] == str(HOST / "nodes.py")
    for name in ("dit", "easyanimate_models"):
        assert loaded["names"][name] == str(NEIGHBOURS / "packs" / "first" / f"{name}.py")


def test_nothing_of_the_host_or_its_libraries_is_changed(loaded, record_property):
    """Its functions, classes, methods, list of models, LoRA keys, samplers: all are the same things as before."""
    record_property("seconds", loaded["seconds"])
    ours = re.compile(
        r"nodes:(NODE_CLASS_MAPPINGS|NODE_DISPLAY_NAME_MAPPINGS)\['EasyAnimate\w+'\]"
        rf"|nodes:(LOADED_MODULE_DIRS|EXTENSION_WEB_DIRS)\['{re.escape(ROOT.name)}'\]"
        r"|folder_paths:folder_names_and_paths\['easyanimate'\]"
        r"|folder_paths:filename_list_cache\['\w+'\]"  # the host's, of the folders that it was asked for
    )
    assert [name for name in loaded["changed"] if not ours.fullmatch(name)] == []
    assert "folder_paths:folder_names_and_paths['easyanimate']" in loaded["changed"]


def test_nodes_of_all_packs_work_in_one_prompt(server):
    def saved(name: str, source: str) -> dict:
        return node("SaveImage", images=[source, 0], filename_prefix=f"tests/{name}")

    nodes = text_to_frames(length=8) | {
        "inverted": node("EasyAnimateTestInvert", images=["decode", 0]),
        "halved": node("EasyAnimateTestHalve", images=["inverted", 0]),
        "save": saved("ours", "decode"),
        "other": saved("theirs", "halved"),
        "again": node("EasyAnimateEncode", images=["halved", 0], vae=["vae", 0], tile_size=0),
        "decoded": node("EasyAnimateDecode", latent=["again", 0], vae=["vae", 0], tile_size=0),
        "last": saved("again", "decoded"),
    }
    outputs = client.run(server, nodes)
    ours, theirs, last = (read_pictures({name: outputs[name]}) for name in ("save", "other", "last"))
    torch.testing.assert_close(theirs, (1 - ours) / 2, atol=1 / 255, rtol=0)
    assert last.shape == ours.shape
