# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""Files and text to tensors: the processor of PVC.

One worked example, at 448-pixel tiles, `max_tiles=12`, 64 tokens per step and 4 steps per image tile:

    an 800x600 photograph  -> 4 x 3 tiles + thumbnail = 13 tiles      -> 13 * 4 * 64 = 3328 context tokens
    an 8-frame clip        -> 8 frames of one tile, one step per frame ->  8 * 64    =  512 context tokens

    <|im_start|>user
    <img><IMG_CONTEXT>...(3328)</img>
    Frame1: <img><VID_CONTEXT>...(64)</img>
    Frame2: <img><VID_CONTEXT>...(64)</img>
    ...
    Frame8: <img><VID_CONTEXT>...(64)</img>
    What changed?<|im_end|>
    <|im_start|>assistant

`pixel_values` is `float[13, 3, 448, 448]`: a tile is sent once, and repeated to a static clip inside the tower.
`pixel_values_videos` is `float[8, 3, 448, 448]`. `image_grid_thw` is [[13, 1, 1]] and `video_grid_thw` [[8, 1, 1]].
The prompt format is InternLM2's chat format with InternVL2's `Image-1: ` and `Frame1: ` labels.
"""

import torch
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import make_flat_list_of_images
from transformers.processing_utils import MultiModalData, ProcessorMixin

from .image_processing_pvc import PVCImageProcessor
from .video_processing_pvc import PVCVideoMetadata, PVCVideoProcessor, is_video, make_list_of_videos


# Grounding markup is meant to be written by users; every other special token is neutralised in their text.
USER_MARKUP = frozenset(("<ref>", "</ref>", "<box>", "</box>", "<quad>", "</quad>"))
# Spellings that other packages read as placeholders, and the private characters with which newer releases of the
# library mark control tokens: before a placeholder the first of them would hide it.
FOREIGN_MARKUP = ("<image>", "<video>", "\U000f0000", "\U000f0001")


class PVCProcessor(ProcessorMixin):  # trf-ignore: TRF057 (its docstring is written out, with an example)
    r"""
    Turns images, videos and text into model inputs.

    Args:
        image_processor (`PVCImageProcessor`): cuts images into tiles.
        tokenizer: a tokenizer with `context_image_token`, `video_token`, `start_image_token` and `end_image_token`.
        video_processor (`PVCVideoProcessor`): decodes and samples videos.
        chat_template (`str`, *optional*): the Jinja template of a conversation.
        tokens_per_frame (`int`, *optional*, defaults to 64): context tokens per time step of one tile.
        num_image_steps (`int`, *optional*, defaults to 4): time steps for which the model repeats an image tile.
        frame_times (`bool`, *optional*, defaults to `False`): labels read `Frame1 (0.5 s): ` where times are known.
    """

    def __init__(
        self,
        image_processor=None,
        tokenizer=None,
        video_processor=None,
        chat_template=None,
        tokens_per_frame: int = 64,
        num_image_steps: int = 4,
        frame_times: bool = False,
        **kwargs,
    ):
        super().__init__(image_processor, tokenizer, video_processor, chat_template=chat_template, **kwargs)
        self.tokens_per_frame = tokens_per_frame
        self.num_image_steps = num_image_steps
        self.frame_times = frame_times
        self.image_token = tokenizer.context_image_token
        self.video_token = tokenizer.video_token
        self.start_image_token = tokenizer.start_image_token
        self.end_image_token = tokenizer.end_image_token
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)

    # trf-ignore: TRF057 (its docstring is written out)
    def __call__(self, images=None, text=None, videos=None, audio=None, **kwargs) -> BatchFeature:
        r"""
        Prepare model inputs.

        Args:
            images: images, paths, URLs, arrays or tensors, flat or nested by prompt.
            text (`str` or `list[str]`, *optional*): prompts; one `image_token` per image, one `video_token` per video.
            videos: paths, URLs, arrays, tensors or lists of frames, flat or nested by prompt.
            audio: tolerated when empty.
            kwargs: settings of the tokenizer and of the two processors, for this call only.

        Returns:
            [`BatchFeature`] with `input_ids`, `attention_mask`, `pixel_values`, `image_grid_thw`,
            `pixel_values_videos`, `video_grid_thw` as far as they apply, and `video_metadata` on
            `return_metadata=True`.
        """
        audio = audio if _is_given(audio) else kwargs.pop("audios", None)
        kwargs.pop("audios", None)
        if _is_given(audio):
            raise ValueError(
                f"expected images, videos and text, received {len(audio)} audio inputs; PVC reads no audio"
            )
        if (progress := kwargs.get("progress")) is not None:
            # The library copies settings deeply; a function is not copied, a progress bar's method would be.
            kwargs["progress"] = lambda done, total: progress(done, total)
        images = images if _is_given(images) else None
        videos = videos if _is_given(videos) else None
        return super().__call__(images=images, text=text, videos=videos, **kwargs)

    def validate_inputs(self, images=None, text=None, videos=None, audio=None, **kwargs) -> None:
        """Every placeholder has its image or video, in each prompt where visuals come nested by prompt."""
        if images is None and text is None and videos is None:
            raise ValueError("expected text, images or videos, received none of them")
        if text is None:
            return
        text = [text] if isinstance(text, str) else text
        if not all(isinstance(sample, str) for sample in text):
            raise ValueError(f"expected text to be a string or a list of strings, received {type(text[0]).__name__}")
        _check_total("image", self.image_token, text, 0 if images is None else _count_images(images))
        _check_total("video", self.video_token, text, 0 if videos is None else len(make_list_of_videos(videos)))
        _check_each_prompt("image", self.image_token, text, images, _count_images)
        # A list of frames is one video of a flat list, not the videos of a prompt.
        if not (isinstance(videos, (list, tuple)) and any(is_video(video) for video in videos)):
            _check_each_prompt("video", self.video_token, text, videos, len)

    def _process_videos(self, videos, **kwargs):
        """As the base class does, but every form of video that our video processor reads is counted."""
        if self.frame_times:
            kwargs["return_metadata"] = True
        processed = self.video_processor(videos, **kwargs)
        num_videos = len(processed["video_grid_thw"])
        return processed, [self.replace_video_token(processed, index) for index in range(num_videos)]

    def replace_image_token(self, image_inputs: dict, image_idx: int, **kwargs) -> str:
        tiles = int(image_inputs["image_grid_thw"][image_idx][0])
        context = self.image_token * (tiles * self.num_image_steps * self.tokens_per_frame)
        return f"{self.start_image_token}{context}{self.end_image_token}"

    def replace_video_token(self, video_inputs: dict, video_idx: int, **kwargs) -> str:
        num_frames = int(video_inputs["video_grid_thw"][video_idx][0])
        metadata = video_inputs["video_metadata"][video_idx] if "video_metadata" in video_inputs else None
        times = metadata.frame_times if self.frame_times and metadata is not None else None
        return self._expand_video(num_frames, times)

    def _expand_video(self, num_frames: int, times: list[float] | None = None) -> str:
        frame = f"{self.start_image_token}{self.video_token * self.tokens_per_frame}{self.end_image_token}"
        labels = [f"Frame{index + 1}" for index in range(num_frames)]
        if times is not None:
            labels = [f"{label} ({time:.1f} s)" for label, time in zip(labels, times)]
        return "\n".join(f"{label}: {frame}" for label in labels)

    def apply_chat_template(self, conversation, chat_template=None, **kwargs):
        """
        Render a conversation, and tokenise it with its images and videos on `tokenize=True`.

        Control tokens and placeholders that occur in the text of a message are neutralised: a zero-width joiner
        after their first character keeps them readable and makes them ordinary text. Grounding markup (`<ref>`,
        `<box>`, `<quad>`) is left as it is.

        Args:
            conversation: one conversation or a list of them; parts may be of type text, image, image_url, video and
                video_url.
            chat_template (`str`, *optional*): a template other than the processor's.
            kwargs: as in [`ProcessorMixin.apply_chat_template`].
        """
        kwargs.pop("sanitize_control_tokens", None)
        template = chat_template or self.chat_template
        if isinstance(template, str) and "control_tokens" in template:
            kwargs.setdefault("control_tokens", self.control_tokens)
        return super().apply_chat_template(_copy_conversations(conversation), chat_template, **kwargs)

    @property
    def control_tokens(self) -> list[str]:
        """What the text of a message may not contain as such."""
        added = {token.content for token in self.tokenizer.added_tokens_decoder.values() if token.special}
        own = (self.image_token, self.video_token, self.start_image_token, self.end_image_token)
        return sorted({*added, *own, *FOREIGN_MARKUP} - USER_MARKUP)

    def _get_num_multimodal_tokens(self, image_sizes=None, video_sizes=None, **kwargs) -> MultiModalData:
        """
        Tokens and tiles of inputs of the given sizes, which serving engines ask for before they decode anything.

        Args:
            image_sizes (`list[tuple[int, int]]`, *optional*): (height, width) of each image.
            video_sizes (`list[tuple[int, int, int]]`, *optional*): (frames, height, width) of each video.
        """
        merged, data = self._merge_kwargs(self.valid_processor_kwargs, **kwargs), {}
        if image_sizes is not None:
            count = self.image_processor.get_number_of_image_patches
            tiles = [count(height, width, merged["images_kwargs"]) for height, width in image_sizes]
            per_tile = self.num_image_steps * self.tokens_per_frame
            data["num_image_tokens"] = [2 + number * per_tile for number in tiles]
            data["num_image_patches"] = tiles
        if video_sizes is not None:
            settings = merged["videos_kwargs"]
            data["num_video_tokens"] = [self._count_video_tokens(size[0], settings) for size in video_sizes]
        return MultiModalData(**data)

    def _count_video_tokens(self, num_frames: int, settings: dict) -> int:
        settings = self.video_processor.with_defaults(settings)
        if settings["do_sample_frames"]:
            chosen = {name: settings[name] for name in ("num_frames", "fps", "max_frames")}
            metadata = PVCVideoMetadata(total_num_frames=num_frames, fps=settings["fps"])
            num_frames = len(self.video_processor.sample_frames(metadata, **chosen))
        times = [0.0] * num_frames if self.frame_times else None
        labels = self._expand_video(num_frames, times).replace(self.video_token, "")
        return len(self.tokenizer(labels, add_special_tokens=False)["input_ids"]) + num_frames * self.tokens_per_frame


def _is_given(visuals) -> bool:
    """Whether there is anything in it; `[]` and `[[], []]` are nothing."""
    if isinstance(visuals, (list, tuple)):
        return any(_is_given(visual) for visual in visuals)
    return visuals is not None


def _count_images(images) -> int:
    if isinstance(images, (list, tuple)):
        return sum(_count_images(image) for image in images)
    return len(make_flat_list_of_images(images))


def _check_total(kind: str, token: str, text: list[str], received: int) -> None:
    placeholders = sum(sample.count(token) for sample in text)
    if placeholders != received:
        raise ValueError(
            f"expected one {token} in the text per {kind}, received {placeholders} {token} and {received} {kind}s; "
            f"use `apply_chat_template`, which writes them, or write one placeholder per {kind}"
        )


def _check_each_prompt(kind: str, token: str, text: list[str], visuals, count) -> None:
    """Visuals nested by prompt belong to that prompt; a flat list is consumed in order instead."""
    if not isinstance(visuals, (list, tuple)) or not len(visuals) == len(text) > 1:
        return
    if not all(isinstance(sample, (list, tuple)) for sample in visuals):
        return
    placeholders, received = [sample.count(token) for sample in text], [count(sample) for sample in visuals]
    if placeholders != received:
        raise ValueError(
            f"expected per prompt as many {token} as {kind}s, received {placeholders} {token} and {received} {kind}s; "
            f"nest the {kind}s by prompt, or pass them as one flat list"
        )


def _copy_conversations(conversation):
    """A copy that the library may edit, with OpenAI's `image_url` and `video_url` parts in its own form."""
    if isinstance(conversation, dict):
        copy = dict(conversation)
        if isinstance(copy.get("content"), (list, tuple)):
            copy["content"] = [_plain_part(part) for part in copy["content"]]
        return copy
    messages = getattr(conversation, "messages", conversation)
    if not isinstance(messages, (list, tuple)):
        received = type(messages).__name__
        raise TypeError(f"expected a conversation to be a list of messages, received {received}")
    return [_copy_conversations(message) for message in messages]


