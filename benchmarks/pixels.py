"""Pixels of 8 frames of 1280x720, ours against the reference's video processor, in one run.

    .venv/bin/python benchmarks/pixels.py [--threads 2] [--runs 15]

Prints one JSON line per family: medians in milliseconds, and the largest difference, which must be 0.
"""

import argparse
import json
import platform
import statistics
import time

import numpy as np
import torch

# The reference imports torchvision, whose wheel lacks its compiled operators beside a CPU torch: declaring
# the two that its registrations expect is enough for the tensor transforms.
if torch.version.cuda is None:
    torchvision = torch.library.Library("torchvision", "FRAGMENT")
    torchvision.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    torchvision.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def measure(runs, *functions):
    """Median milliseconds of each, the runs interleaved so that both see the same machine."""
    times = [[] for _ in functions]
    for _ in range(runs):
        for function, taken in zip(functions, times, strict=True):
            start = time.perf_counter()
            function()
            taken.append((time.perf_counter() - start) * 1000)
    return [round(statistics.median(taken), 1) for taken in times]


def main():
    from transformers.models.instructblipvideo import video_processing_instructblipvideo as blip
    from transformers.models.video_llava import video_processing_video_llava as llava

    from watchword.media import PixelSpec, to_pixels

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clip = np.random.default_rng(0).integers(0, 256, (8, 720, 1280, 3), dtype=np.uint8)
    for processor in (llava.VideoLlavaVideoProcessor(), blip.InstructBlipVideoVideoProcessor()):
        spec = PixelSpec.from_dict(processor.to_dict())
        key = processor.model_input_names[0]
        difference = (processor(clip, return_tensors="pt")[key][0] - to_pixels(clip, spec)).abs().max()
        theirs, ours = measure(
            options.runs,
            lambda processor=processor: processor(clip, return_tensors="pt"),
            lambda spec=spec: to_pixels(clip, spec),
        )
        print(
            json.dumps({
                "processor": type(processor).__name__, "frames": list(clip.shape), "threads": options.threads,
                "ours_ms": ours, "reference_ms": theirs, "difference": float(difference),
                "torch": torch.__version__, "machine": platform.processor() or platform.machine(),
            })
        )  # fmt: skip


if __name__ == "__main__":
    main()
