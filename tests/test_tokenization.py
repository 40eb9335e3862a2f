# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""The tokenizer against the SentencePiece library: same ids, exact round trips, offsets, saving and loading."""

import io
import json
import os
import pickle
import random
import shutil
import subprocess
import sys
import unicodedata

import pytest
from conftest import ROOT
from pvc.tokenization_internlm2 import InternLM2Tokenizer
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AddedToken


SENTENCES = """Which number is written in the third picture?
Welche Zahl steht auf dem dritten Bild? Größe, Füße, Übermut
Quel nombre est écrit sur la troisième image ? Ça dépend, garçon, œuvre
¿Qué número está escrito en la tercera imagen? ¡Mañana será otro año!
Qual número está escrito na terceira imagem? Coração, avó e avô
Quale numero è scritto nella terza immagine? Perché così
Welk getal staat er op de derde foto? Eén geïnd ijsje
Vilket tal står på den tredje bilden? Åsa äter öl och smörgås
Hvilket tall står på det tredje bildet? Blåbærsyltetøy
Mikä luku on kolmannessa kuvassa? Hääyöaie
Jaka liczba jest na trzecim obrazku? Zażółć gęślą jaźń
Jaké číslo je na třetím obrázku? Příliš žluťoučký kůň
Melyik szám van a harmadik képen? Árvíztűrő tükörfúrógép
Üçüncü resimde hangi sayı yazıyor? Iğdır İstanbul şöyle
Ce număr este scris în a treia imagine? Țară și oraș
Какое число написано на третьей картинке? Съешь ещё этих булок
Яке число написано на третьому малюнку? Ґанок їжака
Ποιος αριθμός είναι γραμμένος στην τρίτη εικόνα; Γειά σου Κόσμε
איזה מספר כתוב בתמונה השלישית? שָׁלוֹם עֲלֵיכֶם
ما هو الرقم المكتوب في الصورة الثالثة؟ مُحَمَّد ١٢٣
تصویر سوم چه عددی دارد؟ می‌خواهم
तीसरी तस्वीर में कौन सी संख्या लिखी है? क़लम १२३
তৃতীয় ছবিতে কোন সংখ্যা লেখা আছে?
மூன்றாவது படத்தில் எந்த எண் எழுதப்பட்டுள்ளது?
ภาพที่สามเขียนเลขอะไร น้ำใจ ๑๒๓
第三张图片上写的是什么数字？你好，世界！
第三張圖片上寫的是什麼數字？龍與龜
三枚目の写真に書いてある数字は何ですか？ガギグゲゴ パピプ
세 번째 그림에 쓰인 숫자는 무엇입니까? 안녕하세요
Con số nào được viết trong bức tranh thứ ba? Việt Nam, tiếng ồn
በሦስተኛው ሥዕል ላይ ምን ቁጥር ተጽፏል?
მესამე სურათზე რა რიცხვი წერია?
Երրորդ նկարում ի՞նչ թիվ է գրված""".splitlines()

EDGES = [
    "", " ", "  ", "\t", "\n", "\r\n", " \n ", "\0", "a\0b", "\x01\x02", "\x7f", "\x85", "\xa0", "\u3000",
    "\u200b", "\ufeff", " leading", "trailing ", "   both   ", "many      spaces", "a  b   c    d", "\n\n\n",
    "\t\tindent\n\t\tagain", "▁", "a▁b", "<0x41>", "<0x0A><0xFF>", "<s>", "</s>", "<unk>", "[UNUSED_TOKEN_1]",
    "aaaaaaaaaaaaaaaa", "abababababababa", "aabaabaab", "def f(x):\n    return x ** 2  # square\n",
    "#include <vector>\nint main() { return 0; }", '{"a": [1, 2.5, null]}', "https://example.org/?q=1&r=%20",
    "user assistant system Frame1: Image-2: users Frames systematic", " user  Frame", "👩‍👩‍👧‍👦 ❤️ 🇫🇷🇯🇵 👍🏽 🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    "e\u0301 n\u0303 o\u0308\u0304", "\u202eabc\u202c", "שלום 123 abc", "ﬁ ½ ㎏ ① Ａ １ ℌ", "x" * 500,
    "the   number is 1234567890", " what number", "what number", "whatnumber", "numbers", " numbering",
    "\U0010ffff\ue000",
]  # fmt: skip

