# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""What the scripts share: their arguments, questions, the model of a folder, and errors said in one line."""

import argparse
import io
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging


ROOT = Path(__file__).resolve().parents[1]
# What is raised for a file, a question, a setting or a model folder that cannot be used.
INPUT_ERRORS = (
    argparse.ArgumentTypeError,
    ValueError,
    OSError,
    ImportError,
    SafetensorError,
    StrictDataclassError,
    torch.OutOfMemoryError,
)
BAD_INPUT, STOPPED = 2, 130


def run(main: Callable[[list[str] | None], None], arguments: list[str] | None = None) -> int:
    """The exit status of a script: its errors are one line, and Ctrl-C leaves without any."""
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BytesIO())
    # Bytes that are no text come through, so that only the question they are part of is refused.
    sys.stdin.reconfigure(errors="surrogateescape")
    try:
        main(arguments)
    except INPUT_ERRORS as error:
        report(error)
        return BAD_INPUT
    except KeyboardInterrupt:
        return STOPPED
    return 0


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like every other error of the scripts."""

    def error(self, message: str):
        report(message)
        sys.exit(BAD_INPUT)


def model_parser(description: str) -> Parser:
    """A parser with the arguments that say which model answers, and on what it runs."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(ROOT), metavar="DIR", help="model folder (default: this repository)")
    parser.add_argument("--device", type=device, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--dtype",
        choices=("auto", "float32", "bfloat16", "float16"),
        default="auto",
        help="default: that of the checkpoint",
    )
    return parser


def report(error: Exception | str):
    """One line on stderr, however many the message has."""
    print("error:", " ".join(str(error).split()), file=sys.stderr, flush=True)


def device(text: str) -> torch.device:
    try:
        return torch.empty(0, device=text).device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise argparse.ArgumentTypeError(f"expected a device of this machine, received {text!r}: {reason}") from error


def whole_number(text: str, least: int = 0) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, received {text!r}")
    return int(text)


positive_int = partial(whole_number, least=1)


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return value


def question(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"expected a question, received {text!r}; write one, or leave it out")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        received = text.encode(errors="surrogateescape")
        raise argparse.ArgumentTypeError(
            f"expected a question in UTF-8, received {received!r}; set the terminal or convert the file to it"
        ) from error
    return text


def typed_question(line: str, commands: str) -> str:
    """A line as a question; `commands` says what else could have been meant.

    Raises:
        ValueError: a command that does not exist, or has no path.
        ArgumentTypeError: a line that is no text.
    """
    if line.startswith("/"):
        raise ValueError(f"expected a question or a command, received {line!r}; {commands}")
    return question(line)


def load_processor(folder: str):
    """The processor of a model folder.

    Raises:
        ValueError: the folder does not exist or holds no model.
    """
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"expected a model folder with a config.json, received {folder!r}; check --model")
    return AutoProcessor.from_pretrained(folder, trust_remote_code=True)


def load_model(folder: str, device: torch.device, dtype: str):
    """
    The model of a folder, ready to answer. Its progress bar appears on a terminal only.

    Raises:
        ValueError: the weights do not fit the configuration.
    """
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    try:
        model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True, dtype=dtype)
    except RuntimeError as error:  # the library's, for weights of other shapes
        raise ValueError(f"expected weights that fit {folder}/config.json, received others: {error}") from error
    return model.to(device).eval()
