"""A VAE in stages: inflated from an image VAE, whole, its decoder alone; by pixels, a perceptual loss and critics."""

import json
import random
from dataclasses import replace
from pathlib import Path

import comfy.ops
import pytest
import torch
from safetensors.torch import load_file, save_file

from support.footage import write_image
from support.pack import part
from support.recorded import relative_error

loop = part("easyanimate_models.training.loop")
learner = part("easyanimate_models.training.learner")
initialize = part("easyanimate_models.training.initialize")
objectives = part("easyanimate_models.training.vae.objective")
critics = part("easyanimate_models.training.vae.critics")
previews = part("easyanimate_models.training.vae.preview")
perceptual = part("easyanimate_models.training.vae.perceptual")
reconstruct = part("easyanimate_models.training.vae.reconstruct")
inflating = part("easyanimate_models.training.vae.inflate")
recipes = part("easyanimate_models.training.recipe")
run = part("easyanimate_models.training.recipe_run")
vae_run = part("easyanimate_models.training.vae.run")
toys = part("easyanimate_models.training.toy.toy_clips")
shapes = part("easyanimate_models.training.toy.shapes")
sd = part("easyanimate_models.sd")
tiny = part("easyanimate_models.training.toy.tiny")
image_vae = part("easyanimate_models.vae.image_vae")
slicing = part("easyanimate_models.vae.slicing")
slice_vae = part("easyanimate_models.vae.slice_vae")
OPS = {"dtype": torch.float32, "device": None, "operations": comfy.ops.disable_weight_init}
SMALL = {"channels": (8, 8, 16, 16), "norm_groups": 4}
PLAN = loop.TrainingPlan(steps=6, learning_rate=2e-3, warmup=1, ema=0.5, clip=1.0, seed=3)
PLAIN = objectives.VAESettings(perceptual=0.0, adversary=0.0, **SMALL)