SCRIPT_STARTS = (
    0x0021, 0x00A1, 0x0100, 0x0180, 0x0250, 0x0370, 0x0400, 0x0530, 0x0590, 0x0600, 0x0700, 0x0900, 0x0980, 0x0A00,
    0x0A80, 0x0B00, 0x0B80, 0x0C00, 0x0C80, 0x0D00, 0x0D80, 0x0E00, 0x0E80, 0x0F00, 0x1000, 0x10A0, 0x1200, 0x13A0,
    0x1400, 0x1780, 0x1800, 0x1E00, 0x1F00, 0x2000, 0x2100, 0x2200, 0x2500, 0x2600, 0x2C80, 0x3040, 0x30A0, 0x3100,
    0x4E00, 0x5B57, 0x9F00, 0xA000, 0xAC00, 0xFB00, 0xFE70, 0xFF01, 0x10330, 0x12000, 0x1D400, 0x1F300, 0x1F600,
    0x20000,
)  # fmt: skip


def random_texts(count):
    """Texts of one to three scripts each, spaces among them, and of code points drawn from the whole of Unicode."""
    draw = random.Random(20260101)
    texts = []
    while len(texts) < count:
        starts = draw.sample(SCRIPT_STARTS, draw.randint(1, 3))
        ranges = [(start, start + 0x60) for start in starts] + [(0x20, 0x7F)]
        if len(texts) % 4 == 0:
            ranges = [(0, 0xD800), (0xE000, 0x20000)]
        characters = [chr(draw.randrange(*draw.choice(ranges))) for _ in range(draw.randint(1, 30))]
        texts.append("".join(" " * draw.randint(1, 3) if draw.random() < 0.15 else c for c in characters))
    return texts


TEXTS = SENTENCES + EDGES + [unicodedata.normalize("NFD", text) for text in SENTENCES] + random_texts(4000)


def train(folder, extra=(), **options):
    """A BPE model with byte fallback, trained here on the sentences above and `extra`; returns its path."""
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES * 3 + ["aaaa abab number numbers numbered  double  spaces", *extra] * 5),
        model_writer=model,
        model_type="bpe",
        vocab_size=1500,
        byte_fallback=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    return str(path)


@pytest.fixture(scope="module")
def tokenizer():
    return InternLM2Tokenizer.from_pretrained(ROOT)


@pytest.fixture(scope="module")
def reference():
    return SentencePieceProcessor(model_file=str(ROOT / "tokenizer.model"))


def differences(tokenizer, reference, texts):
    ids = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    return [text for text, mine in zip(texts, ids) if mine != reference.encode(text)]


def test_repository_ids_are_sentencepiece_ids(tokenizer, reference):
    assert len(TEXTS) > 4000
    assert differences(tokenizer, reference, TEXTS) == []


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
@pytest.mark.parametrize("remove_extra_whitespaces", [True, False])
@pytest.mark.parametrize("rule", ["identity", "nmt_nfkc"])
def test_trained_ids_are_sentencepiece_ids(tmp_path, rule, remove_extra_whitespaces, add_dummy_prefix):
    path = train(
        tmp_path,
        normalization_rule_name=rule,
        remove_extra_whitespaces=remove_extra_whitespaces,
        add_dummy_prefix=add_dummy_prefix,
        user_defined_symbols=["[UNUSED_TOKEN_1]", "Frame"],
    )
    # the charsmap of `tokenizers` differs on marks out of canonical order, which random code points hold
    texts = TEXTS[:120] if rule == "nmt_nfkc" else TEXTS
    if rule == "nmt_nfkc":
        texts = texts + ["".join(c for c in t if unicodedata.category(c)[0] not in "MC") for t in TEXTS[120:]]
    # documented: a text that is one user-defined piece, or that the charsmap empties, takes no dummy prefix
    bare = ["[UNUSED_TOKEN_1]"] + (["\x01\x02", "\x7f"] if rule == "nmt_nfkc" else [])
    texts = [text for text in texts if not (add_dummy_prefix and text in bare)]
    reference = SentencePieceProcessor(model_file=path)
    tokenizer = InternLM2Tokenizer(path, add_bos_token=False)
    assert differences(tokenizer, reference, texts) == []
    assert any(len(reference.encode(text)) < len(text) / 2 for text in SENTENCES), "the model should have merges"


def test_user_defined_pieces_stay_whole(tmp_path):
    path = train(tmp_path, user_defined_symbols=["abc", "abcd", "▁▁"], remove_extra_whitespaces=False)
    texts = ["xabcdx abc ab", "the abcabcd", "a  b    c", "number abc", " abc", "  abc"]
    reference = SentencePieceProcessor(model_file=path)
    assert differences(InternLM2Tokenizer(path), reference, texts) == []
    assert "abcd" in InternLM2Tokenizer(path).tokenize("xabcdx")


