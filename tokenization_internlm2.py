# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
# trf-ignore: TRF028 (this package is MIT licensed; the rule expects an Apache header)
"""InternLM2's tokenizer, fast, with the ids of the SentencePiece library.

`tokenizer.model` is the source: a SentencePiece BPE model, usually with byte fallback. What SentencePiece does to a
text is stated again in the terms of `tokenizers`:

- Its normalizer (charsmap, extra whitespace, dummy prefix, escaped spaces) becomes a normalizer.
- Its agenda merges the adjacent pair whose *concatenation* scores best, so every split of a piece into two pieces is
  a merge, ranked by the piece's score. There is no pre-tokenizer: SentencePiece merges across words.
- Only normal pieces merge. `<s>` or `<0x0A>` written in a text is spelled, and user-defined pieces stay whole.

Which special tokens exist, and where, is said by the tokenizer's own files and never by this module.

Where results can still differ from SentencePiece's:

- With a charsmap (`nmt_nfkc` and its kin; this repository's model has none): combining marks in non-canonical order or
  after a compatibility character, and, under a dummy prefix, a text that the charsmap leaves empty.
- With a dummy prefix: a text that is one user-defined piece and nothing else. In any model: pieces of type UNUSED.
- Decoding: a run of byte tokens that is not valid UTF-8 as a whole becomes one U+FFFD per byte of the run.
- The character U+2581 is read as a space, by SentencePiece too: the one character that does not come back.
"""

import os
import re

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers
from tokenizers.models import BPE
from transformers.convert_slow_tokenizer import SentencePieceExtractor
from transformers.tokenization_utils_tokenizers import TokenizersBackend


VOCAB_FILES_NAMES = {"vocab_file": "tokenizer.model", "tokenizer_file": "tokenizer.json"}

# `ModelProto.SentencePiece.Type` and `TrainerSpec.ModelType` of sentencepiece_model.proto
NORMAL, USER_DEFINED, BPE_MODEL = 1, 4, 2
SPACE = "▁"


def build_normalizer(spec, user_defined):
    """`NormalizerSpec` -> the same steps, in SentencePiece's order."""
    steps = []
    if spec.name.startswith("nmt"):
        # one grapheme of two characters, of which `Precompiled` would drop the second
        steps.append(normalizers.Replace("\r\n", "  "))
    if spec.precompiled_charsmap:
        # `Precompiled` does not compose across long graphemes (conjoining jamo, kana and its sound mark), nor across
        # what it has just mapped (compatibility jamo)
        compose = [normalizers.NFC()] if "nfkc" in spec.name else []
        steps += [*compose, normalizers.Precompiled(spec.precompiled_charsmap), *compose]
    if spec.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps.append(normalizers.Replace(" ", SPACE))
    if spec.add_dummy_prefix:
        # `tokenizers` also normalizes the user-defined pieces that it will search for: those take no prefix
        pieces = "|".join(re.escape(piece) for piece in user_defined)
        steps.append(normalizers.Replace(Regex(rf"\A(?!(?:{pieces})\z)(?=[\s\S])"), SPACE))
    if spec.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(rf"{SPACE}+\z"), ""))
    return normalizers.Sequence(steps)


def build_backend(vocab_file, added_tokens_decoder):
    """`tokenizer.model` -> `tokenizers.Tokenizer`, before the added special tokens."""
    proto = SentencePieceExtractor(vocab_file).proto
    if proto.trainer_spec.model_type != BPE_MODEL:
        raise ValueError(
            f"InternLM2Tokenizer needs a SentencePiece BPE model (model_type {BPE_MODEL}), but {vocab_file} has "
            f"model_type {proto.trainer_spec.model_type}; train it with `--model_type=bpe`."
        )
    # InternLM2 gives some reserved pieces the name of a chat token: id 92543 is `<|im_start|>`
    names = [str(added_tokens_decoder.get(index, piece.piece)) for index, piece in enumerate(proto.pieces)]
    kept = [piece for name, piece in zip(names, proto.pieces) if name == piece.piece]
    user_defined = [piece.piece for piece in kept if piece.type == USER_DEFINED]
    scores = {piece.piece: piece.score for piece in kept if piece.type == NORMAL}
    merges = [
        (piece[:split], piece[split:])
        for piece in sorted(scores, key=scores.get, reverse=True)
        for split in range(1, len(piece))
        if piece[:split] in scores and piece[split:] in scores
    ]
    backend = Tokenizer(
        BPE(
            vocab={name: index for index, name in enumerate(names)},
            merges=merges,
            unk_token=proto.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=proto.trainer_spec.byte_fallback,
        )
    )
    backend.normalizer = build_normalizer(proto.normalizer_spec, user_defined)
    decoding = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if proto.normalizer_spec.add_dummy_prefix:
        decoding.append(decoders.Strip(" ", left=1))
    backend.decoder = decoders.Sequence(decoding)
    backend.add_tokens([AddedToken(piece, normalized=True) for piece in user_defined])
    return backend


