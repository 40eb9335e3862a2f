# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""A stream is what the model computes when it is given everything at once, and does nothing twice."""

import copy
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pvc.cache_pvc import PVCTemporalCache, growing_cache
from pvc.modeling_pvc import PVCForConditionalGeneration
from pvc.streaming_pvc import NUM_IMAGES_REMEMBERED
from transformers import (
    AutoModelForImageTextToText,
    AutoProcessor,
    DynamicCache,
    Lfm2Config,
    LogitsProcessor,
    TextIteratorStreamer,
)
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling


ROOT = Path(__file__).resolve().parent.parent
IMAGE, VIDEO = ROOT / "assets" / "number.png", ROOT / "assets" / "order.mp4"
TOKENS = 16


@pytest.fixture(scope="module")
def processor():
    return AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)


@pytest.fixture(scope="module")
def model():
    return AutoModelForImageTextToText.from_pretrained(ROOT, trust_remote_code=True).eval()


@pytest.fixture
def work(model):
    """What was computed: rows that the tower encoded, and tokens that the language model read, call by call."""
    rows, tokens = [], []
    hooks = [
        model.model.vision_tower.embeddings.register_forward_pre_hook(lambda _, args: rows.append(len(args[0]))),
        model.model.language_model.register_forward_pre_hook(
            lambda _, args, kwargs: tokens.append(kwargs["inputs_embeds"].shape[1]), with_kwargs=True
        ),
    ]
    yield rows, tokens
    for hook in hooks:
        hook.remove()


def moving_frames(number, seed=0):
    """`uint8[number, 64, 64, 3]`, no two alike."""
    return np.random.default_rng(seed).integers(0, 256, (number, 64, 64, 3), dtype=np.uint8)


def pixels_of(processor, frames):
    return processor.video_processor(frames, return_tensors="pt")["pixel_values_videos"]


def features_at_once(model, processor, *clips):
    """What the tower makes of whole clips, as `mm_encoder_outputs`."""
    clips = [model.get_video_features(pixels_of(processor, clip)).pooler_output[0] for clip in clips]
    return {"video": BaseModelOutputWithPooling(pooler_output=tuple(clips))}


@torch.no_grad()
def next_logits(stream):
    """What the stream's caches say of the token after what it holds; they are left as they are."""
    cache = copy.deepcopy(stream._cache)
    if cache.get_seq_length() == len(stream.input_ids):
        cache.crop(-1)
    unread = stream.input_ids[cache.get_seq_length() :]
    return stream.model(input_ids=torch.tensor([unread]), past_key_values=cache).logits[0, -1]


@torch.no_grad()
def logits_from_scratch(stream, encoded):
    return stream.model(input_ids=torch.tensor([stream.input_ids]), mm_encoder_outputs=encoded).logits[0, -1]


def assert_as_from_scratch(stream, encoded, tolerance=1e-4):
    torch.testing.assert_close(next_logits(stream), logits_from_scratch(stream, encoded), rtol=0, atol=tolerance)


@contextmanager
def interrupted(module, call=1, error=KeyboardInterrupt):
    """Ctrl-C, or another error, in the middle of a call of a module."""
    calls = []

    def stop(*_):
        calls.append(1)
        if len(calls) == call:
            raise error

    hook = module.register_forward_pre_hook(stop)
    with pytest.raises(error):
        yield
    hook.remove()


def late_layer(model, place):
    """A layer of the language model or of the tower with another before it, which has written to its cache by then."""
    return (
        model.model.language_model.layers[1] if place == "decoder" else model.model.vision_tower.progressive_layers[-1]
    )


def visuals_of(stream):
    """What bounded mode keeps, as `mm_encoder_outputs`."""
    encoded = {}
    for event in stream._state.events:
        if hasattr(event, "features"):
            encoded.setdefault(event.kind, []).append(event.features)
    return {kind: BaseModelOutputWithPooling(pooler_output=tuple(x)) for kind, x in encoded.items()}


def inputs_about_the_video(processor, question):
    content = [{"type": "video", "path": str(VIDEO)}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def prompt_ids(processor, content, *later):
    messages = [{"role": "user", "content": content}, *later]
    return processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=True, return_dict=True)[
        "input_ids"
    ][0]


