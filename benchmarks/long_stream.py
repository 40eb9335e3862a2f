# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
A long stream through the model in this repository: resident memory and time per frame, bounded and exact.

    python benchmarks/long_stream.py                  # 20,000 frames
    python benchmarks/long_stream.py --frames 100000

Frames are pushed as a camera gives them, as bytes, here of the model's frame size; every 500 frames a question is
asked that leaves no trace. Memory is compared with that after a tenth of the frames.
"""

import gc
import time

import numpy as np
import psutil
from measuring import ROOT, parser, prepare, report
from transformers import AutoModelForImageTextToText, AutoProcessor


SINK, WINDOW, HORIZON = 1, 32, 32
NUM_READINGS = 40  # of memory and time; a tenth of them are before memory has settled
ASK_EVERY, QUESTION, ANSWER = 500, "What number is shown?", 8


def watch(stream, camera: np.ndarray, frames: int, every: int) -> dict[str, list]:
    """Push frame after frame, and ask now and then; after `every` of them, memory and milliseconds a frame."""
    process = psutil.Process()
    series = {"frames": [], "resident_mb": [], "milliseconds": [], "tokens": []}
    start = time.perf_counter()
    for number in range(1, frames + 1):
        stream.push(camera[number % len(camera)])
        if number % ASK_EVERY == 0:
            stream.ask(QUESTION, keep=False, max_new_tokens=ANSWER)
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
    # After a tenth of the frames both caches must have been full.
    least = max(NUM_READINGS, 10 * (SINK + 2 * WINDOW))
    if args.frames < least:
        arguments.error(f"expected --frames of at least {least}, for memory to settle in a tenth, got {args.frames}")
    device, _ = prepare(args)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    model = AutoModelForImageTextToText.from_pretrained(ROOT, trust_remote_code=True).to(device).eval()
    size = processor.video_processor.size
    camera = np.random.default_rng(0).integers(0, 256, (64, size.height, size.width, 3), dtype=np.uint8)

    # The bounded stream comes first: what another has freed would hide its growth.
    stream = model.stream(processor, num_steps=HORIZON, sink=SINK, window=WINDOW)
    every = args.frames // NUM_READINGS
    bounded = watch(stream, camera, args.frames, every)
    room = model.config.text_config.max_position_embeddings // 32
    exact = watch(model.stream(processor, num_steps=room), camera, room, every=8)
    tenth = NUM_READINGS // 10 - 1
    settled, times = bounded["resident_mb"][tenth:], bounded["milliseconds"]
    first, last = bounded["frames"][tenth], bounded["frames"][-1]
    figures = {
        f"resident memory, frame {last} / frame {first}": {
            "ratio": settled[-1] / settled[0],
            "goal": "at most 1.05",
        },
        f"resident memory, largest / smallest after frame {first}": {
            "ratio": max(settled) / min(settled),
            "goal": "at most 1.05",
        },
        "time of a frame, last tenth / first tenth": {
            "ratio": sum(times[-len(times) // 10 :]) / sum(times[: len(times) // 10]),
        },
        "milliseconds a frame": {"ratio": sum(times) / len(times)},
    }
    shapes = {"frames": args.frames, "sink": SINK, "window": WINDOW}
    report("stream", args, shapes, figures, {"bounded": bounded, "exact": exact})


if __name__ == "__main__":
    main()
