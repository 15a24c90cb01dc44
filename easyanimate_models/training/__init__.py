"""Training, from clips to a file: a LoRA, motion modules, a transformer, or a VAE.

    nodes/training.py -> node_run      (models of the host)   -+-> denoiser/ or vae/ -> loop.fit -> export
    recipe.toml -> recipe -> recipe_run  (files)              -+

- `loop` is the training step; `learner`, `ema`, `precision`, `devices`, `interrupts` and `sharding` are what it needs,
  `checkpoints` and `journal` what it leaves in the folder of the run, `training_plan` its settings, `hooks` what goes
  along with it.
- `clips/` reads data sets and caches them as latents and text embeddings.
- `denoiser/` has the objective of the transformer, and trains its weights (`transformer`) or a LoRA (`lora_training`).
- `vae/` has the objective of the VAE, and trains it (`run`).
- `samples` makes previews while training, `export` writes what is trained, at the end and on the way.
- `toy/` trains and evaluates the built-in tiny model on clips made in code.
"""