def test_control_pieces_are_never_merged_from_text(tmp_path):
    options = {"normalization_rule_name": "identity", "add_dummy_prefix": False, "split_by_unicode_script": False}
    path = train(tmp_path, extra=["xs> ys> zs> as> bs> s> < <"] * 20, **options)
    reference = SentencePieceProcessor(model_file=path)
    tokenizer = InternLM2Tokenizer(path, add_bos_token=False)
    assert reference.encode("s>", out_type=str) == ["s>"], "the model should have the merge that leads to `<s>`"
    assert differences(tokenizer, reference, ["<s>", "a<s>b", "</s>", "s>"]) == []


def test_question_words_cost_one_token_and_answers_are_spelled(tokenizer):
    assert tokenizer.tokenize(" what number is written") == ["▁what", "▁number", "▁is", "▁written"]
    assert tokenizer.tokenize("number bus") == [*"number", "▁b", "u", "s"]
    assert tokenizer.tokenize("glassusyFrimage") == list("glassusyFrimage")


def test_round_trip_is_exact(tokenizer):
    texts = [text for text in TEXTS if "▁" not in text]  # SentencePiece spells a space with this very character
    assert len(texts) > 4000
    assert [t for t in texts if tokenizer.decode(tokenizer.encode(t)) != t] == []


def test_byte_fallback_decodes_like_sentencepiece(tokenizer, reference):
    for data in (b"\xe4\xbd\xa0", b"\xe4\xbd", b"\xff\xfe", b"\x80", b"\xf0\x9f\x98\x80\n\x00", b"\xf0\x9f"):
        ids = [tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in data]
        assert tokenizer.decode(ids) == reference.decode(ids)
    assert tokenizer.decode([tokenizer.convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in "你".encode()]) == "你"


def test_dummy_prefix_is_taken_off_again(tmp_path):
    path = train(tmp_path, normalization_rule_name="identity", remove_extra_whitespaces=False)
    tokenizer = InternLM2Tokenizer(path, add_bos_token=False)
    assert [text for text in SENTENCES + ["  two", "two  "] if tokenizer.decode(tokenizer.encode(text)) != text] == []


def test_offsets_point_into_the_text(tokenizer):
    text = " what 数 number<img>é\n"
    encoded = tokenizer(text, return_offsets_mapping=True)
    spans = {}
    for index, (start, end) in zip(encoded.input_ids, encoded.offset_mapping):
        spans.setdefault((start, end), []).append(index)
    assert [text[start:end] for start, end in spans] == [" what", " ", "数", " number", "<img>", "é", "\n"]
    assert all(tokenizer.decode(ids) == text[start:end] for (start, end), ids in spans.items())


@pytest.mark.parametrize("add_dummy_prefix", [True, False])
def test_offsets_of_trained_models_cover_the_text(tmp_path, add_dummy_prefix):
    path = train(
        tmp_path, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=add_dummy_prefix
    )
    tokenizer = InternLM2Tokenizer(path, add_bos_token=False)
    for text in SENTENCES:
        offsets = tokenizer(text, return_offsets_mapping=True).offset_mapping
        covered = {position for start, end in offsets for position in range(start, end)}
        assert covered == set(range(len(text)))
        assert offsets == sorted(offsets)


def test_special_tokens_have_the_ids_of_the_files(tokenizer, reference):
    names = "<|im_start|> <|im_end|> <img> </img> <IMG_CONTEXT> <VID_CONTEXT> <quad> </quad> <ref> </ref> <box> </box>"
    size = reference.get_piece_size()
    assert tokenizer.vocab_size == size
    assert tokenizer.convert_tokens_to_ids(names.split()) == list(range(size, size + 12))
    assert len(tokenizer) == size + 12
    assert tokenizer.encode("<IMG_CONTEXT>") == [tokenizer.context_image_token_id]
    assert tokenizer.encode("<VID_CONTEXT>") == [tokenizer.video_token_id]
    assert tokenizer.encode("<img></img>") == [tokenizer.start_image_token_id, tokenizer.end_image_token_id]
    assert (tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.decode(tokenizer.encode("a<|im_end|>b</box>"), skip_special_tokens=True) == "ab"


def test_special_tokens_are_spelled_on_request(tokenizer, reference):
    text = "see <IMG_CONTEXT> and <|im_end|></s>"
    ids = tokenizer.encode(text, split_special_tokens=True)
    assert ids == reference.encode(text)
    assert not set(ids) & set(tokenizer.all_special_ids)
    assert tokenizer.decode(ids) == text


def test_released_layout(tmp_path):
    """InternLM2's own: chat tokens take the place of reserved pieces, InternVL's follow the vocabulary."""
    path = train(tmp_path, user_defined_symbols=["[UNUSED_TOKEN_145]", "[UNUSED_TOKEN_146]"])
    reference = SentencePieceProcessor(model_file=path)
    end, size = reference.piece_to_id("[UNUSED_TOKEN_145]"), reference.get_piece_size()
    special = {"normalized": False, "special": True}
    added = {end: "<|im_end|>", end + 1: "<|im_start|>", size: "<img>", size + 1: "</img>"}
    tokenizer = InternLM2Tokenizer(
        path, added_tokens_decoder={index: AddedToken(token, **special) for index, token in added.items()}
    )
    assert tokenizer.encode("<|im_start|><img></img><|im_end|>") == [1, end + 1, size, size + 1, end]
    assert len(tokenizer) == size + 2
    assert differences(tokenizer, reference, SENTENCES) == []


def test_misplaced_added_token_is_refused(tmp_path):
    path = train(tmp_path)
    size = SentencePieceProcessor(model_file=path).get_piece_size()
    with pytest.raises(ValueError, match=f"'<img>' at id {size + 5}, but .* it gets {size};"):
        InternLM2Tokenizer(path, added_tokens_decoder={size + 5: AddedToken("<img>", special=True)})


def test_unigram_model_is_refused(tmp_path):
    SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_prefix=str(tmp_path / "unigram"),
        model_type="unigram",
        vocab_size=500,
        minloglevel=2,
    )
    with pytest.raises(ValueError, match="has model_type 1; train it"):
        InternLM2Tokenizer(str(tmp_path / "unigram.model"))


