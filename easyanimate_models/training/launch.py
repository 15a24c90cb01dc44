"""Processes that `accelerate launch` was asked for and did not start: on CPUs it starts one, whatever it was asked for.

Of the others it says no more than `MASTER_ADDR` (accelerate 1.15, `simple_launcher`). So their number is read from the
launcher's own arguments, and torch's launcher starts them, as accelerate has it do on GPUs.
"""

import os
import sys
from pathlib import Path

import torch

from ..files.packages import require_package

STARTED = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # by torch's launcher, or MPI's
ON_THIS_MACHINE = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1")  # any free port
BY_HAND = "python -m torch.distributed.run --nproc-per-node N -m easyanimate_models.training RECIPE.toml"


def runs_on_gpu() -> bool:
    """Whether a run is on a GPU: if there is one, unless `accelerate launch --cpu` says otherwise."""
    return torch.cuda.is_available() and os.environ.get("ACCELERATE_USE_CPU", "").lower() != "true"


def missing_processes() -> int:
    """How many processes are to be started in place of this one, 0 for none.

    Raises `ValueError` when more were asked for than can be started here.
    """
    variables = os.environ
    if "ACCELERATE_USE_CPU" not in variables or "MASTER_ADDR" not in variables or any(s in variables for s in STARTED):
        return 0
    arguments = _launcher_arguments()
    if arguments is None:
        return 0
    processes, machines = _processes_and_machines(arguments)
    if machines > 1:
        raise ValueError(
            f"accelerate launch starts one process on CPUs, not {processes} on {machines} machines; use {BY_HAND} with "
            "--nnodes, --node-rank and --master-addr on each of them."
        )
    if processes > 1 and runs_on_gpu():
        raise ValueError(
            f"accelerate launch can't start {processes} processes on one GPU; set --num_processes to 1, or add --cpu."
        )
    return processes if processes > 1 else 0


def start_processes(processes: int, arguments: list[str]) -> None:
    """Run `python -m easyanimate_models.training ARGUMENTS` in so many processes; exits when one fails."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    module = ["-m", str(__package__), *arguments]
    try:
        run.main([f"--nproc-per-node={processes}", *ON_THIS_MACHINE, *module])
    except ChildFailedError:  # it has said why
        sys.exit(1)


def _launcher_arguments() -> list[str] | None:
    """The arguments of the `accelerate launch` that started this process; None where it isn't found."""
    psutil = require_package("psutil")
    for parent in psutil.Process().parents():
        try:
            command = parent.cmdline()
        except psutil.Error:  # another user's
            continue
        for position, (before, word) in enumerate(zip(["", *command], command, strict=False)):
            is_launch = Path(word.removesuffix(".exe").removesuffix(".py")).name.endswith("launch")
            if is_launch and "accelerate" in before + word:
                return command[position + 1 :]
    return None


def _processes_and_machines(arguments: list[str]) -> tuple[int, int]:
    """What `accelerate launch` was asked for, by its arguments or else by its file of settings."""
    launch = require_package("accelerate.commands.launch")
    asked = launch.launch_command_parser().parse_args(arguments)
    has_settings = asked.config_file or Path(launch.default_config_file).is_file() and not asked.cpu
    settings = launch.load_config_from_file(asked.config_file) if has_settings else None
    processes = asked.num_processes or getattr(settings, "num_processes", None) or 1
    return processes, asked.num_machines or getattr(settings, "num_machines", None) or 1
