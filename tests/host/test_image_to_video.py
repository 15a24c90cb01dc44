"""Image to video, start and end, and inpainting with the built-in InP model, on the real server, judged by pixels."""

import client
import pytest
from conftest import part
from test_server import BUILT_IN, PROMPT, assert_shows, graph, node, watch

CFG = part("easyanimate_models.training.toy.evaluation").FOR_GIVEN.cfg
BUILT_IN_INP = part("easyanimate_models.files.model_files").BUILT_IN_INP
judging = part("easyanimate_models.training.toy.judging")
psnr = part("easyanimate_models.training.vae.reconstruct").psnr
KEPT = 25.0  # dB
HELD = 15.0  # dB; the InP model gives 30; a noise mask 17, what is drawn shines through the VAE into the rows beside it


def inp_graph(prompt: str, conditioning: dict, **changed) -> dict:
    """First a video by the plain model, then one by the InP model, given something of the first."""
    nodes = graph(
        first=node("ImageFromBatch", image=["decode", 0], batch_index=0, length=1),
        last=node("ImageFromBatch", image=["decode", 0], batch_index=23, length=1),
        inp=node("EasyAnimateLoadTransformer", transformer=BUILT_IN_INP, weight_dtype="default"),
        other=node("EasyAnimateEncodePrompt", clip=["clip", 0], positive=prompt, negative="", clean_text=True),
        given=conditioning,
        second=node(
            "EasyAnimateSampler",
            model=["inp", 0],
            positive=["given", 0],
            negative=["given", 1],
            latent=["given", 2],
            seed=2,
            steps=25,
            cfg=CFG,
            sampler="euler",
            scheduler="easyanimate",
            denoise=1.0,
        ),
        again=node("EasyAnimateDecode", latent=["second", 0], vae=["vae", 0], tile_size=0),
        source=node("SaveVideo", video=["source_video", 0], filename_prefix="tests/a", format="mp4", codec="h264"),
        source_video=node("CreateVideo", images=["decode", 0], fps=24),
        video=node("CreateVideo", images=["again", 0], fps=24),
    )
    return nodes | changed


def image_to_video(**images) -> dict:
    size = {"width": 64, "height": 64, "length": 24, "batch_size": 1}
    return node(
        "EasyAnimateImageToVideo", positive=["other", 0], negative=["other", 1], vae=["vae", 0], **size, **images
    )


def both_videos(outputs: dict):
    """The video by the plain model, and the one made of it."""
    return (watch({name: outputs[name]}) for name in ("source", "save"))


def likeness(a, b) -> float:
    """PSNR in dB of images in 0..1."""
    return float(psnr(4 * (a - b).square().mean()))


def test_a_start_image_is_kept_and_moves_as_the_prompt_says(server):
    conditioning = image_to_video(start_image=["first", 0])
    source, video = both_videos(client.run(server, inp_graph(PROMPT, conditioning)))
    assert_shows(video)
    assert likeness(video[0], source[0]) >= KEPT


def test_a_video_ends_as_its_end_image(server):
    conditioning = image_to_video(start_image=["first", 0], end_image=["last", 0])
    source, video = both_videos(client.run(server, inp_graph(PROMPT, conditioning)))
    assert_shows(video)
    assert likeness(video[0], source[0]) >= KEPT and likeness(video[-1], source[-1]) >= KEPT


def test_without_images_it_is_text_to_video(server):
    outputs = client.run(server, inp_graph("a green square goes down", image_to_video()))
    assert_shows(watch({"save": outputs["save"]}), "green", "down")


@pytest.mark.parametrize("model", ["inp", "model"])
def test_a_masked_region_is_made_anew(server, model):
    """Everything but a border is masked; a 4-channel model is held to the border by the host's noise mask."""
    kind = node("EasyAnimateInpaintVideo", positive=["other", 0], negative=["other", 1], vae=["vae", 0])
    kind["inputs"] |= {"video": ["decode", 0], "mask": ["mask", 0], "noise_mask": model == "model"}
    nodes = inp_graph("a green square stays still on a black background", kind)
    nodes["second"]["inputs"]["model"] = [model, 0]
    nodes["whole"] = node("SolidMask", value=0.0, width=64, height=64)
    nodes["hole"] = node("SolidMask", value=1.0, width=48, height=48)
    nodes["mask"] = node("MaskComposite", destination=["whole", 0], source=["hole", 0], x=8, y=8, operation="add")
    source, video = both_videos(client.run(server, nodes))
    assert judging.classify(video).colour == "green"
    assert likeness(video[:, :2], source[:, :2]) >= HELD


@pytest.mark.parametrize(
    ("model", "linked", "said"),
    [
        (BUILT_IN_INP, "prompt", "connect EasyAnimate Image to Video"),
        (BUILT_IN, "given", "load an inpainting (InP) transformer"),
    ],
)
def test_the_wrong_model_is_answered_with_one_sentence(server, model, linked, said):
    nodes = inp_graph(PROMPT, image_to_video(start_image=["first", 0]))
    nodes["inp"]["inputs"]["transformer"] = model
    nodes["second"]["inputs"] |= {"positive": [linked, 0], "negative": [linked, 1]}
    with pytest.raises(client.WorkflowError) as error:
        client.run(server, nodes)
    assert said in str(error.value)


def test_the_scheduler_node_feeds_stock_samplers(server):
    stock = {
        "noise": node("RandomNoise", noise_seed=1),
        "guider": node("CFGGuider", model=["model", 0], positive=["prompt", 0], negative=["prompt", 1], cfg=CFG),
        "how": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("EasyAnimateScheduler", model=["model", 0], sampler="euler", steps=25, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced",
            noise=["noise", 0],
            guider=["guider", 0],
            sampler=["how", 0],
            sigmas=["sigmas", 0],
            latent_image=["empty", 0],
        ),
    }
    assert_shows(watch(client.run(server, graph(**stock))))
