"""EasyAnimate's models for ComfyUI. Imports go down this list, never up (`tests/unit/test_contracts.py`).

training/             clips -> LoRA, motion modules, whole models: clips/ (data set -> batches), denoiser/, vae/, toy/
data/                 footage -> clips -> scores -> captions: a data set
sd                    a path -> MODEL, VAE, CLIP, CLIP_VISION, CONTROL_NET
lora                  a LoRA file -> patches on MODEL and CLIP
model_detection/      tensors and config.json -> release and network config; a file per architecture, listed in __init__
supported_models      a class per release: its network, prediction, schedule, latents, VAE, text encoder
model_base            conditioning -> the tensors that the network takes
names/                other namings of the same weights -> ours
configs/              config.json in the original's words <-> our config
conditioning/         images, masks, hints and camera paths -> what a network is given beside the noise
sampling/             schedules, context windows, step cache, preview runs
latent_formats        what a release's latents look like to the host
media/                video files and pictures <-> frames, for data and training
text_encoders/        text -> tokens -> embeddings: prompt is the one way in
dit/                  the denoisers
vae/                  the VAEs: networks, how time and space are cut, and ComfyUI's face of them
files/                reading and writing: checkpoints, pickles, TOML, atomic writes, messages
memory                memory of models that are gone, back to the system
host                  what differs between versions of ComfyUI, and nothing else
"""