class TestExact:
    @pytest.mark.parametrize("sizes", [[1] * 9, [3, 3, 3], [7, 2], [9], [2, 1, 5, 1]])
    def test_pushing_is_reading_the_whole_clip(self, model, processor, sizes):
        frames = moving_frames(9)
        stream = model.stream(processor, num_steps=9)
        for part in np.split(frames, np.cumsum(sizes)[:-1]):
            stream.push(part)
        assert_as_from_scratch(stream, features_at_once(model, processor, frames))
        assert stream.num_frames == 9
        assert stream.num_visual_tokens == 9 * TOKENS

    def test_a_question_in_the_middle_stays_in_the_conversation(self, model, processor):
        frames = moving_frames(8)
        stream = model.stream(processor, num_steps=8)
        stream.push(frames[:3])
        stream.ask("What came first?", max_new_tokens=5)
        stream.push(frames[3:])
        stream.ask("And now?", max_new_tokens=5)
        encoded = features_at_once(model, processor, frames)
        assert_as_from_scratch(stream, encoded)
        text = processor.tokenizer.decode(stream.input_ids)
        assert text.count("<|im_start|>user") == 2
        assert text.index("Frame3:") < text.index("What came first?") < text.index("Frame4:") < text.index("And now?")

    def test_an_aside_leaves_no_trace(self, model, processor):
        frames = moving_frames(8)
        asked, silent = (model.stream(processor, num_steps=8) for _ in range(2))
        for part in (frames[:5], frames[5:]):
            asked.push(part)
            asked.ask("How many objects are there?", keep=False, max_new_tokens=7)
            silent.push(part)
        assert asked.input_ids == silent.input_ids
        assert torch.equal(next_logits(asked), next_logits(silent))
        assert asked._cache.get_seq_length() == silent._cache.get_seq_length() == len(silent.input_ids)

    def test_answers_are_those_of_generate(self, model, processor):
        stream = model.stream(processor)
        stream.add_video(VIDEO)
        for question in ("What came first?", "What came last?"):
            inputs = inputs_about_the_video(processor, question)
            generated = model.generate(**inputs, max_new_tokens=8)[0, inputs["input_ids"].shape[1] :]
            expected = processor.decode(generated, skip_special_tokens=True).strip()
            assert stream.ask(question, keep=False, max_new_tokens=8) == expected != ""

    def test_the_prompt_is_the_chat_template_s(self, model, processor):
        stream = model.stream(processor)
        stream.add_video(VIDEO, num_frames=4)
        for _ in range(2):
            stream.add_image(IMAGE)
        stream.ask("What <image> is <|im_end|> shown?", max_new_tokens=1)
        video, image = {"type": "video", "path": str(VIDEO)}, {"type": "image", "path": str(IMAGE)}
        content = [video, image, image, {"type": "text", "text": "What <image> is <|im_end|> shown?"}]
        processor.video_processor.num_frames = 4
        try:
            expected = prompt_ids(processor, content)
        finally:
            processor.video_processor.num_frames = None
        assert stream.input_ids[:-1] == expected

    def test_a_second_turn_is_the_chat_template_s(self, model, processor):
        stream = model.stream(processor)
        stream.add_video(VIDEO)
        answer = stream.ask("What came first?")
        stream.ask("And last?", max_new_tokens=1)
        content = [{"type": "video", "path": str(VIDEO)}, {"type": "text", "text": "What came first?"}]
        later = ({"role": "assistant", "content": answer}, {"role": "user", "content": "And last?"})
        assert stream.input_ids[:-1] == prompt_ids(processor, content, *later)

    def test_an_iterator_of_frames(self, model, processor):
        frames = moving_frames(5)
        streams = [model.stream(processor, num_steps=5) for _ in range(2)]
        streams[0].push(frame for frame in frames)
        streams[1].push(iter(frames), (number / 2 for number in range(9)))
        for stream in streams:
            assert stream.num_frames == 5
            assert_as_from_scratch(stream, features_at_once(model, processor, frames))

    @pytest.mark.parametrize("times", [np.array([0.0, 0.5]), torch.tensor([0.0, 0.5]), (0, 0.5), iter([0, 0.5])])
    def test_times_in_any_form(self, model, processor, monkeypatch, times):
        monkeypatch.setattr(processor, "frame_times", True)
        stream = model.stream(processor, num_steps=4)
        stream.push(moving_frames(2), times)
        stream.push(moving_frames(1), np.float32(0.5))
        text = processor.tokenizer.decode(stream.input_ids)
        assert [text.count(label) for label in ("Frame1 (0.0 s)", "Frame2 (0.5 s)", "Frame3 (0.5 s)")] == [1, 1, 1]

    def test_settings_of_the_video_processor(self, model, processor):
        streams = [model.stream(processor, num_steps=2) for _ in range(2)]
        streams[0].push(moving_frames(2))
        streams[1].push(torch.from_numpy(moving_frames(2)) / 255, do_rescale=False)
        torch.testing.assert_close(next_logits(streams[0]), next_logits(streams[1]), rtol=0, atol=1e-4)

    def test_half_precision(self, model, processor):
        half = copy.deepcopy(model).bfloat16()
        stream = half.stream(processor)
        stream.add_video(VIDEO)
        stream.add_image(IMAGE)
        assert stream.ask("What came first?", keep=False) != ""
        assert {layer.keys.dtype for layer in stream._cache.layers} == {torch.bfloat16}
        stream.ask("What came first?", max_new_tokens=3)
        encoded = features_at_once(half, processor, str(VIDEO))
        encoded["image"] = half.get_image_features(processor.image_processor(IMAGE, return_tensors="pt").pixel_values)
        assert_as_from_scratch(stream, encoded, tolerance=0.5)

    def test_a_sliding_decoder(self, processor, model, randomise):
        text = {**model.config.text_config.to_dict(), "model_type": "mistral", "sliding_window": 8}
        text.pop("rope_parameters"), text.pop("architectures", None)
        config = {**model.config.to_dict(), "text_config": text}
        sliding = randomise(PVCForConditionalGeneration(type(model.config)(**config)))
        frames = moving_frames(4)
        stream = sliding.stream(processor, num_steps=4)
        for frame in frames:
            stream.push(frame)
            stream.ask("What?", keep=False, max_new_tokens=2)
        stream.ask("What?", max_new_tokens=2)
        assert_as_from_scratch(stream, features_at_once(sliding, processor, frames))

    def test_two_threads_wait_for_each_other(self, model, processor):
        frames = moving_frames(6)
        stream = model.stream(processor, num_steps=6)
        asking = threading.Thread(target=lambda: [stream.ask("What?", keep=False, max_new_tokens=2) for _ in range(6)])
        asking.start()
        for frame in frames:
            stream.push(frame)
        asking.join()
        assert_as_from_scratch(stream, features_at_once(model, processor, frames))

    def test_an_answer_shows_nothing(self, model, processor):
        """A placeholder among its tokens would ask for features that nobody gave."""

        class Prefer(LogitsProcessor):
            def __call__(self, input_ids, scores):
                scores[:, processor.video_token_id] += 100
                return scores

        stream = model.stream(processor, num_steps=2)
        stream.push(moving_frames(1))
        stream.ask("What?", logits_processor=[Prefer()], max_new_tokens=3)
        assert stream.num_visual_tokens == TOKENS
        stream.push(moving_frames(1))
        stream.ask("What?", suppress_tokens=[5], max_new_tokens=1)

    def test_each_clip_has_its_own_time_and_numbers(self, model, processor):
        first, second = moving_frames(4, seed=1), moving_frames(3, seed=2)
        stream = model.stream(processor, num_steps=4)
        stream.push(first)
        stream.watch(3)
        stream.push(second)
        assert_as_from_scratch(stream, features_at_once(model, processor, first, second))
        text = processor.tokenizer.decode(stream.input_ids)
        assert [text.count(f"Frame{number}:") for number in (1, 3, 4)] == [2, 2, 1]

    def test_frame_times_in_the_labels(self, model, processor, monkeypatch):
        monkeypatch.setattr(processor, "frame_times", True)
        stream = model.stream(processor, num_steps=4)
        stream.push(moving_frames(1)[0], 0.5)
        stream.push(moving_frames(2), [1.0, 1.54])
        text = processor.tokenizer.decode(stream.input_ids)
        assert [label in text for label in ("Frame1 (0.5 s): ", "Frame2 (1.0 s): ", "Frame3 (1.5 s): ")] == [True] * 3

    def test_an_answer_is_streamed(self, model, processor):
        stream = model.stream(processor)
        stream.add_video(VIDEO)
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        answer = stream.ask("What came first?", streamer=streamer)
        assert "".join(streamer).strip() == answer


