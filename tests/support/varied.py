"""A recorded set with other names, rows, heads, ranks, multipliers, steps and guidance than those of `tests/golden`.

What the changes leave valid is copied; the rest is computed by our networks and by formulas written out here.
"""

import gzip
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file

from .components import write_component
from .loras import NAMINGS
from .pack import part
from .parity import encode_ids, float32_text_encoder, predict
from .recorded import GOLDEN, Golden, golden

sd = part("easyanimate_models.sd")
SIZED, WINDOW_VAE = "v3_transformer/sized", "v2_mag_vae/windows"
T5, CLIP, RUN = "v3_e2e/words", "v3_e2e/sight", "v3_e2e/from_pictures"
INP, SLICE_VAE = "v3_transformer/given_pictures", "v3_slice_vae/two_cases"
V1, IMAGE_VAE, V1_RUN = "v1_transformer/fewer_heads", "v1_e2e/frames_reversed", "v1_e2e/three_steps"
LORA = "v1_lora/higher_rank"
TEXT_ROWS = [1, 0, 1]  # of the recorded texts: positive, negative, positive
RANK, ALPHA, MULTIPLIER = 3, 2.0, 0.35
STEPS, GUIDANCE = 3, 4.5
NOTE = "from here on a remark"


def write(folder: Path, name: str, config: dict, tensors: dict[str, torch.Tensor]) -> None:
    """A recording; `tensors` come under their recorded names."""
    file = folder / f"{name}.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: v.clone().contiguous() for k, v in tensors.items()}, file)
    file.with_suffix(".json").write_text(json.dumps(config), encoding="utf-8")


def write_variation(folder: Path) -> None:
    """The whole set, small enough for a test."""
    _sized_transformer(folder)
    _models_for_pictures(folder)
    _encoders(folder)
    _run_with_swapped_rows(folder)
    base = _v1_with_fewer_heads(folder)
    _v1_run(folder, base)
    _lora(folder, base)
    _window_vae(folder)
    _tables(folder)


def write_wrong(folder: Path) -> None:
    """Copies, each called wrong, with settings that aren't those of the outputs, or outputs off by two thousandths."""
    _wrong_settings(folder, LORA, multiplier=1.1 * MULTIPLIER)
    _wrong_settings(folder, V1_RUN, guidance_scale=1.1 * GUIDANCE)
    for name in (SIZED, IMAGE_VAE, WINDOW_VAE, T5, CLIP):
        source = golden(name, folder)
        outputs = {k: 1.002 * v if k.startswith("outputs.") else v for k, v in source.tensors.items()}
        write(folder, f"{name} wrong", source.config, outputs)


def _wrong_settings(folder: Path, name: str, **changed) -> None:
    source = golden(name, folder)
    write(folder, f"{name} wrong", source.config | changed, source.tensors)


def with_cases(source: Golden, names: dict[str, str], **changed) -> tuple[dict, dict[str, torch.Tensor]]:
    """JSON and tensors of a recording with only these of its cases, under other names."""
    tensors = {f"weights.{k}": v for k, v in source.weights.items()}
    for old, new in names.items():
        tensors |= {f"inputs.{new}.{k}": v for k, v in source.inputs(old).items()}
        tensors |= {f"outputs.{new}.{k}": v for k, v in source.outputs(old).items()}
    cases = {new: source.config["cases"][old] for old, new in names.items()}
    return {**source.config, "cases": cases, **changed}, tensors


def _sized_transformer(folder: Path) -> None:
    """The videos of a batch the other way round, and tolerances in both places."""
    config, tensors = with_cases(
        golden("v3_transformer/t2v_l1_d96_sample128"), {"f1": "image", "f3": "pair"}, tolerance=2e-4
    )
    config["cases"]["pair"] = {**config["cases"]["pair"], "tolerance": 3e-4}
    flipped = {k: v.flip(0) if ".pair." in k else v for k, v in tensors.items()}
    write(folder, SIZED, config, flipped)


def _models_for_pictures(folder: Path) -> None:
    write(folder, INP, *with_cases(golden("v3_transformer/inp_l28_uvit"), {"clipmask_cfg": "both halves"}))
    cases = {"enc_f9_b2": "nine frames", "dec_n3": "three latents"}
    write(folder, SLICE_VAE, *with_cases(golden("v3_slice_vae/slice_vae"), cases))


