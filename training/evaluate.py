# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Exact-match accuracy of a model on held-out samples of every task.

    python -m training.evaluate --model . --samples 200

Seeds, fonts, backgrounds and strings are those of the test split. Half of the pictures were compressed by JPEG, videos
are decoded from real H.264 mp4 files, and everything passes through the processor, as a user's files would.
"""

import argparse
import io
import json
import math
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from training.data import conversation, stable_seed
from training.scenes import encode_mp4
from training.tasks import TASKS, Sample, draw


ROOT = Path(__file__).resolve().parents[1]


def held_out(task: str, number: int) -> list[Sample]:
    """The first `number` samples of a task's test set, the same for everyone."""
    return [draw(task, stable_seed(f"test/{task}/{index}"), "test") for index in range(number)]


def mp4_of(sample: Sample) -> bytes:
    """The sample's frames as an mp4 file, compressed as much as its first frame's bytes say."""
    file = io.BytesIO()
    encode_mp4(sample.frames, sample.fps, file, crf=18 + int(np.sum(sample.frames[0], dtype=np.int64)) % 13)
    return file.getvalue()


@torch.inference_mode()
def answers(model, processor, samples: list[Sample], max_new_tokens: int = 12) -> list[str]:
    """Greedy answers to a batch of samples."""
    texts = [
        processor.apply_chat_template(conversation(sample, False), tokenize=False, add_generation_prompt=True)
        for sample in samples
    ]
    images = [image for sample in samples for image in sample.images]
    videos = [mp4_of(sample) for sample in samples if sample.frames]
    inputs = processor(text=texts, images=images or None, videos=videos or None, padding=True, return_tensors="pt")
    inputs = inputs.to(model.device)
    generated = model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return processor.batch_decode(generated[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def evaluate(model, processor, task: str, number: int, batch_size: int) -> dict:
    samples = held_out(task, number)
    right, wrong = 0, []
    for start in range(0, number, batch_size):
        batch = samples[start : start + batch_size]
        for sample, answer in zip(batch, answers(model, processor, batch)):
            if answer.strip() == sample.answer:
                right += 1
            else:
                wrong.append([sample.question, sample.answer, answer])
    accuracy = right / number
    return {
        "task": task,
        "samples": number,
        "accuracy": accuracy,
        "standard_error": math.sqrt(accuracy * (1 - accuracy) / number),
        "wrong": wrong,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT))
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=25)
    parser.add_argument("--tasks", default=",".join(TASKS))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path, help="file for the results, wrong answers included")
    args = parser.parse_args()
    model = AutoModelForImageTextToText.from_pretrained(args.model, trust_remote_code=True).to(args.device).eval()
    processor = AutoProcessor.from_pretrained(args.model, trust_remote_code=True)
    results = []
    for task in args.tasks.split(","):
        result = evaluate(model, processor, task, args.samples, args.batch_size)
        results.append(result)
        print(
            f"| {task} | {args.samples} | {100 * result['accuracy']:.1f} ± {100 * result['standard_error']:.1f} |",
            flush=True,
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