def _plain_part(part):
    if isinstance(part, str):
        return {"type": "text", "text": part}
    for kind in ("image", "video"):
        if part.get("type") == f"{kind}_url" and f"{kind}_url" in part:
            url = part[f"{kind}_url"]
            return {"type": kind, "url": url["url"] if isinstance(url, dict) else url}
    return dict(part)


def load_image(file, input_size: int = 448, max_num: int = 12) -> torch.Tensor:
    """The published `load_image`: an image file -> `float[tiles, 3, input_size, input_size]`, the thumbnail last."""
    processor = PVCImageProcessor(size={"height": input_size, "width": input_size}, max_tiles=max_num)
    return processor(file, return_tensors="pt")["pixel_values"]


def load_video(
    path, bound=None, input_size: int = 448, max_num: int = 1, num_segments: int = 64
) -> tuple[torch.Tensor, list[int]]:
    """The published `load_video`: a video file -> (`float[rows, 3, input_size, input_size]`, rows of each frame).

    `bound` is (start, end) in seconds. With `max_num` above 1 every frame is tiled as an image is.
    """
    size = {"height": input_size, "width": input_size}
    if max_num == 1:
        processor = PVCVideoProcessor(size=size, num_frames=num_segments)
        rows = processor(path, bound=bound, return_tensors="pt")["pixel_values_videos"]
        return rows, [1] * len(rows)
    frames = PVCVideoProcessor(do_resize=False, do_rescale=False, do_normalize=False, num_frames=num_segments)
    native = frames(path, bound=bound, return_tensors="pt")["pixel_values_videos"].to(torch.uint8)
    tiles = PVCImageProcessor(size=size, max_tiles=max_num)(list(native), return_tensors="pt")
    return tiles["pixel_values"], tiles["image_grid_thw"][:, 0].tolist()


PVCProcessor.register_for_auto_class("AutoProcessor")

__all__ = ["PVCProcessor", "load_image", "load_video"]
