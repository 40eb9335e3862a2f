# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""What the scripts share: their arguments, the model of a folder, and errors said in one line."""

import argparse
import sys
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils import logging


ROOT = Path(__file__).resolve().parents[1]
# What the processor and the library raise for a file, a setting or a model folder that they cannot use.
INPUT_ERRORS = (ValueError, OSError, ImportError, SafetensorError, StrictDataclassError, torch.OutOfMemoryError)
BAD_INPUT = 2


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


def positive_int(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, received {text!r}")
    return int(text)


def positive_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number above 0, received {text!r}")
    return value


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
