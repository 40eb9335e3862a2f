# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Ask about your own images and videos.

    python scripts/chat.py --image photo.jpg --video clip.mp4 "What changed?"
    python scripts/chat.py --video clip.mp4

Without a question a conversation opens: what you type is answered, and

    /image PATH, /video PATH   attach a file to the next question
    /new                       starts over without files and history
    /quit                      leaves, as the end of input does; Ctrl-C stops an answer

A file is decoded, encoded and read once, however many questions are asked about it; a video is encoded while it is
decoded, which gives the features of the whole and keeps memory small.
"""

import os
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

from common import (
    INPUT_ERRORS,
    load_model,
    load_processor,
    model_parser,
    positive_float,
    positive_int,
    question,
    report,
    run,
    typed_question,
)
from tqdm import tqdm
from transformers import TextStreamer


COMMANDS = "/image PATH and /video PATH attach a file to the next question, /new starts over, /quit leaves."


@dataclass
class File:
    """A file that could be opened: a decoded image, or a video whose frames are still to be read."""

    kind: str
    name: str
    content: object


class Reader:
    """Opens files with the settings of the command line."""

    def __init__(self, processor, sampling: dict):
        self.processor = processor
        self.sampling = sampling

    def __call__(self, kind: str, path: str) -> File:
        path = os.path.expanduser(path)
        if kind == "image":
            content = self.processor.image_processor.fetch_images(path)
        else:
            content = self.processor.video_processor.stream(path, **self.sampling)
        return File(kind, os.path.basename(path), content)


@contextmanager
def progress_bar(label: str, shown: bool):
    """A bar on stderr as a function of (frames done, frames in all)."""
    with tqdm(desc=label, unit=" frames", leave=False, disable=not shown) as bar:

        def progress(done: int, total: int):
            bar.total = total
            bar.update(done - bar.n)

        yield progress


class AnswerStreamer(TextStreamer):
    """Prints an answer as it is generated."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.begun = False

    def on_finalized_text(self, text: str, stream_end: bool = False):
        # SentencePiece puts a space before the first word.
        super().on_finalized_text(text if self.begun else text.lstrip(" "), stream_end)
        self.begun = True


class Conversation:
    """A stream of files and questions, shown in a terminal."""

    def __init__(self, model, processor, max_new_tokens: int, show_progress: bool):
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.show_progress = show_progress
        self.start_over()

    def start_over(self):
        self.stream = self.model.stream(self.processor)

    @property
    def num_visual_tokens(self) -> int:
        return self.stream.num_visual_tokens

    def attach(self, file: File) -> int:
        """Show a file to the model; how many tokens it takes."""
        before = self.num_visual_tokens
        if file.kind == "image":
            self.stream.add_image(file.content)
        else:
            with progress_bar(f"watching {file.name}", self.show_progress) as progress:
                self.stream.add_video(file.content, progress=progress)
        return self.num_visual_tokens - before

    def ask(self, question: str) -> str:
        """
        Answer a question about all that came before, printing meanwhile.

        Raises:
            ValueError: if the conversation has become longer than the model reads.
            KeyboardInterrupt: if the answer was stopped; the conversation remembers what there is of it.
        """
        return self.stream.ask(
            question, streamer=AnswerStreamer(self.processor.tokenizer), max_new_tokens=self.max_new_tokens
        )


def answer(conversation: Conversation, question: str, start: float):
    """Answer, then one line with what it took since `start`."""
    conversation.ask(question)
    print(f"[{conversation.num_visual_tokens} visual tokens, {time.perf_counter() - start:.2f} s]", flush=True)


def respond(conversation: Conversation, read: Reader, line: str):
    """Do what one line of a conversation asks."""
    start = time.perf_counter()
    command, _, path = line.partition(" ")
    if command == "/new" and not path:
        conversation.start_over()
    elif command in ("/image", "/video") and path.strip():
        # Quotes come from terminals into which a file was dragged.
        path = path.strip().strip("'\"")
        tokens = conversation.attach(read(command[1:], path))
        print(f"[{path}: {tokens} visual tokens, {time.perf_counter() - start:.2f} s]", flush=True)
    else:
        answer(conversation, typed_question(line, COMMANDS), start)


def converse(conversation: Conversation, read: Reader):
    """Answer line after line until `/quit` or the end of input."""
    with suppress(ImportError):
        import readline  # noqa: F401 (arrow keys and history in `input`, where Python has it)
    print(COMMANDS)
    while True:
        try:
            line = input("> ").strip()
            if line == "/quit":
                return
            if line:
                respond(conversation, read, line)
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print("\n[stopped; /quit leaves]", flush=True)
        except INPUT_ERRORS as error:
            report(error)


def parse_arguments(arguments: list[str] | None):
    parser = model_parser(__doc__)
    parser.add_argument("question", type=question, nargs="?", help="opens a conversation if not given")
    for kind in ("image", "video"):
        parser.add_argument(
            f"--{kind}",
            dest="files",
            action="append",
            type=partial(_named, kind),
            default=[],
            metavar="PATH",
            help=f"{kind} file or URL; may be repeated, files keep their order",
        )
    parser.add_argument("--num-frames", type=positive_int, help="exact number of frames of a video")
    parser.add_argument("--max-frames", type=positive_int, help="most frames of a video")
    parser.add_argument("--fps", type=positive_float, help="frames per second of a video")
    parser.add_argument("--max-new-tokens", type=positive_int, default=256, help="longest answer (default: 256)")
    parser.add_argument("--progress", action="store_true", help="progress bars even if stderr is no terminal")
    return parser.parse_args(arguments)


def _named(kind: str, path: str) -> tuple[str, str]:
    return kind, path


def main(arguments: list[str] | None = None):
    args = parse_arguments(arguments)
    show_progress = args.progress or sys.stderr.isatty()
    sampling = {name: getattr(args, name) for name in ("num_frames", "max_frames", "fps")}
    processor = load_processor(args.model)
    read = Reader(processor, {name: value for name, value in sampling.items() if value})
    # Files come before the model: a wrong path is reported at once.
    start = time.perf_counter()
    files = [read(kind, path) for kind, path in args.files]
    reading = time.perf_counter() - start
    model = load_model(args.model, args.device, args.dtype)
    conversation = Conversation(model, processor, args.max_new_tokens, show_progress)
    start = time.perf_counter() - reading
    for file in files:
        conversation.attach(file)
    if args.question is None:
        converse(conversation, read)
    else:
        answer(conversation, args.question, start)


if __name__ == "__main__":
    sys.exit(run(main))
