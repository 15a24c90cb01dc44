"""Clips that are held out: which, never learnt from, and a loss that only the weights change."""

from dataclasses import replace

import pytest
import torch
from matplotlib.axes import Axes

from support.pack import part

lora = part("easyanimate_models.training.denoiser.lora")
lora_training = part("easyanimate_models.training.denoiser.lora_training")
diffusion = part("easyanimate_models.training.denoiser.diffusion")
latent_cache = part("easyanimate_models.training.clips.latent_cache")
buckets = part("easyanimate_models.training.clips.buckets")
dataset = part("easyanimate_models.training.clips.dataset")
holding_out = part("easyanimate_models.training.clips.holding_out")
windows = part("easyanimate_models.training.clips.windows")
journal = part("easyanimate_models.training.journal")
metrics = part("easyanimate_models.training.metrics")
runs = part("easyanimate_models.training.denoiser.run")
supported = part("easyanimate_models.supported_models")
DataSettings = part("easyanimate_models.training.clips.settings").DataSettings
TrainingPlan = part("easyanimate_models.training.training_plan").TrainingPlan
Settings = holding_out.ValidationSettings
DATA = DataSettings(32, 8)
PLAN = TrainingPlan(steps=3, learning_rate=1e-2, warmup=0, ema=0.5, clip=1.0, seed=3, schedule="constant")


@pytest.fixture(scope="module")
def clips():
    pixels = torch.rand(4, 10, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    return dataset.in_memory(list(pixels), [f"clip {i}" for i in range(4)])


def sorted_clips(clips):
    return buckets.sort_into_buckets(clips, DATA.side, DATA.frames)


def held_out(found) -> set:
    return {item.file for items in found.values() for item in items if item.held_out}


def test_whole_files_are_held_out_by_what_is_in_them(clips):
    found = sorted_clips(clips)
    assert holding_out.hold_out(found, Settings(), 0) is found
    for share, count in ((0.01, 1), (0.5, 2)):
        assert len(held_out(holding_out.hold_out(found, Settings(share), 0))) == count
    once = holding_out.hold_out(found, Settings(0.5), 0)
    cut = windows.cut_into_windows(once, replace(DATA, windows=3), 0)
    assert all(item.held_out == (item.file in held_out(once)) for items in cut.values() for item in items)
    renamed = sorted_clips([replace(clip, file=clip.file.with_name(f"other {i}")) for i, clip in enumerate(clips)])
    there = holding_out.hold_out(renamed, Settings(0.5), 0)
    texts = [{i.text for items in each.values() for i in items if i.held_out} for each in (once, there)]
    assert texts[0] == texts[1]
    assert held_out(holding_out.hold_out(found, Settings(clips=("clip 2",)), 0)) == {clips[2].file}
    with pytest.raises(dataset.DatasetError, match="no clip named clip 9 to hold out"):
        holding_out.hold_out(found, Settings(clips=("clip 9",)), 0)
    with pytest.raises(dataset.DatasetError, match="All clips are held out"):
        holding_out.hold_out(sorted_clips(clips[:1]), Settings(0.1), 0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.0}, "share is 1.0; set it to a share of the clips below 1"),
        ({"share": 0.1, "clips": ("a",)}, "share and clips are both set"),
        ({"share": 0.1, "every": 0}, "every is 0; set it to 1 or more"),
    ],
)
def test_nonsense_is_named(wrong, message):
    with pytest.raises(ValueError, match=message):
        Settings(**wrong)


def test_the_loss_on_held_out_clips_is_changed_by_the_weights_alone(models, clips, tmp_path):
    model, clip, vae = models
    settings = Settings(0.25, every=2)
    found = holding_out.hold_out(sorted_clips(clips), settings, 0)
    with torch.no_grad():
        encoded = latent_cache.encode_dataset(tmp_path / "set", found, vae, clip)
    assert latent_cache.read_encoded(tmp_path / "set") == encoded
    assert (encoded.part(True).count, encoded.part(False).count) == (1, 3)

    def measured(name: str, plan=PLAN, validation=settings) -> dict[int, float]:
        run = runs.DenoiserRun(tmp_path / name, plan, validation=validation)
        lora_training.train_adapters(model, encoded, DATA, lora.LoraSettings(2, 2), run)
        rows = journal.read_log(tmp_path / name / "log.csv")
        assert [int(row["step"]) for row in rows] == list(range(plan.steps + 1))
        return {int(row["step"]): float(row["validation"]) for row in rows if row["validation"]}

    learning = measured("learning")
    still = measured("still", replace(PLAN, learning_rate=1e-12))
    assert list(learning) == list(still) == [0, 2, 3]
    assert len(set(still.values())) == 1 and still[0] == learning[0] and learning[3] != learning[0]
    assert list(measured("learning", replace(PLAN, steps=5))) == [0, 2, 4, 5]
    with pytest.raises(ValueError, match="was started with validation = 0.25, but now it is 0.5"):
        measured("learning", validation=Settings(0.5))


def test_validation_asks_for_its_own_noise_levels():
    for release in (supported.EasyAnimateV3, supported.EasyAnimateV51):
        prediction = diffusion.prediction_of(release)
        levels = [diffusion.AtLevel(prediction, share).draw(2, diffusion.UNIFORM) for share in (0.25, 0.75)]
        assert all(level[0] == level[1] for level in levels) and levels[0][0] < levels[1][0]
        clean = torch.ones(2, 4, 1, 2, 2)
        signals = [prediction.noised(clean, clean, level).signal[0] for level in levels]
        assert 1 > signals[0] > signals[1] > 0


def test_a_smoothed_loss_follows_the_loss_without_a_start_of_its_own():
    smoothed = metrics.Smoothed(0.9)
    assert smoothed.add(4.0) == pytest.approx(4.0)
    assert 2.0 < smoothed.add(2.0) < 4.0
    assert [smoothed.add(1.0) for _ in range(200)][-1] == pytest.approx(1.0, abs=1e-3)


def test_the_picture_has_all_that_was_measured(tmp_path, monkeypatch):
    rows = ["step,validation,loss", "0,0.5,0.4", "1,,0.2", "2,0.3,"]
    (tmp_path / "log.csv").write_text("\n".join(rows) + "\n")
    drawn, plot = [], Axes.plot

    def noted(axes, x, y, **given):
        drawn.append((given["label"], x, y))
        return plot(axes, x, y, **given)

    monkeypatch.setattr(Axes, "plot", noted)
    journal.plot_loss(tmp_path)
    assert [label for label, *_ in drawn] == ["loss", "smoothed", "validation"]
    assert drawn[0][1:] == ([0, 1], [0.4, 0.2]) and drawn[2][1:] == ([0, 2], [0.5, 0.3])
    assert 0.2 < drawn[1][2][1] < 0.4
