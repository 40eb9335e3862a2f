# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""Videos to frames: decode, sample, resize, normalise.

Design decisions:
- Frames are resized as they arrive, so memory grows by the model's frame size and not by the file's.
- Sampling is the published rule (preset "uniform" of OpenGVLab's `get_index`); `fps` samples by presentation time.
- Times come from the container's presentation timestamps, never from index / average rate.
- A file whose frames cannot all be read raises an error; the count is never silently wrong.
- Backends are tried in the order torchcodec, PyAV, decord, and imported only when a file is opened.
"""

import itertools
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from huggingface_hub.dataclasses import validate_typed_dict
from PIL import Image
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling
from transformers.processing_utils import Unpack, VideosKwargs
from transformers.utils import is_av_available, is_decord_available, is_torchcodec_available
from transformers.video_processing_utils import BaseVideoProcessor
from transformers.video_utils import VideoMetadata

from .image_processing_pvc import (
    allocate,
    array_to_rgb,
    channels_first,
    check_size,
    normalise,
    open_image,
    read_source,
    resize_last,
    to_grey_levels,
    to_rgb,
)


IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm")


@dataclass
class PVCVideoMetadata(VideoMetadata):
    """`VideoMetadata` with the presentation time in seconds of each frame that was taken."""

    frame_times: list[float] | None = None

    @property
    def timestamps(self) -> list[float]:
        if self.frame_times is not None:
            return list(self.frame_times)
        return VideoMetadata.timestamps.fget(self)


class PVCVideoProcessorKwargs(VideosKwargs, total=False):
    r"""
    max_frames (`int`, *optional*, defaults to `self.max_frames`):
        Cap on the number of frames where `num_frames` is not given.
    bound (`tuple[float, float]`, *optional*):
        Start and end in seconds between which frames are sampled.
    video_backend (`str`, *optional*, defaults to `self.video_backend`):
        "torchcodec", "pyav" or "decord"; by default the first of them that works.
    progress (`Callable`, *optional*):
        Called with (frames done, frames wanted) while a file is decoded.
    """

    max_frames: int | None
    bound: list | tuple | None
    video_backend: str | None
    progress: Callable | None


def is_frame(item) -> bool:
    """One frame: an image, an array of at most three axes, or the path, URL or `data:` URL of an image."""
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return item.ndim <= 3
    if isinstance(item, (str, Path)):
        text = os.fspath(item)
        return text.startswith("data:image/") or text.split("?")[0].lower().endswith(IMAGE_SUFFIXES)
    return isinstance(item, Image.Image)


def is_video(item) -> bool:
    """One video: a file in any form, frames in an array of four axes, a list of frames, or a dict of frames."""
    if isinstance(item, (np.ndarray, torch.Tensor)):
        return item.ndim == 4
    if isinstance(item, (list, tuple)):
        return len(item) > 0 and all(is_frame(frame) for frame in item)
    if isinstance(item, (str, Path)):
        return not is_frame(item)
    return isinstance(item, (dict, bytes, bytearray)) or hasattr(item, "read")


def make_list_of_videos(videos) -> list:
    """Flatten any nesting to a list of videos, in order.

    Raises:
        ValueError: an entry that is no video.
    """
    if is_video(videos):
        return [videos]
    if isinstance(videos, (np.ndarray, torch.Tensor)) and videos.ndim == 5:
        return list(videos)
    if is_frame(videos):
        return [[videos]]
    if isinstance(videos, (list, tuple)):
        return [video for item in videos for video in make_list_of_videos(item)]
    received = type(videos).__name__
    raise ValueError(f"expected a path, a URL, bytes, frames or a list of videos, received {received}")


def make_list_of_metadata(video_metadata, num_videos: int) -> list:
    """One metadata entry (or None) per video, from one entry, a list or a nested list.

    Raises:
        ValueError: the numbers of entries and videos differ.
    """
    if video_metadata is None:
        return [None] * num_videos
    entries = video_metadata if isinstance(video_metadata, (list, tuple)) else [video_metadata]
    if entries and isinstance(entries[0], (list, tuple)):
        entries = [entry for sublist in entries for entry in sublist]
    if len(entries) != num_videos:
        raise ValueError(f"expected one video_metadata entry per video ({num_videos}), received {len(entries)}")
    return list(entries)


def check_times(times) -> list[float]:
    """Times in seconds, from any iterable of numbers, as floats; equal neighbours are fine.

    Raises:
        ValueError: an entry that is no number, is not finite or is less than the one before.
    """
    times = [time.tolist() if hasattr(time, "tolist") else time for time in times]
    for position, time in enumerate(times):
        if not isinstance(time, Real) or not math.isfinite(time) or (position and time < times[position - 1]):
            raise ValueError(
                f"expected finite times in ascending order, received {time!r} at index {position}; "
                "give each frame its time in seconds, in order"
            )
    return [float(time) for time in times]


def uniform_indices(start: int, end: int, num_frames: int) -> np.ndarray:
    """The published rule: int(start + seg / 2 + round(seg * i)), seg = (end - start) / num_frames."""
    segment = float(end - start) / num_frames
    return np.array([int(start + segment / 2 + np.round(segment * i)) for i in range(num_frames)], dtype=int)


def bound_to_indices(metadata: VideoMetadata, bound) -> tuple[int, int]:
    """First and last index of the clip; `bound` in seconds is turned into indices by the average rate, as published.

    Raises:
        ValueError: a bound without a known rate, not two ascending numbers, or outside the clip.
    """
    last = metadata.total_num_frames - 1
    if bound is None:
        return 0, last
    if metadata.fps is None:
        raise ValueError("expected video_metadata with fps to sample by `bound`, received none; pass the clip's fps")
    if len(bound) != 2 or bound[0] > bound[1]:
        raise ValueError(f"expected bound=(start, end) in seconds, received {bound!r}")
    start, end = max(0, round(bound[0] * metadata.fps)), min(round(bound[1] * metadata.fps), last)
    if start > end:
        length = metadata.total_num_frames / metadata.fps
        raise ValueError(f"expected a bound inside the clip of {length:.2f} s, received {bound!r}")
    return start, end


def indices_at_rate(times: np.ndarray, start: int, end: int, fps: float, max_frames: int | None) -> np.ndarray:
    """Indices of the frames on screen at the middles of intervals of 1 / fps seconds, at most `max_frames` of them."""
    times = times[start : end + 1]
    last_duration = (times[-1] - times[0]) / (len(times) - 1)
    span = times[-1] - times[0] + last_duration
    count = max(1, round(span * fps))
    if max_frames is not None:
        count = min(count, max_frames)
    targets = times[0] + (np.arange(count) + 0.5) * span / count
    return start + np.clip(np.searchsorted(times, targets, side="right") - 1, 0, len(times) - 1)


class PyAVReader:
    """Reads with PyAV. Presentation times come from a scan of the packets, which decodes nothing.

    Frames that are wanted are reached by seeking to their keyframe whenever that skips frames nobody wants.
    """

    name = "pyav"

    def __init__(self, source):
        import_backend("av")
        self.source = source
        self.name_of_source = source if isinstance(source, str) else type(source).__name__
        with self._open() as (container, stream):
            self._scan(container, stream)

    def _open(self):
        return _PyAVContainer(self.source, self.name_of_source)

    def _scan(self, container, stream) -> None:
        av = import_backend("av")
        points, end, rate = [], 0.0, stream.average_rate
        self.has_times = True
        try:
            for packet in container.demux():
                if packet.pts is None and packet.dts is None:
                    continue
                stamp = packet.pts if packet.pts is not None else packet.dts
                self.has_times = self.has_times and packet.pts is not None
                end = max(end, float((stamp + (packet.duration or 0)) * packet.time_base))
                if packet.stream.index != stream.index or packet.is_discard or is_hidden_vp8(stream, packet):
                    continue
                points.append((stamp, bool(packet.is_keyframe), bool(packet.is_corrupt)))
        except av.error.FFmpegError as error:
            raise self._broken(stream.frames, len(points), str(error)) from error
        if not points:
            raise ValueError(f"expected a video with frames, received {self.name_of_source} with none")
        if any(corrupt for _, _, corrupt in points):
            readable = sum(not corrupt for _, _, corrupt in points)
            raise self._broken(max(stream.frames, len(points)), readable, "a packet is cut or damaged")
        points.sort()
        self.stamps = [stamp for stamp, _, _ in points]
        self.keyframes = [index for index, point in enumerate(points) if point[1]] or [0]
        # Whole numbers until the last step, so each time is the float64 nearest to the exact one.
        ticks = (np.array(self.stamps, np.int64) - self.stamps[0]) * stream.time_base.numerator
        self.times = ticks / stream.time_base.denominator
        self.total = len(self.stamps)
        measured = (self.total - 1) / float(self.times[-1]) if self.times[-1] > 0 else None
        self.fps = float(rate) if rate else measured
        self._check_complete(container, stream, end)

    def _check_complete(self, container, stream, end: float) -> None:
        """A matroska file states its length in bytes, an mp4 file the time at which its packets end."""
        stated = (container.duration or 0) / 1e6 + max(container.start_time or 0, 0) / 1e6
        expected = stream.frames or round(stated * (self.fps or 0))
        if container.format.name.startswith("matroska"):
            missing = missing_matroska_bytes(self.source)
            if missing > 0:
                raise self._broken(expected, self.total, f"its last {missing} bytes are missing")
        elif container.format.name.startswith("mov") and end < stated - max(0.5, 0.02 * stated):
            raise self._broken(expected, self.total, f"it ends at {end:.2f} s of {stated:.2f} s")

    def _broken(self, expected: int, received: int, reason: str) -> ValueError:
        wanted = expected or "all"
        return ValueError(
            f"expected {wanted} readable frames in {self.name_of_source}, received {received}: {reason}; "
            "the file is truncated or corrupt, repair or download it again"
        )

    def frames(self, indices: list[int]) -> Iterator[torch.Tensor]:
        """Yield uint8[3, H, W] for ascending, unique indices; rotation metadata is applied."""
        av = import_backend("av")
        received = 0
        try:
            # One thread decodes while another converts and resizes. Closed first, it no longer reads the container.
            with self._open() as opened, closing(one_ahead(self._wanted(*opened, indices))) as decoded:
                for frame in decoded:
                    received += 1
                    yield upright(frame)
        except av.error.FFmpegError as error:
            raise self._broken(len(indices), received, str(error)) from error
        if received != len(indices):
            raise self._broken(len(indices), received, "the decoder returned no frame for a timestamp")

    def _wanted(self, container, stream, indices: list[int]):
        keyframe_of = np.searchsorted(self.keyframes, indices, side="right") - 1
        position, decoder, wanted = -1, None, {self.stamps[index] for index in indices}
        for index, keyframe_number in zip(indices, keyframe_of):
            keyframe = self.keyframes[max(int(keyframe_number), 0)]
            if decoder is None or keyframe > position + 1:
                if keyframe > 0:
                    container.seek(self.stamps[keyframe], stream=stream, backward=True)
                decoder = self._decode(container, stream, wanted)
            for frame in decoder:
                stamp = frame.pts if frame.pts is not None else frame.dts
                if stamp is None or stamp < self.stamps[index]:
                    continue
                break
            else:
                return
            if stamp != self.stamps[index] or frame.is_corrupt:
                return
            position = index
            yield frame

    def _decode(self, container, stream, wanted: set[int]) -> Iterator:
        """Frames, without those that nobody wants and no other frame is predicted from."""
        # Without times of its own a packet may hold another frame than its place in the file suggests, and decoders of
        # other codecs read the setting when they please.
        may_skip = self.has_times and stream.codec_context.codec.canonical_name in ("h264", "hevc")
        for packet in container.demux(stream):
            skipped = may_skip and packet.pts is not None and packet.pts not in wanted
            stream.codec_context.skip_frame = "NONREF" if skipped else "DEFAULT"
            yield from packet.decode()


def missing_matroska_bytes(source) -> int:
    """How many bytes a Matroska or WebM file lacks of the size that its segment states; 0 where none is stated.

    The file is an EBML header and one segment, each an identifier, a size of variable length and a body (RFC 8794).
    """
    with open(source, "rb") if isinstance(source, str) else nullcontext(source) as file:
        file.seek(0, os.SEEK_END)
        length = file.tell()
        file.seek(0)
        head = file.read(4096)
    position = 4 + ebml_size(head, 4)[0] + ebml_size(head, 4)[1]
    if head[position : position + 4] != b"\x18\x53\x80\x67":
        return 0
    width, size = ebml_size(head, position + 4)
    if size == (1 << 7 * width) - 1:
        return 0
    return max(0, position + 4 + width + size - length)


def ebml_size(head: bytes, position: int) -> tuple[int, int]:
    """(bytes that the size field takes, its value); the count of leading zero bits of its first byte is its width."""
    width = 9 - head[position].bit_length()
    return width, int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)


class _PyAVContainer:
    """Opens a source and its first video stream, with errors that say what was wrong."""

    def __init__(self, source, name_of_source: str):
        av = import_backend("av")
        if hasattr(source, "seek"):
            source.seek(0)
        try:
            self.container = av.open(source)
        except (av.error.FFmpegError, OSError) as error:
            raise ValueError(f"expected a video, received {name_of_source}, which is not one: {error}") from error
        # The cover of a song is a video stream by name only.
        cover = av.stream.Disposition.attached_pic
        videos = [stream for stream in self.container.streams.video if not stream.disposition & cover]
        if not videos:
            kinds = {stream.type for stream in self.container.streams if stream.type != "video"}
            kinds = sorted(kinds | ({"a cover picture"} if self.container.streams.video else set())) or ["nothing"]
            self.container.close()
            raise ValueError(f"expected a video stream in {name_of_source}, received only {', '.join(kinds)}")
        self.stream = videos[0]
        if self.stream.codec_context is None:
            self.container.close()
            raise ValueError(f"expected a video in a codec that FFmpeg reads, received {name_of_source}; convert it")
        # FFmpeg's own choice is a thread more than there are cores, which are needed for the frames, too.
        self.stream.thread_type, self.stream.codec_context.thread_count = "AUTO", torch.get_num_threads()

    def __enter__(self):
        return self.container, self.stream

    def __exit__(self, *exception):
        self.container.close()


def is_hidden_vp8(stream, packet) -> bool:
    """VP8 stores reference frames that are never shown as packets of their own; bit 4 of the first byte says so."""
    if stream.codec_context.name not in ("vp8", "libvpx") or not packet.size:
        return False
    return not bytes(packet)[0] & 0x10


def upright(frame) -> torch.Tensor:
    """A PyAV frame -> uint8[3, H, W], rotated as its display matrix asks (degrees counterclockwise)."""
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
    quarters = round(frame.rotation / 90) % 4
    return torch.rot90(pixels, quarters, dims=(1, 2)) if quarters else pixels


class DecordReader:
    """Reads with decord: Linux x86-64 and Windows wheels only, and no AV1."""

    name = "decord"

    def __init__(self, source):
        decord = import_backend("decord")
        self.name_of_source = source if isinstance(source, str) else type(source).__name__
        try:
            self.video = decord.VideoReader(source, num_threads=1)
        except (decord.DECORDError, RuntimeError) as error:
            raise ValueError(f"expected a video, received {self.name_of_source}, which is not one") from error
        self.total, self.fps = len(self.video), float(self.video.get_avg_fps())
        starts = self.video.get_frame_timestamp(range(self.total))[:, 0].astype(float)
        self.times = starts - starts[0]

    def frames(self, indices: list[int]) -> Iterator[torch.Tensor]:
        decord = import_backend("decord")
        for done, index in enumerate(indices):
            try:
                pixels = self.video[index].asnumpy()
            except (decord.DECORDError, RuntimeError) as error:
                raise ValueError(
                    f"expected {len(indices)} readable frames in {self.name_of_source}, received {done}; "
                    "the file is truncated or corrupt, repair or download it again"
                ) from error
            yield torch.from_numpy(pixels).permute(2, 0, 1)


class TorchCodecReader:
    """Reads with torchcodec, which needs FFmpeg's libraries on the machine.

    Times of the frames decoded so far are exact; the others are index / average rate.
    """

    name = "torchcodec"

    def __init__(self, source):
        decoders = import_backend("torchcodec")
        self.name_of_source = source if isinstance(source, str) else type(source).__name__
        try:
            self.decoder = decoders.VideoDecoder(source, dimension_order="NCHW", seek_mode="exact")
        except (RuntimeError, ValueError) as error:
            raise ValueError(f"expected a video, received {self.name_of_source}, which is not one: {error}") from error
        self.total, self.fps = len(self.decoder), self.decoder.metadata.average_fps
        if self.total == 0:
            raise ValueError(f"expected a video with frames, received {self.name_of_source} with none")
        self.times = np.arange(self.total) / self.fps

    def frames(self, indices: list[int]) -> Iterator[torch.Tensor]:
        first = self.decoder.metadata.begin_stream_seconds or 0.0
        for done, index in enumerate(indices):
            try:
                frame = self.decoder.get_frame_at(index)
            except (RuntimeError, IndexError) as error:
                raise ValueError(
                    f"expected {len(indices)} readable frames in {self.name_of_source}, received {done}; "
                    "the file is truncated or corrupt, repair or download it again"
                ) from error
            self.times[index] = float(frame.pts_seconds) - first
            yield frame.data


READERS = {"torchcodec": TorchCodecReader, "pyav": PyAVReader, "decord": DecordReader}


def import_backend(package: str):
    """Import a decoder's module, or None where it is missing or cannot be loaded."""
    try:
        if package == "torchcodec" and is_torchcodec_available():
            from torchcodec import decoders

            return decoders
        if package == "av" and is_av_available():
            import av

            return av
        if package == "decord" and is_decord_available():
            import decord

            return decord
    except (ImportError, OSError, RuntimeError):
        return None
    return None


def choose_reader(backend: str | None):
    """The reader class asked for, or the first that works.

    Raises:
        ValueError: a backend of another name.
        ImportError: the backend asked for, or every one, is missing.
    """
    if backend is not None and backend not in READERS:
        raise ValueError(f"expected video_backend to be one of {', '.join(READERS)}, received {backend!r}")
    for name, reader in READERS.items():
        package = "av" if name == "pyav" else name
        if backend in (None, name) and import_backend(package) is not None:
            return reader
    package = "av" if backend in (None, "pyav") else backend
    wanted = backend or "torchcodec, pyav or decord"
    raise ImportError(f"expected {wanted} to decode video, received none that works; `pip install {package}`")


class PVCVideoProcessor(BaseVideoProcessor):
    r"""
    Decodes, samples, resizes and normalises videos; one tile per frame.

    One example: 8 frames at 448 pixels give `pixel_values_videos` of `float[8, 3, 448, 448]` and `video_grid_thw` of
    `[[8, 1, 1]]`. Clips of other lengths follow along the first axis.

    Args:
        size (`dict`): `{"height": ..., "width": ...}` to which a whole frame is resized, in pixels.
        num_frames (`int`, *optional*): exact number of frames by the published rule; indices repeat in a shorter clip.
        fps (`float`, *optional*): frames per second, sampled by presentation time, at most `max_frames`.
        max_frames (`int`, *optional*): alone: every frame of a clip that has no more, else this many uniformly.
        video_backend (`str`, *optional*): "torchcodec", "pyav" or "decord"; by default the first of them that works.
        do_sample_frames (`bool`, *optional*, defaults to `False`): whether frames that come already decoded are
            sampled. Files always are, while they are decoded. A call that names `num_frames`, `fps`, `max_frames` or
            `bound` samples decoded frames too unless it passes `do_sample_frames=False`.

    A video is a path, a URL, bytes, a file object, an array or tensor of frames (channels first or last), a list of
    images or of image paths, or a dict with `frames` and optionally `timestamps` (seconds) and `fps`.
    """

    valid_kwargs = PVCVideoProcessorKwargs
    check_times = staticmethod(check_times)
    model_input_names: ClassVar[list[str]] = ["pixel_values_videos", "video_grid_thw"]
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: ClassVar[dict[str, int]] = {"height": 448, "width": 448}
    do_resize = True  # trf-ignore: TRF016 (honoured, as a setting of the call)
    do_rescale = True  # trf-ignore: TRF016 (honoured, as a setting of the call)
    do_normalize = True  # trf-ignore: TRF016 (honoured, as a setting of the call)
    do_convert_rgb = True  # trf-ignore: TRF016 (honoured, as a setting of the call)
    do_sample_frames = False
    num_frames = None
    fps = None
    max_frames = None
    bound = None
    video_backend = None
    progress = None

    def __init__(self, **kwargs: Unpack[PVCVideoProcessorKwargs]):
        super().__init__(**kwargs)

    def preprocess(self, videos, **kwargs: Unpack[PVCVideoProcessorKwargs]) -> BatchFeature:
        """
        Turn videos into `pixel_values_videos` and `video_grid_thw`.

        Args:
            videos: one video or any nesting of lists of videos, in the forms that the class lists.
            kwargs: settings that differ from this processor's, for this call only.
        """
        validate_typed_dict(self.valid_kwargs, kwargs)
        kwargs = self.with_defaults(kwargs)
        videos = make_list_of_videos(videos)
        entries = make_list_of_metadata(kwargs.pop("video_metadata"), len(videos))
        loaded = [self._load(self._open(video, entry, kwargs), kwargs) for video, entry in zip(videos, entries)]
        clips = [clip for clip, _ in loaded]
        for clip in clips:
            check_channels(clip)
        shapes = sorted({tuple(clip.shape[1:3]) for clip in clips})
        if len(shapes) > 1:
            raise ValueError(f"expected frames of one size, received {shapes}; pass `do_resize=True`")
        grid = torch.tensor([[len(clip), 1, 1] for clip in clips], dtype=torch.int64).reshape(-1, 3)
        size = kwargs["size"]
        pixels = torch.cat(clips) if clips else torch.empty(0, size.height, size.width, 3)
        data = {"pixel_values_videos": self.normalise(pixels, kwargs), "video_grid_thw": grid}
        outputs = BatchFeature(data, tensor_type=kwargs["return_tensors"])
        if kwargs["return_metadata"]:
            outputs["video_metadata"] = [metadata for _, metadata in loaded]
        return outputs

    def with_defaults(self, kwargs: dict) -> dict:
        """The call's settings over the processor's; a sampling setting of the call replaces the saved rival."""
        given = {name for name, value in kwargs.items() if value is not None}
        settings = {name: kwargs.get(name) for name in self.valid_kwargs.__annotations__}
        for name, value in settings.items():
            if name not in kwargs or (value is None and name not in ("num_frames", "fps", "max_frames")):
                settings[name] = getattr(self, name, None)
        if settings["num_frames"] and settings["fps"]:
            if {"num_frames", "fps"} <= given:
                raise ValueError(
                    f"expected num_frames or fps, received num_frames={kwargs['num_frames']} and fps={kwargs['fps']}"
                )
            settings["fps" if "num_frames" in given else "num_frames"] = None
        if "do_sample_frames" not in given and given & {"num_frames", "fps", "max_frames", "bound"}:
            settings["do_sample_frames"] = True
        if settings["do_center_crop"] or settings["do_pad"]:
            raise ValueError("expected whole frames, received do_center_crop or do_pad; crop or pad before the call")
        settings = self._standardize_kwargs(**settings)
        self._validate_preprocess_kwargs(**settings)
        check_size(settings["size"])
        return settings

    def stream(self, video, frames_per_chunk: int = 8, **kwargs: Unpack[PVCVideoProcessorKwargs]) -> "PVCVideoStream":
        """
        One video in chunks, each decoded while the one before is worked on; the whole is never in memory.

        Args:
            video: a video in any form that the class lists.
            frames_per_chunk (`int`, *optional*, defaults to 8): frames of a chunk.
            kwargs: settings that differ from this processor's, for this call only.

        Raises:
            ValueError: several videos, or a file that cannot be opened; one that cannot be read to its end fails at
                that chunk.
        """
        if frames_per_chunk < 1:
            raise ValueError(f"expected frames_per_chunk of at least 1, received {frames_per_chunk}")
        validate_typed_dict(self.valid_kwargs, kwargs)
        settings = self.with_defaults(kwargs)
        videos = make_list_of_videos(video)
        if len(videos) != 1:
            raise ValueError(f"expected one video, received {len(videos)}; stream one after the other")
        [entry] = make_list_of_metadata(settings.pop("video_metadata"), 1)
        opened = self._open(videos[0], entry, settings)
        return PVCVideoStream(self, opened, frames_per_chunk, settings)

    def _load(self, opened: "OpenVideo", settings: dict) -> tuple[torch.Tensor, PVCVideoMetadata]:
        """One video -> uint8[T, H, W, 3] at the model's size, and the metadata of its frames."""
        clip, unique = None, sorted(set(opened.indices))
        for done, frame in enumerate(self.read(opened, settings)):
            if clip is None:
                clip = torch.empty(len(unique), *frame.shape, dtype=frame.dtype, device=frame.device)
            clip[done] = frame
            if settings["progress"] is not None:
                settings["progress"](done + 1, len(unique))
        return repeat_rows(clip, unique, opened.indices), opened.describe()

    def _open(self, video, entry, settings: dict) -> "OpenVideo":
        """What is known of a video before its frames are read, and how to read them."""
        if isinstance(video, dict):
            video, entry = _unpack_dict(video, entry)
        if isinstance(video, (np.ndarray, torch.Tensor, list, tuple)):
            return self._open_frames(video, entry, settings)
        return self._open_file(video, settings)

    def _open_frames(self, frames, entry, settings: dict) -> "OpenVideo":
        if len(frames) == 0:
            raise ValueError("expected a video with frames, received one of length 0")
        metadata = _metadata_of_frames(entry, len(frames))
        if settings["do_sample_frames"]:
            indices = self.sample_frames(metadata, **_sampling(settings)).tolist()
        else:
            indices = list(range(len(frames)))
        to_tensor = _frame_reader(frames, settings)
        source, times = metadata.frames_indices or range(len(frames)), metadata.frame_times
        if times is None and metadata.fps is not None:
            times = [index / metadata.fps for index in source]

        def read(chosen: list[int]) -> Iterator[torch.Tensor]:
            return (to_tensor(frames[index]) for index in chosen)

        return OpenVideo(metadata, indices, read, times, source)

    def _open_file(self, source, settings: dict) -> "OpenVideo":
        reader = choose_reader(settings["video_backend"])(read_source(source))
        metadata = PVCVideoMetadata(
            total_num_frames=reader.total,
            fps=reader.fps,
            duration=reader.total / reader.fps if reader.fps else None,
            video_backend=reader.name,
            frame_times=reader.times.tolist(),
        )
        indices = self.sample_frames(metadata, **_sampling(settings)).tolist()
        return OpenVideo(metadata, indices, reader.frames, reader.times, range(reader.total))

    def read(self, opened: "OpenVideo", settings: dict) -> Iterator[torch.Tensor]:
        """Yield uint8[H, W, 3], resized as they arrive, for each of the indices once, in ascending order."""
        metadata, shape = opened.metadata, None
        for frame in opened.frames(sorted(set(opened.indices))):
            height, width = frame.shape[1:]
            metadata.height, metadata.width = metadata.height or height, metadata.width or width
            frame = self.resize_frame(frame, settings)
            shape = shape or frame.shape
            if frame.shape != shape:
                shapes = f"{tuple(shape[:2])} and {tuple(frame.shape[:2])}"
                raise ValueError(f"expected frames of one size, received {shapes}; pass `do_resize=True`")
            yield frame

    def resize_frame(self, frame: torch.Tensor, settings: dict) -> torch.Tensor:
        """uint8[3, H, W] -> uint8[size.height, size.width, 3], on the device of the settings."""
        frame = frame if settings["device"] is None else frame.to(settings["device"])
        height, width = frame.shape[1:]
        if settings["do_resize"]:
            height, width = settings["size"].height, settings["size"].width
        return resize_last(self.resize, frame, height, width, settings["resample"])

    def normalise(self, pixels: torch.Tensor, settings: dict) -> torch.Tensor:
        """uint8[T, H, W, 3] -> float32[T, 3, H, W]."""
        check_channels(pixels)
        names = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
        floats = allocate(*pixels.shape, device=pixels.device).copy_(pixels)
        return normalise(floats, *(settings[name] for name in names))

    def sample_frames(
        self,
        metadata: VideoMetadata,
        num_frames: int | None = None,
        fps: float | None = None,
        max_frames: int | None = None,
        bound=None,
        **kwargs,
    ) -> np.ndarray:
        """
        Indices of the frames to take.

        Args:
            metadata (`VideoMetadata`): the clip's number of frames, and its rate or times where `fps` or `bound` ask.
            num_frames (`int`, *optional*): exact number, by the published rule.
            fps (`float`, *optional*): frames per second, at most `max_frames`.
            max_frames (`int`, *optional*): all frames, or this many uniformly if the clip has more.
            bound (`tuple[float, float]`, *optional*): start and end in seconds.
        """
        for name, value, smallest in (("num_frames", num_frames, 1), ("max_frames", max_frames, 1), ("fps", fps, 0)):
            if value is not None and (value < smallest or value == 0):
                raise ValueError(f"expected {name} above 0, received {value}")
        start, end = bound_to_indices(metadata, bound)
        if num_frames is not None:
            return uniform_indices(start, end, num_frames)
        if fps is not None and end > start:
            times = getattr(metadata, "frame_times", None)
            if times is None and metadata.fps is None:
                raise ValueError("expected video_metadata with fps or timestamps to sample by `fps`, received none")
            times = np.arange(metadata.total_num_frames) / metadata.fps if times is None else np.asarray(times)
            return indices_at_rate(times, start, end, fps, max_frames)
        if max_frames is not None and end - start + 1 > max_frames:
            return uniform_indices(start, end, max_frames)
        return np.arange(start, end + 1)

    def fetch_videos(self, video_url_or_urls, sample_indices_fn=None):
        """Decode files at their own size -> (uint8[T, 3, H, W], metadata), or lists of both for a list."""
        if isinstance(video_url_or_urls, (list, tuple)) and not is_video(video_url_or_urls):
            fetched = [self.fetch_videos(video, sample_indices_fn) for video in video_url_or_urls]
            return [clip for clip, _ in fetched], [metadata for _, metadata in fetched]
        settings = self.with_defaults({"do_resize": False})
        opened = self._open(video_url_or_urls, None, settings)
        if sample_indices_fn is not None:
            opened.indices = [int(index) for index in sample_indices_fn(metadata=opened.metadata)]
        clip, metadata = self._load(opened, settings)
        return clip.permute(0, 3, 1, 2), metadata


@dataclass
class OpenVideo:
    """A video before its frames are read: `indices` were chosen, and `frames` yields those of ascending ones."""

    metadata: PVCVideoMetadata
    indices: list[int]
    frames: Callable[[list[int]], Iterator[torch.Tensor]]
    times: list[float] | np.ndarray | None
    source: list[int] | range

    def describe(self) -> PVCVideoMetadata:
        """The metadata of what is taken; torchcodec knows exact times only once frames are decoded."""
        metadata, times = self.metadata, self.times
        metadata.frames_indices = [int(self.source[index]) for index in self.indices]
        metadata.frame_times = None if times is None else [float(times[index]) for index in self.indices]
        return metadata


class PVCVideoStream:
    """
    A video whose frames are decoded, resized and normalised as they are asked for, by `PVCVideoProcessor.stream`.

    Iterating gives (`float[k, 3, H, W]`, times of its k frames in seconds or None), chunk after chunk. A thread works
    one chunk ahead, so decoding and what is done with a chunk overlap.

    Attributes:
        num_frames (`int`): frames in all, the horizon T of the clip.
        metadata ([`PVCVideoMetadata`]): of the frames that are taken; their height and width are known, and with
            torchcodec their exact times, once they are decoded.
    """

    def __init__(self, processor, opened: OpenVideo, frames_per_chunk: int, settings: dict):
        self.num_frames = len(opened.indices)
        self._processor = processor
        self._opened = opened
        self._frames_per_chunk = frames_per_chunk
        self._settings = settings

    def __len__(self) -> int:
        """Chunks."""
        return -(-self.num_frames // self._frames_per_chunk)

    @property
    def metadata(self) -> PVCVideoMetadata:
        return self._opened.describe()

    def __iter__(self) -> Iterator[tuple[torch.Tensor, list[float] | None]]:
        return one_ahead(self._chunks())

    def _chunks(self) -> Iterator[tuple[torch.Tensor, list[float] | None]]:
        frames, times = self._frames(), self._opened.times
        for start in range(0, self.num_frames, self._frames_per_chunk):
            indices = self._opened.indices[start : start + self._frames_per_chunk]
            pixels = torch.stack(list(itertools.islice(frames, len(indices))))
            chosen = None if times is None else [float(times[index]) for index in indices]
            yield self._processor.normalise(pixels, self._settings), chosen

    def _frames(self) -> Iterator[torch.Tensor]:
        """Resized frames in the order of the indices, which ascend and may repeat."""
        progress, previous = self._settings["progress"], None
        frames = self._processor.read(self._opened, self._settings)
        for done, index in enumerate(self._opened.indices, start=1):
            if index != previous:
                frame, previous = next(frames), index
            if progress is not None:
                progress(done, self.num_frames)
            yield frame


def one_ahead(items: Iterator) -> Iterator:
    """The same items, the next of which a thread takes while the one before is worked on."""
    end = object()
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = thread.submit(next, items, end)
            yield item


def check_channels(pixels: torch.Tensor) -> None:
    if pixels.shape[-1] != 3:
        raise ValueError(f"expected frames of 3 channels, received {pixels.shape[-1]}; pass `do_convert_rgb=True`")


def repeat_rows(clip: torch.Tensor, unique: list[int], indices: list[int]) -> torch.Tensor:
    """Rows decoded once, in the order and as often as `indices` asks."""
    return clip if unique == indices else clip[torch.from_numpy(np.searchsorted(unique, indices))]


def _sampling(settings: dict) -> dict:
    return {name: settings[name] for name in ("num_frames", "fps", "max_frames", "bound")}


def _unpack_dict(video: dict, entry):
    """{"frames": ..., "timestamps": [...], "fps": ...} -> (frames, metadata)."""
    unknown = set(video) - {"frames", "timestamps", "fps"}
    if "frames" not in video or unknown:
        raise ValueError(f"expected a dict with frames, timestamps and fps, received keys {sorted(video)}")
    known = {name: value for name, value in video.items() if name != "frames"}
    return video["frames"], {**(entry or {}), **known}


def _metadata_of_frames(entry, num_frames: int) -> PVCVideoMetadata:
    """Our own copy of what is known about decoded frames; `frames_indices` are kept only if they describe them."""
    known, metadata = dict(entry or {}), PVCVideoMetadata(total_num_frames=num_frames)
    times = known.pop("timestamps", None)
    times = known.get("frame_times") if times is None else times
    if times is not None:
        known["frame_times"] = times = check_times(times)
        if len(times) != num_frames:
            raise ValueError(f"expected one timestamp per frame ({num_frames}), received {len(times)}")
    metadata.update({name: known[name] for name in metadata if name in known and name != "total_num_frames"})
    if metadata.frames_indices is not None and len(metadata.frames_indices) != num_frames:
        metadata.frames_indices = None
    return metadata


def _frame_reader(frames, settings: dict) -> Callable:
    """A function that turns one entry of `frames` into uint8[3, H, W]."""
    data_format = settings["input_data_format"]
    if data_format is None and isinstance(frames, (np.ndarray, torch.Tensor)):
        first, last = frames.shape[1], frames.shape[3]
        if not {first, last} & {1, 3, 4}:
            expected = "[T, H, W, 3] or [T, 3, H, W]"
            raise ValueError(f"expected frames of shape {expected}, received {tuple(frames.shape)}")
        data_format = "channels_last" if last == 3 or (first != 3 and last in (1, 4)) else "channels_first"

    def read(frame):
        if isinstance(frame, (str, Path)):
            frame = open_image(frame)
        if isinstance(frame, Image.Image):
            return channels_first(np.array(to_rgb(frame)), "channels_last")
        frame = to_grey_levels(channels_first(frame, data_format), settings["do_rescale"])
        return array_to_rgb(frame) if settings["do_convert_rgb"] else frame

    return read


PVCVideoProcessor.register_for_auto_class("AutoVideoProcessor")

__all__ = ["PVCVideoProcessor"]
