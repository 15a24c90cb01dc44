"""The state of a run on disk: one file, whole or not there, that any number of processes can go on from."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from .training_plan import Plan

STATE, PLAN = "state.pt", "plan.json"
NOISE = {"least": 1.0, "most": 1.0, "power": 0.0, "decisive": None}
LATER = NOISE | {"windows": 1, "lengths": "full", "clip_dropout": 0.5, "text": False}  # older runs don't say these


def require_same(folder: Path, plan: Plan, told: dict) -> None:
    """A folder goes on with the recipe that it was begun with; raises `ValueError` for another."""
    mine = json.loads(json.dumps({**told, **asdict(plan)}))
    file = folder / PLAN
    if not file.exists() or not (folder / STATE).exists():
        return
    theirs = json.loads(file.read_text(encoding="utf-8"))
    for name in sorted(mine.keys() | theirs.keys()):
        then, now = (told.get(name, LATER.get(name)) for told in (theirs, mine))
        if now != then:
            raise ValueError(
                f"{folder} was begun with {name} = {then}, now it is {now}; set it back to go on, or name another "
                "folder to begin anew."
            )


def note(folder: Path, plan: Plan, told: dict) -> None:
    """Keep what the run is begun with."""
    (folder / PLAN).write_text(json.dumps({**told, **asdict(plan)}, indent=2) + "\n", encoding="utf-8")


def save(folder: Path, courses: list, step: int, is_main: bool) -> None:
    """Every process has to call this; the main one writes. Raises `OSError` with advice when the disk is full."""
    state = {"step": step, "courses": [_state(course) for course in courses]}
    if not is_main:
        return
    partial = folder / f"{STATE}.part"
    try:
        torch.save(state, partial)
        partial.replace(folder / STATE)
    except (OSError, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise OSError(
            f"{folder / STATE} could not be written ({error}); make room on the disk and start again: training goes on "
            "from the last state saved."
        ) from error


def resume(folder: Path, courses: list) -> int:
    """Put the state in `folder`, if there is one, into the courses; the step to go on at."""
    path = folder / STATE
    if not path.exists():
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu", mmap=True)
    for course, kept in zip(courses, state["courses"], strict=True):
        _restore(course, kept)
    logging.info("%s: resumed at step %d", folder.name, state["step"])
    return state["step"]


def _state(course) -> dict:
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return {
        "module": get_model_state_dict(course.lesson, options=options),
        "optimizer": get_optimizer_state_dict(course.lesson, course.torch_optimizer, options=options),
        "average": [whole(a) for a in course.average],
    }


def _restore(course, kept: dict) -> None:
    options = StateDictOptions(full_state_dict=True, ignore_frozen_params=True, strict=False)
    set_model_state_dict(course.lesson, kept["module"], options=options)
    set_optimizer_state_dict(course.lesson, course.torch_optimizer, kept["optimizer"], options=options)
    for a, b in zip(course.average, kept["average"], strict=True):
        a.copy_(_like(b, a))


def whole_weights(network: nn.Module) -> dict[str, torch.Tensor]:
    """All weights of a network, put together where processes share them out; every process has to call this."""
    return {name: whole(tensor) for name, tensor in network.state_dict().items()}


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor, put together where processes share it out; every process has to call this."""
    tensor = tensor.detach()
    return (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).cpu()


def _like(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A whole tensor, cut among processes as `like` is."""
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(like, DTensor):
        return tensor

    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
