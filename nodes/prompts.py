"""Text -> CONDITIONING."""

from comfy_api.latest import io

from ..easyanimate_models.text_encoders.prompt import encode_prompt


class EasyAnimateEncodePrompt(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateEncodePrompt",
            display_name="Encode EasyAnimate Prompt",
            category="EasyAnimate/conditioning",
            description="What the video should show, and what not, as conditioning.",
            inputs=[
                io.Clip.Input("clip", tooltip="The T5 text encoder."),
                io.String.Input(
                    "positive",
                    multiline=True,
                    dynamic_prompts=True,
                    tooltip="What should be seen, in English: a sentence or two, 120 tokens at most.",
                ),
                io.String.Input("negative", multiline=True, dynamic_prompts=True, tooltip="What should not be seen."),
                io.Boolean.Input(
                    "clean_text",
                    default=True,
                    tooltip="Lower-case the text and drop links, brackets, weights and Chinese characters, as the "
                    "releases were trained. Off keeps it as typed, with (word:1.2) weights.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="What should be seen."),
                io.Conditioning.Output(display_name="negative", tooltip="What should not be seen."),
            ],
        )

    @classmethod
    def execute(cls, clip, positive, negative, clean_text) -> io.NodeOutput:
        require_text_encoder(clip)
        return io.NodeOutput(*(encode_prompt(clip, [text], clean_text) for text in (positive, negative)))


def require_text_encoder(clip):
    """Nodes put out none when they were given none, and checkpoints may lack one."""
    if clip is None:
        raise ValueError(
            "No text encoder comes out of the node that is connected to clip; connect Load EasyAnimate Text Encoder."
        )
    return clip


NODES = [EasyAnimateEncodePrompt]
