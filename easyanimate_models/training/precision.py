"""Mixed precision: forward passes in bfloat16 where that is faster."""

import torch


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16, or not, by the `precision` of a `TrainingPlan`."""
    enabled = precision == "bf16" or precision == "auto" and has_fast_bfloat16(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def has_fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies in bfloat16; a CPU without AVX-512 would take fifty times as long."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")
