"""What users choose in loaders that can't load it, and the error."""

from .bad_files import FOLDER, name_of
from .bad_graphs import (
    SAMPLER,
    C,
    E,
    L,
    N,
    Row,
    T,
    V,
    clip_vision,
    controlled,
    lora,
    other,
    text_encoder,
    transformer,
    vae,
)

AGAIN = r"is not a valid safetensors file; download it again\.$"
CUT = r"^cut.safetensors is cut short; download it again\.$"
CODE = "contains more than weights, so it was not opened .it could run code.; get it as safetensors"
WRONG = (
    ("a text", "notes.safetensors", f"^notes.safetensors {AGAIN}"),
    ("half a file", "cut.safetensors", CUT),
    ("no bytes", "empty.safetensors", f"^empty.safetensors {AGAIN}"),
    ("a pickle that runs code", "runs-code.bin", f"^runs-code.bin is damaged or {CODE}"),
)
NOT_ONE = {
    T: (
        "not a transformer of EasyAnimate; choose the transformer's file",
        (
            ("a VAE", "a-vae.safetensors", "an EasyAnimate video VAE"),
            ("a LoRA", "sd-lora.safetensors", "a LoRA"),
        ),
    ),
    V: (
        "not an EasyAnimate video VAE; choose the VAE's file",
        (
            ("a transformer", "a-transformer.safetensors", "an EasyAnimate V1-V3 transformer"),
            ("a text encoder", "a-text_encoder.safetensors", "a T5 text encoder"),
        ),
    ),
    C: (
        "not a text encoder of EasyAnimate; choose t5xxl .V1 to V3., Qwen2-VL .V5.1.",
        (
            ("a transformer", "a-transformer.safetensors", "an EasyAnimate V1-V3 transformer"),
            ("CLIP-L", "clip-l.safetensors", "a CLIP text encoder"),
        ),
    ),
    E: (
        "not a CLIP vision model; choose the release's image_encoder",
        (("a text encoder", "a-text_encoder.safetensors", "a T5 text encoder"),),
    ),
    L: (
        "not a LoRA; choose a LoRA file",
        (("a transformer", "a-transformer.safetensors", "an EasyAnimate V1-V3 transformer"),),
    ),
    N: (
        "not a PixArt ControlNet; choose one such as",
        (("a transformer", "a-transformer.safetensors", "an EasyAnimate V1-V3 transformer"),),
    ),
}
LOADS = {T: transformer, V: vae, C: text_encoder, E: clip_vision, L: lambda name: lora(name_of(name)), N: controlled}


def _files_of_other_kinds() -> list[Row]:
    """Every loader given what it can't read, and what other loaders can."""
    rows = []
    for kind, load in LOADS.items():
        rest, others = NOT_ONE[kind]
        answers = [*WRONG, *((name, file, f"^{file} is {what}, {rest}") for name, file, what in others)]
        rows += [
            Row(f"{name} as {kind}", kind, error, load(file))
            for name, file, error in answers
            if not (file.endswith(".bin") and kind == L)  # it offers safetensors only
        ]
    return rows


def _outside() -> list[Row]:
    """Names that lead out of the models' folders."""
    away, control = "../../x.safetensors", controlled("narrow.safetensors")
    control["control"]["inputs"]["control_net"] = away
    nodes_of = {
        T: other("model", transformer=away),
        V: other("vae", vae=away),
        C: other("clip", text_encoder=away),
        L: lora(away),
        N: control,
    }
    error = r"^There is no [\w ]+ named '../../x.safetensors'( in models/\w+)?; refresh and choose again\.$"
    return [Row(f"out of the folder in {kind}", kind, error, nodes, by="list") for kind, nodes in nodes_of.items()]


