"""The trainer learns, resumes bit by bit, and its truth (the clips made in code) is judged rightly."""

import random
from dataclasses import replace

import comfy.ops
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from support.pack import part
from support.recorded import relative_error

loop = part("easyanimate_models.training.loop")
precision = part("easyanimate_models.training.precision")
initialize = part("easyanimate_models.training.initialize")
shapes = part("easyanimate_models.training.toy.shapes")
judging = part("easyanimate_models.training.toy.judging")
dit_training = part("easyanimate_models.training.denoiser.objective")
diffusion = part("easyanimate_models.training.denoiser.diffusion")
motion_modules = part("easyanimate_models.training.denoiser.motion_modules")
vae_training = part("easyanimate_models.training.toy.objective")
inpainting = part("easyanimate_models.training.toy.inpainting")
tiny = part("easyanimate_models.training.toy.tiny")
EasyAnimateV3 = part("easyanimate_models.supported_models").EasyAnimateV3
MotionDiT = part("easyanimate_models.dit.motion_dit").MotionDiT
SliceVAE = part("easyanimate_models.vae.slice_vae").SliceVAE
OPS = {"dtype": torch.float32, "device": "cpu", "operations": comfy.ops.disable_weight_init}
PLAN = loop.TrainingPlan(steps=8, learning_rate=1e-2, warmup=2, ema=0.9, clip=1.0, seed=3)

pytestmark = pytest.mark.usefixtures("gradients")


def small_vae() -> SliceVAE:
    torch.manual_seed(0)
    return initialize.reset_parameters(SliceVAE(replace(tiny.VAE, channels=(8, 8, 16, 16)), **OPS))


def small_dit(motion: bool = True) -> MotionDiT:
    torch.manual_seed(0)
    config = replace(tiny.DIT, width=32, depth=2, heads=2, skips=None)
    dit = initialize.reset_parameters(MotionDiT(config if motion else replace(config, motion=()), **OPS))
    dit.initialize_weights()
    return dit


def vae_objective(vae: SliceVAE):
    stages = (vae_training.VAEStage(0, 2, 1, 32), vae_training.VAEStage(4, 1, 8, 32))
    return vae_training.vae_objective(vae, vae_training.crops_of(tiny.training_clips()), stages, 1e-3, 0)


class Interrupted(Exception):
    pass


def test_a_run_that_was_stopped_equals_one_that_was_not(tmp_path, monkeypatch):
    whole, stopped, resumed = small_vae(), small_vae(), small_vae()
    loop.fit(tmp_path / "whole", whole, vae_objective(whole), PLAN)
    monkeypatch.setattr(loop, "SAVE_EVERY", 0.0)
    objective = vae_objective(stopped)

    def stopping(step: int):
        if step == 5:
            raise Interrupted
        return objective(step)

    with pytest.raises(Interrupted):
        loop.fit(tmp_path / "stopped", stopped, stopping, PLAN)
    loop.fit(tmp_path / "stopped", resumed, vae_objective(resumed), PLAN)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert (tmp_path / "whole" / "loss.png").stat().st_size > 1000


def test_the_vae_learns(tmp_path):
    vae = small_vae()
    stages = (vae_training.VAEStage(0, 8, 1, 32),)
    objective = vae_training.vae_objective(vae, vae_training.crops_of(tiny.training_clips()), stages, 1e-3, 0)
    before = float(objective(0)[0].detach())
    loop.fit(tmp_path, vae, objective, replace(PLAN, steps=120, learning_rate=3e-3))
    assert float(objective(0)[0].detach()) < 0.8 * before


def test_the_denoiser_learns(tmp_path):
    dit = small_dit()

    def batches(step: int, rng: random.Random):
        signs = torch.tensor([rng.choice((-1.0, 1.0)) for _ in range(8)])
        latents = signs.view(-1, 1, 1, 1, 1).expand(-1, 4, 2, 4, 4)
        return dit_training.Batch(latents, signs.view(-1, 1, 1).expand(-1, 3, 32), torch.ones(8, 3))

    objective = tiny.denoising_objective(dit, batches, dit_training.NoiseWeights(0.05, 50.0), 0)
    torch.manual_seed(0)
    before = float(objective(0)[0].detach())
    loop.fit(tmp_path, dit, objective, replace(PLAN, steps=60))
    torch.manual_seed(0)
    assert float(objective(0)[0].detach()) < 0.5 * before


