# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Ask about your own images and videos.

    python scripts/chat.py --image photo.jpg --video clip.mp4 "What changed?"
    python scripts/chat.py --video clip.mp4

Without a question a conversation opens: what you type is answered, and

    /image PATH, /video PATH   attach a file to the next question
    /new                       starts over without files and history
    /quit                      leaves, as the end of input does; Ctrl-C stops an answer

A file is decoded and encoded once, however many questions are asked about it; a long video is encoded in chunks of
frames, which gives the features of the whole and keeps memory small.
"""

import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import torch
from common import (
    BAD_INPUT,
    INPUT_ERRORS,
    load_model,
    load_processor,
    model_parser,
    positive_float,
    positive_int,
    report,
)
from tqdm import tqdm
from transformers import DynamicCache, TextStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling


FRAMES_PER_CHUNK = 16
COMMANDS = "/image PATH and /video PATH attach a file to the next question, /new starts over, /quit leaves."


@dataclass
class File:
    """A decoded file: the text that stands for it in a prompt, and its `float[rows, 3, H, W]` pixels."""

    kind: str
    placeholders: str
    pixels: torch.Tensor


@dataclass
class Visual:
    """An encoded file: the text that stands for it in a prompt, and its `float[tokens, hidden]` features."""

    kind: str
    placeholders: str
    features: torch.Tensor


class Reader:
    """Decodes files with the settings of the command line."""

    def __init__(self, processor, sampling: dict, show_progress: bool):
        self.processor = processor
        self.sampling = sampling
        self.show_progress = show_progress

    def __call__(self, kind: str, path: str) -> File:
        path = os.path.expanduser(path)
        if kind == "image":
            inputs = self.processor.image_processor(path, return_tensors="pt")
            return File(kind, self.processor.replace_image_token(inputs, 0), inputs["pixel_values"])
        with progress_bar(f"decoding {os.path.basename(path)}", self.show_progress) as progress:
            inputs = self.processor.video_processor(
                path, return_tensors="pt", return_metadata=True, progress=progress, **self.sampling
            )
        return File(kind, self.processor.replace_video_token(inputs, 0), inputs["pixel_values_videos"])


@contextmanager
def progress_bar(label: str, shown: bool):
    """A bar on stderr as a function of (frames done, frames in all)."""
    with tqdm(desc=label, unit=" frames", leave=False, disable=not shown) as bar:

        def progress(done: int, total: int):
            bar.total = total
            bar.update(done - bar.n)

        yield progress


@torch.no_grad()
def encode_video(
    model, pixel_values_videos: torch.Tensor, chunk: int, progress: Callable | None = None
) -> torch.Tensor:
    """
    One video in chunks of frames, `float[T, 3, H, W] -> float[tokens, hidden]`: the features of `get_video_features`.

    Earlier frames are remembered in the temporal cache. Memory for a chunk and for that cache is all it takes.
    """
    total, cache, tokens = len(pixel_values_videos), DynamicCache(), []
    for frames in pixel_values_videos.split(chunk):
        outputs = model.model.vision_tower(
            frames.to(model.device), frames_per_clip=[len(frames)], temporal_cache=[cache], num_steps=[total]
        )
        tokens.append(outputs.pooler_output.flatten(0, 1))
        if progress is not None:
            progress(cache.get_seq_length(), total)
    return torch.cat(tokens)


class AnswerStreamer(TextStreamer):
    """Prints an answer as it is generated, and keeps what it printed."""

    def __init__(self, tokenizer):
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.text = ""

    def on_finalized_text(self, text: str, stream_end: bool = False):
        # SentencePiece puts a space before the first word.
        text = text if self.text else text.lstrip(" ")
        self.text += text
        super().on_finalized_text(text, stream_end)


class Conversation:
    """Questions, answers and the features of the files they are about."""

    def __init__(self, model, processor, max_new_tokens: int, show_progress: bool):
        self.model = model
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.show_progress = show_progress
        self.start_over()

    def start_over(self):
        self.messages = []
        self.visuals: list[Visual] = []
        self.attached: list[Visual] = []

    @property
    def num_visual_tokens(self) -> int:
        return sum(len(visual.features) for visual in (*self.visuals, *self.attached))

    @torch.no_grad()
    def attach(self, file: File) -> Visual:
        """Encode a file; it goes with the next question."""
        if file.kind == "image":
            # All tiles are one image.
            grid = [[len(file.pixels), 1, 1]]
            features = self.model.get_image_features(file.pixels.to(self.model.device), grid).pooler_output[0]
        else:
            with progress_bar("encoding", self.show_progress) as progress:
                features = encode_video(self.model, file.pixels, FRAMES_PER_CHUNK, progress)
        self.attached.append(Visual(file.kind, file.placeholders, features))
        return self.attached[-1]

    def ask(self, question: str) -> str:
        """
        Answer a question about the files attached since the last one and all that came before, printing meanwhile.

        Raises:
            ValueError: if the conversation has become longer than the model reads.
            KeyboardInterrupt: if the answer was stopped; the conversation remembers what there is of it.
        """
        content = [*({"type": visual.kind} for visual in self.attached), {"type": "text", "text": question}]
        messages = [*self.messages, {"role": "user", "content": content}]
        visuals = [*self.visuals, *self.attached]
        inputs = self._tokenize(messages, visuals)
        room = self.model.config.text_config.max_position_embeddings - inputs["input_ids"].shape[1]
        if room < 1:
            raise ValueError(
                f"expected a conversation of fewer than {self.model.config.text_config.max_position_embeddings} "
                f"tokens, received {inputs['input_ids'].shape[1]}, {sum(len(v.features) for v in visuals)} of them "
                "visual; start over with fewer files or fewer frames"
            )
        streamer = AnswerStreamer(self.processor.tokenizer)
        try:
            self.model.generate(
                **inputs,
                mm_encoder_outputs=features_by_kind(visuals),
                max_new_tokens=min(self.max_new_tokens, room),
                streamer=streamer,
            )
        except KeyboardInterrupt:
            self._remember(messages, visuals, streamer.text)
            raise
        self._remember(messages, visuals, streamer.text)
        return streamer.text

    def _remember(self, messages: list[dict], visuals: list[Visual], answer: str):
        self.messages = [*messages, {"role": "assistant", "content": answer.strip()}]
        self.visuals, self.attached = visuals, []

    def _tokenize(self, messages: list[dict], visuals: list[Visual]):
        """The text of a conversation with each file's own number of placeholders."""
        text = self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        (text,), _ = self.processor.get_text_with_replacements(
            [text],
            images_replacements=[visual.placeholders for visual in visuals if visual.kind == "image"],
            videos_replacements=[visual.placeholders for visual in visuals if visual.kind == "video"],
        )
        inputs = self.processor.tokenizer(text, add_special_tokens=False, return_tensors="pt")
        return inputs.to(self.model.device)