pytestmark = pytest.mark.usefixtures("gradients")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips and an image without captions."""
    folder = tmp_path_factory.mktemp("pixels")
    toys.write_toys(folder, "wider", 3)
    for caption in folder.glob("*.txt"):
        caption.unlink()
    write_image(folder / "still.png")
    return folder


def small_image_vae():
    torch.manual_seed(0)
    return initialize.reset_parameters(image_vae.ImageVAE(image_vae.ImageVAEConfig(SMALL["channels"], 2, 4, 4), **OPS))


def small_vae():
    torch.manual_seed(0)
    return initialize.reset_parameters(slice_vae.SliceVAE(replace(tiny.VAE, channels=SMALL["channels"]), **OPS))


def pixels(frames: int = 8, count: int = 2):
    """The same clips in every step."""
    x, _ = shapes.render(shapes.split_scenes()[0][:count], random.Random(0), frames)
    return lambda batch: x[..., :32, :32]


@pytest.mark.parametrize("kind", [slice_vae.SliceVAE, slice_vae.WindowVAE])
@torch.no_grad()
def test_an_inflated_vae_does_to_still_frames_what_the_image_vae_did(kind):
    image = small_image_vae()
    video = inflating.inflate(image, kind, **OPS)
    frame = pixels(1, 1)(0)
    still = image.encode(frame)
    assert relative_error(video.encode(frame), still) < 1e-5
    assert relative_error(video.decode(still), image.decode(still)) < 1e-5
    whole = frame.expand(-1, -1, video.plan.frames_per_slice, -1, -1)
    z = video.encode(whole)
    assert relative_error(z, still.expand_as(z)) < 1e-5
    decoded = video.decode(z)
    assert relative_error(decoded, image.decode(still).expand_as(decoded)) < 1e-5


def test_stable_diffusions_vae_inflates_to_the_size_of_v3():
    ops = OPS | {"device": "meta"}
    image = image_vae.ImageVAE(image_vae.ImageVAEConfig((128, 256, 512, 512), 2, 4, 32), **ops)
    video = inflating.inflate(image, slice_vae.SliceVAE, **ops)
    assert sum(p.numel() for p in video.parameters()) > 2.5 * sum(p.numel() for p in image.parameters())


def test_another_number_of_layers_is_named():
    image = image_vae.ImageVAE(image_vae.ImageVAEConfig(SMALL["channels"], 3, 4, 4), **OPS)
    with pytest.raises(ValueError, match="An image VAE with 3 layers per level can't be inflated; it must have 2"):
        inflating.inflate(image, slice_vae.SliceVAE, **OPS)


def test_a_decoder_that_learns_alone_leaves_latents_as_they_are(tmp_path):
    vae, before = small_vae(), small_vae()
    settings = replace(PLAIN, learns="decoder")
    for name, parameter in vae.named_parameters():
        parameter.requires_grad_(name.startswith(vae_run.DECODER))
    loop.fit(tmp_path, vae, objectives.VAEObjective(vae, pixels(), settings), PLAN)
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name]) == (not name.startswith(vae_run.DECODER)), name


def test_recomputing_slices_changes_no_gradient():
    gradients = []
    for recomputing in (False, True):
        vae = small_vae()
        torch.manual_seed(1)
        loss, _ = objectives.VAEObjective(vae, pixels(16), PLAIN, checkpointing=recomputing)(0)
        loss.backward()
        gradients.append([p.grad for p in vae.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.allclose(plain, again, atol=1e-7)


class Blocks:
    """A VAE of stills whose latents are the colours of squares of eight pixels."""

    plan = slicing.CAUSAL

    def decode_slice(self, z, *_):
        return z.repeat_interleave(8, -1).repeat_interleave(8, -2)


@pytest.mark.parametrize(("block", "exact"), [(4, True), (1, False)])
def test_latents_are_equivariant_where_coarse_ones_stand_for_coarse_pixels(block, exact):
    z = torch.rand(2, 3, 1, 8 // block, 8 // block).repeat_interleave(block, -1).repeat_interleave(block, -2)
    x = Blocks().decode_slice(z)
    losses = [float(reconstruct.scale_equivariance(Blocks(), x, z)) for _ in range(8)]  # a half and a quarter
    assert (max(losses) < 1e-6) == exact and len(set(losses)) <= 2


def test_equivariance_teaches_the_encoder():
    vae = small_vae()
    objective = objectives.VAEObjective(vae, pixels(), replace(PLAIN, equivariance=1.0, l1=0.0, l2=1e-9, kl=0.0))
    loss, figures = objective(0)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(float(figures["equivariance"]), rel=1e-4)
    assert float(vae.encoder.conv_in.weight.grad.abs().max()) > 0


def test_equivariance_needs_pixels_to_shrink():
    with pytest.raises(ValueError, match="equivariance needs 32 pixels or more; set a larger crop or side"):
        reconstruct.scale_equivariance(Blocks(), torch.zeros(1, 3, 1, 24, 24), torch.zeros(1, 3, 1, 3, 3))


def with_critics(settings):
    """A VAE and its objective, with critics; the same each time."""
    vae = small_vae()
    torch.manual_seed(2)
    networks = objectives.LossNetworks(critics=critics.make_critics(8))
    objective = objectives.VAEObjective(vae, pixels(), settings, networks)
    return vae, objective, learner.ObjectiveModule(networks.critics, objective.critic_objective)


def test_critics_are_heard_from_their_step_on_and_as_loud_as_the_rest():
    _, objective, _ = with_critics(replace(PLAIN, adversary=0.5, adversary_from=3))
    assert "adversarial" not in objective(2)[1]
    assert not objective.pairs
    loss, figures = objective(3)
    assert "adversarial" in figures
    assert all(p.requires_grad for p in objective.networks.critics.parameters())
    loss.backward()
    assert all(p.grad is None for p in objective.networks.critics.parameters())
    y = torch.randn(1, 3, 8, 32, 32, requires_grad=True)
    rest, doubt = (5 * y).sum(), (0.01 * y).sum()
    weight = critics.adaptive_weight(rest, doubt, y)
    assert weight == pytest.approx(5 / 0.01, rel=1e-3)


def test_critics_learn_to_tell_clips_apart():
    torch.manual_seed(0)
    judges = critics.make_critics(8)
    optimizer = torch.optim.Adam(judges.parameters(), lr=2e-3)
    real = pixels(count=4)(0)
    made = real + 0.3 * torch.randn_like(real)
    for _ in range(30):
        loss = sum(critics.hinge_loss(judge, real, made) for judge in judges.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.4
    for judge in judges.values():
        assert judge(real).mean() > 0 > judge(made).mean()
        assert judge(real[:, :, :1]).isfinite().all()  # of a single frame, too


def test_a_run_with_critics_goes_on_bit_by_bit(tmp_path, monkeypatch):
    settings = replace(PLAIN, adversary=0.5, adversary_from=2)
    whole, objective, adversary = with_critics(settings)
    loop.fit(tmp_path / "whole", whole, objective, PLAN, adversary)
    for _ in range(2):
        vae, objective, adversary = with_critics(settings)

        def stop(done, _):
            if done == 4:
                raise KeyboardInterrupt

        first = not (tmp_path / "cut").exists()
        if first:
            with pytest.raises(KeyboardInterrupt):
                loop.fit(tmp_path / "cut", vae, objective, PLAN, adversary, stop)
        else:
            loop.fit(tmp_path / "cut", vae, objective, PLAN, adversary)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, vae.state_dict()[name]), name
    rows = part("easyanimate_models.training.journal").read_log(tmp_path / "cut" / "log.csv")
    assert [bool(row["adversarial"]) for row in rows] == [False, False, True, True, True, True]
    assert [row["step"] for row in rows] == list("012345")


def vgg_file(folder):
    """A file as torchvision's, of random numbers."""
    import torchvision

    features = torchvision.models.vgg16(weights=None).features.state_dict()
    file = folder / "vgg16.safetensors"
    save_file({f"features.{name}": tensor for name, tensor in features.items()}, file)
    return file, features


