"""Latents and pixels of the original's VAEs, met by ours through the real loaders, in float32."""

from dataclasses import replace

from support.original_tiling import OriginalTiling
from support.recorded import cases, config_of, each, names, recorded

TILE = "tile_latent_min_size"  # only tiled cases have it


def tiled(name: str, case: str) -> bool:
    return TILE in config_of(name)["cases"][case]


ENCODED = [case for case in cases("video VAE", "inputs.{}.pixels", "outputs.{}.mean") if not tiled(*case)]
DECODED = [case for case in cases("video VAE", "inputs.{}.latents", "outputs.{}.pixels") if not tiled(*case)]
TILED = [case for case in cases("video VAE") if tiled(*case)]


@each("name, case", ENCODED)
def test_a_video_vae_encodes_to_the_recorded_posterior(load, agree, name, case):
    model, theirs = load.vae(name).first_stage_model, recorded(name).outputs(case)
    pixels = recorded(name).inputs(case)["pixels"]
    agree(name, case, "mean", model.encode(pixels), theirs["mean"])
    if "logvar" in theirs and len(model.plan.encode(pixels.shape[2])) == 1:
        agree(name, case, "log variance", model.moments(pixels)[1], theirs["logvar"])


@each("name, case", DECODED)
def test_a_video_vae_decodes_to_the_recorded_pixels(load, agree, name, case):
    ours = load.vae(name).first_stage_model.decode(recorded(name).inputs(case)["latents"])
    agree(name, case, "pixels", ours, recorded(name).outputs(case)["pixels"])


@each("name, case", TILED)
def test_tiles_meet_as_recorded(load, agree, name, case):
    model, settings = load.vae(name).first_stage_model, config_of(name)["cases"][case]
    inputs, theirs = recorded(name).inputs(case), recorded(name).outputs(case)
    tiles = OriginalTiling(settings[TILE], int(settings[TILE] * settings["tile_overlap_factor"]))
    if "pixels" in inputs:
        agree(name, case, "mean", model.encode(inputs["pixels"], tiling=tiles), theirs["mean"])
    for output, corner in (("decoded_without_corner_pass", False), ("decoded", True)):
        if output in theirs:
            decoded = model.decode(inputs["latents"], tiling=replace(tiles, corner=corner))
            agree(name, case, output, decoded, theirs[output])


@each("name", names("image VAE"))
def test_an_image_vae_takes_every_frame_as_recorded(load, agree, name):
    """What was recorded as images goes through it as the frames of one video."""
    tensors, model = recorded(name).tensors, load.vae(name).first_stage_model
    pixels, latents = (tensors[f"inputs.{kind}"].movedim(0, 1)[None] for kind in ("pixels", "latents"))
    agree(name, None, "mean", model.encode(pixels)[0].movedim(1, 0), tensors["outputs.mean"])
    agree(name, None, "pixels", model.decode(latents)[0].movedim(1, 0), tensors["outputs.decoded"])
    for frame in range(pixels.shape[2]):
        ours = model.moments(pixels[:, :, frame : frame + 1])[1][:, :, 0]
        agree(name, None, f"log variance of frame {frame}", ours, tensors["outputs.logvar"][frame : frame + 1])
