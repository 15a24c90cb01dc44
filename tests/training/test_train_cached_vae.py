"""Training the VAEs of V4, V5 and V5.1: slices with their caches, as at inference, from recipes to files that load."""

import gzip
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.components import write_component
from support.pack import ROOT, part
from support.recorded import GOLDEN, relative_error
from support.tiny_networks import VAE_CONFIGS, random, randomise, tiny_release_vae

inflating = part("easyanimate_models.training.vae.inflate")
journal = part("easyanimate_models.training.journal")
network = part("easyanimate_models.training.vae.network")
objectives = part("easyanimate_models.training.vae.objective")
reconstruct = part("easyanimate_models.training.vae.reconstruct")
recipes = part("easyanimate_models.training.recipe")
run = part("easyanimate_models.training.recipe_run")
sd = part("easyanimate_models.sd")
toys = part("easyanimate_models.training.toy.toy_clips")
RECIPES = ROOT / "easyanimate_models" / "training" / "recipes"
CACHED = {"V4": "pair", "V5": "causal_attention", "V5.1": "causal"}  # architectures
MANIFESTS = {"V4": "v4_vae", "V5": "v5_vae", "V5.1": "v5_v51_vae"}
FRAMES = {"V4": 16, "V5": 13, "V5.1": 13}
WIDTHS = (8, 12, 16, 16)  # that grow where those of the releases do, so that the layers are the same
CONFIGS = {release: replace(VAE_CONFIGS[release], channels=WIDTHS) for release in CACHED}
PLAIN = objectives.VAESettings(perceptual=0.0, adversary=0.0)
every_cached = pytest.mark.parametrize("release", CACHED)

pytestmark = pytest.mark.usefixtures("gradients")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips without captions."""
    folder = tmp_path_factory.mktemp("pixels")
    toys.write_toys(folder, "wider", 3)
    for caption in folder.glob("*.txt"):
        caption.unlink()
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A VAE of each release as it is published, small."""
    folders = {}
    for release in CACHED:
        kind = network.RELEASES[CACHED[release]]
        vae = kind.vae(CONFIGS[release])
        randomise(vae)
        folder = tmp_path_factory.mktemp(release) / "vae"
        folders[release] = write_component(folder, vae.state_dict(), kind.vae_config_json(CONFIGS[release]))
    return folders


def recipe(clips: Path, folder: Path, start: Path | str = "", stem: str = "vae_v51", **changed):
    """A shipped recipe for a few steps, without the networks that have to be downloaded."""
    of_file = recipes.read_recipe(RECIPES / f"{stem}.toml")
    settings = {"perceptual": 0.0, "adversary": 0.0, "channels": WIDTHS, "norm_groups": 4, "crop": 32}
    data = replace(of_file.data, side=64, frames=changed.pop("frames", 9), batch=2)
    plan = {"steps": 3, "learning_rate": 2e-3, "ema": 0.5, **changed.pop("plan", {})}
    return replace(
        of_file,
        clips=clips,
        folder=folder,
        models=recipes.Models(vae=str(start)),
        data=data,
        plan=replace(of_file.plan, **plan),
        vae=replace(of_file.vae, **settings | changed.pop("vae", {})),
        validation=changed.pop("validation", recipes.ValidationSettings()),
    )


# --- slices and their caches --------------------------------------------------------------------------------------


@every_cached
@torch.no_grad()
def test_slices_are_those_of_inference(release):
    vae, x = tiny_release_vae(release).first_stage_model, random(1, 3, FRAMES[release], 16, 24)
    for each in (reconstruct.call, reconstruct.recompute):
        mean, _ = reconstruct.encode_moments(vae, x, each)
        assert torch.equal(mean, vae.encode(x))
        assert torch.equal(reconstruct.decode_latents(vae, mean, each), vae.decode(mean))


@every_cached
@pytest.mark.parametrize("learns", objectives.LEARNING)
def test_recomputing_slices_changes_no_gradient(release, learns):
    """Nor does what a cache holds when the backward pass comes, long after the slice."""
    gradients, x = [], random(1, 3, FRAMES[release], 16, 16)
    for recomputing in (False, True):
        vae = tiny_release_vae(release).first_stage_model
        torch.manual_seed(1)
        settings = replace(PLAIN, learns=learns)
        objectives.VAEObjective(vae, lambda _: x, settings, checkpointing=recomputing)(0)[0].backward()
        gradients.append([p.grad for p in vae.parameters()])
    assert sum(gradient is not None for gradient in gradients[0]) > 20
    for plain, again in zip(*gradients, strict=True):
        assert (plain is None) == (again is None)
        assert plain is None or torch.allclose(plain, again, atol=1e-6)


