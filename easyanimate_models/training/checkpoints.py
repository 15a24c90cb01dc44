"""The state of a run on disk: `state.pt`, from which any number of processes can resume, and its settings."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from ..files.atomic import atomic_write, write_text
from .learner import Learner
from .sharding import full_tensor, shard_like

STATE, PLAN = "state.pt", "plan.json"
CONTENTS = "contents"  # in the settings: digests of the clips and models; see `identity`
CHANGEABLE = {"steps", "warmup", "save_every"}  # how long a run trains, and what it leaves meanwhile
OLDER_DEFAULTS = {  # of settings that runs of older versions did not write down
    "least": 1.0,
    "most": 1.0,
    "power": 0.0,
    "decisive": None,
    "windows": 1,
    "lengths": "full",
    "clip_dropout": 0.5,
    "text": False,
    "fps": 0.0,
    "trigger_word": "",
    "caption_shuffles": 0,
    "keep_tags": 1,
    "min_snr": 0.0,
    "draw": "uniform",
    "shift": 0.0,
}


def require_same_settings(folder: Path, settings: dict) -> None:
    """Raise `ValueError` when the run in `folder` was started with other settings, clips or models.

    Only how long it trains may be another; what falls towards the end of a run, such as its learning rate, then falls
    towards the new end.
    """
    file = folder / PLAN
    if not file.exists() or not (folder / STATE).exists():
        return
    settings = json.loads(json.dumps(settings))
    previous = json.loads(file.read_text(encoding="utf-8"))
    contents, old_contents = settings.pop(CONTENTS, {}), previous.pop(CONTENTS, None)
    for name in sorted((settings.keys() | previous.keys()) - CHANGEABLE):
        then, now = (values.get(name, OLDER_DEFAULTS.get(name)) for values in (previous, settings))
        if now != then:
            raise ValueError(
                f"{folder} was started with {name} = {then}, but now it is {now}; restore the old value to resume, or "
                "choose another folder to start over."
            )
    if old_contents is None and contents:
        logging.info("%s was started by an older version; it resumes without a check of its clips and models.", folder)
        return
    old_contents = old_contents or {}
    other = sorted(k for k in contents.keys() | old_contents.keys() if old_contents.get(k) != contents.get(k))
    if other:
        what = " and ".join(f"the {name}" for name in other)
        raise ValueError(
            f"{folder} was started before {what} changed; put back what it was started with to resume, or choose "
            "another name to start over."
        )


def write_settings(folder: Path, settings: dict) -> None:
    """Write down the settings that a run is begun with."""
    write_text(folder / PLAN, json.dumps(settings, indent=2) + "\n")


class Saver:
    """Saves the learners of a run to `state.pt` in its folder."""

    def __init__(self, folder: Path, learners: list[Learner], accelerator):
        self.folder, self.learners, self.accelerator = folder, learners, accelerator
        self.last_save = time.monotonic()
        self.saved: int | None = None  # the number of steps of the last save

    def is_due(self, every: float) -> bool:
        """Whether the last save was more than `every` seconds ago; all processes get the same answer."""
        due = torch.tensor(float(time.monotonic() - self.last_save > every), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            due = self.accelerator.reduce(due, "sum")
        return bool(due)

    def save(self, steps: int) -> None:
        """Save the state after so many steps; every process has to call this.

        Raises `OSError` with advice when the disk is full.
        """
        state = {"step": steps, "learners": [_state(learner) for learner in self.learners]}
        if self.accelerator.is_main_process:
            _write(self.folder / STATE, state)
        self.accelerator.wait_for_everyone()
        self.last_save, self.saved = time.monotonic(), steps

    @contextmanager
    def save_on_error(self, steps: int, one_process_only: bool = False) -> Iterator[None]:
        """Save what is left after `steps` steps when something (such as the host's Cancel) ends this context early.

        A step that some learners have taken and others have not is no state to resume from, nor are weights whose
        gradient is not finite. Within a step only one process of several may have failed, and saving needs all.
        """
        try:
            yield
        except FloatingPointError:
            raise
        except BaseException:
            alone = self.accelerator.num_processes == 1 or not one_process_only
            if alone and all(learner.steps == steps for learner in self.learners):
                self.save(steps)
            raise


def resume(folder: Path, learners: list[Learner]) -> int:
    """Load the state in `folder`, if there is one, into the learners; returns the number of steps taken."""
    path = folder / STATE
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    saved = state["learners"] if "learners" in state else state["courses"]  # as older versions called them
    for learner, each in zip(learners, saved, strict=True):
        _restore(learner, each)
        learner.steps = state["step"]
    logging.info("%s: resumed at step %d", folder.name, state["step"])
    return state["step"]


def _write(file: Path, state: dict) -> None:
    try:
        with atomic_write(file) as partial:
            torch.save(state, partial)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as a RuntimeError
        raise OSError(
            f"{file} could not be written ({error.__cause__ or error}); free some disk space and run it again: "
            "training resumes from the last saved state."
        ) from error


def _state(learner: Learner) -> dict:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return {
        "module": get_model_state_dict(learner.module, options=options),
        "optimizer": get_optimizer_state_dict(learner.module, learner.torch_optimizer, options=options),
        "average": [full_tensor(average) for average in learner.ema.averages],
    }


def _restore(learner: Learner, state: dict) -> None:
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
    set_model_state_dict(learner.module, state["module"], options=options)
    for group, saved in zip(learner.torch_optimizer.param_groups, state["optimizer"]["param_groups"], strict=True):
        group.update({name: value for name, value in saved.items() if name not in group})  # Prodigy's come with steps
    set_optimizer_state_dict(learner.module, learner.torch_optimizer, state["optimizer"], options=options)
    for average, saved in zip(learner.ema.averages, state["average"], strict=True):
        average.copy_(shard_like(saved, average))
