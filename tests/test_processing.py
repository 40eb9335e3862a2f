# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Prompts, counts and the worked example of the processor, on the tokenizer and template of this repository."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pvc import processing_pvc as module
from pvc.image_processing_pvc import PVCImageProcessor
from pvc.processing_pvc import PVCProcessor, load_image, load_video
from pvc.video_processing_pvc import PVCVideoProcessor


ROOT = Path(__file__).resolve().parent.parent
FILES = ("processor_config.json", "chat_template.jinja", "tokenizer_config.json", "tokenizer.model", "tokenizer.json")
JOINER = "\u200d"


@pytest.fixture(scope="module")
def tokenizer():
    tokenization = pytest.importorskip("pvc.tokenization_internlm2")
    return tokenization.InternLM2Tokenizer.from_pretrained(ROOT)


def build(tokenizer, tile=32, max_tiles=4, **settings):
    size = {"height": tile, "width": tile}
    return PVCProcessor(
        image_processor=PVCImageProcessor(size=size, max_tiles=max_tiles),
        tokenizer=tokenizer,
        video_processor=PVCVideoProcessor(size=size, max_frames=8),
        chat_template=(ROOT / "chat_template.jinja").read_text(encoding="utf-8"),
        **{"tokens_per_frame": 4, **settings},
    )


@pytest.fixture(scope="module")
def processor(tokenizer):
    return build(tokenizer)


def photo(width=64, height=64):
    return Image.new("RGB", (width, height), (10, 200, 30))


def clip(num_frames=3):
    return np.zeros((num_frames, 20, 30, 3), np.uint8)


def part(kind, value):
    return {"type": kind, kind: value}


def user(*parts):
    return {"role": "user", "content": [part("text", each) if isinstance(each, str) else each for each in parts]}


def tokenised(processor, conversation, **kwargs):
    settings = {"tokenize": True, "return_dict": True, "return_tensors": "pt", **kwargs}
    return processor.apply_chat_template(conversation, **settings)


def count(outputs, token_id):
    return (outputs["input_ids"] == token_id).sum().item()


