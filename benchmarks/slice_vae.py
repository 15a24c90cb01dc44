"""How fast the Slice VAE runs at its real width, which layout suits it, and what the doubling convolution gains."""

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from easyanimate_models.vae.layers import Cache, Upsampler

from .measure import CUDA, DEVICE, Row, alternating, convolution, in_own_process, peak_above, report
from .networks import slice_vae

LATENTS = (1, 4, 4, 16, 16)  # 16 frames of 128 x 128
SIZE = "16 frames of 128 x 128, float32"


class Doubled(nn.Module):
    """Our upsampler as it would be without the doubling convolution."""

    def __init__(self, upsampler: Upsampler):
        super().__init__()
        self.conv, self.time, self.time_factor = upsampler.conv, upsampler.time, upsampler.time_factor

    def forward(self, x: torch.Tensor, cache: Cache) -> torch.Tensor:
        x = F.interpolate(x, scale_factor=(1, 2, 2), mode="nearest")
        x = F.conv3d(x, self.conv.weight, self.conv.bias, padding=(self.time.zeros, 1, 1))
        return x if self.time_factor == 1 else self.time.double(x, first=True)


def without_doubling() -> nn.Module:
    """The decoder with plain upsamplers."""
    network = slice_vae()
    for block in network.decoder.up_blocks:
        if block.upsampler is not None:
            block.upsampler = Doubled(block.upsampler)
    return network


@torch.no_grad()
def peak() -> int:
    """Bytes above the weights while decoding."""
    network, z = slice_vae(), torch.randn(LATENTS, device=DEVICE)
    network.decode(z[:, :, :2])  # what is allocated once
    return peak_above(lambda: network.decode(z))


@torch.no_grad()
def main() -> None:
    z, ours, plain = torch.randn(LATENTS, device=DEVICE), slice_vae(), without_doubling()
    other = slice_vae().to(memory_format=torch.channels_last_3d if CUDA else torch.contiguous_format)
    with FlopCounterMode(display=False) as counter:
        ours.decode(z)
    conv, conv_operations = convolution()
    networks = {"ours": ours, "plain": plain, "other": other}
    took = alternating(3, conv=conv, **{name: lambda n=network: n.decode(z) for name, network in networks.items()})
    rate = counter.get_total_flops() / took["ours"] / 1e9
    conv_limit = conv_operations / took["conv"] / 1e9
    above = in_own_process(peak) / 1e6
    gain, layout = took["plain"] / took["ours"], took["other"] / took["ours"]
    names = ("contiguous", "channels last") if CUDA else ("channels last", "contiguous")
    rows = [
        Row("Slice VAE decode: against upsamplers that double the image first", "", f"{gain:.2f} ×", None, SIZE),
        Row(f"… layout: {names[0]} against {names[1]}", "the faster", f"{layout:.2f} ×", layout >= 1, SIZE),
        Row(
            "… share of what one large convolution reaches",
            "",
            f"{rate / conv_limit:.0%} ({rate:,.0f} of {conv_limit:,.0f} GFLOP/s)",
            None,
            f"{SIZE}; 128 channels, 8 x 128 x 128",
        ),
        Row("… peak above the weights", "", f"{above:.0f} MB", None, SIZE),
    ]
    report(__file__, rows)


if __name__ == "__main__":
    main()
