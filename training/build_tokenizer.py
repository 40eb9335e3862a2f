# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Makes the repository's own `tokenizer.model` and `tokenizer_config.json`, the same bytes every time.

    python training/build_tokenizer.py OUTPUT_FOLDER

The vocabulary is written down, not trained, so that a small model gets what helps it:

- A word of `WORDS` with a space before it is one token, so questions are short. Its merges are a chain of prefixes
  ("▁n", "▁nu", "▁num", ...), which can start at a space only.
- Anything else is spelled: an answer written without a space before it (a word read off a picture) costs one token
  per character, so that the model can spell what it has never seen.
- The words of the prompt itself (`PROMPT_WORDS`) stand without a space; they are user-defined pieces, which match
  whole, since the prefixes of "user" and "assistant" as merges ("us", "as") would break up the spelling of answers.
- Everything that is not printable ASCII falls back to its UTF-8 bytes.
"""

import argparse
import json
from pathlib import Path

from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2


SPACE = "▁"

# fmt: off
WORDS = (
    "a", "about", "above", "after", "all", "an", "and", "answer", "any", "appear", "appeared", "appears", "are",
    "as", "at", "background", "be", "before", "below", "between", "big", "bigger", "black", "blue", "both",
    "bottom", "brown", "by", "came", "can", "center", "change", "changed", "changes", "circle", "circles", "clip",
    "color", "colors", "colour", "colours", "come", "comes", "compare", "corner", "count", "cross", "crosses",
    "cyan", "dark", "describe", "diamond", "diamonds", "did", "different", "digit", "digits", "direction", "do",
    "does", "down", "drawn", "during", "each", "eight", "end", "every", "fifth", "first", "five", "flash",
    "flashed", "flashes", "for", "four", "fourth", "frame", "frames", "from", "give", "go", "goes", "gray",
    "green", "grey", "happened", "happens", "has", "have", "heart", "hearts", "hidden", "how", "image", "images",
    "in", "is", "it", "its", "large", "larger", "largest", "last", "left", "letter", "letters", "light", "line",
    "list", "many", "me", "middle", "more", "most", "move", "moved", "moves", "moving", "name", "next", "nine",
    "no", "not", "now", "number", "numbers", "object", "objects", "of", "on", "one", "only", "or", "orange",
    "order", "other", "over", "picture", "pictures", "pink", "purple", "question", "read", "reads", "rectangle",
    "red", "relative", "right", "ring", "rings", "same", "say", "says", "second", "see", "seen", "seven", "shape",
    "shapes", "show", "shown", "shows", "side", "sign", "six", "small", "smaller", "smallest", "spell", "spelled",
    "square", "squares", "star", "stars", "start", "stops", "sum", "tell", "text", "than", "that", "the", "their",
    "then", "there", "these", "they", "third", "this", "three", "time", "times", "to", "top", "total", "towards",
    "triangle", "triangles", "two", "up", "video", "videos", "visible", "was", "way", "were", "what", "when",
    "where", "which", "white", "with", "word", "words", "write", "written", "yellow", "yes", "you", "zero",
)
PROMPT_WORDS = ("Frame", "Image-", "assistant", "system", "user")
ADDED_TOKENS = (
    "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>", "<VID_CONTEXT>", "<quad>", "</quad>", "<ref>",
    "</ref>", "<box>", "</box>",
)
# fmt: on


def build_model():
    """-> `ModelProto`: `<unk>`, `<s>`, `</s>`, bytes, prompt words, characters, then the chains, shortest first."""
    model = sentencepiece_model_pb2.ModelProto()
    kind = model.SentencePiece.Type
    chains = {SPACE + word[:length] for word in WORDS for length in range(1, len(word) + 1)}
    vocabulary = [("<unk>", kind.UNKNOWN), ("<s>", kind.CONTROL), ("</s>", kind.CONTROL)]
    vocabulary += [(f"<0x{byte:02X}>", kind.BYTE) for byte in range(256)]
    vocabulary += [(word, kind.USER_DEFINED) for word in PROMPT_WORDS]
    vocabulary += [(character, kind.NORMAL) for character in (SPACE, *map(chr, range(0x21, 0x7F)))]
    vocabulary += [(piece, kind.NORMAL) for piece in sorted(chains, key=lambda piece: (len(piece), piece))]
    for index, (piece, piece_type) in enumerate(vocabulary):
        score = -float(index) if piece_type == kind.NORMAL else 0.0
        model.pieces.add(piece=piece, score=score, type=piece_type)

    trainer = model.trainer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size = len(vocabulary)
    trainer.byte_fallback = True
    trainer.unk_id, trainer.bos_id, trainer.eos_id, trainer.pad_id = 0, 1, 2, -1
    normalizer = model.normalizer_spec
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = False
    normalizer.remove_extra_whitespaces = False
    normalizer.escape_whitespaces = True
    return model


def build_config(vocabulary_size):
    """-> the content of `tokenizer_config.json`: special tokens with their ids, and how to load the tokenizer."""
    special = {0: "<unk>", 1: "<s>", 2: "</s>"}
    special.update(enumerate(ADDED_TOKENS, start=vocabulary_size))
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    class_name = "tokenization_internlm2.InternLM2Tokenizer"
    return {
        "add_bos_token": False,
        "added_tokens_decoder": {str(index): {"content": token, **flags} for index, token in special.items()},
        "auto_map": {"AutoTokenizer": [class_name, class_name]},
        "bos_token": "<s>",
        "clean_up_tokenization_spaces": False,
        "context_image_token": "<IMG_CONTEXT>",
        "end_image_token": "</img>",
        "eos_token": "</s>",
        "extra_special_tokens": list(ADDED_TOKENS),
        "model_max_length": 4096,
        "pad_token": "</s>",
        "padding_side": "left",
        "processor_class": "PVCProcessor",
        "start_image_token": "<img>",
        "tokenizer_class": "InternLM2Tokenizer",
        "unk_token": "<unk>",
        "video_token": "<VID_CONTEXT>",
    }


def check_words(model_file):
    """Raises `ValueError` if SentencePiece itself does not read each word as one token."""
    processor = SentencePieceProcessor(model_file=str(model_file))
    for text in (*(" " + word for word in WORDS), *PROMPT_WORDS):
        pieces = processor.encode(text, out_type=str)
        if pieces != [text.replace(" ", SPACE)]:
            raise ValueError(f"{text!r} should be one token, but SentencePiece gives {pieces}; see its merges.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="folder for tokenizer.model and tokenizer_config.json")
    output = parser.parse_args().output
    output.mkdir(parents=True, exist_ok=True)

    model = build_model()
    model_file = output / "tokenizer.model"
    model_file.write_bytes(model.SerializeToString(deterministic=True))
    check_words(model_file)
    config = build_config(len(model.pieces))
    (output / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
