"""Clips of one or two objects before a camera: what they show, what captions say of it, and that the judge sees it."""

import random

import pytest

from support.pack import part

scenes = part("easyanimate_models.training.toy.scenes")
scene_clips = part("easyanimate_models.training.toy.scene_clips")
scene_judging = part("easyanimate_models.training.toy.scene_judging")
KINDS = ("one", "two", "camera")
TRAINING, HELD_OUT = scenes.split_things()


def drawn(kind: str, count: int, seed: int = 0) -> list:
    """Scenes of objects that training knows and of others."""
    rng = random.Random(seed)
    return [scenes.draw_scene(TRAINING + HELD_OUT, rng, kind) for _ in range(count)]


def clip_of(scene, seed: int = 0):
    """As a decoded video."""
    pixels, _ = scene_clips.render([scene], random.Random(seed))
    return (pixels[0].movedim(0, -1) + 1) / 2


@pytest.mark.parametrize("kind", KINDS)
def test_the_judge_sees_what_a_clip_shows(kind):
    for seed, scene in enumerate(drawn(kind, 6)):
        found = scene_judging.judge(clip_of(scene, seed))
        assert (set(found.things), found.background, found.camera) == (
            set(scene.things),
            scene.background,
            scene.camera,
        )


@pytest.mark.parametrize(
    ("motion", "camera", "motion_backwards", "camera_backwards"),
    [("left", "pan right", "right", "pan left"), ("grow", "still", "shrink", "still")],
)
def test_the_judge_sees_a_clip_that_runs_backwards(motion, camera, motion_backwards, camera_backwards):
    scene = scenes.Scene((scenes.Thing("cyan", "star", motion),), "sky", camera)
    found = scene_judging.judge(clip_of(scene).flip(0))
    assert (found.things[0].motion, found.camera) == (motion_backwards, camera_backwards)


def test_a_score_counts_each_attribute_and_backgrounds_only_where_prompts_name_them():
    red, blue = scenes.Thing("red", "ball", "up"), scenes.Thing("blue", "box", "stay")
    shown = scenes.Scene((red, blue), "grey")
    asked = [scenes.Scene((red, scenes.Thing("blue", "star", "stay")), "black"), scenes.Scene((blue, red), "white")]
    score = scene_judging.score([clip_of(shown)] * 2, asked, ["on a black background", "no background"])
    assert (score.colour, score.motion, score.shape, score.objects, score.background) == (1, 1, 0.5, 0.5, 0)
    assert score.camera != score.camera  # not judged with two objects


def test_objects_stay_in_the_picture_and_never_meet():
    for kind in KINDS:
        for seed, scene in enumerate(drawn(kind, 60)):
            paths = scene_clips.draw_paths(scene, random.Random(seed)).on_screen()
            centre, radius = paths[..., :2], paths[..., 2:3]
            assert float((centre - 0.9 * radius).min()) >= 0
            assert float((centre + 0.9 * radius).max()) <= scene_clips.SIZE
            if len(paths) == 2:
                apart = (centre[0] - centre[1]).abs().amax(-1)
                assert (apart > radius.sum(0)[:, 0] * 0.9).all()


def test_training_never_draws_what_is_held_out():
    rng = random.Random(1)
    shown = {thing for _ in range(2000) for thing in scenes.draw_scene(TRAINING, rng).things}
    assert len(shown) == len(TRAINING) and not shown & set(HELD_OUT)
    assert {thing.motion for thing in HELD_OUT} == set(scenes.MOTIONS)
    assert {thing.colour for thing in HELD_OUT} == set(scenes.COLOURS)


def test_captions_say_what_is_shown():
    rng = random.Random(2)
    named = 0
    for kind in KINDS:
        for scene in drawn(kind, 60):
            caption = scenes.describe(scene, rng)
            assert set(caption.things) == set(scene.things)
            for thing, end in zip(caption.things, caption.ends, strict=True):
                phrase = caption.text[:end].lower()
                assert thing.colour in phrase and phrase.endswith(scenes.MOTIONS[thing.motion])
            assert "camera" in caption.text.lower() or scene.camera == scenes.STILL
            named += caption.background is not None
            assert (caption.background is None) == (scene.background not in caption.text.lower())
    assert named > 90


def test_captions_of_stills_say_nothing_of_motions():
    scene = scenes.Scene((scenes.Thing("red", "ball", "bounce"),), "black", "zoom in")
    rng = random.Random(3)
    texts = " ".join(scenes.caption(scene, rng, moving=False) for _ in range(40)).lower()
    assert "red" in texts and "black" in texts
    assert not any(word in texts for word in ("bounc", "jump", "zoom", "camera"))


def test_a_crop_is_a_part_of_its_clip():
    scene = drawn("camera", 1)[0]
    crop, paths = scene_clips.render([scene] * 3, random.Random(4), frames=5, crop=48)
    assert crop.shape == (3, 3, 5, 48, 48) and paths[0].things.shape == (1, 5, 4)
    assert crop.amin() >= -1 and crop.amax() <= 1
