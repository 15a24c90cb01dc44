"""File -> MODEL, VAE, CLIP, CONTROL_NET; LoRA file -> patched MODEL and CLIP."""

from comfy_api.latest import io

from ..easyanimate_models import lora as loras
from ..easyanimate_models import sd
from ..easyanimate_models.files import model_files
from ..easyanimate_models.files.checkpoint import WEIGHT_SUFFIXES
from ..easyanimate_models.host import require_choice
from ..easyanimate_models.text_encoders.bert_mt5 import RULES
from ..easyanimate_models.text_encoders.qwen2_vl import INDEX, PADDING_POSITIONS
from .schema import schema

CATEGORY = "EasyAnimate/loaders"
AUTOMATIC = "automatic"


class EasyAnimateLoadTransformer(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateLoadTransformer",
            display_name="Load EasyAnimate Transformer",
            category=CATEGORY,
            description="Loads an EasyAnimate video transformer from models/diffusion_models, or from a release "
            "folder in models/easyanimate.",
            inputs=[
                io.Combo.Input(
                    "transformer",
                    options=list(model_files.choices("transformer")),
                    tooltip="A file from models/diffusion_models, or a release folder in models/easyanimate. For V1: "
                    "PixArt-XL-2.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(sd.WEIGHT_DTYPES),
                    tooltip="Precision of the weights in memory; fp8 takes half as much as bf16. default picks what "
                    "suits your GPU.",
                ),
                io.Combo.Input(
                    "motion_module",
                    options=[model_files.NO_FILE, *model_files.choices("motion_module")],
                    default=model_files.NO_FILE,
                    optional=True,
                    tooltip="V1 only: it comes as two files, the PixArt image transformer above and easyanimate_v1_mm "
                    "here.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The transformer, for LoRAs and the sampler.")],
        )

    @classmethod
    def execute(cls, transformer, weight_dtype, motion_module=model_files.NO_FILE) -> io.NodeOutput:
        require_choice("weight_dtype", weight_dtype, sd.WEIGHT_DTYPES)
        path = model_files.resolve("transformer", transformer)
        motion = None
        if motion_module != model_files.NO_FILE:
            motion = model_files.resolve("motion_module", motion_module)
        return io.NodeOutput(sd.load_transformer(path, motion, weight_dtype=weight_dtype))


class EasyAnimateLoadVAE(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateLoadVAE",
            display_name="Load EasyAnimate VAE",
            category=CATEGORY,
            description="Loads the VAE that matches the transformer's release, V1 (an image VAE) to V5.1.",
            inputs=[
                io.Combo.Input(
                    "vae",
                    options=list(model_files.choices("vae")),
                    tooltip="A file from models/vae, or a release folder in models/easyanimate.",
                )
            ],
            outputs=[io.Vae.Output(tooltip="The VAE, for encoding and decoding.")],
        )

    @classmethod
    def execute(cls, vae) -> io.NodeOutput:
        return io.NodeOutput(sd.load_vae(model_files.resolve("vae", vae)))


class EasyAnimateLoadTextEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateLoadTextEncoder",
            display_name="Load EasyAnimate Text Encoder",
            category=CATEGORY,
            description="Loads the text encoder that the transformer was trained with: T5 for V1 to V3, BERT and mT5 "
            "for V4 and V5, Qwen2-VL for V5.1.",
            inputs=[
                io.Combo.Input(
                    "text_encoder",
                    options=list(model_files.choices("text_encoder")),
                    tooltip="A file from models/text_encoders, or a release folder in models/easyanimate. V1 to V3: "
                    "t5xxl. V5.1: Qwen2-VL-7B-Instruct. V4 and V5: BERT.",
                ),
                io.Combo.Input(
                    "text_encoder_2",
                    options=[model_files.NO_FILE, *model_files.choices("text_encoder_2")],
                    default=model_files.NO_FILE,
                    optional=True,
                    tooltip="V4 and V5 only: mT5, their second text encoder. A release folder brings its own.",
                ),
                io.Combo.Input(
                    "release",
                    options=[AUTOMATIC, *RULES],
                    default=AUTOMATIC,
                    optional=True,
                    tooltip="V4 and V5 only: which of the two the prompts are for, since both have the same files. "
                    "automatic: as the release folder says, and V5 for separate files.",
                ),
                io.Combo.Input(
                    "padding_positions",
                    options=list(PADDING_POSITIONS),
                    default=INDEX,
                    optional=True,
                    tooltip="V5.1 only: how padding after the prompt is numbered. index: as the original does with "
                    "transformers 4.46; one: as with 4.49 to 4.57.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="The text encoder, for the prompt.")],
        )

    @classmethod
    def execute(
        cls, text_encoder, text_encoder_2=model_files.NO_FILE, release=AUTOMATIC, padding_positions=INDEX
    ) -> io.NodeOutput:
        require_choice("release", release, (AUTOMATIC, *RULES))
        require_choice("padding_positions", padding_positions, PADDING_POSITIONS)
        path, second = model_files.resolve("text_encoder", text_encoder), None
        if text_encoder_2 != model_files.NO_FILE:
            second = model_files.resolve("text_encoder_2", text_encoder_2)
        chosen = None if release == AUTOMATIC else release
        return io.NodeOutput(sd.load_text_encoder(path, second, release=chosen, padding_positions=padding_positions))


class EasyAnimateLoadImageEncoder(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateLoadImageEncoder",
            display_name="Load EasyAnimate Image Encoder",
            category=CATEGORY,
            description="Loads CLIP ViT-L/14 vision, through which the InP transformers of V3 and V4 see the start "
            "image: a file from models/clip_vision, or the image_encoder of a release folder.",
            inputs=[
                io.Combo.Input(
                    "image_encoder",
                    options=list(model_files.choices("image_encoder")),
                    tooltip="A CLIP ViT-L/14 file from models/clip_vision, or a release folder in models/easyanimate.",
                )
            ],
            outputs=[io.ClipVision.Output(tooltip="For CLIP Vision Encode and for training.")],
        )

    @classmethod
    def execute(cls, image_encoder) -> io.NodeOutput:
        return io.NodeOutput(sd.load_image_encoder(model_files.resolve("image_encoder", image_encoder)))


class EasyAnimateLoadLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        strength = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}
        return schema(
            node_id="EasyAnimateLoadLora",
            display_name="Load EasyAnimate LoRA",
            category=CATEGORY,
            description="Applies a LoRA to the transformer, and to the text encoder if connected. Chain nodes to "
            "stack several LoRAs.",
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer."),
                io.Combo.Input(
                    "lora",
                    options=[model_files.BUILT_IN_LORA, *model_files.host_files("loras")],
                    tooltip="A safetensors file from models/loras.",
                ),
                io.Float.Input(
                    "strength_model",
                    tooltip="LoRA strength: usually 0.5 to 1. 0 = off; a negative value inverts it.",
                    **strength,
                ),
                io.Clip.Input("clip", optional=True, tooltip="The text encoder, for LoRAs that also change it."),
                io.Float.Input(
                    "strength_clip",
                    optional=True,
                    tooltip="LoRA strength on the text encoder; usually the same as strength_model.",
                    **strength,
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="The transformer with the LoRA applied."),
                io.Clip.Output(tooltip="The text encoder with its part of the LoRA applied."),
            ],
        )

    @classmethod
    def execute(cls, model, lora, strength_model, clip=None, strength_clip=1.0) -> io.NodeOutput:
        path = model_files.lora_path(lora)
        return io.NodeOutput(*loras.load_lora(path, model, clip, strength_model, strength_clip))


class EasyAnimateLoadControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateLoadControlNet",
            display_name="Load EasyAnimate ControlNet",
            category=CATEGORY,
            description="Loads a PixArt ControlNet, which guides every frame with a hint image such as its edges "
            "(HED).",
            inputs=[
                io.Combo.Input(
                    "control_net",
                    options=model_files.host_files("controlnet", WEIGHT_SUFFIXES),
                    tooltip="A PixArt ControlNet from models/controlnet. Use it with Apply ControlNet, with the VAE "
                    "connected there.",
                )
            ],
            outputs=[io.ControlNet.Output(tooltip="For Apply ControlNet.")],
        )

    @classmethod
    def execute(cls, control_net) -> io.NodeOutput:
        return io.NodeOutput(sd.load_controlnet(model_files.host_path("controlnet", control_net)))


NODES = [
    EasyAnimateLoadTransformer,
    EasyAnimateLoadVAE,
    EasyAnimateLoadTextEncoder,
    EasyAnimateLoadImageEncoder,
    EasyAnimateLoadLora,
    EasyAnimateLoadControlNet,
]