def test_gradients_reach_the_slices_before():
    vae = tiny_release_vae("V5.1").first_stage_model
    x = random(1, 3, 13, 16, 16).requires_grad_()
    mean, _ = reconstruct.encode_moments(vae, x, reconstruct.recompute)
    (gradient,) = torch.autograd.grad(mean[:, :, -1].sum(), x)
    assert all(gradient[:, :, first:last].abs().sum() > 0 for first, last in ((1, 5), (5, 9), (9, 13)))


# --- recipes ------------------------------------------------------------------------------------------------------


@every_cached
def test_a_published_vae_is_trained_and_loads_as_what_it_was(clips, published, tmp_path, release):
    frames, start = 8 if release == "V4" else 9, published[release]
    plan, held_out = {"steps": 30, "learning_rate": 5e-3}, recipes.ValidationSettings(clips=("again.mkv",), every=30)
    for name in ("clip.mkv", "again.mkv"):
        (tmp_path / "clips").mkdir(exist_ok=True)
        shutil.copy(clips / "toy_0001.mkv", tmp_path / "clips" / name)
    file = run.run_recipe(
        recipe(tmp_path / "clips", tmp_path / "run", start.parent, frames=frames, plan=plan, validation=held_out)
    )
    first, *_, last = journal.read_log(tmp_path / "run" / "log.csv")
    assert float(last["validation"]) < 0.8 * float(first["validation"])
    before, after = load_file(start / file.name), load_file(file)
    manifest = (GOLDEN / "manifests" / f"{MANIFESTS[release]}.json.gz").read_bytes()
    names = set(json.loads(gzip.decompress(manifest))["keys"])
    assert set(before) == set(after) == names
    assert all(before[name].shape == after[name].shape for name in names)
    assert (
        json.loads((start / "config.json").read_text()).items()
        <= json.loads((file.parent / "config.json").read_text()).items()
    )
    loaded = sd.load_vae(file.parent.parent)
    assert loaded.latent_format.release == release and loaded.first_stage_model.config == CONFIGS[release]
    with torch.no_grad():
        assert loaded.decode(loaded.encode(torch.rand(frames, 64, 64, 3))).shape == (1, frames, 64, 64, 3)


@every_cached
def test_a_run_that_was_stopped_goes_on_bit_by_bit(clips, published, tmp_path, release):
    def stop(done, _):
        if done == 2:
            raise KeyboardInterrupt

    settings = {"adversary": 0.5, "adversary_from": 1, "critic_width": 8, "stills": 0.5}
    frames = 8 if release == "V4" else 9
    whole, cut = (recipe(clips, tmp_path / n, published[release], frames=frames, vae=settings) for n in ("all", "cut"))
    expected = load_file(run.run_recipe(whole))
    with pytest.raises(KeyboardInterrupt):
        run.run_recipe(cut, stop)
    resumed = load_file(run.run_recipe(cut))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in expected.items())


def test_the_decoder_alone_leaves_latents_as_they_are(clips, published, tmp_path):
    start = published["V5.1"]
    file = run.run_recipe(recipe(clips, tmp_path, start, "vae_v51_decoder"))
    before, after = load_file(start / file.name), load_file(file)
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith(("decoder.", "post_quant_conv."))), name


@every_cached
def test_one_is_trained_from_scratch_stills_first(clips, tmp_path, release):
    frames, settings = 8 if release == "V4" else 9, {"architecture": CACHED[release]}
    stills = run.run_recipe(recipe(clips, tmp_path / "stills", frames=frames, vae={**settings, "stills": 1.0}))
    file = run.run_recipe(recipe(clips, tmp_path / "clips", stills.parent, frames=frames, vae=settings))
    vae = sd.load_vae(file)
    assert vae.latent_format.release == release
    assert vae.first_stage_model.config == CONFIGS[release]


@pytest.mark.parametrize("kind", ["window", "slice", "causal_attention", "causal"])
@torch.no_grad()
def test_stills_are_what_a_video_is_made_of_at_first(kind):
    """A VAE that learnt stills decodes them as before, and each frame of what stands still in the same way."""
    before = network.RELEASES[kind].vae(replace(VAE_CONFIGS["V5.1"], channels=WIDTHS))
    after = type(before)(before.config)
    randomise(before)
    after.load_state_dict(inflating.seeing_one_frame(before.state_dict(), before))
    still = torch.rand(1, 3, 1, 32, 32)
    z = before.encode(still)
    assert relative_error(after.encode(still), z) < 1e-5
    decoded = before.decode(z)
    assert relative_error(after.decode(z), decoded) < 1e-5
    whole = still.expand(-1, -1, 9, -1, -1)
    video = after.decode(after.encode(whole))
    assert relative_error(video, decoded.expand_as(video)) < 1e-5