def features_by_kind(visuals: list[Visual]) -> dict[str, BaseModelOutputWithPooling]:
    """Encoded files as `generate` takes them: "image" and "video", each in the order of the text."""
    features = {kind: tuple(v.features for v in visuals if v.kind == kind) for kind in ("image", "video")}
    return {kind: BaseModelOutputWithPooling(pooler_output=items) for kind, items in features.items() if items}


def answer(conversation: Conversation, question: str, start: float):
    """Answer, then one line with what it took since `start`."""
    conversation.ask(question)
    print(f"[{conversation.num_visual_tokens} visual tokens, {time.perf_counter() - start:.2f} s]", flush=True)


def respond(conversation: Conversation, read: Reader, line: str):
    """Do what one line of a conversation asks.

    Raises:
        ValueError: a command that does not exist, or has no path.
    """
    start = time.perf_counter()
    command, _, path = line.partition(" ")
    if command == "/new" and not path:
        conversation.start_over()
    elif command in ("/image", "/video") and path.strip():
        # Quotes come from terminals into which a file was dragged.
        path = path.strip().strip("'\"")
        visual = conversation.attach(read(command[1:], path))
        print(f"[{path}: {len(visual.features)} visual tokens, {time.perf_counter() - start:.2f} s]", flush=True)
    elif line.startswith("/"):
        raise ValueError(f"expected a question or a command, received {line!r}; {COMMANDS}")
    else:
        answer(conversation, line, start)


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
    parser.add_argument("question", nargs="?", help="opens a conversation if not given")
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


def main(arguments: list[str] | None = None) -> int:
    args = parse_arguments(arguments)
    show_progress = args.progress or sys.stderr.isatty()
    sampling = {name: getattr(args, name) for name in ("num_frames", "max_frames", "fps")}
    try:
        processor = load_processor(args.model)
        read = Reader(processor, {name: value for name, value in sampling.items() if value}, show_progress)
        # Files come before the model: a wrong path is reported at once.
        start = time.perf_counter()
        files = [read(kind, path) for kind, path in args.files]
        reading = time.perf_counter() - start
        conversation = Conversation(
            load_model(args.model, args.device, args.dtype), processor, args.max_new_tokens, show_progress
        )
        start = time.perf_counter() - reading
        for file in files:
            conversation.attach(file)
        if args.question is None:
            converse(conversation, read)
        else:
            answer(conversation, args.question, start)
    except INPUT_ERRORS as error:
        report(error)
        return BAD_INPUT
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
