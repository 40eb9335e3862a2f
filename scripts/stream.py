# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Watch something live, and ask about it while it runs.

    python scripts/stream.py                        # scenes that are drawn at this moment
    python scripts/stream.py --video clip.mp4       # a file, played as if it were live
    python scripts/stream.py --camera /dev/video0   # a camera, as FFmpeg calls it

What you type is answered between two frames; /quit leaves. A question leaves no trace in what is
watched unless `--remember` is set. Memory is constant: the first `--sink` and the last `--window` frames are
remembered, or everything with `--exact`.
"""

import os
import queue
import random
import sys
import threading
import time
from collections.abc import Iterator

import torch
from chat import AnswerStreamer
from common import (
    BAD_INPUT,
    INPUT_ERRORS,
    ROOT,
    load_model,
    load_processor,
    model_parser,
    positive_float,
    positive_int,
    report,
)


CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
# Seconds between two lines of status where the output is no terminal, and frames over which a rate is averaged.
STATUS_INTERVAL = 1.0
NUM_AVERAGED = 16


def frames_of_file(processor, path: str, fps: float) -> Iterator[tuple[torch.Tensor, float]]:
    """A file's frames, ready for the tower, with their times in seconds."""
    video = processor.video_processor.stream(os.path.expanduser(path), frames_per_chunk=1, fps=fps)
    return ((pixels, times[0]) for pixels, times in video)


def frames_of_camera(processor, device: str, fps: float) -> Iterator[tuple[torch.Tensor, float]]:
    """A camera's frames at most `fps` a second; those between are dropped."""
    import av

    with av.open(device, format=CAMERA_FORMATS.get(sys.platform)) as container:
        start, due = time.monotonic(), 0.0
        for frame in container.decode(video=0):
            now = time.monotonic() - start
            if now >= due:
                due = now + 1 / fps
                yield prepare(processor, frame.to_ndarray(format="rgb24")), now


def drawn_frames(processor, fps: float, seed: int) -> Iterator[tuple[torch.Tensor, float]]:
    """Short scenes of the generator that the model learned from, held out, one after the other."""
    sys.path.insert(0, str(ROOT))
    from training.tasks import LAST_LEVEL, VIDEO_TASKS, draw

    rng, number = random.Random(seed), 0
    while True:
        sample = draw(rng.choice(VIDEO_TASKS), rng.getrandbits(62), "test", LAST_LEVEL)
        for frame in sample.frames:
            yield prepare(processor, frame), number / fps
            number += 1


def prepare(processor, frame) -> torch.Tensor:
    return processor.video_processor([frame], do_sample_frames=False, return_tensors="pt")["pixel_values_videos"]


class Questions:
    """Lines of standard input, read beside what is watched."""

    def __init__(self):
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in sys.stdin:
            self.lines.put(line.strip())
        self.lines.put(None)

    def waiting(self, timeout: float = 0.0) -> Iterator[str | None]:
        """Those that have come, and that come within a time in seconds; None at the end of input."""
        end = time.monotonic() + timeout
        while True:
            try:
                yield self.lines.get(timeout=min(max(1e-6, end - time.monotonic()), threading.TIMEOUT_MAX))
            except queue.Empty:
                return


class Watcher:
    """A stream, the questions about it, and a line that says how it goes."""

    def __init__(self, stream, args):
        self.stream = stream
        self.args = args
        self.seconds = []
        self.shown = 0.0

    def see(self, pixels: torch.Tensor, seconds: float):
        start = time.perf_counter()
        self.stream.push_pixels(pixels, [seconds])
        self.seconds = [*self.seconds[1 - NUM_AVERAGED :], time.perf_counter() - start]

    def status(self) -> str:
        milliseconds = 1000 * sum(self.seconds) / max(1, len(self.seconds))
        tokens = len(self.stream.input_ids)
        return f"frame {self.stream.num_frames}   {tokens} tokens held   {milliseconds:.1f} ms a frame"

    def show(self, always: bool = False):
        """On a terminal one line that changes; elsewhere a line now and then."""
        if sys.stdout.isatty():
            print(f"\r\033[K{self.status()}", end="", flush=True)
        elif always or time.monotonic() - self.shown >= STATUS_INTERVAL:
            self.shown = time.monotonic()
            print(self.status(), flush=True)

    def answer(self, question: str):
        print(f"\n> {question}", flush=True)
        streamer = AnswerStreamer(self.stream.processor.tokenizer)
        settings = {"keep": self.args.remember, "max_new_tokens": self.args.max_new_tokens}
        try:
            self.stream.ask(question, streamer=streamer, **settings)
        except INPUT_ERRORS as error:
            report(error)

    def watch(self, frames: Iterator[tuple[torch.Tensor, float]], questions: Questions):
        """Frame after frame at its time, and questions between them, until either ends."""
        start, ended = time.monotonic(), False
        for number, (pixels, seconds) in enumerate(frames, start=1):
            self.see(pixels, seconds)
            self.show()
            late = 0.0 if self.args.no_wait else seconds + 1 / self.args.fps - (time.monotonic() - start)
            for line in questions.waiting(0.0 if ended else max(0.0, late)):
                ended = ended or line is None
                if line == "/quit":
                    return
                if line:
                    self.answer(line)
            if ended and late > 0:
                time.sleep(late)
            if number == self.args.max_frames:
                break
        self.show(always=True)
        for question in self.args.ask:
            self.answer(question)
        # Whoever sits at a terminal may go on asking about what there was.
        for line in questions.waiting(float("inf") if sys.stdin.isatty() and not ended else 0.0):
            if line is None or line == "/quit":
                return
            if line:
                self.answer(line)


def parse_arguments(arguments: list[str] | None):
    parser = model_parser(__doc__)
    parser.add_argument("--video", metavar="PATH", help="a file or URL, played as if it were live")
    parser.add_argument("--camera", metavar="DEVICE", help="a camera, as FFmpeg calls it: /dev/video0, 0, video=NAME")
    parser.add_argument("--fps", type=positive_float, default=2.0, help="frames a second that are seen (default: 2)")
    parser.add_argument("--max-frames", type=positive_int, help="stop after so many")
    parser.add_argument("--ask", action="append", default=[], metavar="QUESTION", help="asked after the last frame")
    parser.add_argument("--remember", action="store_true", help="questions and answers stay in the conversation")
    parser.add_argument("--no-wait", action="store_true", help="as fast as it goes, not as it would be live")
    parser.add_argument("--exact", action="store_true", help="remember everything, as far as the model can read")
    parser.add_argument("--sink", type=int, default=1, help="first frames that are remembered (default: 1)")
    parser.add_argument("--window", type=positive_int, default=32, help="last frames remembered (default: 32)")
    parser.add_argument("--num-steps", type=positive_int, default=32, help="horizon of time in frames (default: 32)")
    parser.add_argument("--max-new-tokens", type=positive_int, default=256, help="longest answer (default: 256)")
    parser.add_argument("--seed", type=int, help="what is drawn (default: something new)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    try:
        processor = load_processor(args.model)
        if args.video is not None:
            frames = frames_of_file(processor, args.video, args.fps)
        elif args.camera is not None:
            frames = frames_of_camera(processor, args.camera, args.fps)
        else:
            seed = random.getrandbits(32) if args.seed is None else args.seed
            frames = drawn_frames(processor, args.fps, seed)
        bounds = {} if args.exact else {"sink": args.sink, "window": args.window}
        stream = load_model(args.model, args.device, args.dtype).stream(processor, num_steps=args.num_steps, **bounds)
        Watcher(stream, args).watch(frames, Questions())
    except INPUT_ERRORS as error:
        report(error)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