def test_v4s_begins_with_v3s_weights_and_its_latents_are_the_same(tmp_path):
    slices = tiny_release_vae("V3")
    pairs = network.trainable_vae(slices, replace(PLAIN, architecture="pair"))
    x = random(1, 3, 16, 16, 16)
    assert type(pairs) is network.RELEASES["pair"].vae
    with torch.no_grad():
        assert torch.equal(pairs.encode(x), slices.first_stage_model.float().encode(x))


@pytest.mark.parametrize(
    ("start", "architecture"), [("V5.1", "causal_attention"), ("V5", "slice"), ("V3", "causal"), ("V1", "causal")]
)
def test_what_can_not_become_another_is_named(start, architecture):
    with pytest.raises(ValueError, match=f'can\'t become "{architecture}", whose layers are others; remove archi'):
        network.trainable_vae(tiny_release_vae(start), replace(PLAIN, architecture=architecture))


def test_a_cpu_computes_in_float32_and_says_so(clips, published, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    losses = []
    for precision in ("bf16", "fp32"):
        caplog.clear()
        run.run_recipe(recipe(clips, tmp_path / precision, published["V5"], plan={"precision": precision}))
        losses.append([row["loss"] for row in journal.read_log(tmp_path / precision / "log.csv")])
        assert ("trained in float32 on a CPU" in caplog.text) == (precision == "bf16")
    assert losses[0] == losses[1]


# --- validation ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("release", ["V3", "V5.1"])
def test_clips_that_are_held_out_are_measured_at_fixed_noise(clips, published, tmp_path, release):
    start = "built-in" if release == "V3" else published[release]
    held_out = recipes.ValidationSettings(share=0.3, every=2)

    def measured(name: str, rate: float, **changed) -> dict[int, tuple[str, str]]:
        changed = {"validation": held_out, "plan": {"learning_rate": rate}, **changed}
        run.run_recipe(recipe(clips, tmp_path / name, start, vae={"stills": 0.5}, **changed))
        rows = journal.read_log(tmp_path / name / "log.csv")
        return {int(row["step"]): (row["validation"], row["validation_psnr"]) for row in rows if row.get("validation")}

    learning, still = measured("learning", 2e-3), measured("still", 1e-30)
    assert list(learning) == list(still) == [0, 2, 3]
    assert len(set(still.values())) == 1 and learning[0] == still[0]
    assert learning[3][0] != learning[0][0] and learning[3][1] != learning[0][1]
    assert measured("without", 1e-30, validation=recipes.ValidationSettings()) == {}
    with pytest.raises(ValueError, match="was started with validation = 0.3, but now it is 0.6"):
        measured("still", 1e-30, validation=replace(held_out, share=0.6))


def test_clips_that_are_held_out_are_not_learnt_from(clips, published, tmp_path, monkeypatch):
    batches = part("easyanimate_models.training.vae.run").PixelBatches
    seen, read = set(), batches._read_clip

    def noted(self, item, *args):
        seen.add((item.held_out, item.file.name))
        return read(self, item, *args)

    monkeypatch.setattr(batches, "_read_clip", noted)
    name = sorted(file.name for file in clips.glob("toy_*"))[0]
    held_out = recipes.ValidationSettings(clips=(name,), every=2)
    run.run_recipe(recipe(clips, tmp_path, published["V5.1"], validation=held_out))
    assert {file for is_held_out, file in seen if is_held_out} == {name}
    assert len({file for is_held_out, file in seen if not is_held_out} - {name}) == 2


def test_the_picture_shows_the_psnr(tmp_path, monkeypatch):
    from matplotlib.axes import Axes

    (tmp_path / "log.csv").write_text("step,loss,validation,validation_psnr\n0,0.4,0.5,20\n1,0.2,,\n2,,0.3,25\n")
    drawn, plot = {}, Axes.plot
    monkeypatch.setattr(
        Axes, "plot", lambda axes, x, y, **kw: drawn.update({kw["label"]: (x, y)}) or plot(axes, x, y, **kw)
    )
    journal.plot_loss(tmp_path)
    assert drawn["validation psnr"] == ([0, 2], [20.0, 25.0]) and (tmp_path / "loss.png").stat().st_size
