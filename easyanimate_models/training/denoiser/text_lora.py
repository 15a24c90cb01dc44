"""Low-rank adapters on T5, so that a LoRA can teach new words: texts are encoded again in every step."""

from collections.abc import Iterator
from contextlib import contextmanager

from comfy.text_encoders.t5 import T5LayerNorm
from torch import Tensor, nn

from ...lora import T5
from ...text_encoders.prompt import encode_prompt
from ...text_encoders.t5 import T5Encoder
from ..clips.latent_cache import text_tensors
from ..samples import PreviewInputs, conditioning
from .lora import LoraSettings, LowRank

BLOCKS = f"{T5}encoder.block."


class TrainableTextEncoder:
    """A CLIP of the host with adapters in T5's attention and feed-forward layers, which gradients reach."""

    def __init__(self, clip, settings: LoraSettings):
        if not isinstance(getattr(clip.cond_stage_model, "t5xxl", None), T5Encoder):
            raise ValueError("This text encoder can't be trained; load T5 with Load EasyAnimate Text Encoder.")
        self.clip, self.adapters = clip.clone(), nn.ModuleDict()
        for name, module in clip.cond_stage_model.named_modules():
            if isinstance(module, nn.Linear) and name.startswith(BLOCKS):
                adapter = LowRank(module.weight.shape, settings, getattr(module, "scale_weight", None))
                self.adapters[name.replace(".", "/")] = adapter
                self.clip.patcher.add_weight_wrapper(f"{name}.weight", adapter)

    def __call__(self, texts: list[str]) -> dict[str, Tensor]:
        """The texts as a `Batch` names them, a row each; the host must have loaded the CLIP."""
        return text_tensors(encode_prompt(self.clip, texts, encode=_with_gradients))

    def encode_prompts(self, inputs: PreviewInputs) -> tuple[list[list], list]:
        """Positive and negative conditioning of previews, encoded with the adapters as they are now."""
        settings, extra = inputs.settings, inputs.positives[0][0][1]
        positives = [conditioning(self.clip, [prompt], extra) for prompt in settings.all_prompts]
        return positives, conditioning(self.clip, [settings.negative], inputs.negative[0][1])


def _with_gradients(clip, tokens: list) -> list:
    """The conditioning of several texts at once, a row each; the host's own way leaves no gradients."""
    t5 = clip.cond_stage_model.t5xxl
    t5.reset_clip_options()
    t5.set_clip_options({"execution_device": clip.patcher.load_device})
    rows = [[token for token, *_ in each["t5xxl"][0]] for each in tokens]
    with _inputs_of_norms_kept(t5):
        context, _, extra = t5.encode(rows)
    return [[context, {"attention_mask": extra["attention_mask"]}]]


@contextmanager
def _inputs_of_norms_kept(network: nn.Module) -> Iterator[None]:
    """The host adds in place to the inputs of norms, which their gradients need unchanged: give them copies."""
    norms = [module for module in network.modules() if isinstance(module, T5LayerNorm)]
    hooks = [norm.register_forward_pre_hook(lambda _, args: (args[0].clone(),)) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