class TestNothingTwice:
    def test_a_question_encodes_nothing_and_reads_its_own_tokens(self, model, processor, work):
        rows, tokens = work
        stream = model.stream(processor)
        stream.add_video(VIDEO)
        held = len(stream.input_ids)
        assert sum(tokens) == held
        for question in ("What came first?", "What came last?"):
            rows.clear(), tokens.clear()
            before = stream._cache.get_seq_length()
            stream.ask(question, max_new_tokens=4)
            assert rows == []
            # Every token but the last, which nothing has asked for yet, was read once.
            assert sum(tokens) == stream._cache.get_seq_length() - before == len(stream.input_ids) - 1 - before
        assert stream.num_visual_tokens == 8 * TOKENS

    def test_new_frames_are_encoded_once(self, model, processor, work):
        rows, tokens = work
        stream = model.stream(processor, num_steps=6)
        stream.push(moving_frames(4))
        held = len(stream.input_ids)
        stream.push(moving_frames(2, seed=1))
        assert rows == [4, 2]
        assert tokens == [held, len(stream.input_ids) - held]

    def test_frames_that_stand_still_are_encoded_once(self, model, processor, work):
        frames = moving_frames(3)[[0, 0, 0, 1, 2, 2]]
        stream = model.stream(processor, num_steps=6)
        stream.push(frames)
        assert work[0] == [3]
        assert_as_from_scratch(stream, features_at_once(model, processor, frames))

    def test_an_image_is_encoded_once(self, model, processor, work):
        stream = model.stream(processor)
        for _ in range(2):
            stream.add_image(IMAGE)
            stream.ask("What number is written in the picture?", max_new_tokens=4)
        assert len(work[0]) == 1
        stream.add_image(Image.open(IMAGE).rotate(180))
        assert len(work[0]) == 2

    def test_another_setting_is_another_image(self, processor, model, monkeypatch, work):
        stream = model.stream(processor)
        stream.add_image(IMAGE)
        monkeypatch.setattr(model.config, "num_image_steps", 2)
        stream.add_image(IMAGE)
        assert len(work[0]) == 2
        monkeypatch.setattr(processor.image_processor, "image_mean", [0.4, 0.4, 0.4])
        stream.add_image(IMAGE)
        assert len(work[0]) == 3

    def test_another_dtype_or_shape_is_another_image(self, processor, model):
        model = copy.deepcopy(model)
        stream = model.stream(processor)
        tiles = torch.zeros(4, 3, 64, 64)
        assert len(stream._encode_image(tiles)) == 4 * model.config.tokens_per_tile
        assert len(stream._encode_image(tiles.view(2, 3, 128, 64)[..., :64, :])) == 2 * model.config.tokens_per_tile
        model.half()
        assert stream._encode_image(tiles).dtype == torch.float16

    def test_few_images_are_remembered(self, model, processor):
        stream = model.stream(processor)
        for shade in range(NUM_IMAGES_REMEMBERED + 3):
            stream.add_image(Image.new("RGB", (64, 64), (shade, 0, 0)))
        assert len(stream._encoded) == NUM_IMAGES_REMEMBERED

    def test_the_image_seen_longest_ago_is_forgotten(self, model, processor, work):
        stream = model.stream(processor)
        images = [Image.new("RGB", (64, 64), (shade, 0, 0)) for shade in range(NUM_IMAGES_REMEMBERED + 1)]
        for image in [*images[:-1], images[0], images[-1]]:
            stream.add_image(image)
        encoded = len(work[0])
        stream.add_image(images[0])
        assert len(work[0]) == encoded == NUM_IMAGES_REMEMBERED + 1
        stream.add_image(images[1])
        assert len(work[0]) == encoded + 1


