# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""
A conversation about what is being watched: frames, images and questions in the order in which they come.

Two caches make it a stream. The temporal cache holds what the vision tower needs of earlier frames, so that only new
frames are encoded; the language model's cache holds the conversation so far, so that only new tokens are read:

    push   new frames -> tower, through the temporal cache -> language model, through its cache
    ask    the question's tokens -> language model -> answer; the tower does nothing

What is read is one growing row of ids, `input_ids`, and the caches are those of a model that was given that row at
once. Pieces of text always meet at a control token, so that each can be tokenised by itself.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from transformers.generation.streamers import BaseStreamer
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .cache_pvc import PVCTemporalCache, growing_cache


# How many images are remembered, so as not to be encoded again.
NUM_IMAGES_REMEMBERED = 32
# Characters that are in no text, to find what a chat template puts between its parts.
QUESTION, ANSWER, NEXT_QUESTION = "\ufdd0", "\ufdd1", "\ufdd2"


@dataclass
class Frame:
    """What the language model is shown of one frame: its label and its tokens."""

    label: str
    features: torch.Tensor


@dataclass
class Picture:
    """What the language model is shown of one image: its tokens; labelled where it is not the only one."""

    label: str
    features: torch.Tensor


@dataclass
class Exchange:
    """A question, and the ids of its answer as far as there is one."""

    question: str
    answer: list[int]


@dataclass
class Transcript:
    """
    What the language model has been given: `input_ids`, and the text that comes between this and what comes next.

    `pending` are features of placeholders that the cache does not hold yet, as ("image" or "video", tokens).
    """

    input_ids: list[int]
    joint: str
    in_clip: bool
    num_images: int
    pending: list[tuple[str, torch.Tensor]]

    def copy(self) -> "Transcript":
        return replace(self, input_ids=list(self.input_ids), pending=list(self.pending))


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
    firsts = [index for index, value in enumerate(moved) if value]
    repeats = [end - start for start, end in zip(firsts, [*firsts[1:], len(pixels)])]
    unique = pixels[firsts].to(tower.device)
    return tower(unique, frames_per_clip=[len(firsts)], num_repeats=repeats, **settings).pooler_output


def encode_video(tower, video, sink: int = 0, window: int | None = None) -> Iterator[torch.Tensor]:
    """
    Features of a video, chunk after chunk, while the next one is decoded; neither pixels nor frames are kept.

    Args:
        tower ([`PVCVisionModel`]): encodes.
        video ([`PVCVideoStream`]): what `PVCVideoProcessor.stream` makes of a file.
        sink, window (`int`, *optional*): of the [`PVCTemporalCache`]; exact without a window.

    Returns:
        Tensors of shape `(num_frames_of_chunk, tokens_per_frame, hidden_size)`.
    """
    cache = PVCTemporalCache(sink, window, video.num_frames)
    with torch.no_grad():
        for pixels, _ in video:
            yield encode_frames(tower, pixels, cache, video.num_frames)