def test_worked_example(tokenizer):
    processor = build(tokenizer, tile=448, max_tiles=12, tokens_per_frame=64)
    conversation = [user(part("image", photo(800, 600)), part("video", clip(8)), "What changed?")]
    outputs = tokenised(processor, conversation, add_generation_prompt=True)
    assert outputs["image_grid_thw"].tolist() == [[13, 1, 1]]
    assert outputs["pixel_values"].shape == (13, 3, 448, 448)
    assert outputs["pixel_values_videos"].shape == (8, 3, 448, 448)
    assert count(outputs, processor.image_token_id) == 3328 == 13 * 4 * 64
    assert count(outputs, processor.video_token_id) == 512 == 8 * 64
    frames = "\n".join(f"Frame{index}: <img>{'<VID_CONTEXT>' * 64}</img>" for index in range(1, 9))
    expected = (
        f"<|im_start|>user\n<img>{'<IMG_CONTEXT>' * 3328}</img>\n{frames}\nWhat changed?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert outputs["input_ids"][0].tolist() == tokenizer(expected)["input_ids"]
    for number in ("3328", "512", "13 tiles", "8 * 64"):
        assert number in module.__doc__


def test_prompt_of_a_conversation(processor):
    conversation = [
        {"role": "system", "content": "Be brief."},
        user(part("image", photo()), part("image", photo()), "Compare."),
        {"role": "assistant", "content": "Same."},
        user("And ", "this? ", part("image", photo()), part("video", clip()), "?"),
    ]
    assert processor.apply_chat_template(conversation, add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\nImage-1: <IMG_CONTEXT>\nImage-2: <IMG_CONTEXT>\nCompare.<|im_end|>\n"
        "<|im_start|>assistant\nSame.<|im_end|>\n"
        "<|im_start|>user\nAnd this? Image-3: <IMG_CONTEXT>\n<VID_CONTEXT>\n?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    one = [user(part("image", photo()), "Describe.")]
    assert processor.apply_chat_template(one) == "<|im_start|>user\n<IMG_CONTEXT>\nDescribe.<|im_end|>\n"
    assert one[0]["content"][0]["type"] == "image"  # the caller's conversation is left alone


def test_openai_parts_and_files(processor, tmp_path):
    photo(90, 40).save(tmp_path / "a.png")
    by_path = {"type": "image", "path": str(tmp_path / "a.png")}
    by_url = {"type": "image_url", "image_url": {"url": str(tmp_path / "a.png")}}
    frames = [str(tmp_path / "a.png")] * 2
    outputs = tokenised(processor, [user(by_path, by_url, part("image", np.asarray(photo())), part("video", frames))])
    assert outputs["image_grid_thw"][:, 0].tolist() == [3, 3, 5]
    assert outputs["video_grid_thw"].tolist() == [[2, 1, 1]]
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        for _ in range(12):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), "rgb24")))
        container.mux(stream.encode(None))
    by_path = {"type": "video", "path": str(tmp_path / "a.mp4")}
    by_url = {"type": "video_url", "video_url": str(tmp_path / "a.mp4")}
    outputs = tokenised(processor, [user(by_path, by_url, "?")])
    assert outputs["video_grid_thw"].tolist() == [[8, 1, 1], [8, 1, 1]]
    seen = []
    settings = {"num_frames": 3, "return_metadata": True, "progress": lambda *counts: seen.append(counts)}
    outputs = tokenised(processor, [user(by_path, "?")], processor_kwargs=settings)
    assert outputs["video_metadata"][0].frames_indices == [1, 5, 8]  # end 11, seg 3.67: int(1.83 + 0 4 7)
    assert seen[-1] == (3, 3)
    rows, rows_per_frame = load_video(tmp_path / "a.mp4", bound=(0, 1), input_size=32, num_segments=4)
    assert (rows.shape, rows_per_frame) == ((4, 3, 32, 32), [1] * 4)
    rows, rows_per_frame = load_video(str(tmp_path / "a.mp4"), input_size=16, max_num=4, num_segments=2)
    assert (rows.shape, rows_per_frame) == ((10, 3, 16, 16), [5, 5])
    assert load_image(str(tmp_path / "a.png"), input_size=32, max_num=6).shape == (3, 3, 32, 32)


def test_batch_of_conversations(processor):
    conversations = [[user(part("image", photo()), "A long enough question")], [user(part("video", clip()), "B")]]
    together = tokenised(processor, conversations, processor_kwargs={"padding": True})
    for row, conversation in enumerate(conversations):
        alone = tokenised(processor, conversation)["input_ids"][0]
        assert torch.equal(together["input_ids"][row][-len(alone) :], alone)  # padded on the left
        assert together["attention_mask"][row].sum() == len(alone)


def test_assistant_mask(processor):
    conversation = [
        user(part("image", photo()), "One?"),
        {"role": "assistant", "content": "First answer"},
        user(part("video", clip()), "Two?"),
        {"role": "assistant", "content": [part("text", "Second")]},
    ]
    outputs = tokenised(processor, conversation, return_assistant_tokens_mask=True)
    mask = torch.as_tensor(outputs["assistant_masks"])[0].bool()
    text = processor.tokenizer.decode(outputs["input_ids"][0][mask])
    assert text.replace(" ", "") == "Firstanswer<|im_end|>Second<|im_end|>"
    prompt = processor.apply_chat_template(conversation, continue_final_message=True)
    assert prompt.endswith("<|im_start|>assistant\nSecond")


def test_frame_times(tokenizer):
    processor = build(tokenizer, frame_times=True)
    video = {"frames": clip(2), "timestamps": [0.0, 0.52]}
    outputs = processor(text="<VID_CONTEXT>", videos=[video])
    frame = "<img>" + "<VID_CONTEXT>" * 4 + "</img>"
    expected = f"Frame1 (0.0 s): {frame}\nFrame2 (0.5 s): {frame}"
    assert outputs["input_ids"][0] == tokenizer(expected)["input_ids"]
    assert "video_metadata" not in outputs
    untimed = processor(text="<VID_CONTEXT>", videos=[clip(1)])["input_ids"][0]
    assert untimed == tokenizer(f"Frame1: {frame}")["input_ids"]
    numbers = processor._get_num_multimodal_tokens(video_sizes=[(2, 20, 30)])
    assert numbers["num_video_tokens"] == [len(tokenizer(expected, add_special_tokens=False)["input_ids"])]


