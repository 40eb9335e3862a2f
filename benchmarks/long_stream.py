# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
A long stream through the model in this repository: resident memory and time per frame, bounded and exact.

    python benchmarks/long_stream.py                  # 20,000 frames
    python benchmarks/long_stream.py --frames 100000
"""

import gc
import time

import psutil
import torch
from measuring import ROOT, parser, prepare, report
from transformers import AutoModelForImageTextToText, AutoProcessor


SINK, WINDOW, HORIZON = 1, 32, 32
SETTLED, MARK = 2000, 500  # frames until memory has settled, and between two readings


def watch(stream, pixels: torch.Tensor, frames: int) -> dict[str, list]:
    """Push frame after frame; after every `MARK` of them, 8 in a short stream, memory and milliseconds a frame."""
    process, every = psutil.Process(), MARK if frames > MARK else 8
    series = {"frames": [], "resident_mb": [], "milliseconds": [], "tokens": []}
    start = time.perf_counter()
    for number in range(1, frames + 1):
        stream.push_pixels(pixels[number % len(pixels)][None])
        if number % every == 0:
            series["milliseconds"].append(1000 * (time.perf_counter() - start) / every)
            gc.collect()
            series["frames"].append(number)
            series["resident_mb"].append(process.memory_info().rss / 1e6)
            series["tokens"].append(len(stream.input_ids))
            start = time.perf_counter()
    return series


def main():
    arguments = parser(__doc__)
    arguments.add_argument("--frames", type=int, default=20_000)
    args = arguments.parse_args()
    device, _ = prepare(args)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(ROOT, trust_remote_code=True).to(device).eval()
    pixels = torch.randn(64, 3, 64, 64)

    room = model.config.text_config.max_position_embeddings // 32
    exact = watch(model.stream(processor, num_steps=room), pixels, room)
    bounded = watch(model.stream(processor, num_steps=HORIZON, sink=SINK, window=WINDOW), pixels, args.frames)
    settled = bounded["resident_mb"][min(SETTLED, args.frames) // MARK - 1 :]
    times = bounded["milliseconds"]
    figures = {
        f"resident memory, frame {args.frames} / frame {SETTLED}": {
            "ratio": settled[-1] / settled[0],
            "goal": "at most 1.05",
        },
        f"resident memory, largest / smallest after frame {SETTLED}": {
            "ratio": max(settled) / min(settled),
            "goal": "at most 1.05",
        },
        "time of a frame, last tenth / first tenth": {
            "ratio": sum(times[-len(times) // 10 :]) / sum(times[: len(times) // 10 or 1]),
        },
        "milliseconds a frame": {"ratio": sum(times) / len(times)},
    }
    shapes = {"frames": args.frames, "sink": SINK, "window": WINDOW}
    report("stream", args, shapes, figures, {"bounded": bounded, "exact": exact})


if __name__ == "__main__":
    main()