def _encoders(folder: Path) -> None:
    """Three texts of two, in another order; one image of two, under another name."""
    source = golden("v3_e2e/t5")
    write(folder, T5, source.config, {k: v if "weights" in k else v[TEXT_ROWS] for k, v in source.tensors.items()})
    source = golden("v3_e2e/clip_vision")
    renamed = {k.replace("img1", "photo"): v for k, v in source.tensors.items() if "img0" not in k}
    write(folder, CLIP, source.config, renamed)


def _run_with_swapped_rows(folder: Path) -> None:
    source = golden("v3_e2e/i2v_start_end_Euler")
    models = {"transformer": INP, "vae": SLICE_VAE, "t5": T5, "clip": CLIP}
    rows = {"negative_row": TEXT_ROWS.index(0), "positive_row": len(TEXT_ROWS) - 1}
    write(folder, RUN, {**source.config, **models, **rows}, source.tensors)


def _load_transformer(folder: Path, weights: dict[str, torch.Tensor], constructor: dict):
    path = write_component(folder, weights, constructor)
    return sd.load_transformer(path, weight_dtype="fp32").model.diffusion_model


def _v1_with_fewer_heads(folder: Path) -> Golden:
    """Half as many heads over the same weights, in blocks and in motion modules."""
    source = golden("v1_transformer/grid_l2")
    constructor = json.loads(json.dumps(source.config["constructor"]))
    constructor["num_attention_heads"] //= 2
    constructor["attention_head_dim"] *= 2
    constructor["motion_module_kwargs"]["num_attention_heads"] //= 2
    config, tensors = with_cases(source, {"f3": "half the heads"}, constructor=constructor)
    network = _load_transformer(folder / "work" / "v1", source.weights, constructor)
    inputs = source.inputs("f3")
    tensors["outputs.half the heads.sample"] = _with_variance(predict(network, inputs))
    write(folder, V1, config, tensors)
    return golden(V1, folder)


def _with_variance(noise: torch.Tensor) -> torch.Tensor:
    """The original's networks also predict a variance, which nobody uses."""
    return torch.cat([noise, torch.zeros_like(noise)], dim=1)


def sigma_table() -> torch.Tensor:
    """Noise of the thousand training steps, over the signal."""
    signal = (1 - torch.linspace(1e-4, 2e-2, 1000, dtype=torch.float64)).cumprod(0)
    return ((1 - signal) / signal).sqrt()