def test_the_perceptual_loss_uses_the_weights_of_the_file(tmp_path):
    pytest.importorskip("lpips")
    file, features = vgg_file(tmp_path)
    perceptual_loss = perceptual.PerceptualLoss(file)
    assert torch.equal(perceptual_loss.lpips.net.slice5[-2].weight, features["28.weight"])
    x = pixels()(0)
    near, far = x + 0.05 * torch.randn_like(x), x + 0.5 * torch.randn_like(x)
    assert perceptual_loss(x, x) == 0 < perceptual_loss(x, near) < perceptual_loss(x, far)
    vae = small_vae()
    objective = objectives.VAEObjective(
        vae, pixels(), replace(PLAIN, perceptual=1.0), objectives.LossNetworks(perceptual_loss)
    )
    loss, figures = objective(0)
    loss.backward()
    assert figures["lpips"] > 0
    assert vae.encoder.conv_in.weight.grad.abs().sum() > 0
    save_file({"features.0.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="vgg16.safetensors is not VGG-16 .first mismatch: slice1.0.weight.; choose"):
        perceptual.PerceptualLoss(file)


def test_without_a_backbone_the_error_says_what_to_do(tmp_path):
    pytest.importorskip("lpips")
    with pytest.raises(
        ValueError, match=r"missing.pth does not exist; set .* vgg16-397923af.pth .* set `perceptual` to 0"
    ):
        perceptual.PerceptualLoss(tmp_path / "missing.pth")


def recipe(clips, folder, **changed):
    """A recipe for a VAE, for a few steps."""
    data = recipes.DataSettings(side=64, frames=8, batch=2)
    settings = objectives.VAESettings(**{"perceptual": 0.0, "adversary": 0.0, **SMALL, **changed.pop("vae", {})})
    models = recipes.Models(vae=changed.pop("start", ""))
    plan = replace(PLAN, steps=changed.pop("steps", 3))
    return recipes.Recipe("vae", folder, clips, models, data, plan, None, True, vae=settings)


def test_the_stages_follow_each_other(clips, tmp_path):
    """From nothing to a Slice VAE whose decoder was trained last; each stage's folder is where the next one starts."""
    stages = {
        "image": {"architecture": "image", "stills": 1.0},
        "magvit": {"architecture": "window", "stills": 0.5},
        "slice": {"architecture": "slice", "adversary": 0.5, "adversary_from": 1, "critic_width": 8},
        "decoder": {"learns": "decoder"},
    }
    start = ""
    for name, settings in stages.items():
        file = run.run_recipe(recipe(clips, tmp_path / name, start=start, vae=settings))
        start = str(file.parent)
    assert isinstance(sd.load_vae(tmp_path / "image" / "vae").first_stage_model, image_vae.ImageVAE)
    assert isinstance(sd.load_vae(tmp_path / "magvit" / "vae").first_stage_model, slice_vae.WindowVAE)
    last = sd.load_vae(start)
    assert isinstance(last.first_stage_model, slice_vae.SliceVAE)
    with torch.no_grad():
        assert last.decode(last.encode(torch.rand(9, 64, 64, 3))).shape == (1, 9, 64, 64, 3)
    before, after = (load_file(tmp_path / name / "vae" / file.name) for name in ("slice", "decoder"))
    assert torch.equal(before["encoder.conv_in.weight"], after["encoder.conv_in.weight"])
    assert not torch.equal(before["decoder.conv_in.weight"], after["decoder.conv_in.weight"])

    assert set(previews.PREVIEW) < set(json.loads((Path(start) / "config.json").read_text()))
    assert set(previews.PREVIEW) < set(sd.read_checkpoint(saved_again(last, tmp_path), "vae").config)


def saved_again(vae, folder: Path) -> Path:
    """A VAE as the host saves it."""
    save_file(vae.get_sd(), folder / "again.safetensors")
    return folder / "again.safetensors"


def test_preview_colours_are_the_best_linear_map_from_latents_to_the_pixels_below():
    torch.manual_seed(0)
    latents, expected = (
        torch.randn(2, 4, 3, 8, 8),
        torch.tensor([[0.5, -0.25, 0.1], [0.0, 0.3, 0.2], [1.0, 0, 0], [0, 0, 1]]),
    )
    colours = torch.einsum("bcfhw,cr->brfhw", latents, expected) + torch.tensor([0.1, 0.2, -0.3]).view(1, 3, 1, 1, 1)
    pixels = colours.repeat_interleave(4, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
    found = previews.fit_colours(*map(previews.rows_of, (latents, previews.below(pixels, latents))))
    assert torch.allclose(torch.tensor(found["latent_rgb_factors"]), expected, atol=1e-3)
    assert found["latent_rgb_bias"] == pytest.approx([0.1, 0.2, -0.3], abs=1e-3)


def test_the_loss_of_a_vae_falls(clips, tmp_path):
    settings = {"architecture": "slice", "crop": 32}
    run.run_recipe(recipe(clips, tmp_path, vae=settings, steps=61))
    rows = part("easyanimate_models.training.journal").read_log(tmp_path / "log.csv")
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])


@pytest.mark.parametrize("start", ["", "built-in"])
def test_still_images_are_learnt_in_bfloat16(tmp_path, start):
    """As precision "auto" has it on CPUs that are fast in bfloat16; critics of motion see the stills too."""
    (tmp_path / "stills").mkdir()
    write_image(tmp_path / "stills" / "red.png")
    settings = {"adversary": 0.5, "adversary_from": 1, "critic_width": 8} | ({} if start else {"architecture": "slice"})
    made = {}
    for precision in ("bf16", "fp32"):
        of_one = recipe(tmp_path / "stills", tmp_path / precision, start=start, vae=settings)
        run.run_recipe(
            replace(of_one, plan=replace(of_one.plan, precision=precision), data=replace(of_one.data, batch=1))
        )
        row, *_ = part("easyanimate_models.training.journal").read_log(tmp_path / precision / "log.csv")
        made[precision] = float(row["loss"])
    assert made["bf16"] == pytest.approx(made["fp32"], rel=0.05)


@pytest.mark.parametrize(
    ("vae", "start", "message"),
    [
        ({}, "", "A VAE that is trained from scratch needs an architecture"),
        ({"architecture": "image"}, "built-in", "A video VAE can't become an image VAE"),
        ({"architecture": "cube"}, "", "architecture is 'cube'; it must be one of"),
        ({"l1": 0.0}, "built-in", "l1 and l2 are both 0"),
        ({"crop": 33}, "built-in", "crop is 33; it must be a multiple of 8"),
        ({"adversary": 0.5, "critic_width": 9}, "built-in", "critic_width is 9; it must be a multiple of 8"),
    ],
)
def test_nonsense_is_named(clips, tmp_path, vae, start, message):
    with pytest.raises(ValueError, match=message):
        run.run_recipe(recipe(clips, tmp_path, vae=vae, start=start))


@pytest.mark.parametrize("crop", [0, 32])
def test_pixels_come_in_the_same_order_however_often_they_are_read(clips, crop):
    module = part("easyanimate_models.training.clips.pixel_batches")
    dataset, buckets = (part(f"easyanimate_models.training.clips.{name}") for name in ("dataset", "buckets"))
    found = buckets.sort_into_buckets(dataset.read_dataset(clips, with_captions=False), 64, 8)
    first, second = (module.PixelBatches(found, recipes.DataSettings(64, 8, batch=2), 4, 0.5, crop) for _ in range(2))
    drawn = [first(step) for step in range(6)]
    assert torch.equal(second(5), drawn[5]) and torch.equal(second(2), drawn[2])
    assert {x.shape[2] for x in drawn} == {1, 8}
    assert {x.shape[3:] for x in drawn} == {(crop or 64, crop or 64)}
    assert all(float(x.min()) >= -1 and float(x.max()) <= 1 for x in drawn)
