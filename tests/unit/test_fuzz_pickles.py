"""Pickles that would run code, and links and pipes where weights should lie: nothing runs, nothing waits."""

import os
import pickle
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from support.mutations import answered, fuzzed
from support.pack import part
from support.pickles import Call, saved

files = part("easyanimate_models.files.model_files")
read_checkpoint = part("easyanimate_models.files.checkpoint").read_checkpoint


WEIGHTS = {"head.weight": torch.ones(1, 8), "head.bias": torch.zeros(1)}
PICKLES = (saved(WEIGHTS), saved({"state_dict": WEIGHTS}, _use_new_zipfile_serialization=False), pickle.dumps({"a": 1}))


@pytest.mark.parametrize("kind", range(len(PICKLES)), ids=["as now", "as before 2020", "plain"])
def test_pickles(kind, tmp_path):
    whole, file, target = PICKLES[kind], tmp_path / "head.pt", tmp_path / "executed"
    code = pickle.dumps(Call(os.system, f"touch {target}"), protocol=2)[2:-1]

    some = st.sampled_from([code, b"", b"\0", b"R", b"cos\nsystem\n"]) | st.binary(max_size=8)

    @fuzzed
    @given(st.integers(0, len(whole)), some, st.integers(0, 9), st.integers(0, len(whole) * 4))
    def test(start, some, gone, end):
        file.write_bytes((whole[:start] + some + whole[start + gone :])[:end])
        answered(lambda: read_checkpoint(file, "vae"))
        assert not target.exists()

    test()


@pytest.mark.parametrize(
    "call", [(os.system,), (eval,), (exec,), (open,), (__import__,)], ids=lambda call: call[0].__name__
)
def test_pickles_that_would_run_code(call, tmp_path):
    file, target = tmp_path / "head.bin", tmp_path / "executed"
    word = {os.system: f"touch {target}", open: str(target), __import__: "antigravity"}
    file.write_bytes(saved({"a": torch.zeros(1), "b": Call(*call, word.get(call[0], f"open({str(target)!r}, 'w')"))}))
    assert "could run code" in answered(lambda: read_checkpoint(file, "vae")) and not target.exists()
    assert "antigravity" not in sys.modules


# --- where files lie ------------------------------------------------------------------------------------------------


def test_links_that_lead_nowhere_hide_no_other_file(tmp_path, monkeypatch):
    """One broken link among the models once hid every loader."""
    import folder_paths

    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "vae", ([str(tmp_path / "vae")], {".safetensors"}))
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "easyanimate", ([str(tmp_path / "releases")], set()))
    (tmp_path / "vae").mkdir()
    (tmp_path / "releases").mkdir()
    (tmp_path / "vae" / "good.safetensors").write_bytes(b"")
    os.symlink(tmp_path / "gone", tmp_path / "vae" / "gone.safetensors")
    for name in ("vae/loop.safetensors", "releases/loop"):
        os.symlink(tmp_path / name, tmp_path / name)
    os.symlink(tmp_path / "releases", tmp_path / "releases" / "itself")
    offered = set(files.choices("vae"))
    assert "good.safetensors" in offered and not {"gone.safetensors", "loop.safetensors", "easyanimate/loop"} & offered
    for name in ("gone.safetensors", "loop.safetensors", "../x", "/etc/passwd", "good.safetensors/../../x", "\0"):
        assert "refresh and choose again" in answered(lambda name=name: files.resolve("vae", name))
        assert "refresh and choose again" in answered(lambda name=name: files.host_path("vae", name))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes among its files")
def test_a_pipe_among_the_weights_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    assert "should contain the weights" in answered(lambda: read_checkpoint(tmp_path, "vae"))
    assert "not a weights file" in answered(lambda: read_checkpoint(tmp_path / "model.safetensors", "vae"))