def test_most_steps_are_drawn_where_the_prompt_decides():
    weights = dit_training.NoiseWeights(0.1, 20.0, power=0.5, decisive=(280, 780))
    torch.manual_seed(0)
    prediction = diffusion.prediction_of(EasyAnimateV3)
    steps = torch.cat([prediction.draw(32, weights) for _ in range(100)])
    assert 0.87 < float(((steps >= 280) & (steps < 780)).float().mean()) < 0.93
    assert steps.min() < 20
    assert steps.max() > 980
    assert torch.allclose(weights.weigh(torch.tensor([0.999, 0.5, 1 / 17, 1e-4])), torch.tensor([0.1, 1.0, 4.0, 20.0]))


def test_gradients_in_bfloat16_are_those_of_float32():
    dit = small_dit()
    nn.init.normal_(dit.proj_out.weight, std=0.1)
    batch = dit_training.Batch(torch.randn(4, 4, 2, 4, 4), torch.randn(4, 3, 32), torch.ones(4, 3))
    objective = tiny.denoising_objective(dit, lambda *_: batch, dit_training.NoiseWeights(0.1, 20.0), 0)

    def gradient(kind: str) -> torch.Tensor:
        dit.zero_grad()
        torch.manual_seed(0)
        with precision.autocast(kind, torch.device("cpu")):
            loss = objective(0)[0]
        loss.backward()
        return torch.cat([p.grad.flatten() for p in dit.parameters() if p.grad is not None])

    half, whole = gradient("bf16"), gradient("fp32")
    assert 0 < float((half - whole).norm() / whole.norm()) < 0.05


def test_a_gradient_that_is_not_finite_stops_the_run(tmp_path):
    layer = nn.Linear(1, 1)
    with pytest.raises(FloatingPointError, match="not finite at step 0"):
        loop.fit(tmp_path, layer, lambda step: (layer.weight.sum() * float("nan"), {}), PLAN)


def test_motion_modules_are_silent_when_added():
    image, video = small_dit(motion=False), small_dit()
    with torch.no_grad():
        nn.init.normal_(image.proj_out.weight)
        motion_modules.load_image_weights(video, image.state_dict(), EasyAnimateV3)
        x, context = torch.randn(1, 4, 3, 4, 4), torch.randn(1, 3, 32)
        alone = torch.cat([image(x[:, :, f : f + 1], torch.tensor([500]), context=context) for f in range(3)], dim=2)
        assert torch.allclose(video(x, torch.tensor([500]), context=context), alone, atol=1e-5)


def test_the_latent_scale_is_set_without_changing_what_is_decoded():
    vae = small_vae().requires_grad_(False)
    x = torch.rand(1, 3, 8, 16, 16) * 2 - 1
    z = vae.encode(x)
    mean, deviation = torch.tensor([0.5, -1.0, 0.0, 2.0]), torch.tensor([2.0, 0.5, 1.0, 3.0])
    pixels = vae.decode(z)
    tiny.set_latent_scale(vae, mean, deviation)
    scaled = vae.encode(x)
    assert torch.allclose(scaled, (z - mean.view(1, 4, 1, 1, 1)) / deviation.view(1, 4, 1, 1, 1), atol=1e-5)
    assert torch.allclose(vae.decode(scaled), pixels, atol=1e-4)