LOADING = (
    *_files_of_other_kinds(),
    *_outside(),
    Row("PixArt-Sigma", T, "is a PixArt-Sigma model, .* choose PixArt-XL-2", transformer("sigma.safetensors")),
    Row(
        "part of V5",
        T,
        "is only part of an EasyAnimate V5 transformer; choose its folder or index file, or download",
        transformer("v5.safetensors"),
    ),
    Row(
        "part of V4",
        T,
        "is only part of an EasyAnimate V4 transformer; choose its folder or index file, or download",
        transformer("v4.safetensors"),
    ),
    Row("no config.json", T, "put its config.json beside it to tell which", transformer("no-config.safetensors")),
    Row(
        "a config.json of another",
        T,
        "says num_layers 28, but the weights have 4; they belong to different models",
        transformer("contradiction/model.safetensors"),
    ),
    Row(
        "a billion layers",
        T,
        "says num_layers 1000000000, but the weights have 4",
        transformer("too-big/model.safetensors"),
    ),
    Row(
        "heads in words",
        T,
        "sets num_attention_heads to 'many', which is not a valid whole number; replace",
        transformer("no-number/model.safetensors"),
    ),
    Row(
        "no heads",
        T,
        "sets num_attention_heads to 0, which is not a valid whole number; replace",
        transformer("no-heads/model.safetensors"),
    ),
    Row("blocks of later releases", T, "only the blocks of V1 to V3", transformer("other-blocks/model.safetensors")),
    Row("a config.json that is a list", T, "should contain a JSON object", transformer("no-object/model.safetensors")),
    Row(
        "an index that leads outside",
        T,
        "points outside its folder, to '../../vae/x.safetensors'; don't trust",
        other("model", transformer=f"easyanimate/{FOLDER}-outside"),
    ),
    Row(
        "an index of which a part is missing",
        T,
        "names part-2.safetensors, which is missing .* download it too",
        other("model", transformer=f"easyanimate/{FOLDER}-half"),
    ),
    Row(
        "a release of two weights",
        T,
        "should contain the weights of one transformer, in a single file or with an index, but",
        other("model", transformer=f"easyanimate/{FOLDER}-twice"),
    ),
    Row(
        "a transformer as motion module",
        T,
        "not a motion module file; set motion_module to none or choose",
        other("model", motion_module=name_of("a-transformer.safetensors")),
    ),
    Row(
        "a motion module of another width",
        T,
        "already has motion modules; set motion_module to none",
        other("model", motion_module=name_of("narrow-mm.safetensors")),
    ),
    Row(
        "a motion module as transformer",
        T,
        "is a motion module without its image transformer; choose the PixArt",
        transformer("narrow-mm.safetensors"),
    ),
    Row(
        "a dtype that nobody knows",
        T,
        "There is no weight_dtype named 'fp3'; refresh and choose again",
        other("model", weight_dtype="fp3"),
        by="list",
    ),
    Row(
        "a motion module out of the folder",
        T,
        "There is no motion module named '../x.pth'; refresh and choose again",
        other("model", motion_module="../x.pth"),
        by="list",
    ),
    Row(
        "deleted since it was chosen",
        T,
        "There is no transformer named .* refresh and choose again",
        transformer("gone.safetensors"),
        deleted=f"diffusion_models/{FOLDER}/gone.safetensors",
    ),
    Row("V2's VAE as V4's", V, "says both slice_mag_vae and cache_compression_vae", vae("v4/vae.safetensors")),
    Row("V2's VAE as V5's", V, "has 4 latent channels, but the VAE of V5 has 16", vae("v5/vae.safetensors")),
    Row("SDXL's VAE", V, "scales its latents by 0.13025, but V1 needs 0.18215; choose", vae("sdxl.safetensors")),
    Row("Flux's VAE", V, "an image VAE with 16 latent channels, but V1 needs 4; choose", vae("flux-vae.safetensors")),
    Row(
        "T5 without its words",
        C,
        "lacks shared.weight, its word embeddings; download it again",
        text_encoder("shared-is-missing.safetensors"),
    ),
    Row(
        "CLIP-G",
        E,
        "is not a complete CLIP ViT-L/14 vision model: its num_hidden_layers is 1 instead",
        clip_vision("clip-g.safetensors"),
    ),
    Row(
        "Stable Diffusion's LoRA",
        L,
        "for Stable Diffusion: none of its 1 layers match .* choose a LoRA",
        lora(name_of("sd-lora.safetensors")),
    ),
    Row("Wan's LoRA", L, "for Wan: none of its 1 layers match .* choose a LoRA", lora(name_of("wan-lora.safetensors"))),
    Row(
        "a LoRA of the text alone",
        L,
        "changes the text encoder only; connect the text encoder to the clip input",
        lora(name_of("text-lora.safetensors")),
    ),
    Row(
        "a LoRA deleted since it was chosen",
        L,
        "There is no .*named .*refresh and choose again",
        lora(name_of("gone.safetensors")),
        deleted=f"loras/{FOLDER}/gone.safetensors",
    ),
    Row(
        "Stable Diffusion's ControlNet",
        N,
        "is a Stable Diffusion ControlNet, not a PixArt one; load it with",
        controlled("sd-control.safetensors"),
    ),
    Row(
        "a ControlNet with nonsense heads",
        N,
        "is not divisible by .* heads; download it again",
        controlled("heads.safetensors"),
    ),
    Row(
        "a ControlNet deleted since it was chosen",
        N,
        "There is no .*named .*refresh and choose again",
        controlled("gone.safetensors"),
        deleted=f"controlnet/{FOLDER}/gone.safetensors",
    ),
    Row(
        "a ControlNet of another width",
        SAMPLER,
        "does not fit this transformer .* choose a ControlNet that was",
        controlled("narrow.safetensors"),
    ),
    Row(
        "a ControlNet without the VAE",
        "ControlNetApplyAdvanced",
        "connect the model's VAE to the vae input",
        controlled("narrow.safetensors", with_vae=False),
    ),
)
