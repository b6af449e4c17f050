"""What pretrained eyes are worth from images: `metaworld_eyes.py:EYES,SEED`, with Q-Transformer on recipe a.

The benchmark from images (metaworld_images.py) with its pools, tasks and evaluation, fewer steps, and one of
three image encoders: `patch`, which learns from nothing on shifted images; `lite0_frozen`,
EfficientNet-Lite0 with ImageNet's parameters, whose features are kept on disk, so that no image is shifted;
`lite0_trained`, the same at a tenth of the learning rate, on shifted images. The frozen one sees the 64x64
images at 128x128, which it makes 4x4 places of. The trained one sees them as they are: at 128x128 a step
would take four times as long. Nothing of this was tuned.

Hardware: 2 CPU cores. Time: a step takes 0.34 s (patch) and 3.6 s (trained) on one core. Memory: not
measured. Result: not run yet (`make metaworld-eyes`).
"""

import ml_collections

from experiments import metaworld_images

STEPS = 1000
LITE0 = {"model.encoder": "efficientnet_lite0"}
EYES = {
    "patch": {},
    "lite0_frozen": LITE0
    | {
        "model.image_size": 128,
        "model.frozen_encoder": True,
        "data.cache_features": True,
        "data.augment.shift": 0,
    },
    "lite0_trained": LITE0 | {"optimizer.encoder_learning_rate": 0.1},
}
"""{name: settings}."""


def get_config(arguments: str = "lite0_frozen,0") -> ml_collections.ConfigDict:
    eyes, seed = arguments.split(",")
    config = metaworld_images.get_config(f"q_transformer,a,{seed}")
    config.workdir = f"runs/metaworld_eyes/{eyes}/{seed}"
    config.train.steps = STEPS
    config.update_from_flattened_dict(EYES[eyes])
    return config