def test_a_fifth_of_the_scenes_is_held_out():
    training, held_out = shapes.split_scenes()
    assert not set(training) & set(held_out)
    assert len(held_out) == -(-len(training + held_out) // 5)
    for part_of in ("shape", "colour", "background", "motion"):  # training has every word
        assert {getattr(s, part_of) for s in held_out} <= {getattr(s, part_of) for s in training}


def test_the_judge_sees_what_the_clips_show():
    scenes = [scene for half in shapes.split_scenes() for scene in half]
    clips, _ = shapes.render(scenes, random.Random(5))
    score = judging.score((clips.movedim(1, -1) + 1) / 2, scenes)
    assert score == judging.Score(1.0, 1.0, 1.0, 1.0)


def test_the_judge_is_not_fooled_by_noise():
    noise = torch.rand(40, 24, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    scenes = (shapes.split_scenes()[1] * 2)[:40]
    score = judging.score(noise, scenes)
    assert max(score.colour, score.motion, score.shape) < 0.6


def test_the_same_seed_makes_the_same_clips():
    scenes = shapes.split_scenes()[0][:3]
    first, _ = shapes.render(scenes, random.Random(1))
    second, _ = shapes.render(scenes, random.Random(1))
    assert torch.equal(first, second)
    assert first.shape == (3, 3, 24, 64, 64) and first.abs().max() <= 1


def test_training_goes_on_from_the_shipped_weights(tmp_path):
    tiny.restore(tmp_path)
    dit = MotionDiT(tiny.DIT, **OPS)
    dit.load_state_dict(load_file(tmp_path / "videos.safetensors"))
    for name, restored in (
        ("transformer", dit),
        ("vae", tiny._load_vae(tmp_path)),
        ("text_encoder", tiny.load_t5(tmp_path)),
    ):
        shipped = load_file(next((tiny.TINY / name).glob("*.safetensors")))
        weights = restored.state_dict()
        assert all(torch.equal(weights[key], value.float()) for key, value in shipped.items())


# --- the inpainting variant --------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [*inpainting.FRAMES_GIVEN[1:], "all but a box"])
def test_what_is_given_is_encoded_as_the_node_encodes_it(given):
    """Training and inference must tell the model the same."""
    vae = part("easyanimate_models.sd").load_vae(part("easyanimate_models.files.model_files").TINY)
    rng = random.Random(4)
    pixels, paths = shapes.render([shapes.split_scenes()[0][0]], rng)
    frames = shapes.FRAMES
    made = inpainting.box(frames, paths[0], rng) if given == "all but a box" else inpainting.all_but(frames, *given)
    assert 0 < float(made.mean()) < 1
    with torch.no_grad():
        trained = inpainting.encode_given(vae.first_stage_model, pixels, made[None])
        node = part("easyanimate_models.conditioning.inpainting").inpaint_latents(
            vae, (pixels[0].movedim(0, -1) + 1) / 2, made
        )
    assert relative_error(trained, node) < 1e-4


def test_slices_of_what_is_given_are_one_frame_or_all_but_a_box_or_a_mask():
    given = inpainting.masked_slices(40, tiny.training_clips(), shapes.SIZE, random.Random(0))
    assert given.slices.shape == (40, 3, 8, 64, 64)
    black = (given.slices == -1).all(dim=1).float().mean((2, 3))  # (B, 8)
    assert (black[:20, 1:7] == 1).all() and (black[:20, [0, 7]].sum(1) == 1).all()
    assert ((black[20:30] > 0) & (black[20:30] < 1)).all()
    assert set(given.slices[30:].unique().tolist()) == {0.0, 1.0}
    assert given.weight.mean((1, 2, 3, 4)).allclose(torch.ones(40), atol=1e-4)
    assert torch.equal(given.still[:, :, 0], given.slices[:20].amax(dim=2))
    assert torch.equal(given.still[:, :, 0], given.still[:, :, 7])


def test_a_vae_learns_what_is_given_and_keeps_its_latents(tmp_path):
    torch.manual_seed(0)
    vae, recall = small_vae(), inpainting.StillFrameProbe(4)
    stages = (vae_training.VAEStage(0, 1, 8, 32),)
    objective = inpainting.masked_vae_objective(vae, recall, tiny.training_clips(), stages, 0)
    _, first = objective(0)
    assert first["drift"] == 0
    both = torch.nn.ModuleList([vae, recall])
    loop.fit(tmp_path, both, objective, replace(PLAN, steps=25, learning_rate=3e-3))
    _, last = objective(0)
    assert last["given"] > first["given"] + 0.5  # dB
    assert 0 < last["drift"] < 0.1
    assert last["lost"] < 0.8 * first["lost"]


def test_where_a_shape_starts_does_not_tell_where_it_goes():
    rng = random.Random(0)
    starts = {}
    for motion in ("left", "right"):
        scene = shapes.Scene("circle", "red", "black", motion)
        clips, paths = shapes.render([scene] * 200, rng, path=shapes.from_anywhere)
        radius = paths[..., 2]
        assert (paths[..., 0] - radius).min() > 0 and (paths[..., 0] + radius).max() < shapes.SIZE
        travel = paths[:, -1, 0] - paths[:, 0, 0]
        assert (travel.abs() > judging.TRAVEL).all() and ((travel > 0) == (motion == "right")).all()
        starts[motion] = paths[:, 0, 0]
    assert starts["left"].min() < 32 < starts["right"].max()


def test_new_inputs_begin_loud_and_the_old_ones_stay():
    plain = small_dit()
    grown = initialize.reset_parameters(MotionDiT(replace(plain.config, in_channels=12), **OPS))
    inpainting.grow_inputs(plain, grown)
    patches = grown.pos_embed.proj.weight
    assert torch.equal(patches[:, :4], plain.pos_embed.proj.weight)
    assert abs(float(patches[:, 4:].std().detach()) - inpainting.NEW_INPUTS) < 0.1 * inpainting.NEW_INPUTS
    rest = {k: v for k, v in grown.state_dict().items() if k != "pos_embed.proj.weight"}
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in rest.items())
