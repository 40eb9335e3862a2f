# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Ask the model about images and videos that are drawn at this moment.

    python scripts/demo.py
    python scripts/demo.py --rounds 3 --folder files

One question of each task, of the held-out split at full difficulty. The pictures are written to real .png, .jpg and
.mp4 files, and what the model sees is read back from those files, as a user's files would be.
"""

import os
import secrets
import shlex
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import BAD_INPUT, ROOT, load_model, load_processor, model_parser, positive_int, report, run
from PIL import Image


sys.path.insert(0, str(ROOT))
try:
    from training.scenes import encode_mp4
    from training.tasks import LAST_LEVEL, TASKS, Sample, draw
except ImportError as error:
    report(f"the generator of pictures needs more packages, {error}; `pip install -r requirements-training.txt`")
    sys.exit(BAD_INPUT)

MAX_NEW_TOKENS = 16
GREEN, RED, PLAIN = "\033[32m", "\033[31m", "\033[0m"


@dataclass
class Result:
    """What the model made of one sample."""

    answer: str
    right: bool
    num_visual_tokens: int
    seconds: float


def write_files(sample: Sample, stem: Path, rng: np.random.Generator) -> list[Path]:
    """The sample's pictures as PNG or JPEG files, or its frames as an H.264 file, compressed as files are."""
    if sample.frames:
        path = stem.with_name(f"{stem.name}.mp4")
        encode_mp4(sample.frames, sample.fps, str(path), crf=int(rng.integers(18, 31)))
        return [path]
    paths = []
    for number, image in enumerate(sample.images, start=1):
        suffix = "png" if rng.random() < 0.5 else "jpg"
        paths.append(stem.with_name(f"{stem.name}{f'_{number}' if len(sample.images) > 1 else ''}.{suffix}"))
        Image.fromarray(np.asarray(image)).save(paths[-1], **({} if suffix == "png" else {"quality": 95}))
    return paths


@torch.inference_mode()
def ask(model, processor, sample: Sample, paths: list[Path]) -> Result:
    """Ask the sample's question about its files."""
    start = time.perf_counter()
    kind = "video" if sample.frames else "image"
    visuals = [{"type": kind, "path": str(path)} for path in paths]
    messages = [{"role": "user", "content": [*visuals, {"type": "text", "text": sample.question}]}]
    inputs = processor.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    ).to(model.device)
    generated = model.generate(**inputs, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
    answer = processor.decode(generated[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
    placeholders = torch.tensor([processor.image_token_id, processor.video_token_id], device=model.device)
    num_visual_tokens = int(torch.isin(inputs["input_ids"], placeholders).sum())
    return Result(answer, answer == sample.answer, num_visual_tokens, time.perf_counter() - start)


def show(number: int, sample: Sample, paths: list[Path], result: Result, coloured: bool):
    """One question on three lines: the files, what was asked, and what came out."""
    mark = "right" if result.right else "wrong"
    if coloured:
        mark = f"{GREEN if result.right else RED}{mark}{PLAIN}"
    answer = shorten(result.answer, 16)
    print(f"{number:3}  {sample.task:<14}{'  '.join(path.name for path in paths)}")
    print(f"     {'':14}{sample.question}")
    print(
        f"     {mark}{'':9}answer {answer:<18}truth {sample.answer:<18}"
        f"{result.num_visual_tokens:5} visual tokens{result.seconds:7.2f} s\n",
        flush=True,
    )


def shorten(text: str, width: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= width else f"{text[: width - 3]}..."


def chat_command(sample: Sample, paths: list[Path], model: str) -> str:
    """The command that asks the same question with `chat.py`."""
    words = [os.path.relpath(sys.executable), os.path.relpath(Path(__file__).with_name("chat.py"))]
    if Path(model).resolve() != ROOT:
        words += ["--model", model]
    for path in paths:
        words += ["--video" if sample.frames else "--image", str(path)]
    return shlex.join([*words, sample.question])


def parse_arguments(arguments: list[str] | None):
    parser = model_parser(__doc__)
    parser.add_argument("--rounds", type=positive_int, default=1, help="questions per task (default: 1)")
    parser.add_argument("--seed", type=int, help="what is drawn (default: something new)")
    parser.add_argument("--folder", metavar="DIR", help="where the files go (default: a new temporary folder)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    processor = load_processor(args.model)
    model = load_model(args.model, args.device, args.dtype)
    folder = Path(args.folder or tempfile.mkdtemp(prefix="pvc-demo-"))
    folder.mkdir(parents=True, exist_ok=True)
    seed = secrets.randbits(32) if args.seed is None else args.seed
    print(f"files in {folder}\nseed {seed} (`--seed {seed}` draws the same)\n")
    rng = np.random.default_rng(seed)
    coloured = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    right, examples = 0, {}
    tasks = TASKS * args.rounds
    for number, task in enumerate(tasks, start=1):
        sample = draw(task, int(rng.integers(2**62)), "test", LAST_LEVEL)
        paths = write_files(sample, folder / f"{number:02}_{task}", rng)
        result = ask(model, processor, sample, paths)
        show(number, sample, paths, result, coloured)
        right += result.right
        examples.setdefault(bool(sample.frames), chat_command(sample, paths, args.model))
    print(f"{right} of {len(tasks)} right")
    print("\nAsk about these files yourself, or about your own; without a question a conversation opens:")
    for command in examples.values():
        print(f"  {command}")


if __name__ == "__main__":
    sys.exit(run(main))