class TestEncodeVideo:
    @pytest.mark.parametrize("size", [1, 3, 7, 50])
    def test_chunks_are_the_features_of_the_whole_file(self, model, processor, size):
        chunks = list(model.encode_video(processor.video_processor.stream(VIDEO, frames_per_chunk=size)))
        whole = model.get_video_features(pixels_of(processor, str(VIDEO))).pooler_output[0]
        assert [len(chunk) for chunk in chunks][0] == min(size, 8)
        torch.testing.assert_close(torch.cat(chunks).flatten(0, 1), whole, rtol=0, atol=1e-5)

    def test_they_do_for_pixels(self, model, processor):
        """A long file is encoded once, never held, and asked about as often as one likes."""
        features = torch.cat(list(model.encode_video(processor.video_processor.stream(VIDEO))))
        inputs = inputs_about_the_video(processor, "What came first?")
        expected = model.generate(**inputs, max_new_tokens=4)
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        encoded = {"video": BaseModelOutputWithPooling(pooler_output=(features,))}
        assert torch.equal(model.generate(**text, mm_encoder_outputs=encoded, max_new_tokens=4), expected)

    def test_bounded(self, model, processor):
        exact, within, beyond = (
            torch.cat(list(model.encode_video(processor.video_processor.stream(VIDEO), window=window)))
            for window in (None, 8, 2)
        )
        torch.testing.assert_close(within, exact, rtol=0, atol=1e-5)
        torch.testing.assert_close(beyond[:2], exact[:2], rtol=0, atol=1e-5)
        assert (beyond[2:] - exact[2:]).abs().max() > 1e-3

    def test_gradients_of_the_caller_are_left_alone(self, model, processor):
        chunks = model.encode_video(processor.video_processor.stream(VIDEO, frames_per_chunk=4))
        assert not next(chunks).requires_grad
        assert torch.is_grad_enabled()

    def test_what_is_no_stream(self, model):
        with pytest.raises(ValueError, match="what PVCVideoProcessor.stream makes of a file, got str"):
            model.encode_video("assets/order.mp4")


class TestImages:
    def test_a_new_image_in_a_later_turn(self, model, processor):
        stream = model.stream(processor)
        stream.add_image(IMAGE)
        first = stream.ask("What number is written in the picture?")
        stream.add_image(ROOT / "assets" / "objects.png")
        stream.ask("How many objects are there?")
        encoded = model.get_image_features(
            torch.cat(
                [
                    processor.image_processor(path, return_tensors="pt")["pixel_values"]
                    for path in (IMAGE, ROOT / "assets" / "objects.png")
                ]
            )
        )
        assert_as_from_scratch(stream, {"image": encoded})
        assert first.isdigit()
        text = processor.tokenizer.decode(stream.input_ids)
        assert "Image-1" not in text
        assert text.count("Image-2: ") == 1

    def test_images_and_frames_keep_their_order(self, model, processor):
        stream = model.stream(processor, num_steps=2)
        stream.push(moving_frames(1))
        stream.add_image(IMAGE)
        stream.push(moving_frames(1, seed=1))
        text = processor.tokenizer.decode(stream.input_ids).replace("<IMG_CONTEXT>", "i").replace("<VID_CONTEXT>", "v")
        assert text.index("vv") < text.index("ii") < text.rindex("vv")