def euler_schedule(steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Timesteps, and the sigmas between and around them, down to 0."""
    timesteps = torch.linspace(999, 0, steps, dtype=torch.float64)
    table, low = sigma_table(), timesteps.floor().long()
    high, share = (low + 1).clamp(max=999), timesteps - low
    sigmas = table[low] * (1 - share) + table[high] * share
    return timesteps, torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)]).float()


def _v1_run(folder: Path, base: Golden) -> None:
    """Euler's method from noise to frames, step by step."""
    vae = golden("v1_e2e/sd_vae")
    reversed_frames = {k: v if "weights" in k else v.flip(0) for k, v in vae.tensors.items()}
    write(folder, IMAGE_VAE, vae.config, reversed_frames)
    timesteps, sigmas = euler_schedule(STEPS)
    network = _load_transformer(folder / "work" / "v1_run", base.weights, base.config["constructor"])
    rng = torch.Generator().manual_seed(5)
    noise, text = torch.randn(1, 4, 2, 4, 8, generator=rng), torch.randn(2, 9, 28, generator=rng)
    mask = torch.ones(2, 9, dtype=torch.int64)
    mask[0, 2:] = 0
    x, latents, guided = noise * sigmas[0], [], []
    for step, timestep in enumerate(timesteps.float()):
        scaled = (x / (sigmas[step] ** 2 + 1).sqrt()).repeat(2, 1, 1, 1, 1)
        negative, positive = network(scaled, timestep.expand(2), context=text, attention_mask=mask).chunk(2)
        guided.append(negative + GUIDANCE * (positive - negative))
        x = x + (sigmas[step + 1] - sigmas[step]) * guided[-1]
        latents.append(x)
    decoder = sd.load_vae(write_component(folder / "work" / "image_vae", vae.weights, vae.config["constructor"]))
    video = decoder.first_stage_model.decode(x / vae.config["constructor"]["scaling_factor"])
    source = golden("v1_e2e/t2v_Euler_A").config
    run = {"frames": 2, "H": 32, "W": 64, "num_inference_steps": STEPS, "guidance_scale": GUIDANCE}
    how = {"scheduler": "EulerDiscreteScheduler", "init_noise_sigma": float(sigmas[0]), "n_model_calls": STEPS}
    config = {**source, **run, **how, "transformer": V1, "vae": IMAGE_VAE}
    inputs = {"initial_noise": noise, "text_embeds_neg_pos": text, "text_mask_neg_pos": mask}
    outputs = {"latents_after_each_step": torch.stack(latents), "guided_model_output_each_step": torch.stack(guided)}
    outputs |= {"sigmas": sigmas, "timesteps": timesteps, "video_0_1": (video.clamp(-1, 1) + 1) / 2}
    tensors = {f"inputs.{k}": v for k, v in inputs.items()} | {f"outputs.{k}": v for k, v in outputs.items()}
    write(folder, V1_RUN, config, tensors)


def _low_rank(weights: dict[str, torch.Tensor], prefix: str) -> tuple[dict, dict[str, torch.Tensor]]:
    """A LoRA's tensors for these layers, and their weights with it, by the original's formula."""
    tensors, merged, rng = {}, {}, torch.Generator().manual_seed(6)
    for key, weight in weights.items():
        name = prefix + key.removesuffix(".weight").replace(".", "_")
        up, down = (
            0.3 * torch.randn(shape, generator=rng) for shape in ((weight.shape[0], RANK), (RANK, weight.shape[1]))
        )
        tensors |= {
            f"{name}.lora_up.weight": up,
            f"{name}.lora_down.weight": down,
            f"{name}.alpha": torch.tensor(ALPHA),
        }
        merged[key] = weight + MULTIPLIER * ALPHA / RANK * up @ down
    return tensors, merged


def _lora(folder: Path, base: Golden) -> None:
    """On every query of the V1 base and of T5."""
    queries = {k: v for k, v in base.weights.items() if k.endswith("to_q.weight")}
    unet, merged = _low_rank(queries, NAMINGS["easyanimate"](""))
    t5 = golden(T5, folder)
    text, merged_text = _low_rank({k: v for k, v in t5.weights.items() if k.endswith("Attention.q.weight")}, "lora_te_")
    network = _load_transformer(folder / "work" / "lora", base.weights | merged, base.config["constructor"])
    (case,) = base.config["cases"]
    path = write_component(folder / "work" / "t5", t5.weights | merged_text, t5.config["constructor"])
    with float32_text_encoder():
        clip = sd.load_text_encoder(path)
    states = torch.cat([encode_ids(clip, ids)["cond"] for ids in t5.tensors["inputs.input_ids"]])
    outputs = {
        f"outputs.{case}.sample_after_merge": _with_variance(predict(network, base.inputs(case))),
        "outputs.t5_last_hidden_state_after_merge": states,
    }
    config = {"base_model": V1, "case_of_base_model": case, "changed_weights": sorted(merged), "multiplier": MULTIPLIER}
    more = {"rank": RANK, "network_alpha": ALPHA, "lora_file": f"v1_lora/weights.safetensors ({NOTE})"}
    write(folder, LORA, config | more, outputs)
    save_file(unet | text, folder / "v1_lora" / "weights.safetensors")


def _window_vae(folder: Path) -> None:
    cases = {"enc_f5": "five", "dec_n2": "two", "tiled_f1": "tiles"}
    write(folder, WINDOW_VAE, *with_cases(golden("v2_mag_vae/mag_vae"), cases))


def _tables(folder: Path) -> None:
    """A schedule of seven steps, the prompts the other way round, and one manifest."""
    timesteps, sigmas = euler_schedule(7)
    signal = 1 / (1 + sigma_table() ** 2)
    table = {"timesteps": timesteps.tolist(), "sigmas": sigmas.tolist()}
    table["alphas_cumprod_samples"] = {str(t): float(signal[t]) for t in (3, 700)}
    (folder / "scheduler_tables.json").write_text(json.dumps({"v1_v2_v3|Euler|7": table, "v9|Euler|7": {}}))
    prompts = json.loads((GOLDEN / "v3_prompt_cleaning.json").read_text(encoding="utf-8"))
    (folder / "v3_prompt_cleaning.json").write_text(json.dumps({"rows": prompts["rows"][::-1]}), encoding="utf-8")
    (folder / "manifests").mkdir()
    shutil.copy(GOLDEN / "manifests" / "v3_vae.json.gz", folder / "manifests" / "v3_renamed.json.gz")
    with gzip.open(folder / "manifests" / "v9_vae.json.gz", "wt", encoding="utf-8") as file:
        json.dump({"reference_class": "Something", "keys": {}, "config": {}}, file)
    write(
        folder, "v9_transformer/unknown", {"reference_class": "Transformer3DModel", "cases": {}}, {"a": torch.ones(1)}
    )