def test_bos_by_default_and_on_request(tokenizer, tmp_path):
    path = train(tmp_path)
    assert InternLM2Tokenizer(path).encode("a")[0] == 1
    assert InternLM2Tokenizer(path, add_bos_token=False).encode("a")[0] != 1
    assert tokenizer.add_bos_token is False and tokenizer.encode("a") == tokenizer.convert_tokens_to_ids(["a"])


def test_padding_is_on_the_left(tokenizer):
    batch = tokenizer(["abc", "a"], padding=True)
    assert batch.attention_mask == [[1, 1, 1], [0, 0, 1]]
    assert batch.input_ids[1][:2] == [tokenizer.pad_token_id] * 2


LOAD = """
import json, sys
from transformers import AutoTokenizer
texts = json.loads(sys.stdin.read())
loaded = [AutoTokenizer.from_pretrained(folder, trust_remote_code=True) for folder in sys.argv[1:]]
report = [{"ids": t(texts).input_ids, "bos": t.add_bos_token, "video": t.video_token_id, "side": t.padding_side}
          for t in loaded]
sys.stdout.write(json.dumps(report))
"""


def test_loads_offline_in_a_fresh_process(tokenizer, tmp_path):
    """From a folder of the shipped files, from one `save_pretrained` wrote, and from one with a BOS token."""
    shipped, saved, with_bos = (tmp_path / name for name in ("shipped", "saved", "with_bos"))
    shipped.mkdir()
    for name in ("tokenizer.model", "tokenizer_config.json", "tokenization_internlm2.py"):
        shutil.copy(ROOT / name, shipped)
    tokenizer.save_pretrained(saved)
    other = InternLM2Tokenizer.from_pretrained(ROOT, add_bos_token=True)
    other.save_pretrained(with_bos)
    for folder in (shipped, saved, with_bos):
        (folder / "config.json").write_text('{"model_type": "pvc"}')
    assert (saved / "tokenizer.model").read_bytes() == (ROOT / "tokenizer.model").read_bytes()
    assert (saved / "tokenization_internlm2.py").is_file()

    texts = SENTENCES + EDGES + ["<|im_start|>user\n<img><IMG_CONTEXT></img> what?<|im_end|>"]
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(shipped), str(saved), str(with_bos)],
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")},
    )
    ids = tokenizer(texts).input_ids
    expected = {"ids": ids, "bos": False, "video": tokenizer.video_token_id, "side": "left"}
    first, second, third = json.loads(result.stdout)
    assert first == expected
    assert second == expected
    assert third == {**expected, "ids": [[1, *row] for row in ids], "bos": True}


def test_added_token_survives_saving(tmp_path):
    tokenizer = InternLM2Tokenizer.from_pretrained(ROOT)
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    again = InternLM2Tokenizer.from_pretrained(tmp_path)
    assert again.encode("a<extra>") == tokenizer.encode("a<extra>")
    assert again.convert_tokens_to_ids("<extra>") == len(tokenizer) - 1


def test_pickles(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again(SENTENCES).input_ids == tokenizer(SENTENCES).input_ids


def test_shipped_files_are_what_the_script_makes(tmp_path):
    script = ROOT / "training" / "build_tokenizer.py"
    subprocess.run([sys.executable, str(script), str(tmp_path)], check=True)
    for name in ("tokenizer.model", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()


def test_a_folder_without_a_vocabulary_is_refused():
    with pytest.raises(ValueError, match=r"tokenizer.model or tokenizer.json"):
        InternLM2Tokenizer()