class PVCStream:
    """
    A conversation about frames, images and videos that come one after the other; `model.stream(processor)` begins it.

    Args:
        model ([`PVCForConditionalGeneration`]), processor ([`PVCProcessor`]): of one checkpoint.
        num_steps (`int`, *optional*): the horizon T of what is pushed, in frames: its length, or a choice where it
            has none. Without it, files and images can be added but no frames pushed.
        sink (`int`, *optional*, defaults to 0), window (`int`, *optional*): bounded mode, of constant memory. The
            tower remembers the first `sink` and the last `window` frames, the language model the first `sink` and the
            last `window` to 2 `window`, with what was said among these: when there are more, it begins again with the
            last `window`. Exact without a window: features and answers are those of the whole.

    Attributes:
        input_ids (`list[int]`): everything the language model has been given, answers included.
        num_frames (`int`): frames pushed since the clip began.

    Raises:
        ValueError: if the model does not read as many tokens as bounded mode would hold.
    """

    def __init__(self, model, processor, num_steps: int | None = None, sink: int = 0, window: int | None = None):
        self.model = model
        self.processor = processor
        self.sink = sink
        self.window = window
        self._format = ChatFormat(processor)
        self._encoded: OrderedDict[tuple, torch.Tensor] = OrderedDict()
        self._queue: list[torch.Tensor] = []
        self._events: list[Frame | Picture | Exchange] = []
        self._cache = growing_cache(model.config.text_config)
        self._starts = 0
        self._start_transcript()
        self.watch(num_steps)
        if window is not None:
            held = (sink + 2 * window) * len(self._tokenise(self._text_of_frame("Frame1000000")))
            self._check_room(held, "window; choose a smaller one.")

    def _start_transcript(self):
        self._transcript = Transcript([], self._format.opening, False, 0, [])
        self._starts += 1
        self._rewind_cache()

    @property
    def input_ids(self) -> list[int]:
        return self._transcript.input_ids

    @property
    def num_visual_tokens(self) -> int:
        """Tokens of images and frames that the language model holds or is about to be given."""
        ids = (self.processor.image_token_id, self.processor.video_token_id)
        return sum(map(self.input_ids.count, ids)) + sum(len(features) for features in self._queue)

    def watch(self, num_steps: int | None) -> None:
        """Begin a new clip of `num_steps` frames: the tower forgets the one before, the conversation goes on.

        Raises:
            ValueError: if `num_steps` is below 1, or the settings of bounded mode are of no use.
        """
        if num_steps is not None and num_steps < 1:
            raise ValueError(f"Expected num_steps, the horizon T in frames, of at least 1, got {num_steps}.")
        self._clip = PVCTemporalCache(self.sink, self.window, num_steps)
        self._num_steps = num_steps
        self.num_frames = 0
        self._transcript.in_clip = False

    @torch.no_grad()
    def push(self, frames, times: float | Sequence[float] | None = None) -> None:
        """
        Watch on: encode new frames and let the language model read them.

        Args:
            frames: one frame or several: an image, a list of them, or an array `[T, H, W, 3]` or `[T, 3, H, W]`.
            times (`float` or `Sequence[float]`, *optional*): when each was, in seconds; part of the labels where the
                processor's `frame_times` asks.

        Raises:
            ValueError: if the stream has no horizon or has reached it, if the conversation has become too long, or for
                frames that cannot be read. Nothing of them is kept.
        """
        pixels = self.processor.video_processor(frames, do_sample_frames=False, return_tensors="pt")
        pixels = pixels["pixel_values_videos"]
        if times is not None:
            times = [float(time) for time in (times if isinstance(times, Sequence) else [times])]
            if len(times) != len(pixels):
                raise ValueError(f"Expected one time for each of the {len(pixels)} frames, got {len(times)}.")
        self.push_pixels(pixels, times)

    @torch.no_grad()
    def push_pixels(self, pixels: torch.Tensor, times: Sequence[float] | None = None) -> None:
        """`push` for frames that the video processor has prepared: `float[T, 3, H, W]`, and their times in seconds."""
        if self.window is not None and len(pixels) > self.window:
            # No more than the window at a time, or memory would be that of what is pushed.
            for start in range(0, len(pixels), self.window):
                part = slice(start, start + self.window)
                self.push_pixels(pixels[part], None if times is None else times[part])
            return
        labels = [f"Frame{self.num_frames + number}" for number in range(1, len(pixels) + 1)]
        if times is not None and self.processor.frame_times:
            labels = [f"{label} ({time:.1f} s)" for label, time in zip(labels, times)]
        self._make_room(len(labels) * len(self._tokenise("\n" + self._text_of_frame(labels[-1]))))
        with self._all_or_nothing():
            self._read_queue()
            for label in labels:
                self._append_frame(label)
            self._check_room(0, "frame; watch fewer, or set a window.")
            for label, features in zip(labels, self._encode_frames(pixels)):
                self._transcript.pending.append(("video", features))
                self._remember(Frame(label, features))
            self._read()
            self.num_frames += len(pixels)

    @torch.no_grad()
    def add_video(
        self, video, frames_per_chunk: int = 8, progress: Callable[[int, int], None] | None = None, **sampling
    ) -> None:
        """
        Watch a whole file as one clip, while it is decoded; it ends the clip before, and `watch` begins the next.

        Args:
            video: a file in any form, frames in memory, or what `PVCVideoProcessor.stream` made of either.
            frames_per_chunk (`int`, *optional*, defaults to 8): frames decoded, encoded and read at a time.
            progress (`Callable`, *optional*): called with (frames read, frames in all) after each chunk.
            sampling: settings of the video processor, such as `num_frames` or `fps`.

        Raises:
            ValueError: for a video that cannot be read to its end, or is too long. Nothing of it is kept, unless
                bounded mode has let go of what came before it.
        """
        if not hasattr(video, "num_frames"):
            video = self.processor.video_processor.stream(video, frames_per_chunk, **sampling)
        before = (self._clip, self._num_steps, self.num_frames)
        with self._all_or_nothing():
            try:
                self.watch(video.num_frames)
                for pixels, times in video:
                    self.push_pixels(pixels, times)
                    if progress is not None:
                        progress(self.num_frames, video.num_frames)
            except BaseException:
                self._clip, self._num_steps, self.num_frames = before
                raise
        self.watch(None)

    @torch.no_grad()
    def add_image(self, image) -> None:
        """
        Show an image, in any form that the image processor takes; it is read with what comes next.

        One that was shown before is not encoded again.

        Raises:
            ValueError: for an image that cannot be read.
        """
        inputs = self.processor.image_processor(image, return_tensors="pt")
        self._queue.append(self._encode_image(inputs["pixel_values"]))

    @torch.no_grad()
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
            ValueError: if the conversation has become too long, or for several answers at once. It stays as it was.
            KeyboardInterrupt: if the answer was stopped; what there is of it is kept as the answer.
        """
        several = {name: settings[name] for name in ("num_beams", "num_return_sequences") if settings.get(name, 1) > 1}
        if several:
            raise ValueError(f"Expected one answer at a time, which the stream goes on from, got {several}.")
        exchange = Exchange(self._format.harmless(question), [])
        self._make_room(len(self._tokenise(exchange.question)) + 1)
        before, queue = self._transcript.copy(), list(self._queue)
        with self._all_or_nothing():
            self._read_queue()
            self._read()
            self._append_question(exchange)
            room = self._check_room(1, "question; start over, or watch fewer frames.")
            recorder = AnswerRecorder(streamer)
            ids = torch.tensor([self.input_ids], device=self.model.device)
            try:
                self.model.generate(
                    input_ids=ids,
                    attention_mask=torch.ones_like(ids),
                    past_key_values=self._cache,
                    max_new_tokens=min(max_new_tokens, room),
                    streamer=recorder,
                    **settings,
                )
                stopped = None
            except KeyboardInterrupt as interrupt:
                stopped = interrupt
            exchange.answer = recorder.ids or []
            self._append_answer(exchange)
            self._remember(exchange)
        if not keep:
            self._transcript, self._queue, self._events = before, queue, [e for e in self._events if e is not exchange]
        self._rewind_cache()
        if stopped is not None:
            raise stopped
        return self.processor.tokenizer.decode(exchange.answer, skip_special_tokens=True).strip()

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

    def _encode_frames(self, pixels: torch.Tensor) -> torch.Tensor:
        """New frames of the clip, `float[T, 3, H, W] -> float[T, tokens, hidden]`."""
        if self._num_steps is None:
            raise ValueError(
                "Expected num_steps, the horizon T of a stream in frames, before frames are pushed, got None; call "
                "watch(num_steps) with its length, or with how far ahead time should reach."
            )
        return encode_frames(self.model.model.vision_tower, pixels, self._clip, self._num_steps)

    def _read_queue(self):
        """Images that wait; the first is labelled only if it is not alone, as the chat template does."""
        for features in self._queue:
            number = self._transcript.num_images + 1
            alone = number == 1 and len(self._queue) == 1
            picture = Picture("" if alone else f"Image-{number}: ", features)
            self._append_picture(picture)
            self._remember(picture)
        self._queue = []

    def _text_of_frame(self, label: str) -> str:
        context = self.processor.video_token * self.processor.tokens_per_frame
        return f"{label}: {self.processor.start_image_token}{context}{self.processor.end_image_token}"

    def _append_frame(self, label: str):
        self._append(("\n" if self._transcript.in_clip else self._transcript.joint) + self._text_of_frame(label))
        self._transcript.joint, self._transcript.in_clip = self._format.after_visual, True

    def _append_picture(self, picture: Picture):
        context = self.processor.image_token * len(picture.features)
        shown = f"{self.processor.start_image_token}{context}{self.processor.end_image_token}"
        self._append(self._transcript.joint + picture.label + shown)
        self._transcript.joint, self._transcript.in_clip = self._format.after_visual, False
        self._transcript.pending.append(("image", picture.features))
        self._transcript.num_images += 1

    def _append_question(self, exchange: Exchange):
        self._append(self._transcript.joint + exchange.question + self._format.closing)

    def _append_answer(self, exchange: Exchange):
        self._transcript.input_ids += exchange.answer
        self._transcript.joint, self._transcript.in_clip = self._format.reopening, False

    def _append(self, text: str):
        ids = self._tokenise(text)
        # An answer that came to its end has said so already.
        if self.input_ids and self.input_ids[-1] == ids[0] and text.startswith(self._format.reopening):
            ids = ids[1:]
        self._transcript.input_ids += ids

    def _tokenise(self, text: str) -> list[int]:
        """Ids of a piece of text that follows a control token, or begins the row."""
        tokenizer, before = self.processor.tokenizer, self.processor.end_image_token
        if not self.input_ids:
            return tokenizer(text, add_special_tokens=False)["input_ids"]
        return tokenizer(before + text, add_special_tokens=False)["input_ids"][1:]

    def _read(self):
        """Give the language model what it has not read yet, except a text that `generate` will give it."""
        if not self._transcript.pending:
            return
        features = {}
        for kind, tokens in self._transcript.pending:
            features.setdefault(kind, []).append(tokens)
        ids = torch.tensor([self.input_ids[self._cache.get_seq_length() :]], device=self.model.device)
        self.model.model(
            input_ids=ids,
            mm_encoder_outputs={kind: BaseModelOutputWithPooling(pooler_output=x) for kind, x in features.items()},
            past_key_values=self._cache,
            use_cache=True,
        )
        self._transcript.pending = []

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

    def _remember(self, event: Frame | Picture | Exchange):
        """Bounded mode reads again what it keeps; exact mode never looks back."""
        if self.window is not None:
            self._events.append(event)

    def _make_room(self, tokens: int):
        """In bounded mode, before frames or a question: begin again with what is kept, if there is too much."""
        if self.window is None:
            return
        frames = [index for index, event in enumerate(self._events) if isinstance(event, Frame)]
        most = self.model.config.text_config.max_position_embeddings
        if len(frames) < self.sink + 2 * self.window and len(self.input_ids) + tokens <= most:
            return
        recent = frames[max(self.sink, len(frames) - self.window) :]
        kept = [self._events[index] for index in frames[: self.sink]]
        kept += self._events[recent[0] if recent else len(self._events) :]
        self._events, num_images = kept, self._transcript.num_images
        self._start_transcript()
        for event in kept:
            if isinstance(event, Frame):
                self._append_frame(event.label)
                self._transcript.pending.append(("video", event.features))
            elif isinstance(event, Picture):
                self._append_picture(event)
            else:
                self._append_question(event)
                self._append_answer(event)
        self._transcript.num_images = num_images
        self._read()

    def _rewind_cache(self):
        """Take from the cache what is no longer in the transcript; an interruption leaves layers of unlike length."""
        for layer in self._cache.layers:
            surplus = layer.get_seq_length() - len(self.input_ids)
            if surplus > 0:
                layer.crop(-surplus)

    @contextmanager
    def _all_or_nothing(self) -> Iterator[None]:
        """What fails leaves the conversation as it was, unless bounded mode has begun it again meanwhile."""
        starts, before, queue, events = self._starts, self._transcript.copy(), list(self._queue), list(self._events)
        try:
            yield
        except BaseException:
            if self._starts == starts:
                self._transcript, self._queue, self._events = before, queue, events
                self._rewind_cache()
            raise
