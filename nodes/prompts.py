"""Text -> CONDITIONING."""

from comfy_api.latest import io

from ..easyanimate_models.host import show_warnings
from ..easyanimate_models.text_encoders.prompt import encode_prompt, lost_text
from .schema import schema


class EasyAnimateEncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateEncodePrompt",
            display_name="Encode EasyAnimate Prompt",
            category="EasyAnimate/conditioning",
            hidden=[io.Hidden.unique_id],
            description="Encodes the prompt and the negative prompt into conditioning.",
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder."),
                io.String.Input(
                    "positive",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What the video should show, in one or two sentences. V1 to V3: in English, 120 tokens at "
                    "most. V4 and later also read Chinese; V5.1 reads 242 tokens.",
                ),
                io.String.Input(
                    "negative", multiline=True, dynamic_prompts=True, tooltip="What the video should not show."
                ),
                io.Boolean.Input(
                    "clean_text",
                    default=True,
                    tooltip="V1 to V3: lower-cases the text and strips links, brackets and Chinese characters, as in "
                    "training; of (word:1.2), word:1.2 is read as text. Off: the text is used as typed, with weights. "
                    "Later releases always read it as typed, brackets too.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="Positive conditioning."),
                io.Conditioning.Output(display_name="negative", tooltip="Negative conditioning."),
            ],
        )

    @classmethod
    def execute(cls, clip, positive, negative, clean_text) -> io.NodeOutput:
        require_text_encoder(clip)
        notes = [note for text in (positive, negative) for note in lost_text(clip, text, clean_text)]
        if notes:
            show_warnings(cls.hidden.unique_id, notes)
        return io.NodeOutput(*(encode_prompt(clip, [text], clean_text) for text in (positive, negative)))


def require_text_encoder(clip):
    """Nodes put out none when they were given none, and checkpoints may lack one."""
    if clip is None:
        raise ValueError("The node connected to clip outputs no text encoder; connect Load EasyAnimate Text Encoder.")
    return clip


NODES = [EasyAnimateEncodePrompt]
