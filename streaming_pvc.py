# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""
A conversation about what is being watched: frames, images and questions in the order in which they come.

Two caches make it a stream. The temporal cache holds what the vision tower needs of earlier frames, so that only new
frames are encoded; the language model's cache holds the conversation so far, so that only new tokens are read:

    push   new frames -> tower, through the temporal cache -> language model, through its cache
    ask    the question's tokens -> language model -> answer; the tower does nothing

What is read is one growing row of ids, `input_ids`, and the caches are those of a model that was given that row at
once. Pieces of text always meet at a control token, so that each can be tokenised by itself.

Everything but the caches is in `StreamState`. An operation that fails goes back to a copy of it, and takes from the
caches what they hold beyond it.
"""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import wraps

import torch
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .cache_pvc import PVCTemporalCache, growing_cache


# How many images are remembered, so as not to be encoded again.
NUM_IMAGES_REMEMBERED = 32
# Characters that are in no text, to find what a chat template puts between its parts.
QUESTION, ANSWER, NEXT_QUESTION = "\ufdd0", "\ufdd1", "\ufdd2"


@dataclass
class Visual:
    """What the language model is shown of one frame ("video") or image ("image"): a label and its tokens."""

    kind: str
    label: str
    features: torch.Tensor


@dataclass
class Exchange:
    """A question, and the ids of its answer as far as there is one."""

    question: str
    answer: list[int]


@dataclass
class StreamState:
    """
    What a stream remembers beside its caches.

    `input_ids` is what the language model is given, `joint` the text between this and what comes next, `pending` the
    visuals whose placeholders its cache does not hold yet, `queue` images that are read with what comes next.
    `clip` is the tower's cache of the clip that is watched. In bounded mode `events` are what `input_ids` is made of,
    and `start` counts how often it was begun again.
    """

    joint: str
    clip: PVCTemporalCache
    num_steps: int | None = None
    num_frames: int = 0
    last_time: float | None = None
    in_clip: bool = False
    num_images: int = 0
    start: int = 0
    input_ids: list[int] = field(default_factory=list)
    pending: list[Visual] = field(default_factory=list)
    queue: list[torch.Tensor] = field(default_factory=list)
    events: list[Visual | Exchange] = field(default_factory=list)

    def copy(self) -> "StreamState":
        return replace(self, **{name: list(value) for name, value in vars(self).items() if isinstance(value, list)})


class ChatFormat:
    """
    What a chat template puts around a question and after a visual, read off the template itself.

    Raises:
        ValueError: if the template does not keep visuals, questions and answers in order.
    """

    def __init__(self, processor):
        self.processor = processor
        content = [{"type": "video"}, {"type": "text", "text": QUESTION}]
        turns = (("user", content), ("assistant", ANSWER), ("user", NEXT_QUESTION))
        rendered = self._render([{"role": role, "content": part} for role, part in turns])
        parts = []
        for mark in (processor.video_token, QUESTION, ANSWER, NEXT_QUESTION):
            part, found, rendered = rendered.partition(mark)
            if not found:
                raise ValueError(
                    "Expected a chat template that writes a video, its question, the answer and the next question in "
                    f"this order, got one without {mark!r} there; give the processor the template of this package."
                )
            parts.append(part)
        self.opening, self.after_visual, self.closing, self.reopening = parts

    def _render(self, messages: list[dict]) -> str:
        return self.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def harmless(self, question: str) -> str:
        """The question as the template writes it: control tokens in it are text."""
        rendered = self._render([{"role": "user", "content": question}])
        return rendered[len(self.opening) : len(rendered) - len(self.closing)]


class AnswerRecorder(BaseStreamer):
    """Keeps the ids of an answer, which an interruption would lose, and passes them on."""

    def __init__(self, streamer: BaseStreamer | None):
        self.streamer = streamer
        self.ids = None

    def put(self, value: torch.Tensor):
        # `generate` puts the prompt first.
        self.ids = [] if self.ids is None else self.ids + value.flatten().tolist()
        if self.streamer is not None:
            self.streamer.put(value)

    def end(self):
        if self.streamer is not None:
            self.streamer.end()


def encode_frames(tower, pixels: torch.Tensor, cache: PVCTemporalCache, num_steps: int) -> torch.Tensor:
    """The next frames of a clip of `num_steps`, `float[T, 3, H, W] -> float[T, tokens_per_frame, hidden_size]`."""
    settings = {"temporal_cache": [cache], "num_steps": [num_steps]}
    if cache.is_bounded:
        # It takes one step at a time.
        steps = pixels.to(tower.device).split(1)
        return torch.cat([tower(step, frames_per_clip=[1], **settings).pooler_output for step in steps])
    # What stands still is one frame, repeated: the layers before the first progressive one see it once.
    moved = [True, *(pixels[1:] != pixels[:-1]).flatten(1).any(1).tolist()]
    if not all(moved):
        firsts = [index for index, value in enumerate(moved) if value]
        settings["num_repeats"] = [end - start for start, end in zip(firsts, [*firsts[1:], len(pixels)])]
        pixels = pixels[firsts]
    return tower(pixels.to(tower.device), frames_per_clip=[len(pixels)], **settings).pooler_output


def encode_video(tower, video, sink: int = 0, window: int | None = None) -> Iterator[torch.Tensor]:
    """
    Features of a video, chunk after chunk, while the next one is decoded; neither pixels nor frames are kept.

    Args:
        tower ([`PVCVisionModel`]): encodes.
        video ([`PVCVideoStream`]): what `PVCVideoProcessor.stream` makes of a file.
        sink, window (`int`, *optional*): of the [`PVCTemporalCache`]; exact without a window.

    Returns:
        Tensors of shape `(num_frames_of_chunk, tokens_per_frame, hidden_size)`.

    Raises:
        ValueError: for what is no such stream, or settings of the cache that are of no use.
    """
    if not hasattr(video, "num_frames"):
        raise ValueError(
            f"Expected what PVCVideoProcessor.stream makes of a file, got {type(video).__name__}; give "
            "processor.video_processor.stream(file)."
        )
    cache = PVCTemporalCache(sink, window, video.num_frames)
    encode = torch.no_grad()(encode_frames)
    return (encode(tower, pixels, cache, video.num_frames) for pixels, _ in video)


def one_at_a_time(method: Callable) -> Callable:
    """A method of a stream without gradients, which waits while another thread is in one."""

    @wraps(method)
    def run(self, *args, **kwargs):
        with self._lock, torch.no_grad():
            return method(self, *args, **kwargs)

    return run


class PVCStream:
    """
    A conversation about frames, images and videos that come one after the other; `model.stream(processor)` begins it.

    One thread may push while another asks: each waits for the other's call to end.

    Args:
        model ([`PVCForConditionalGeneration`]), processor ([`PVCProcessor`]): of one checkpoint.
        num_steps (`int`, *optional*): the horizon T of what is pushed, in frames: its length, or a choice where it
            has none. Without it, files and images can be added but no frames pushed.
        sink (`int`, *optional*, defaults to 0), window (`int`, *optional*): bounded mode, of constant memory. The
            tower remembers the first `sink` and the last `window` frames, the language model the first `sink` and the
            last `window` to 2 `window`, with what was said among these, as far as it can read: when there is more, it
            begins again with the last `window`. Exact without a window: features and answers are those of the whole.

    Attributes:
        input_ids (`list[int]`): everything the language model has been given, answers included.
        num_frames (`int`): frames pushed since the clip began.

    Raises:
        ValueError: if the processor is not one of this model, for settings of no use, if the model does not read as
            many tokens as bounded mode would hold, or has layers whose memory cannot be taken back.
    """

    def __init__(self, model, processor, num_steps: int | None = None, sink: int = 0, window: int | None = None):
        check_processor(processor, model.config)
        self.model = model
        self.processor = processor
        self.sink = sink
        self.window = window
        self._lock = threading.RLock()
        self._format = ChatFormat(processor)
        self._encoded: OrderedDict[tuple, torch.Tensor] = OrderedDict()
        self._cache = growing_cache(model.config.text_config)
        self._state = StreamState(self._format.opening, PVCTemporalCache(sink, window))
        self.watch(num_steps)
        if window is not None:
            label = self._labels(1, [1e5], before=10**6)[0]
            frame = self._text_of(label, "video", processor.tokens_per_frame)
            held = (sink + 2 * window) * len(self._tokenise("\n" + frame))
            self._check_room(held, "window; choose a smaller one.")

    @property
    def input_ids(self) -> list[int]:
        return self._state.input_ids

    @property
    def num_frames(self) -> int:
        return self._state.num_frames

    @property
    def num_visual_tokens(self) -> int:
        """Tokens of images and frames that the language model holds or is about to be given."""
        ids = (self.processor.image_token_id, self.processor.video_token_id)
        return sum(map(self.input_ids.count, ids)) + sum(len(features) for features in self._state.queue)

    @one_at_a_time
    def watch(self, num_steps: int | None) -> None:
        """Begin a new clip of `num_steps` frames: the tower forgets the one before, the conversation goes on.

        Raises:
            ValueError: if `num_steps` is no whole number of at least 1.
        """
        if num_steps is not None and (not isinstance(num_steps, int) or num_steps < 1):
            raise ValueError(f"Expected num_steps, the horizon T in frames, of at least 1, got {num_steps!r}.")
        clip = PVCTemporalCache(self.sink, self.window, num_steps)
        fresh = {"num_frames": 0, "last_time": None, "in_clip": False}
        self._state = replace(self._state, clip=clip, num_steps=num_steps, **fresh)

    def push(self, frames, times: float | Iterable[float] | None = None, **settings) -> None:
        """
        Watch on: encode new frames and let the language model read them.

        Args:
            frames: one frame or several: an image, a list of them, an array `[T, H, W, 3]` or `[T, 3, H, W]`, or an
                iterator over frames, which are taken and read one by one until it ends.
            times (`float` or `Iterable[float]`, *optional*): when each was, in seconds, ascending; part of the labels
                where the processor's `frame_times` asks.
            settings: of the video processor, such as `do_rescale`.

        Raises:
            ValueError: if the stream has no horizon or has reached it, if the conversation has become too long, or for
                frames or times that cannot be read. Nothing of them is kept; of an iterator, and of several frames in
                bounded mode, those before the one that failed are.
        """
        if isinstance(frames, Iterator):
            times = None if times is None else iter(times)
            for number, frame in enumerate(frames):
                time = None if times is None else next(times, None)
                if times is not None and time is None:
                    raise ValueError(f"Expected one time for each frame, got {number} times and more frames.")
                self.push(frame, time, **settings)
            return
        if isinstance(frames, (list, tuple)) and not frames:
            raise ValueError("Expected one frame or several, got an empty list.")
        inputs = self.processor.video_processor(frames, do_sample_frames=False, return_tensors="pt", **settings)
        self.push_pixels(inputs["pixel_values_videos"], times)

    @one_at_a_time
    def push_pixels(self, pixels: torch.Tensor, times: float | Iterable[float] | None = None) -> None:
        """`push` for frames that the video processor has prepared: `float[T, 3, H, W]`, and their times in seconds."""
        times = self._check_frames(pixels, times)
        labels = self._labels(len(pixels), times, before=self.num_frames)
        # A bounded cache cannot take back several steps: there, what fails is one frame.
        size = len(pixels) if self.window is None else 1
        for start in range(0, len(pixels), size):
            part = slice(start, start + size)
            with self._all_or_nothing():
                self._read_queue()
                self._append_frames(pixels[part], labels[part])
                if times is not None:
                    self._state.last_time = times[part][-1]
                if start + size >= len(pixels):
                    self._read()

    @one_at_a_time
    def add_video(
        self, video, frames_per_chunk: int = 8, progress: Callable[[int, int], None] | None = None, **sampling
    ) -> None:
        """
        Watch a whole file as one clip, while it is decoded; it ends the clip before, and `watch` begins the next.

        Args:
            video: a file in any form, frames in memory, or what `PVCVideoProcessor.stream` made of either.
            frames_per_chunk (`int`, *optional*, defaults to 8): frames decoded, encoded and read at a time.
            progress (`Callable`, *optional*): called with (frames read, frames in all) after each chunk.
            sampling: settings of the video processor, such as `num_frames`, `fps` or `max_frames`.

        Raises:
            ValueError: for a video that cannot be read to its end, or is too long. Nothing of it is kept.
        """
        if not hasattr(video, "num_frames"):
            video = self.processor.video_processor.stream(video, frames_per_chunk, **sampling)
        with self._all_or_nothing():
            self.watch(video.num_frames)
            for pixels, times in video:
                self.push_pixels(pixels, times)
                if progress is not None:
                    progress(self.num_frames, video.num_frames)
        self.watch(None)

    @one_at_a_time
    def add_image(self, image) -> None:
        """
        Show an image, in any form that the image processor takes; it is read with what comes next.

        One that was shown before is not encoded again.

        Raises:
            ValueError: for an image that cannot be read, or several.
        """
        inputs = self.processor.image_processor(image, return_tensors="pt")
        if len(inputs["image_grid_thw"]) != 1:
            raise ValueError(f"Expected one image, got {len(inputs['image_grid_thw'])}; add them one by one.")
        self._state.queue.append(self._encode_image(inputs["pixel_values"]))

    @one_at_a_time
    def ask(
        self,
        question: str,
        streamer: BaseStreamer | None = None,
        keep: bool = True,
        max_new_tokens: int = 256,
        **settings,
    ) -> str:
        """
        Answer a question about everything so far; nothing is encoded, and only new tokens are read.

        Args:
            question (`str`): control tokens in it are text.
            streamer (`BaseStreamer`, *optional*): given the answer as it is generated, as in `generate`.
            keep (`bool`, *optional*, defaults to `True`): whether question and answer become part of the conversation.
                Without it the stream goes on as if nothing had been asked.
            max_new_tokens (`int`, *optional*, defaults to 256), settings: of `generate`.

        Raises:
            ValueError: for a question that is no text, if the conversation has become too long, or for several answers
                at once. It stays as it was.
            KeyboardInterrupt: if the answer was stopped; what there is of it is kept as the answer.
        """
        several = {name: settings[name] for name in ("num_beams", "num_return_sequences") if settings.get(name, 1) > 1}
        if several:
            raise ValueError(f"Expected one answer at a time, which the stream goes on from, got {several}.")
        check_question(question)
        exchange = Exchange(self._format.harmless(question), [])
        with self._all_or_nothing():
            self._make_room(len(self._tokenise(self._text_of_question(exchange))) + max_new_tokens)
            before, held = self._state.copy(), self._num_held()
            self._read_queue()
            self._read()
            self._append(self._text_of_question(exchange))
            room = self._check_room(1, "question; begin again, or watch fewer frames.")
            exchange.answer, stopped = self._generate(streamer, min(max_new_tokens, room), settings)
            self._append_answer(exchange)
        if keep:
            self._rewind_cache(len(self.input_ids))
        else:
            self._go_back(before, held)
        if stopped is not None:
            raise stopped
        return self.processor.tokenizer.decode(exchange.answer, skip_special_tokens=True).strip()

    def _generate(self, streamer: BaseStreamer | None, max_new_tokens: int, settings: dict):
        """Ids of the answer to what was appended, as far as it came, and the interruption that stopped it or None."""
        recorder = AnswerRecorder(streamer)
        ids = torch.tensor([self.input_ids], device=self.model.device)
        # A placeholder in an answer would stand for a visual that nobody has shown.
        suppressed = settings.pop("suppress_tokens", None) or self.model.generation_config.suppress_tokens or []
        suppressed = [*suppressed, self.processor.image_token_id, self.processor.video_token_id]
        try:
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                past_key_values=self._cache,
                max_new_tokens=max_new_tokens,
                suppress_tokens=suppressed,
                streamer=recorder,
                **settings,
            )
        except KeyboardInterrupt as interrupt:
            return recorder.ids or [], interrupt
        return recorder.ids, None

    def _encode_image(self, pixels: torch.Tensor) -> torch.Tensor:
        """Tiles of one image, `float[tiles, 3, H, W] -> float[tokens, hidden]`, or what is remembered of them."""
        settings = (tuple(pixels.shape), self.model.config.num_image_steps, self.model.dtype)
        key = (hashlib.blake2b(pixels.cpu().contiguous().numpy()).digest(), *settings)
        if key not in self._encoded:
            outputs = self.model.get_image_features(pixels.to(self.model.device), [[len(pixels), 1, 1]])
            self._encoded[key] = outputs.pooler_output[0]
            if len(self._encoded) > NUM_IMAGES_REMEMBERED:
                self._encoded.popitem(last=False)
        self._encoded.move_to_end(key)
        return self._encoded[key]

    def _check_frames(self, pixels: torch.Tensor, times) -> list[float] | None:
        """Times of new frames as a list.

        Raises:
            ValueError: for what is no frames, more than the horizon allows, or times that are not those of the frames.
        """
        if not isinstance(pixels, torch.Tensor) or pixels.ndim != 4 or len(pixels) == 0:
            got = f"shape {tuple(pixels.shape)}" if hasattr(pixels, "shape") else type(pixels).__name__
            raise ValueError(f"Expected a tensor of frames, [T, 3, H, W], got {got}; push images or arrays by `push`.")
        steps, frames = self._state.num_steps, self.num_frames + len(pixels)
        if steps is None:
            raise ValueError(
                "Expected num_steps, the horizon T of a stream in frames, before frames are pushed, got None; call "
                "watch(num_steps) with its length, or with how far ahead time should reach."
            )
        if self.window is None and frames > steps:
            raise ValueError(
                f"Expected at most num_steps = {steps} frames in this clip, got {frames}; begin another by "
                "watch(num_steps), or make a stream without end by a window."
            )
        if times is None:
            return None
        single = isinstance(times, (int, float)) or getattr(times, "ndim", 1) == 0
        earlier = [] if self._state.last_time is None else [self._state.last_time]
        times = self.processor.video_processor.check_times([*earlier, *([times] if single else times)])[len(earlier) :]
        if len(times) != len(pixels):
            raise ValueError(f"Expected one time for each of the {len(pixels)} frames, got {len(times)}.")
        return times

    def _labels(self, number: int, times: list[float] | None, before: int) -> list[str]:
        """Those of new frames, the way the processor labels frames of a file."""
        labels = [f"Frame{before + index}" for index in range(1, number + 1)]
        if times is not None and self.processor.frame_times:
            labels = [f"{label} ({time:.1f} s)" for label, time in zip(labels, times)]
        return [f"{label}: " for label in labels]

    def _append_frames(self, pixels: torch.Tensor, labels: list[str]):
        """Encode new frames, `float[T, 3, H, W]`, and show them to the language model."""
        state = self._state
        features = encode_frames(self.model.model.vision_tower, pixels, state.clip, state.num_steps)
        for label, tokens in zip(labels, features):
            frame = Visual("video", label, tokens)
            self._make_room(len(self._tokenise(self._text_of_visual(frame))), num_frames=1)
            self._append_visual(frame)
        self._check_room(0, "frame; watch fewer, or make a stream with a window.")
        self._state.num_frames += len(pixels)

    def _read_queue(self):
        """Images that wait; the first is labelled only if it is not alone, as the chat template does."""
        queue, self._state.queue = self._state.queue, []
        for features in queue:
            number = self._state.num_images + 1
            alone = number == 1 and len(queue) == 1
            self._append_visual(Visual("image", "" if alone else f"Image-{number}: ", features))

    def _text_of(self, label: str, kind: str, num_tokens: int) -> str:
        processor = self.processor
        token = processor.video_token if kind == "video" else processor.image_token
        return f"{label}{processor.start_image_token}{token * num_tokens}{processor.end_image_token}"

    def _text_of_visual(self, visual: Visual) -> str:
        follows = visual.kind == "video" and self._state.in_clip
        lead = "\n" if follows else self._state.joint
        return lead + self._text_of(visual.label, visual.kind, len(visual.features))

    def _text_of_question(self, exchange: Exchange) -> str:
        return self._state.joint + exchange.question + self._format.closing

    def _append_visual(self, visual: Visual):
        self._append(self._text_of_visual(visual))
        self._state.joint, self._state.in_clip = self._format.after_visual, visual.kind == "video"
        self._state.num_images += visual.kind == "image"
        self._state.pending.append(visual)
        self._remember(visual)

    def _append_answer(self, exchange: Exchange):
        self._state.input_ids += exchange.answer
        self._state.joint, self._state.in_clip = self._format.reopening, False
        self._remember(exchange)

    def _append(self, text: str):
        ids = self._tokenise(text)
        # An answer that came to its end has said so already.
        if self.input_ids and self.input_ids[-1] == ids[0] and text.startswith(self._format.reopening):
            ids = ids[1:]
        self._state.input_ids += ids

    def _tokenise(self, text: str) -> list[int]:
        """Ids of a piece of text that follows a control token, or begins the row."""
        tokenizer, before = self.processor.tokenizer, self.processor.end_image_token
        if not self.input_ids:
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokenizer(before + text, add_special_tokens=False)["input_ids"][1:]

    def _remember(self, event: Visual | Exchange):
        """Bounded mode reads again what it keeps; exact mode never looks back."""
        if self.window is not None:
            self._state.events.append(event)

    def _read(self):
        """Give the language model what it has not read yet, except a text that `generate` will give it."""
        if not self._state.pending:
            return
        features = {}
        for visual in self._state.pending:
            features.setdefault(visual.kind, []).append(visual.features)
        self.model.model(
            input_ids=torch.tensor([self.input_ids[self._num_held() :]], device=self.model.device),
            mm_encoder_outputs={kind: BaseModelOutputWithPooling(pooler_output=x) for kind, x in features.items()},
            past_key_values=self._cache,
            use_cache=True,
        )
        self._state.pending = []

    def _check_room(self, tokens: int, what: str) -> int:
        """
        How many tokens there is room for.

        Raises:
            ValueError: if it is for fewer than `tokens`.
        """
        most = self.model.config.text_config.max_position_embeddings
        room = most - len(self.input_ids)
        if room < tokens:
            received = len(self.input_ids) + tokens
            raise ValueError(f"Expected a conversation of at most {most} tokens, got {received} with this {what}")
        return room

    def _make_room(self, tokens: int, num_frames: int = 0):
        """In bounded mode, before a frame or a question: begin again with what is kept, if there is too much."""
        if self.window is None:
            return
        events, most = self._state.events, self.model.config.text_config.max_position_embeddings
        frames = [index for index, event in enumerate(events) if is_frame(event)]
        fits = len(self.input_ids) + tokens <= most
        if fits and len(frames) + num_frames <= self.sink + 2 * self.window:
            return
        recent = frames[max(self.sink, len(frames) - self.window) :]
        kept = events if not recent else [events[index] for index in frames[: self.sink]] + events[recent[0] :]
        self._begin_again(kept)
        # Then of what was said and shown among these frames the older half, as often as it must.
        while len(self.input_ids) + tokens > most and not all(map(is_frame, kept)):
            said = [index for index, event in enumerate(kept) if not is_frame(event)]
            dropped = set(said[: (len(said) + 1) // 2])
            kept = [event for index, event in enumerate(kept) if index not in dropped]
            self._begin_again(kept)

    def _begin_again(self, events: list[Visual | Exchange]):
        """A new row of these events, of which the language model has read nothing yet."""
        old = self._state
        self._state = replace(
            old, start=old.start + 1, joint=self._format.opening, in_clip=False, input_ids=[], pending=[], events=[]
        )
        self._rewind_cache(0)
        for event in events:
            if isinstance(event, Visual):
                self._append_visual(event)
            else:
                self._append(self._text_of_question(event))
                self._append_answer(event)
        self._state.num_images = old.num_images

    def _num_held(self) -> int:
        """Tokens that every layer of the language model's cache holds: an interruption leaves unlike lengths."""
        return min((layer.get_seq_length() for layer in self._cache.layers), default=0)

    def _rewind_cache(self, length: int):
        """Leave at most `length` tokens in the language model's cache, and in each layer as many."""
        length = min(length, self._num_held())
        for layer in self._cache.layers:
            layer.crop(length - layer.get_seq_length())

    def _go_back(self, before: StreamState, held: int):
        """To a state of which the language model held the first tokens."""
        if before.start != self._state.start:
            # The cache is of another row since: this one is read anew.
            before.pending, held = [event for event in before.events if isinstance(event, Visual)], 0
        self._state = before
        self._rewind_cache(held)
        before.clip.rewind(before.num_frames)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What fails leaves the stream as it was."""
        before, held = self._state.copy(), self._num_held()
        try:
            yield
        except BaseException:
            self._go_back(before, held)
            raise


def is_frame(event: Visual | Exchange) -> bool:
    return isinstance(event, Visual) and event.kind == "video"


def check_processor(processor, config):
    if not hasattr(processor, "video_processor"):
        raise ValueError(
            f"Expected a PVCProcessor, got {type(processor).__name__}; load it by "
            "AutoProcessor.from_pretrained(folder, trust_remote_code=True)."
        )
    for name, expected in (
        ("tokens_per_frame", config.vision_config.tokens_per_frame),
        ("image_token_id", config.image_token_id),
        ("video_token_id", config.video_token_id),
    ):
        if getattr(processor, name) != expected:
            raise ValueError(
                f"Expected a processor of this model, with {name}={expected}, got {getattr(processor, name)}; load "
                "both from one folder."
            )


def check_question(question: str):
    if not isinstance(question, str) or not question.strip():
        raise ValueError(f"Expected a question, got {question!r}.")
    if question != question.encode(errors="ignore").decode():
        raise ValueError(f"Expected a question in Unicode, got {question!r}; its bytes were read as another encoding.")