class TestBounded:
    def test_memory_is_that_of_the_window(self, model, processor):
        stream = model.stream(processor, num_steps=20, sink=2, window=5)
        held = []
        for frame in moving_frames(40):
            stream.push(frame)
            held.append(stream.input_ids.count(processor.video_token_id) // TOKENS)
            assert stream._cache.get_seq_length() == len(stream.input_ids)
        assert max(held) == 2 + 2 * 5
        assert min(held[12:]) == 2 + 5 + 1
        assert {layer.keys.shape[-2] for layer in stream._state.clip.layers} == {7}
        assert len(stream._state.events) <= 12
        assert stream.num_frames == 40

    def test_many_frames_at_once_are_held_no_longer(self, model, processor):
        stream = model.stream(processor, num_steps=20, sink=2, window=5)
        stream.push(moving_frames(40), [number / 2 for number in range(40)])
        assert stream.num_frames == 40
        assert stream.input_ids.count(processor.video_token_id) <= (2 + 2 * 5) * TOKENS

    def test_after_a_new_start_the_caches_are_as_from_scratch(self, model, processor):
        stream = model.stream(processor, num_steps=50, sink=1, window=4)
        for number, frame in enumerate(moving_frames(24)):
            stream.push(frame)
            if number % 5 == 3:
                stream.ask("What is shown?", max_new_tokens=3)
        kept = torch.stack([event.features for event in stream._state.events if hasattr(event, "features")])
        assert_as_from_scratch(stream, {"video": BaseModelOutputWithPooling(pooler_output=(kept,))})
        text = processor.tokenizer.decode(stream.input_ids)
        assert text.startswith("<|im_start|>user\nFrame1: ")
        assert "Frame2: " not in text
        assert "Frame24: " in text

    def test_within_the_window_it_is_exact(self, model, processor):
        frames = moving_frames(6)
        streams = [model.stream(processor, num_steps=6), model.stream(processor, num_steps=6, window=6)]
        for stream in streams:
            stream.push(frames)
        torch.testing.assert_close(next_logits(streams[0]), next_logits(streams[1]), rtol=0, atol=1e-4)

    def test_any_split_is_the_same(self, model, processor):
        frames, logits = moving_frames(12), []
        for size in (1, 4, 12):
            stream = model.stream(processor, num_steps=12, sink=1, window=8)
            for part in np.split(frames, 12 // size):
                stream.push(part)
            logits.append(next_logits(stream))
        for other in logits[1:]:
            torch.testing.assert_close(other, logits[0], rtol=0, atol=1e-4)

    def test_a_question_makes_room_if_it_must(self, model, processor, monkeypatch):
        stream = model.stream(processor, num_steps=50, window=4)
        stream.push(moving_frames(7))
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", len(stream.input_ids) + 5)
        stream.ask("What is shown in all of these frames?", max_new_tokens=2)
        assert stream.input_ids.count(processor.video_token_id) == 4 * TOKENS

    def test_an_aside_after_a_new_start(self, model, processor):
        stream = model.stream(processor, num_steps=50, window=3)
        stream.push(moving_frames(6))
        stream.ask("What is shown?", keep=False, max_new_tokens=2)
        assert stream._cache.get_seq_length() == len(stream.input_ids)
        assert "What is shown" not in processor.tokenizer.decode(stream.input_ids)

    def test_a_long_conversation_lets_go_of_the_oldest_questions(self, model, processor, monkeypatch):
        stream = model.stream(processor, num_steps=50, sink=1, window=3)
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 400)
        stream.push(moving_frames(5))
        for number in range(12):
            stream.ask(f"Number {number}, what is shown?", max_new_tokens=30, min_new_tokens=30)
            assert len(stream.input_ids) <= 400
        text = processor.tokenizer.decode(stream.input_ids)
        assert "Number 11" in text
        assert "Number 0" not in text
        assert text.count("Frame") >= 4
        stream.push(moving_frames(4))
        assert_as_from_scratch(stream, visuals_of(stream))

    def test_what_was_said_before_the_first_frames(self, model, processor, monkeypatch):
        stream = model.stream(processor, num_steps=50, sink=2, window=3)
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", 400)
        stream.ask("Before all, what is shown?", max_new_tokens=30, min_new_tokens=30)
        stream.push(moving_frames(2))
        for _ in range(12):
            stream.ask("What is shown?", max_new_tokens=30, min_new_tokens=30)
        text = processor.tokenizer.decode(stream.input_ids)
        assert [text.count(label) for label in ("Before all", "Frame1:", "Frame2:")] == [0, 1, 1]
        assert_as_from_scratch(stream, visuals_of(stream))

    def test_what_is_kept_is_what_was_said_and_shown_among_the_last_frames(self, model, processor):
        stream = model.stream(processor, num_steps=50, sink=1, window=3)
        for number, frame in enumerate(moving_frames(8), start=1):
            stream.push(frame)
            if number in (2, 6):
                stream.add_image(IMAGE)
                stream.ask(f"At {number}, what is shown?", max_new_tokens=3)
        stream.add_image(IMAGE)
        stream.push(moving_frames(1))
        text = processor.tokenizer.decode(stream.input_ids)
        assert "At 2" not in text
        assert text.index("Frame1:") < text.index("Frame6:") < text.index("Image-2:") < text.index("At 6")
        # What was evicted had its number.
        assert text.index("At 6") < text.index("Frame7:") < text.index("Frame8:") < text.index("Image-3: ")
        assert_as_from_scratch(stream, visuals_of(stream))

    def test_an_aside_leaves_an_image_in_the_queue(self, model, processor):
        stream = model.stream(processor, num_steps=50, window=3)
        stream.push(moving_frames(1))
        stream.add_image(IMAGE)
        for _ in range(3):
            stream.ask("What is shown?", keep=False, max_new_tokens=2)
        assert [event.kind for event in stream._state.events] == ["video"]
        for frame in moving_frames(8):
            stream.push(frame)
        assert_as_from_scratch(stream, visuals_of(stream))

    @pytest.mark.parametrize("pushed", [3, 8, 9, 10])
    @pytest.mark.parametrize("place", ["decoder", "tower"])
    def test_an_interruption_is_undone(self, model, processor, place, pushed):
        """Frame 10 begins the row again, which may be the moment."""
        module = late_layer(model, place)
        frames = moving_frames(14)
        streams = [model.stream(processor, num_steps=14, sink=1, window=4) for _ in range(2)]
        for stream in streams:
            for frame in frames[:pushed]:
                stream.push(frame)
        before = list(streams[0].input_ids)
        with interrupted(module):
            streams[0].push(frames[pushed])
        assert (streams[0].input_ids, streams[0].num_frames) == (before, pushed)
        for stream in streams:
            stream.push(frames[pushed:])
        assert streams[0].input_ids == streams[1].input_ids
        torch.testing.assert_close(next_logits(streams[0]), next_logits(streams[1]), rtol=0, atol=1e-4)

    def test_of_several_frames_those_before_an_interruption_are_kept(self, model, processor):
        frames = moving_frames(14)
        streams = [model.stream(processor, num_steps=14, sink=1, window=4) for _ in range(2)]
        with interrupted(model.model.vision_tower.progressive_layers[-1], call=11):
            streams[0].push(frames)
        assert streams[0].num_frames == 10
        streams[0].push(frames[10:])
        streams[1].push(frames)
        assert streams[0].input_ids == streams[1].input_ids
        torch.testing.assert_close(next_logits(streams[0]), next_logits(streams[1]), rtol=0, atol=1e-4)

    def test_a_file_that_breaks_off_after_a_new_start(self, model, processor, broken_video):
        stream = model.stream(processor, num_steps=50, window=2)
        stream.push(moving_frames(3))
        before, logits = list(stream.input_ids), next_logits(stream)
        with pytest.raises(ValueError, match="the file is damaged"):
            stream.add_video(broken_video)
        assert stream.input_ids == before
        stream.push(moving_frames(1, seed=1))
        assert_as_from_scratch(stream, visuals_of(stream))
        assert "Frame4: " in processor.tokenizer.decode(stream.input_ids)
        assert logits.isfinite().all()

    def test_time_stays_at_the_horizon(self, model, processor):
        seen = []
        hook = model.model.vision_tower.time_embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        stream = model.stream(processor, num_steps=4, window=3)
        stream.push(moving_frames(6))
        hook.remove()
        assert torch.cat(seen).tolist() == [0, 0.25, 0.5, 0.75, 0.75, 0.75]


class Stop(BaseStreamer):
    """Interrupts an answer after some tokens."""

    def __init__(self, after):
        self.left = after + 1

    def put(self, value):
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1

    def end(self):
        pass


class TestErrors:
    @pytest.fixture
    def stream(self, model, processor):
        stream = model.stream(processor, num_steps=4)
        stream.push(moving_frames(3))
        return stream

    @pytest.fixture
    def unchanged(self, stream):
        before = (list(stream.input_ids), next_logits(stream), stream.num_frames)
        yield
        assert stream.input_ids == before[0]
        assert torch.equal(next_logits(stream), before[1])
        assert stream.num_frames == before[2]
        stream.push(moving_frames(4)[3:])
        assert_as_from_scratch(stream, features_at_once(stream.model, stream.processor, moving_frames(4)))

    def test_frames_beyond_the_horizon(self, stream, unchanged):
        with pytest.raises(ValueError, match="at most num_steps = 4 frames in this clip, got 5; begin another"):
            stream.push(moving_frames(2))

    def test_frames_without_a_horizon(self, model, processor):
        stream = model.stream(processor)
        with pytest.raises(ValueError, match="Expected num_steps, the horizon T of a stream in frames"):
            stream.push(moving_frames(1))
        assert stream.input_ids == []

    def test_times_for_each_frame(self, stream, unchanged):
        with pytest.raises(ValueError, match="one time for each of the 1 frames, got 2"):
            stream.push(moving_frames(1), [0.0, 1.0])

    @pytest.mark.parametrize("times", [float("nan"), [None], "1.0", -1.0])
    def test_times_that_are_none(self, stream, unchanged, times):
        stream._state.last_time = 0.5
        with pytest.raises(ValueError, match="expected finite times in ascending order"):
            stream.push(moving_frames(1), times)
        stream._state.last_time = None

    def test_fewer_times_than_frames_of_an_iterator(self, model, processor):
        stream = model.stream(processor, num_steps=4)
        with pytest.raises(ValueError, match="Expected one time for each frame, got 1 times"):
            stream.push(iter(moving_frames(2)), [0.0])
        assert stream.num_frames == 1

    @pytest.mark.parametrize("frames", [[], ()])
    def test_no_frames(self, stream, unchanged, frames):
        with pytest.raises(ValueError, match="one frame or several, got an empty list"):
            stream.push(frames)

    @pytest.mark.parametrize("pixels", [torch.zeros(0, 3, 8, 8), np.zeros((1, 3, 8, 8)), torch.zeros(3, 8, 8), 3])
    def test_what_are_no_pixels(self, stream, unchanged, pixels):
        with pytest.raises(ValueError, match="Expected a tensor of frames"):
            stream.push_pixels(pixels)

    def test_times_of_pixels(self, stream, unchanged):
        with pytest.raises(ValueError, match="one time for each of the 1 frames, got 2"):
            stream.push_pixels(torch.zeros(1, 3, 64, 64), [0.0, 1.0])

    @pytest.mark.parametrize("question", ["", "  ", None, 5, b"What?", ["What?"]])
    def test_what_is_no_question(self, stream, unchanged, question):
        with pytest.raises(ValueError, match="Expected a question, got"):
            stream.ask(question)

    def test_a_question_that_is_not_unicode(self, stream, unchanged):
        with pytest.raises(ValueError, match="Expected a question in Unicode"):
            stream.ask("caf\udce9?")

    def test_several_images_at_once(self, stream, unchanged):
        with pytest.raises(ValueError, match="Expected one image, got 2"):
            stream.add_image([IMAGE, IMAGE])

    def test_an_answer_ends_where_the_model_s_memory_does(self, stream, monkeypatch, model):
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", len(stream.input_ids) + 30)
        stream.ask("What is it?", min_new_tokens=2, max_new_tokens=100, do_sample=True, eos_token_id=[])
        assert len(stream.input_ids) == model.config.text_config.max_position_embeddings

    def test_what_is_no_frame(self, stream, unchanged):
        with pytest.raises(ValueError, match="received int"):
            stream.push(3)

    def test_a_question_that_is_too_long(self, stream, unchanged, monkeypatch, model):
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", len(stream.input_ids) + 20)
        with pytest.raises(ValueError, match=r"at most \d+ tokens, got \d+ with this question"):
            stream.ask("What is it? " * 20)

    def test_a_frame_too_many(self, stream, unchanged, monkeypatch, model):
        monkeypatch.setattr(model.config.text_config, "max_position_embeddings", len(stream.input_ids) + 10)
        with pytest.raises(ValueError, match=r"with this frame; watch fewer, or make a stream with a window"):
            stream.push(moving_frames(1))

    @pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
    def test_one_answer_at_a_time(self, stream, unchanged, name):
        with pytest.raises(ValueError, match=f"one answer at a time.*{name}"):
            stream.ask("What is it?", **{name: 2})

    def test_a_setting_that_generate_refuses(self, stream, unchanged):
        with pytest.raises(ValueError, match="colour"):
            stream.ask("What is it?", colour="red")

    def test_a_video_that_breaks_off(self, stream, unchanged, broken_video):
        with pytest.raises(ValueError, match="the file is damaged"):
            stream.add_video(broken_video)

    @pytest.mark.parametrize("place", ["decoder", "tower"])
    @pytest.mark.parametrize("error", [KeyboardInterrupt, torch.OutOfMemoryError])
    def test_a_push_that_fails(self, stream, unchanged, model, place, error):
        module = late_layer(model, place)
        with interrupted(module, error=error):
            stream.push(moving_frames(1, seed=2))

    def test_a_push_that_fails_after_a_question(self, stream, model, processor):
        stream.ask("What is shown?", max_new_tokens=3)
        with interrupted(model.model.language_model.layers[1]):
            stream.push(moving_frames(1, seed=2))
        assert_as_from_scratch(stream, features_of(model, processor))

    @pytest.mark.parametrize("call", [1, 3])
    def test_an_answer_that_is_stopped_within_a_pass_of_the_model(self, stream, model, processor, call):
        """In the question (1) or in an answer's token (3): layers hold unlike numbers of tokens then."""
        with interrupted(model.model.language_model.layers[1], call=call):
            stream.ask("What is shown?", max_new_tokens=9, min_new_tokens=9)
        assert len({layer.get_seq_length() for layer in stream._cache.layers}) == 1
        stream.ask("And now?", max_new_tokens=2)
        stream.push(moving_frames(4)[3:])
        assert_as_from_scratch(stream, features_at_once(model, processor, moving_frames(4)))
        assert processor.tokenizer.decode(stream.input_ids).count("What is shown?") == 1

    def test_an_image_waits_if_a_question_fails(self, stream, unchanged):
        stream.add_image(IMAGE)
        with pytest.raises(ValueError, match="colour"):
            stream.ask("What is it?", colour="red")
        assert len(stream._state.queue) == 1
        stream._state.queue.clear()

    @pytest.mark.parametrize("after", [0, 1, 3])
    def test_an_answer_that_is_stopped_is_kept_as_far_as_it_came(self, stream, model, processor, after):
        with pytest.raises(KeyboardInterrupt):
            stream.ask("What is shown? " * 3, streamer=Stop(after), max_new_tokens=50, min_new_tokens=40)
        text = processor.tokenizer.decode(stream.input_ids)
        assert text.count("<|im_start|>assistant") == 1
        stream.ask("And now?", max_new_tokens=2)
        assert_as_from_scratch(stream, features_of(model, processor))

    def test_an_aside_that_is_stopped(self, stream, unchanged):
        with pytest.raises(KeyboardInterrupt):
            stream.ask("What is shown?", streamer=Stop(2), keep=False, min_new_tokens=10)

    @pytest.mark.parametrize("num_steps", [0, 2.5, float("nan"), "8"])
    def test_num_steps(self, stream, unchanged, num_steps):
        with pytest.raises(ValueError, match=f"of at least 1, got {num_steps!r}"):
            stream.watch(num_steps)

    def test_a_processor_of_another_model(self, model, processor, monkeypatch):
        with pytest.raises(ValueError, match="Expected a PVCProcessor, got InternLM2Tokenizer"):
            model.stream(processor.tokenizer)
        monkeypatch.setattr(processor, "tokens_per_frame", 64)
        with pytest.raises(ValueError, match="with tokens_per_frame=16, got 64; load both from one folder"):
            model.stream(processor)

    def test_a_window_that_the_model_cannot_read(self, model, processor):
        with pytest.raises(ValueError, match=r"at most 4096 tokens, got \d+ with this window"):
            model.stream(processor, num_steps=4, window=200)

    def test_a_template_of_another_kind(self, model, processor, monkeypatch):
        monkeypatch.setattr(processor, "chat_template", "{{ messages[0]['content'][1]['text'] }}")
        with pytest.raises(ValueError, match="Expected a chat template"):
            model.stream(processor)


@pytest.fixture
def broken_video(processor):
    """A video whose sixth frame cannot be read."""
    video = processor.video_processor.stream(VIDEO, frames_per_chunk=2)
    read = video._opened.frames

    def frames(indices):
        for number, frame in enumerate(read(indices)):
            if number == 5:
                raise ValueError("the file is damaged")
            yield frame

    video._opened.frames = frames
    return video


def features_of(model, processor):
    """Those of the three frames that the fixture pushed, of a clip of four."""
    pixels = pixels_of(processor, moving_frames(3))
    outputs = model.model.vision_tower(pixels, frames_per_clip=[3], temporal_cache=[PVCTemporalCache()], num_steps=[4])
    return {"video": BaseModelOutputWithPooling(pooler_output=(outputs.pooler_output,))}


class TestTemporalCache:
    def states(self, steps, seed):
        return torch.randn(5, 2, steps, 4, generator=torch.Generator().manual_seed(seed))

    @pytest.mark.parametrize("sizes", [[1] * 9, [3, 3, 3], [9], [2, 1, 5, 1]])
    def test_exact_is_a_dynamic_cache(self, sizes):
        ours, theirs = PVCTemporalCache(), DynamicCache()
        for number, size in enumerate(sizes):
            keys, values = self.states(size, number), self.states(size, 100 + number)
            for layer in range(2):
                for actual, expected in zip(ours.update(keys, values, layer), theirs.update(keys, values, layer)):
                    assert torch.equal(actual, expected)
        assert ours.get_seq_length() == theirs.get_seq_length() == 9
        assert ours.get_mask_sizes(3, 0) == theirs.get_mask_sizes(3, 0) == (12, 0)

    def test_no_memory_beyond_the_horizon(self):
        cache = PVCTemporalCache(num_steps=10)
        for number in range(10):
            cache.update(self.states(1, number), self.states(1, number), 0)
            assert cache.layers[0].keys.shape[-2] <= 10

    def test_a_step_moves_no_earlier_one(self):
        cache, places = PVCTemporalCache(), []
        for number in range(64):
            keys, _ = cache.update(self.states(1, number), self.states(1, number), 0)
            places.append(keys.data_ptr())
        assert len(set(places)) == 7  # 1, 2, 4, ..., 64

    def test_steps_that_are_taken_back_leave_their_memory(self):
        cache = PVCTemporalCache()
        keys, values = self.states(6, 0), self.states(6, 1)
        place = cache.update(keys, values, 0)[0].data_ptr()
        cache.crop(-4)
        assert cache.get_seq_length() == 2
        again, _ = cache.update(keys[..., 2:5, :], values[..., 2:5, :], 0)
        assert torch.equal(again, keys[..., :5, :])
        assert again.data_ptr() == place
        cache.crop(-100)
        assert cache.get_seq_length() == 0

    def test_a_language_model_without_attention_somewhere(self):
        with pytest.raises(ValueError, match="whose layers are attention.*LinearAttention"):
            growing_cache(Lfm2Config(num_hidden_layers=2, layer_types=["conv", "full_attention"]))

    def test_what_cannot_be_taken_back(self):
        exact, bounded = PVCTemporalCache(), PVCTemporalCache(window=3)
        exact.update(self.states(3, 0), self.states(3, 0), 0)
        with pytest.raises(ValueError, match="all steps at most, to be taken back, got 2"):
            exact.layers[0].crop(2)
        for number in range(5):
            bounded.update(self.states(1, number), self.states(1, number), 0)
        with pytest.raises(ValueError, match="one step at most, to be taken back, got -2"):
            bounded.layers[0].crop(-2)

    @pytest.mark.parametrize("steps", [2, 3, 4, 9])
    def test_the_last_step_of_a_window_is_taken_back_for_another(self, steps):
        caches = [PVCTemporalCache(sink=1, window=3) for _ in range(2)]
        for number in range(steps):
            for cache in caches:
                cache.update(self.states(1, number), self.states(1, number), 0)
        caches[0].update(self.states(1, 99), self.states(1, 99), 0)
        caches[0].rewind(steps)
        ours, theirs = (cache.update(self.states(1, 50), self.states(1, 51), 0) for cache in caches)
        assert torch.equal(ours[0], theirs[0])
        assert torch.equal(ours[1], theirs[1])

    def test_bounded_keeps_the_first_and_the_last(self):
        cache, seen = PVCTemporalCache(sink=2, window=3), []
        for number in range(11):
            states = torch.full((1, 1, 1, 1), float(number))
            keys, values = cache.update(states, states, 0)
            assert torch.equal(keys, values)
            seen.append(sorted(keys.flatten().tolist()))
        assert seen[4] == [0, 1, 2, 3, 4]
        assert seen[5] == [0, 1, 3, 4, 5]
        assert seen[10] == [0, 1, 8, 9, 10]
        assert cache.get_seq_length() == 11
        assert cache.get_mask_sizes(1, 0) == (5, 7)

    def test_bounded_takes_one_step_at_a_time(self):
        with pytest.raises(ValueError, match=r"one step at a time in a cache bounded to 1 \+ 3 steps, got 2"):
            PVCTemporalCache(sink=1, window=3).update(self.states(2, 0), self.states(2, 0), 0)

    @pytest.mark.parametrize(("sink", "window"), [(-1, 3), (0, 0), (2, None), (0, 2.5), (0, "4"), (None, None)])
    def test_settings_that_make_no_sense(self, sink, window):
        with pytest.raises(ValueError, match="window of at least 1 with sink >= 0, or neither"):
            PVCTemporalCache(sink, window)
