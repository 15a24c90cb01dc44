"""What users wire to prompts, conditioning, latents, samplers and VAEs, and the error."""

from tools.workflows.author import node

from .bad_files import name_of
from .bad_graphs import NOT_OURS, OURS_ONLY, SAMPLER, SD, Row, T, V, clip_vision, given, grey, lora, other, transformer

P, I2V, INPAINT = "EasyAnimateEncodePrompt", "EasyAnimateImageToVideo", "EasyAnimateInpaintVideo"
INP = {"model": node(T, transformer="built-in tiny InP model", weight_dtype="default")}


def inpainted(frames: int = 8, side: int = 64, **inputs) -> dict:
    """The good graph with EasyAnimate Inpaint Video in it, and masks of other lengths."""
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0], "video": ["grey", 0]}
    between = node(INPAINT, **(wired | {"noise_mask": True} | inputs))
    masks = {"mask": node("ImageToMask", image=["few", 0], channel="red"), "few": grey(3)}
    ends = other("sampler", positive=["given", 0], negative=["given", 1], latent=["given", 2])
    return {"grey": grey(frames, side), "given": between, **masks, **ends}


CONDITIONING = (
    Row(
        "a LoRA node that was given no CLIP",
        P,
        "^The node connected to clip outputs no text encoder; connect Load EasyAnimate Text Encoder",
        {**lora("built-in tiny LoRA (grey background)"), **other("prompt", clip=["lora", 1])},
    ),
    Row("an image for a text encoder", P, "mismatch", {**SD, **other("prompt", clip=["vae", 0])}, by="host"),
    Row(
        "Stable Diffusion's CLIP",
        SAMPLER,
        "gives 768-dimensional embeddings, but this transformer needs 32; load the text encoder",
        {**SD, **other("prompt", clip=["sd", 1])},
    ),
    Row(
        "a transformer for another text encoder",
        SAMPLER,
        "gives 32-dimensional embeddings, .* needs 48; load the text encoder",
        transformer("wide-text.safetensors"),
    ),
    Row("Stable Diffusion's VAE in Image to Video", I2V, OURS_ONLY, {**SD, **given(vae=["sd", 2])}),
    Row(
        "more images than frames",
        I2V,
        "9 start and end images don't fit into 8 frames; make the video longer",
        {"grey": grey(9), **given(start_image=["grey", 0])},
    ),
    Row(
        "an end without a video",
        I2V,
        "An end image needs a video to end, and a length of 1 is one frame",
        {"grey": grey(1), **given(length=1, end_image=["grey", 0])},
    ),
    Row(
        "a start after its end",
        I2V,
        r"clip_start_percent \(0.9\) must be below clip_end_percent \(0.1\)",
        {
            **clip_vision("clip-b/model.safetensors"),
            **given(clip_vision_output=["embeds", 0], clip_start_percent=0.9, clip_end_percent=0.1),
        },
    ),
    Row("a negative width", I2V, "width", given(width=-16), by="host"),
    Row("no videos at all", I2V, "batch_size", given(batch_size=0), by="host"),
    Row(
        "images for a model of text",
        SAMPLER,
        "only makes video from text and can't use images; load an inp",
        {"grey": grey(1), **given(start_image=["grey", 0])},
    ),
    Row("an InP model without images", SAMPLER, "connect EasyAnimate Image to Video between the prompt and", INP),
    Row(
        "images of another length",
        SAMPLER,
        "images are for a video of 64x64 with 2 latent frames, but",
        {
            **INP,
            "grey": grey(1),
            **given(start_image=["grey", 0]),
            "long": node("EasyAnimateEmptyLatent", width=64, height=64, length=24, batch_size=1),
            **other("sampler", positive=["given", 0], negative=["given", 1], latent=["long", 0]),
        },
    ),
    Row(
        "images of another shape",
        SAMPLER,
        "images are for a video of 64x64 .* the latent is 128x64",
        {
            **INP,
            "grey": grey(1),
            **given(start_image=["grey", 0]),
            "wide": node("EasyAnimateEmptyLatent", width=128, height=64, length=8, batch_size=1),
            **other("sampler", positive=["given", 0], negative=["given", 1], latent=["wide", 0]),
        },
    ),
    Row(
        "another CLIP vision model",
        SAMPLER,
        "gives 512-dimensional embeddings, but EasyAnimate needs 768; load CLIP ViT",
        {**transformer("with-clip.safetensors"), **clip_vision("clip-b/model.safetensors")},
    ),
    Row(
        "masks of another length",
        INPAINT,
        "The mask has 3 frames but the video has 8; use a single mask, or one",
        {**INP, **inpainted(mask=["mask", 0])},
    ),
    Row("Stable Diffusion's VAE in Inpaint Video", INPAINT, OURS_ONLY, {**SD, **inpainted(vae=["sd", 2])}),
    Row(
        "a video of four pixels",
        INPAINT,
        "^A video of 4 x 4 is too small; make it at least 8 x 8",
        {**INP, **inpainted(side=4)},
    ),
    Row(
        "an inpaint start after its end",
        INPAINT,
        r"clip_start_percent \(0.9\) must be below clip_end_percent \(0.1\)",
        {
            **clip_vision("clip-b/model.safetensors"),
            **inpainted(clip_vision_output=["embeds", 0], clip_start_percent=0.9, clip_end_percent=0.1),
        },
    ),
)