TOKENS = ("<IMG_CONTEXT>", "<VID_CONTEXT>", "<image>", "<video>", "<img>", "</img>", "<|im_start|>", "<|im_end|>")
TOKENS += ("<s>", "</s>", "<unk>", "\U000f0000", "\U000f0001")


def test_user_text_never_becomes_a_token(processor):
    rng = random.Random(0)
    pieces = [
        *TOKENS,
        *(token[: len(token) // 2] for token in TOKENS),
        *(token[len(token) // 2 :] for token in TOKENS),
    ]
    pieces += ["<", ">", "|", "hello", " ", "\n", "user\n", JOINER, "{{ bos_token }}", "é"]
    special = set(processor.tokenizer.all_special_ids)
    for _ in range(150):
        texts = ["".join(rng.choices(pieces, k=rng.randrange(1, 6))) for _ in range(rng.randrange(1, 4))]
        visuals = [part("image", photo()), part("video", clip(1))] if rng.random() < 0.3 else []
        plain = tokenised(processor, [user(*visuals, "x")])
        attacked = tokenised(processor, [user(*texts[:1], *visuals, *texts[1:])])
        kept = [[each for each in ids["input_ids"][0].tolist() if each in special] for ids in (plain, attacked)]
        assert kept[0] == kept[1], texts
        shown = processor.apply_chat_template([user(*texts)]).replace(JOINER, "")
        assert shown == f"<|im_start|>user\n{''.join(texts)}<|im_end|>\n".replace(JOINER, "")


def test_neutralised_without_the_processor(processor):
    """Engines render the template by themselves; its own list of control tokens then applies."""
    attack = "<IMG_CONTEXT><VID_CONTEXT><image><video><img></img><|im_start|><|im_end|><s></s><unk>"
    messages = [user(attack[:6], attack[6:]), {"role": "assistant", "content": attack}]
    prompt = processor.tokenizer.apply_chat_template(messages, chat_template=processor.chat_template, tokenize=False)
    neutral = attack.replace("<", f"<{JOINER}")
    assert prompt == f"<|im_start|>user\n{neutral}<|im_end|>\n<|im_start|>assistant\n{neutral}<|im_end|>\n"
    grounding = [user("<ref>the cat</ref><box>[[1, 2, 3, 4]]</box><quad>")]
    assert JOINER not in processor.apply_chat_template(grounding, sanitize_control_tokens=True)


def test_counts_for_engines(processor):
    numbers = processor._get_num_multimodal_tokens(image_sizes=[(600, 800), (32, 32)], video_sizes=[(3, 20, 30)])
    images = processor(text="<IMG_CONTEXT><IMG_CONTEXT>", images=[photo(800, 600), photo(32, 32)])
    video = processor(text="<VID_CONTEXT>", videos=[clip(3)])
    assert numbers["num_image_patches"] == images["image_grid_thw"][:, 0].tolist()
    extra = len(processor(text="")["input_ids"][0])
    assert sum(numbers["num_image_tokens"]) == len(images["input_ids"][0]) - extra
    assert numbers["num_video_tokens"] == [len(video["input_ids"][0]) - extra]
    sampled = processor._get_num_multimodal_tokens(video_sizes=[(30, 4, 4)], num_frames=3)
    assert sampled["num_video_tokens"] == numbers["num_video_tokens"]
    one_tile = processor._get_num_multimodal_tokens(image_sizes=[(600, 800)], max_tiles=1)
    assert one_tile["num_image_tokens"] == [2 + 16]


def test_text_replacement_offsets(processor):
    text = "a<IMG_CONTEXT>b<VID_CONTEXT>c"
    outputs = processor(text=text, images=photo(), videos=clip(1), return_text_replacement_offsets=True)
    offsets = outputs["text_replacement_offsets"][0]
    assert [offset["type"] for offset in offsets] == ["image", "video"]
    assert [text[slice(*offset["span"])] for offset in offsets] == ["<IMG_CONTEXT>", "<VID_CONTEXT>"]
    assert offsets[1]["replacement"] == "Frame1: <img>" + "<VID_CONTEXT>" * 4 + "</img>"


def test_empty_visuals_and_text_only(processor):
    expected = processor(text="hello")["input_ids"]
    assert processor(text="hello", images=[], videos=[], audio=[])["input_ids"] == expected
    assert processor(text=["hello"], images=[[]], videos=[[]], audios=[])["input_ids"] == expected
    assert set(processor(images=photo())) == {"pixel_values", "image_grid_thw"}
    assert set(processor(videos=clip())) == {"pixel_values_videos", "video_grid_thw"}
    both = processor(text="<IMG_CONTEXT><VID_CONTEXT>", images=photo(), videos=clip())
    assert set(both) == set(processor.model_input_names)
    assert processor.post_process_image_text_to_text([processor.tokenizer("hello")["input_ids"]]) == ["hello"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"text": "<IMG_CONTEXT>"}, "received 1 <IMG_CONTEXT> and 0 images"),
        ({"text": "x", "images": [photo(), photo()]}, "received 0 <IMG_CONTEXT> and 2 images"),
        ({"text": "<VID_CONTEXT>" * 2, "videos": [clip()]}, "received 2 <VID_CONTEXT> and 1 videos"),
        (
            {"text": ["<IMG_CONTEXT>" * 2, ""], "images": [[photo()], [photo()]]},
            r"received \[2, 0\] <IMG_CONTEXT> and \[1, 1\] images",
        ),
        (
            {"text": ["<VID_CONTEXT>", ""], "videos": [[], [clip()]]},
            r"received \[1, 0\] <VID_CONTEXT> and \[0, 1\] videos",
        ),
        ({}, "received none of them"),
        ({"text": [1]}, "received int"),
        ({"text": "x", "audio": [np.zeros(4)]}, "received 1 audio inputs"),
    ],
)
def test_refused(processor, inputs, message):
    with pytest.raises(ValueError, match=message):
        processor(**inputs)


def test_refused_conversations(processor):
    with pytest.raises(TypeError, match="received str"):
        processor.apply_chat_template("hello")
    with pytest.raises(Exception, match="received audio"):
        processor.apply_chat_template([user({"type": "audio"})])


def test_flat_images_follow_the_prompts(processor):
    outputs = processor(text=["<IMG_CONTEXT>" * 2, "x"], images=[photo(), photo(32, 32)], padding=True)
    assert outputs["image_grid_thw"][:, 0].tolist() == [5, 1]


def test_lists_of_frames_are_videos_of_a_flat_list(processor):
    frames = [photo(32, 32), photo(32, 32)]
    outputs = processor(text=["<VID_CONTEXT>" * 2, "x"], videos=[frames, frames[:1]], padding=True)
    assert outputs["video_grid_thw"][:, 0].tolist() == [2, 1]


def test_save_and_auto_classes(processor, tmp_path):
    from transformers import AutoImageProcessor, AutoProcessor, AutoVideoProcessor

    processor.save_pretrained(tmp_path / "saved")
    again = AutoProcessor.from_pretrained(tmp_path / "saved", trust_remote_code=True)
    assert (again.tokens_per_frame, again.num_image_steps, again.frame_times) == (4, 4, False)
    assert again.image_processor.to_dict() == processor.image_processor.to_dict()
    conversation = [user(part("image", photo()), part("video", clip()), "?")]
    first, second = (tokenised(each, conversation) for each in (processor, again))
    assert all(torch.equal(first[key], second[key]) for key in first)
    small = tmp_path / "small"
    small.mkdir()
    for name in (*FILES, *(path.name for path in ROOT.glob("*.py"))):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, small)
    auto = [kind.from_pretrained(small, trust_remote_code=True) for kind in (AutoImageProcessor, AutoVideoProcessor)]
    assert [type(each).__name__ for each in auto] == ["PVCImageProcessor", "PVCVideoProcessor"]
    assert AutoProcessor.from_pretrained(small, trust_remote_code=True).video_processor.do_sample_frames is False
