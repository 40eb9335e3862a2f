# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Watch something live, and ask about it while it runs.

    python scripts/stream.py                        # scenes that are drawn at this moment
    python scripts/stream.py --video clip.mp4       # a file, played as if it were live
    python scripts/stream.py --camera /dev/video0   # a camera, as FFmpeg calls it

What you type is answered between two frames, and after the last until the input ends; /quit leaves. Frames without end
stop when the input ends. A question leaves no trace in what is watched unless `--remember` is set. Memory is constant:
the first `--sink` and the last `--window` frames are remembered, or everything with `--exact`.
"""

import itertools
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
    INPUT_ERRORS,
    ROOT,
    load_model,
    load_processor,
    model_parser,
    positive_float,
    positive_int,
    question,
    report,
    run,
    typed_question,
    whole_number,
)


COMMANDS = "/quit leaves."
CAMERA_FORMATS = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}
# Seconds between two lines of status where the output is no terminal, and frames over which a rate is averaged.
STATUS_INTERVAL = 1.0
NUM_AVERAGED = 16
# Horizon of time in frames where memory is bounded: what is watched may go on beyond it.
NUM_STEPS = 32


def open_source(processor, args) -> tuple[Iterator[tuple[torch.Tensor, float]], int | None]:
    """What is watched: frames ready for the tower with their times in seconds, and how many, if there is an end."""
    length = args.max_frames
    if args.video is not None:
        path = os.path.expanduser(args.video)
        video = processor.video_processor.stream(path, frames_per_chunk=1, fps=args.fps, max_frames=None)
        frames = ((pixels, times[0]) for pixels, times in video)
        length = min(video.num_frames, length or video.num_frames)
    elif args.camera is not None:
        frames = frames_of_camera(processor, args.camera, args.fps)
    else:
        seed = random.getrandbits(32) if args.seed is None else args.seed
        frames = drawn_frames(processor, args.fps, seed)
    return itertools.islice(frames, length), length


def frames_of_camera(processor, device: str, fps: float) -> Iterator[tuple[torch.Tensor, float]]:
    """
    A camera's frames at most `fps` a second; those between are dropped.

    Raises:
        ValueError: a camera that cannot be opened, or goes away.
    """
    import av

    try:
        with av.open(device, format=CAMERA_FORMATS.get(sys.platform)) as container:
            start, due = time.monotonic(), 0.0
            for frame in container.decode(video=0):
                now = time.monotonic() - start
                if now >= due:
                    due = now + 1 / fps
                    yield prepare(processor, frame.to_ndarray(format="rgb24")), now
    except (av.error.FFmpegError, ValueError) as error:
        raise ValueError(f"expected a camera, received {device!r}: {error}; name another with --camera") from error


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
        self.ended = False
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        for line in sys.stdin:
            self.lines.put(line.strip())
        self.lines.put(None)

    def until(self, due: float) -> Iterator[str]:
        """Those that have come, and that come until a time of the monotonic clock or the end of input."""
        while not self.ended:
            try:
                line = self.lines.get(timeout=min(max(0.0, due - time.monotonic()), threading.TIMEOUT_MAX))
            except queue.Empty:
                return
            self.ended = line is None
            if line:
                yield line


class Watcher:
    """A stream, the questions about it, and a line that says how it goes."""

    def __init__(self, stream, args):
        self.stream = stream
        self.args = args
        self.seconds = []
        self.shown, self.shown_at = "", 0.0

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
        status = self.status()
        if sys.stdout.isatty():
            print(f"\r\033[K{status}", end="", flush=True)
        elif status != self.shown and (always or time.monotonic() - self.shown_at >= STATUS_INTERVAL):
            self.shown, self.shown_at = status, time.monotonic()
            print(status, flush=True)

    def answer(self, line: str):
        streamer = AnswerStreamer(self.stream.processor.tokenizer)
        settings = {"keep": self.args.remember, "max_new_tokens": self.args.max_new_tokens}
        try:
            print(f"\n> {typed_question(line, COMMANDS)}", flush=True)
            self.stream.ask(line, streamer=streamer, **settings)
        except INPUT_ERRORS as error:
            report(error)

    def watch(self, frames: Iterator[tuple[torch.Tensor, float]], questions: Questions, endless: bool):
        """Frame after frame at its time, with questions between them and after the last."""
        start = time.monotonic()
        for pixels, seconds in frames:
            self.see(pixels, seconds)
            self.show()
            due = 0.0 if self.args.no_wait else start + seconds + 1 / self.args.fps
            for line in questions.until(due):
                if line == "/quit":
                    return
                self.answer(line)
            if endless and questions.ended:
                break
            time.sleep(max(0.0, due - time.monotonic()))
        self.show(always=True)
        for line in itertools.chain(self.args.ask, questions.until(float("inf"))):
            if line == "/quit":
                return
            self.answer(line)


def parse_arguments(arguments: list[str] | None):
    parser = model_parser(__doc__)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--video", metavar="PATH", help="a file or URL, played as if it were live")
    source.add_argument(
        "--camera",
        metavar="DEVICE",
        help="as FFmpeg calls it: /dev/video0 on Linux, 0 on macOS, video=NAME on Windows",
    )
    parser.add_argument("--fps", type=positive_float, default=2.0, help="frames a second that are seen (default: 2)")
    parser.add_argument("--max-frames", type=positive_int, help="stop after so many")
    parser.add_argument(
        "--ask", type=question, action="append", default=[], metavar="QUESTION", help="asked after the last frame"
    )
    parser.add_argument("--remember", action="store_true", help="questions and answers stay in the conversation")
    parser.add_argument("--no-wait", action="store_true", help="as fast as it goes, not as it would be live")
    parser.add_argument("--exact", action="store_true", help="remember everything, as far as the model can read")
    parser.add_argument("--sink", type=whole_number, default=1, help="first frames that are remembered (default: 1)")
    parser.add_argument("--window", type=positive_int, default=32, help="last frames remembered (default: 32)")
    parser.add_argument(
        "--num-steps",
        type=positive_int,
        help=f"horizon of time in frames (default: {NUM_STEPS}; with --exact, as many as are watched)",
    )
    parser.add_argument("--max-new-tokens", type=positive_int, default=256, help="longest answer (default: 256)")
    parser.add_argument("--seed", type=int, help="what is drawn (default: something new)")
    args = parser.parse_args(arguments)
    if args.exact and not (args.video or args.max_frames or args.num_steps):
        parser.error(
            "argument --exact: expected --max-frames or --num-steps where frames have no end, received neither"
        )
    return args


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    processor = load_processor(args.model)
    frames, length = open_source(processor, args)
    bounds = {} if args.exact else {"sink": args.sink, "window": args.window}
    num_steps = args.num_steps or (length if args.exact else NUM_STEPS)
    stream = load_model(args.model, args.device, args.dtype).stream(processor, num_steps=num_steps, **bounds)
    Watcher(stream, args).watch(frames, Questions(), endless=length is None)


if __name__ == "__main__":
    sys.exit(run(main))