# --- latents, sampling, decoding ------------------------------------------------------------------------------------

EMPTY, SCHEDULER, WINDOWS, CACHE = (
    f"EasyAnimate{k}" for k in ("EmptyLatent", "Scheduler", "ContextWindows", "StepCache")
)
ENCODE, DECODE = "EasyAnimateEncode", "EasyAnimateDecode"
SIXTEEN = {"empty": node("EmptyHunyuanLatentVideo", width=64, height=64, length=5, batch_size=1)}
NOISY = {
    "noise": node("RandomNoise", noise_seed=1),
    "levels": node("BasicScheduler", model=["model", 0], scheduler="normal", steps=2, denoise=1.0),
    "noisy": node("AddNoise", model=["model", 0], noise=["noise", 0], sigmas=["levels", 0], latent_image=["empty", 0]),
}
NO_NUMBERS = {"broken": node("LatentMultiply", samples=["empty", 0], multiplier=float("nan"))}
V1_VAE = {"v1": node(V, vae=name_of("v1-vae.safetensors"))}
V4_VAE, V5_VAE, V51_VAE = ({"vae": node(V, vae=name_of(f"of-{n}.safetensors"))} for n in ("V4", "V5", "V5.1"))
V51_INP, V51_CONTROL = (transformer(f"v51-{kind}.safetensors") for kind in ("inp", "control"))
CONTROLLED = node(
    "EasyAnimateControlToVideo",
    **{"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0], "control_video": ["grey", 0]},
    **{"width": 64, "height": 64, "length": 9, "batch_size": 1},
)


def patched(kind: str, **inputs) -> dict:
    """The good graph with a node between the transformer and the sampler."""
    return {"patched": node(kind, **({"model": ["model", 0]} | inputs)), **other("sampler", model=["patched", 0])}


SAMPLING = (
    Row(
        "a width of eight", EMPTY, "^8 x 64 is too small; width and height must be at least 16", other("empty", width=8)
    ),
    Row("a length in words", EMPTY, "length", other("empty", length="long"), by="host"),
    Row("no latents", EMPTY, "batch_size", other("empty", batch_size=0), by="host"),
    Row("Stable Diffusion's VAE for a latent", EMPTY, OURS_ONLY, {**SD, **other("empty", vae=["sd", 2])}),
    Row(
        "a latent of another release",
        SAMPLER,
        "The latent is for EasyAnimate V1, but the transformer is for V3; load",
        {**V1_VAE, **other("empty", vae=["v1", 0])},
    ),
    Row(
        "V4's VAE and V3's transformer",
        SAMPLER,
        "The latent is for EasyAnimate V4, but the transformer is for V3; load",
        {**V4_VAE, **other("empty", vae=["vae", 0])},
    ),
    Row(
        "V5's VAE and V5.1's transformer",
        SAMPLER,
        "The latent is for EasyAnimate V5, but the transformer is for V5.1; load the transformer of V5, or connect",
        {**V5_VAE, **V51_INP, "grey": grey(1), **given(length=9, start_image=["grey", 0])},
    ),
    Row(
        "V5.1's latent and V5's VAE",
        DECODE,
        "The latent is for EasyAnimate V5.1, but the VAE is for V5; load the VAE of V5.1",
        {
            **V51_VAE,
            "v5": V5_VAE["vae"],
            **other("empty", length=9, vae=["vae", 0]),
            **other("decode", latent=["empty", 0], vae=["v5", 0]),
        },
    ),
    Row(
        "a Control transformer given images",
        SAMPLER,
        "^This is a Control transformer, but its conditioning is that of image to video; use EasyAnimate Control to",
        {**V51_VAE, **V51_CONTROL, "grey": grey(1), **given(length=9, start_image=["grey", 0])},
    ),
    Row(
        "an InP transformer given a control video",
        SAMPLER,
        "^This is an inpainting .InP. transformer, but its conditioning is a control video; load a Control",
        {**V51_VAE, **V51_INP, "grey": grey(9), **given(), "given": CONTROLLED},
    ),
    Row(
        "a latent of another model",
        SAMPLER,
        "^The latent has 16 channels, but EasyAnimate V3 needs 4; .* use",
        {**SIXTEEN, **NOISY, **other("sampler", latent=["noisy", 0], denoise=0.5)},
    ),
    Row(
        "a latent without numbers",
        SAMPLER,
        "NaN or infinite values, so a computation before this node overflowed",
        {**NO_NUMBERS, **other("sampler", latent=["broken", 0])},
    ),
    Row("an image model", SAMPLER, NOT_OURS, {**SD, **other("sampler", model=["sd", 0])}),
    Row("no steps", SAMPLER, "steps", other("sampler", steps=0), by="host"),
    Row(
        "a sampler that nobody knows",
        SAMPLER,
        "There is no sampler named 'magic'; refresh and choose",
        other("sampler", sampler="magic"),
        by="list",
    ),
    Row(
        "a scheduler that nobody knows",
        SAMPLER,
        "There is no scheduler named 'magic'; refresh and choose",
        other("sampler", scheduler="magic"),
        by="list",
    ),
    Row("denoise above all", SAMPLER, "denoise", other("sampler", denoise=1.5), by="host"),
    Row(
        "an image model's levels",
        SCHEDULER,
        NOT_OURS,
        {
            **SD,
            **NOISY,
            **other("sampler", latent=["noisy", 0]),
            "levels": node(SCHEDULER, model=["sd", 0], sampler="euler", steps=2, denoise=1.0),
        },
    ),
    Row(
        "no steps to schedule",
        SCHEDULER,
        "steps",
        {
            **NOISY,
            **other("sampler", latent=["noisy", 0]),
            "levels": node(SCHEDULER, model=["model", 0], sampler="euler", steps=0, denoise=1.0),
        },
        by="host",
    ),
    Row(
        "windows that overlap whole",
        WINDOWS,
        "Windows of 16 frames can't overlap by 16; make the overlap smaller",
        patched(WINDOWS, length=16, overlap=16),
    ),
    Row(
        "windows on an image model",
        WINDOWS,
        NOT_OURS,
        {**SD, **patched(WINDOWS, model=["sd", 0], length=16, overlap=8)},
    ),
    Row("windows of no frames", WINDOWS, "length", patched(WINDOWS, length=0, overlap=0), by="host"),
    Row(
        "a threshold above all",
        CACHE,
        "threshold",
        patched(CACHE, threshold=1.5, start_percent=0.3, most_in_a_row=3),
        by="host",
    ),
    Row(
        "a threshold that is no number",
        CACHE,
        "threshold|most",
        patched(CACHE, threshold="some", start_percent=0.3, most_in_a_row=3),
        by="host",
    ),
    Row(
        "none in a row",
        CACHE,
        "most_in_a_row",
        patched(CACHE, threshold=0.1, start_percent=0.3, most_in_a_row=0),
        by="host",
    ),
    Row(
        "an image model behind a step cache",
        SAMPLER,
        NOT_OURS,
        {**SD, **patched(CACHE, model=["sd", 0], threshold=0.1, start_percent=0.3, most_in_a_row=3)},
    ),
    Row(
        "Stable Diffusion's VAE to encode with",
        ENCODE,
        OURS_ONLY,
        {
            **SD,
            "grey": grey(8),
            **other("sampler", latent=["e", 0]),
            "e": node(ENCODE, images=["grey", 0], vae=["sd", 2], tile_size=0),
        },
    ),
    Row(
        "frames of four pixels",
        ENCODE,
        "^A video of 4 x 4 is too small; make it at least 8 x 8",
        {
            "grey": grey(8, 4),
            **other("sampler", latent=["e", 0]),
            "e": node(ENCODE, images=["grey", 0], vae=["vae", 0], tile_size=0),
        },
    ),
    Row(
        "a tile below nothing",
        ENCODE,
        "tile_size",
        {
            "grey": grey(8),
            **other("sampler", latent=["e", 0]),
            "e": node(ENCODE, images=["grey", 0], vae=["vae", 0], tile_size=-64),
        },
        by="host",
    ),
    Row("Stable Diffusion's VAE to decode with", DECODE, OURS_ONLY, {**SD, **other("decode", vae=["sd", 2])}),
    Row(
        "a VAE of another release",
        DECODE,
        "The latent is for EasyAnimate V3, but the VAE is for V1; load the VAE of V3",
        {**V1_VAE, **other("decode", vae=["v1", 0])},
    ),
    Row(
        "another model's latent to decode",
        DECODE,
        "^The latent has 16 channels, but EasyAnimate V3 needs 4; .* use",
        {**SIXTEEN, **other("decode", latent=["empty", 0])},
    ),
    Row(
        "no numbers to decode",
        DECODE,
        "NaN or infinite values, so a computation before this node overflowed",
        {**NO_NUMBERS, **other("decode", latent=["broken", 0])},
    ),
    Row(
        "seams that nobody knows",
        DECODE,
        "There is no seams option named 'none'; refresh",
        other("decode", seams="none"),
        by="list",
    ),
)
