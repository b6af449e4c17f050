"""The public PyTorch re-implementation, q-transformer 0.5.0, timed from its own venv.

`.peer/bin/python benchmarks/peer_q_transformer.py learn|act SIZE` prints one line of JSON: of its learner, or
of one action (`get_optimal_actions`, batch 1, nothing random). It has its own learner, optimiser, target
network and mock data; image size, history, action dims and bins are those of `benchmarks.learner_step.PEER`.
Its text models are left out, which neither runs: the embeddings come with the data.
"""

import json
import os
import resource
import statistics
import sys
import tempfile
import time
import types

# It needs torchvision, whose PyPI wheel does not load beside a CPU torch.
sys.modules["open_clip"] = types.SimpleNamespace(tokenizer=None)

import torch  # noqa: E402
from classifier_free_guidance_pytorch import classifier_free_guidance_pytorch as guidance  # noqa: E402
from q_transformer import QLearner, QRoboticTransformer  # noqa: E402
from q_transformer.mocks import MockReplayDataset  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

SIZES = {
    "laptop": {
        "frames": 3, "image_size": 64, "dims": 4, "bins": 64, "batch_size": 32, "steps": 6,
        "vit": {"dim_conv_stem": 32, "dim": 32, "dim_head": 32, "depth": (1, 1, 1), "window_size": 4},
        "transformer": {"depth": 3, "heads": 4, "dim_head": 32},
    },
    "rt1": {
        "frames": 6, "image_size": 224, "dims": 8, "bins": 256, "batch_size": 2, "steps": 3,
        "vit": {"dim_conv_stem": 64, "dim": 64, "dim_head": 64, "depth": (2, 2, 5, 2), "window_size": 7},
        "transformer": {"depth": 8, "heads": 8, "dim_head": 64},
    },
}  # fmt: skip


class NoText:
    """Stands in for T5: only the width of its embeddings."""

    dim_latent = 768

    def __init__(self, *args, **kwargs):
        pass


def build(size: dict) -> QLearner:
    guidance.CONDITION_CONFIG["t5"] = NoText
    vit = {
        "num_classes": 1000,
        "mbconv_expansion_rate": 4,
        "mbconv_shrinkage_rate": 0.25,
        "dropout": 0.1,
        **size["vit"],
    }
    model = QRoboticTransformer(
        vit=vit, num_actions=size["dims"], action_bins=size["bins"], **size["transformer"]
    )
    video = (size["frames"], size["image_size"], size["image_size"])
    data = MockReplayDataset(
        length=4096, num_actions=size["dims"], num_action_bins=size["bins"] - 1, video_shape=video
    )
    return QLearner(
        model, dataset=data, batch_size=size["batch_size"], num_train_steps=size["steps"], learning_rate=3e-4,
        checkpoint_folder=tempfile.mkdtemp(), accelerator_kwargs={"cpu": True},
    )  # fmt: skip


@torch.no_grad()
def act(size: dict) -> dict:
    model = build(size).model.eval()
    video = torch.rand(1, 3, size["frames"], size["image_size"], size["image_size"])
    text, milliseconds = torch.zeros(1, NoText.dim_latent), []
    for _ in range(12):
        start = time.perf_counter()
        encoded = model.encode_state(video, text_embeds=text)
        model.q_head.get_optimal_actions(encoded, prob_random_action=0.0)
        milliseconds.append(1000 * (time.perf_counter() - start))
    milliseconds = sorted(milliseconds[2:])
    return {"p50_ms": statistics.median(milliseconds), "p99_ms": milliseconds[-1], "calls": len(milliseconds)}


def learn(size: dict) -> dict:
    learner = build(size)
    starts, learn = [], learner.learn

    def timed_learn(*args, **kwargs):
        starts.append(time.perf_counter())
        return learn(*args, **kwargs)

    learner.learn = timed_learn
    learner()
    ends = starts[1:] + [time.perf_counter()]
    seconds = statistics.median(end - start for start, end in list(zip(starts, ends))[1:])
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

    learner.num_train_steps += 1
    with FlopCounterMode(display=False) as whole:
        learner()
    image = torch.randn(1, 3, size["image_size"], size["image_size"])
    with FlopCounterMode(display=False) as encoder, torch.no_grad():
        learner.model.vit(image, return_embeddings=True)
    return {
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "steps_per_s": 1 / seconds,
        "transitions_per_s": size["batch_size"] / seconds,
        "transitions_per_step": size["batch_size"],
        "peak_memory_gib": memory,
        "step_gflop": whole.get_total_flops() / 1e9,
        "image_encoder_gflop_a_frame": encoder.get_total_flops() / 1e9,
        # forward and backward of its states (3), its target network on next states and states (1 + 1); all
        # frames of a window
        "frame_passes_a_transition": 5 * size["frames"],
    }


if __name__ == "__main__":
    torch.set_num_threads(os.cpu_count())
    print(json.dumps({"learn": learn, "act": act}[sys.argv[1]](SIZES[sys.argv[2]])))