class InternLM2Tokenizer(TokenizersBackend):
    """
    A fast tokenizer that gives the ids of the SentencePiece library for a BPE `tokenizer.model`.

    Text between two special tokens is one SentencePiece input of its own, as in InternLM2's published tokenizer: with
    a model that adds a dummy prefix, each such text takes one. Special tokens written in a text become ids; pass
    `split_special_tokens=True` in a call to have them spelled like any other text.

    Args:
        vocab_file (`str`, *optional*):
            Path to the SentencePiece model, usually `tokenizer.model`.
        tokenizer_file (`str`, *optional*):
            Path to a `tokenizer.json`, which `save_pretrained` writes beside the model. It holds the whole state,
            tokens added later included, and is therefore read instead of `vocab_file` where both exist.
        unk_token (`str`, *optional*, defaults to `"<unk>"`): The unknown token.
        bos_token (`str`, *optional*, defaults to `"<s>"`): The beginning of a sequence.
        eos_token (`str`, *optional*, defaults to `"</s>"`): The end of a sequence.
        pad_token (`str`, *optional*, defaults to `"</s>"`): The padding token.
        add_bos_token (`bool`, *optional*):
            Whether a sequence starts with `bos_token`: `True` unless `tokenizer_file` says otherwise.
    """

    vocab_files_names = VOCAB_FILES_NAMES
    padding_side = "left"
    model = BPE

    def __init__(
        self,
        vocab_file=None,
        tokenizer_file=None,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        add_bos_token=None,
        **kwargs,
    ):
        added_tokens_decoder = kwargs.get("added_tokens_decoder") or {}
        from_json = tokenizer_file is not None and os.path.isfile(tokenizer_file)
        if from_json:
            kwargs["tokenizer_file"] = tokenizer_file
        elif vocab_file is None:
            raise ValueError(
                "InternLM2Tokenizer expected tokenizer.model or tokenizer.json in its folder, found neither"
            )
        else:
            self._tokenizer = build_backend(vocab_file, added_tokens_decoder)
        if add_bos_token is not None or not from_json:
            kwargs["add_bos_token"] = add_bos_token is not False
        super().__init__(
            vocab_file=vocab_file,
            unk_token=unk_token,
            bos_token=bos_token,
            eos_token=eos_token,
            pad_token=pad_token,
            **kwargs,
        )
        if "add_bos_token" not in kwargs:
            self._add_bos_token = self.bos_token_id in self._tokenizer.encode("").ids

        for index, token in added_tokens_decoder.items():
            found = self.convert_tokens_to_ids(str(token))
            if found != index:
                raise ValueError(
                    f"The tokenizer's files place {str(token)!r} at id {index}, but after the vocabulary of "
                    f"{vocab_file} it gets {found}; list all added tokens, without gaps, in `added_tokens_decoder`."
                )

    @classmethod
    def convert_to_native_format(cls, trust_remote_code=False, **kwargs):
        # `__init__` reads the files itself: the library's own conversion drops scores, normalizer and piece types
        return kwargs

    def _save_pretrained(self, save_directory, file_names, legacy_format=None, filename_prefix=None):
        files = super()._save_pretrained(save_directory, file_names, legacy_format, filename_prefix)
        if not self.can_save_slow_tokenizer:
            return files
        return files + self.save_vocabulary(str(save_directory), filename_prefix)


InternLM2Tokenizer.register_for_auto_class("AutoTokenizer")

__all__ = ["InternLM2Tokenizer"]
