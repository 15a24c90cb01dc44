"""The schema of a node, with the words in three languages that it is found by."""

from comfy_api.latest import io

from ..easyanimate_models.host import knows_advanced_inputs, knows_search_aliases
from .training_options import OPTIONS

WORDS = {  # node id -> what else people call it
    "EasyAnimateLoadTransformer": (
        "load video model, diffusion model, unet, text to video, t2v, image to video, i2v, 文生视频, 图生视频, "
        "テキストから動画, 画像から動画, 加载模型, モデルを読み込む"
    ),
    "EasyAnimateLoadVAE": "video vae, vae loader, 视频 VAE, 動画 VAE",
    "EasyAnimateLoadTextEncoder": "t5, t5xxl, clip loader, bert, mt5, qwen2-vl, 文本编码器, テキストエンコーダー",
    "EasyAnimateLoadImageEncoder": "clip vision, image encoder, 图像编码器, 画像エンコーダー",
    "EasyAnimateLoadLora": "video lora, lora loader, 加载 LoRA, LoRA を読み込む",
    "EasyAnimateLoadControlNet": "controlnet loader, hed, pixart, 加载 ControlNet, ControlNet を読み込む",
    "EasyAnimateEncodePrompt": "video prompt, clip text encode, 提示词, プロンプト",
    "EasyAnimateImageToVideo": (
        "image to video, i2v, start image, first frame last frame, animate image, 图生视频, 首尾帧, 画像から動画, 動画"
    ),
    "EasyAnimateInpaintVideo": (
        "video inpainting, video mask, video to video, v2v, 视频局部重绘, 视频修复, 動画のインペイント"
    ),
    "EasyAnimateControlToVideo": (
        "control video, pose, depth, canny, fun control, video to video, v2v, 控制视频, 姿态, 制御動画, ポーズ"
    ),
    "EasyAnimateCameraPath": "camera control, camera motion, zoom pan, 运镜, 镜头, カメラワーク",
    "EasyAnimateTrajectory": "motion path, drag, 轨迹, 軌跡",
    "EasyAnimateEmptyLatent": (
        "text to video, t2v, empty video latent, video size, video length, 文生视频, 空视频, 视频尺寸, "
        "テキストから動画, 空の動画, 動画の長さ"
    ),
    "EasyAnimateSampler": (
        "ksampler, text to video, t2v, image to video, i2v, 文生视频, 图生视频, テキストから動画, 画像から動画, "
        "make video, video to video, v2v, 视频采样, 動画を生成"
    ),
    "EasyAnimateScheduler": "sigmas, noise schedule, flow, 调度器, スケジューラー",
    "EasyAnimateContextWindows": "long video, sliding window, 长视频, 长时间视频, 長い動画",
    "EasyAnimateStepCache": "teacache, easycache, faster, speed up, 加速, 高速化",
    "EasyAnimateEncode": "vae encode, video to latent, video to video, v2v, 编码视频, 動画をエンコード",
    "EasyAnimateDecode": "vae decode, latent to video, tiled decode, 解码视频, 動画にデコード",
    "EasyAnimateSplitVideos": "split scenes, cut footage, scene detection, 切分视频, 動画を分割",
    "EasyAnimateScoreClips": "video quality, aesthetic score, motion score, 视频评分, 動画を評価",
    "EasyAnimateFilterClips": "choose clips, select clips, 筛选视频, 動画を選別",
    "EasyAnimateCaptionClips": "caption video, describe video, 视频打标, 视频描述, 動画のキャプション",
    "EasyAnimateLoadDataset": "training data, load clips, 训练集, 加载数据集, 学習データ",
    "EasyAnimateTrainLora": "lora training, finetune, train style, 训练 LoRA, 微调, LoRA 学習, 動画の学習",
    "EasyAnimateTrainMotionModule": "motion training, animatediff, 训练运动模块, モーションの学習",
}
ALIASES = {node_id: tuple(words.split(", ")) for node_id, words in WORDS.items()}

CLIP_PERCENTS = ("clip_start_percent", "clip_end_percent")
TRAINING = (
    *("learning_rate", "batch_size", "seed", "every", "sample_every", "sample_prompt", "fps", "save_every"),
    *("validation", "validation_every", "sample_steps", "sample_cfg", "sample_sampler"),
    *("sample_width", "sample_height", "sample_frames", *OPTIONS),
)
ADVANCED = {  # inputs that few change
    "EasyAnimateImageToVideo": CLIP_PERCENTS,
    "EasyAnimateInpaintVideo": CLIP_PERCENTS,
    "EasyAnimateTrainLora": (*TRAINING, "motion_modules", "names", "text_encoder", "start_from", "blocks_to_swap"),
    "EasyAnimateTrainMotionModule": TRAINING,
}


def schema(node_id: str, **fields) -> io.Schema:
    """The schema of a node; hosts from 0.33 on also find it by its aliases and fold its advanced inputs away."""
    if knows_advanced_inputs():
        for given in fields["inputs"]:
            if given.id in ADVANCED.get(node_id, ()):
                given.extra_dict = {**given.extra_dict, "advanced": True}
    if knows_search_aliases():
        fields["search_aliases"] = list(ALIASES[node_id])
    return io.Schema(node_id=node_id, **fields)
