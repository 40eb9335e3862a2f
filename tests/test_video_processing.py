# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Sampling against the published rule worked by hand, and decoding of files made here with PyAV."""

import base64
import itertools
import sys
import threading
import time
import weakref
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from pvc import video_processing_pvc as module
from pvc.video_processing_pvc import (
    PVCVideoMetadata,
    PVCVideoProcessor,
    check_times,
    ebml_size,
    make_list_of_metadata,
    make_list_of_videos,
    uniform_indices,
)
from transformers.video_utils import VideoMetadata


av = pytest.importorskip("av")
CODECS = {"a.mp4": "libx264", "a.mkv": "libx264", "a.webm": "libvpx-vp9", "b.webm": "libvpx", "hevc.mp4": "libx265"}
CODECS["av1.mp4"] = "libsvtav1"
CODECS = {name: codec for name, codec in CODECS.items() if codec in av.codecs_available}


def picture(index, width=96, height=64):
    """Grey that names the frame (5 levels a frame), with a red top left corner that shows the orientation."""
    values = np.full((height, width, 3), 5 * index, dtype=np.uint8)
    values[:24, :24] = (255, 0, 0)
    return values


def write_video(path, num_frames=40, codec="libx264", fps=10, stamps=None, options=None):
    """Frames of `picture`, a keyframe every 8; `stamps` in milliseconds make it a variable rate."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=fps)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = Fraction(1, 1000), 8
        if codec == "libx265":
            stream.options = {"x265-params": "log-level=none"}
        for index in range(num_frames):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24")
            frame.pts = stamps[index] if stamps else index * 1000 // fps
            frame.time_base = Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_audio(path):
    with av.open(str(path), "w") as container:
        add_silence(container)
    return path


def add_silence(container, stream=None):
    stream = stream or container.add_stream("aac", rate=16000)
    frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
    frame.sample_rate = 16000
    container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def rotate(path, target):
    """Write the matrix of a phone held upright (a quarter turn clockwise to view) into the track header."""
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    matrix = [0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30]
    data[start : start + 36] = b"".join(value.to_bytes(4, "big", signed=True) for value in matrix)
    target.write_bytes(data)
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("videos")
    for name, codec in CODECS.items():
        write_video(path / name, codec=codec)
    write_video(path / "fast.mp4", options={"movflags": "faststart"})
    stamps = [40 * index + (3000 if index >= 10 else 0) for index in range(20)]
    write_video(path / "vfr.mp4", num_frames=20, stamps=stamps)
    write_video(path / "vfr.mkv", num_frames=20, stamps=stamps)
    rotate(path / "a.mp4", path / "rotated.mp4")
    write_audio(path / "audio.m4a")
    return path


@pytest.fixture(scope="module")
def processor():
    size = {"height": 64, "width": 64}
    return PVCVideoProcessor(size=size, max_frames=8, do_normalize=False, video_backend="pyav")


def names(outputs):
    """The frame numbers that the pixels show."""
    return (outputs["pixel_values_videos"][:, :, 50, 50].mean(1) * 255 / 5).round().int().tolist()


def test_uniform_rule_by_hand():
    # 40 frames: end 39, seg 4.875: int(2.4375 + round(4.875 i)), round = 0 5 10 15 20 24 29 34
    assert uniform_indices(0, 39, 8).tolist() == [2, 7, 12, 17, 22, 26, 31, 36]
    # end 9, seg 2.25: int(1.125 + round(2.25 i)), round = 0 2 4 7
    assert uniform_indices(0, 9, 4).tolist() == [1, 3, 5, 8]
    # end 2, seg 0.4: int(0.2 + round(0.4 i)), round = 0 0 1 1 2
    assert uniform_indices(0, 2, 5).tolist() == [0, 0, 1, 1, 2]
    # half to even: seg 2.5, round(2.5) = 2, round(7.5) = 8: int(1.25 + 0 2 5 8)
    assert uniform_indices(0, 10, 4).tolist() == [1, 3, 6, 9]
    assert uniform_indices(0, 0, 3).tolist() == [0, 0, 0]


def test_sampling_settings(processor):
    metadata = PVCVideoMetadata(total_num_frames=40, fps=10.0)
    sample = processor.sample_frames
    assert sample(metadata, max_frames=50).tolist() == list(range(40))
    assert sample(metadata, max_frames=8).tolist() == [2, 7, 12, 17, 22, 26, 31, 36]
    # 1 s to 2 s are frames 10 to 20: seg 2.5
    assert sample(metadata, num_frames=4, bound=(1.0, 2.0)).tolist() == [11, 13, 16, 19]
    assert sample(metadata, max_frames=50, bound=(3.5, 99)).tolist() == [35, 36, 37, 38, 39]
    # 2 a second of 4 s: the frames on screen at 0.25, 0.75, ... s
    assert sample(metadata, fps=2).tolist() == [2, 7, 12, 17, 22, 27, 32, 37]
    assert sample(metadata, fps=2, max_frames=2).tolist() == [10, 30]
    assert sample(PVCVideoMetadata(total_num_frames=1, fps=10.0), fps=2).tolist() == [0]
    # by presentation time: three frames at once, then a pause
    varying = PVCVideoMetadata(total_num_frames=4, frame_times=[0.0, 0.1, 0.2, 3.0])
    assert sample(varying, fps=1).tolist() == [2, 2, 2, 3]


@pytest.mark.parametrize("name", CODECS)
def test_containers_and_codecs(processor, folder, name):
    outputs = processor(folder / name, return_metadata=True, return_tensors="pt")
    metadata = outputs["video_metadata"][0]
    assert outputs["pixel_values_videos"].shape == (8, 3, 64, 64)
    assert outputs["video_grid_thw"].tolist() == [[8, 1, 1]]
    assert names(outputs) == metadata.frames_indices == [2, 7, 12, 17, 22, 26, 31, 36]
    assert metadata.timestamps == pytest.approx([index / 10 for index in metadata.frames_indices])
    assert (metadata.total_num_frames, metadata.height, metadata.width) == (40, 64, 96)
    assert metadata.fps == pytest.approx(10)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_seeking_gives_what_decoding_everything_gives(processor, folder, name):
    everything = processor(folder / name, max_frames=None, return_tensors="pt")["pixel_values_videos"]
    assert len(everything) == 40
    for bound in ((3.4, 3.9), (0.8, 0.8), (1.5, 3.2)):
        outputs = processor(folder / name, num_frames=2, bound=bound, return_metadata=True, return_tensors="pt")
        assert torch.equal(outputs["pixel_values_videos"], everything[outputs["video_metadata"][0].frames_indices])


@pytest.mark.parametrize("name", ["vfr.mp4", "vfr.mkv"])
def test_variable_rate_times(processor, folder, name):
    outputs = processor(folder / name, num_frames=4, return_metadata=True, return_tensors="pt")
    metadata = outputs["video_metadata"][0]
    assert metadata.frames_indices == [2, 7, 12, 16]  # end 19, seg 4.75: int(2.375 + round = 0 5 10 14)
    assert metadata.timestamps == pytest.approx([0.08, 0.28, 3.48, 3.64], abs=0.002)
    spread = processor(folder / name, fps=1, return_metadata=True, return_tensors="pt")["video_metadata"][0]
    assert spread.frames_indices[:3] == [9, 9, 9]  # the tenth frame stays on screen for three seconds


def test_times_are_exact_and_computed_once(tmp_path):
    base = Fraction(1001, 30000)
    with av.open(str(tmp_path / "ntsc.avi"), "w") as container:
        stream = container.add_stream("mpeg4", rate=1 / base)
        stream.width, stream.height, stream.codec_context.time_base = 96, 64, base
        for index in range(100):
            frame = av.VideoFrame.from_ndarray(picture(index % 50), "rgb24")
            frame.pts, frame.time_base = index, base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    reader = module.PyAVReader(str(tmp_path / "ntsc.avi"))
    assert reader.times.tolist() == [float(index * base) for index in range(100)]
    assert reader.times is reader.times


def test_rotation(processor, folder):
    plain = processor(folder / "a.mp4", num_frames=1, do_resize=False, return_tensors="pt")["pixel_values_videos"]
    turned = processor(folder / "rotated.mp4", num_frames=1, do_resize=False, return_tensors="pt")
    assert plain.shape == (1, 3, 64, 96)
    assert torch.equal(turned["pixel_values_videos"], torch.rot90(plain, -1, (2, 3)))
    assert turned["pixel_values_videos"][0, 0, 5, 60] > 0.9  # red, at the top right after a clockwise turn


def test_every_form_of_input(processor, folder):
    path = folder / "a.mp4"
    data = path.read_bytes()
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    expected = processor(path, return_tensors="pt")["pixel_values_videos"]
    for form in (str(path), data, path.open("rb"), url, [[path]], [str(path)]):
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values_videos"], expected)
    array = np.stack([picture(index) for index in range(5)])
    expected = processor(array, return_tensors="pt")["pixel_values_videos"]
    paths = [folder / f"{index}.png" for index in range(5)]
    images = [Image.fromarray(frame) for frame in array]
    for image, target in zip(images, paths):
        image.save(target)
    forms = [array.transpose(0, 3, 1, 2), torch.from_numpy(array), images, paths, [str(each) for each in paths]]
    forms += [list(array), {"frames": array}, array[None], [array], array.astype(np.float32)]
    for form in forms:
        outputs = processor(form, return_tensors="pt")
        assert torch.equal(outputs["pixel_values_videos"], expected)
        assert outputs["video_grid_thw"].tolist() == [[5, 1, 1]]
    assert processor(images[0], return_tensors="pt")["video_grid_thw"].tolist() == [[1, 1, 1]]
    grey = processor(array[..., :1], return_tensors="pt")["pixel_values_videos"]
    assert torch.equal(grey[:, 0], grey[:, 2])


def test_decoded_frames_are_taken_or_sampled(processor):
    array = np.stack([picture(index) for index in range(20)])
    assert names(processor(array, return_tensors="pt")) == list(range(20))
    assert names(processor(array, num_frames=4, return_tensors="pt")) == [2, 7, 12, 16]
    assert names(processor(array[:2], num_frames=4, return_tensors="pt")) == [0, 0, 0, 1]
    assert names(processor(array, num_frames=4, do_sample_frames=False, return_tensors="pt")) == list(range(20))
    outputs = processor(array, fps=1, video_metadata={"fps": 5.0, "total_num_frames": 99}, return_metadata=True)
    assert outputs["video_metadata"][0].frames_indices == [2, 7, 12, 17]
    assert outputs["video_metadata"][0].timestamps == pytest.approx([0.4, 1.4, 2.4, 3.4])
    taken = PVCVideoMetadata(total_num_frames=90, fps=10.0, frames_indices=[0, 30, 60])
    outputs = processor(array[:3], video_metadata=[[taken]], return_metadata=True)
    assert outputs["video_metadata"][0].timestamps == [0, 3, 6]
    timed = {"frames": array[:3], "timestamps": [0.0, 0.5, 4.0]}
    outputs = processor(timed, return_metadata=True)
    assert outputs["video_metadata"][0].timestamps == [0.0, 0.5, 4.0]
    assert PVCVideoMetadata(4, fps=2.0, frames_indices=[1, 3]).timestamps == [0.5, 1.5]


@pytest.mark.parametrize(
    "entry",
    [
        VideoMetadata(20, fps=5.0),
        PVCVideoMetadata(20, fps=5.0),
        {"total_num_frames": 20, "fps": 5.0},
        {"total_num_frames": 20, "timestamps": np.arange(20) / 5},
        PVCVideoMetadata(20, frame_times=[index / 5 for index in range(20)]),
    ],
)
def test_every_form_of_metadata(processor, entry):
    array = np.stack([picture(index) for index in range(20)])
    for form in (entry, [entry], [[entry]]):
        outputs = processor(array, fps=1, video_metadata=form, return_metadata=True)
        stream = processor.stream(array, fps=1, video_metadata=form)
        pixels, times = zip(*stream)
        assert torch.equal(torch.cat(pixels), torch.as_tensor(outputs["pixel_values_videos"]))
        assert times == (outputs["video_metadata"][0].frame_times,)
        assert outputs["video_metadata"][0].frames_indices == [2, 7, 12, 17]
        assert outputs["video_metadata"] == [stream.metadata]


def test_a_picture_is_one_frame_at_any_rate(processor, tmp_path):
    Image.fromarray(picture(7)).save(tmp_path / "a.png")
    assert names(processor(tmp_path / "a.png", fps=2, return_tensors="pt")) == [7]
    assert names(processor({"frames": [picture(7)], "timestamps": [4.0]}, fps=2, return_tensors="pt")) == [7]


@pytest.mark.parametrize(
    "times",
    [[-1, 0.5, 0.5, 9], (-1.0, 0.5, 0.5, 9.0), np.array([-1, 0.5, 0.5, 9]), torch.tensor([-1, 0.5, 0.5, 9])],
)
def test_times(times):
    for form in (times, iter(times), [*times[:2], Fraction(1, 2), times[3]]):
        checked = check_times(form)
        assert checked == [-1.0, 0.5, 0.5, 9.0]
        assert {type(time) for time in checked} == {float}


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0.0, None], "received None at index 1"),
        (["0.0"], "received '0.0' at index 0"),
        ([0.0, float("nan"), 1.0], "received nan at index 1"),
        (np.array([0.0, np.inf]), "received inf at index 1"),
        (torch.tensor([0.0, 2.0, 1.0]), "ascending order, received 1.0 at index 2"),
        (np.zeros((1, 2)), r"received \[0.0, 0.0\] at index 0"),
    ],
)
def test_refused_times(processor, times, message):
    frames = np.zeros((len(times), 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        processor.check_times(times)
    for video, entry in (({"frames": frames, "timestamps": times}, None), (frames, {"frame_times": times})):
        for read in (processor, processor.stream):
            with pytest.raises(ValueError, match=message):
                read(video, video_metadata=entry)


def test_batches(processor, folder):
    array = np.stack([picture(index) for index in range(3)])
    outputs = processor([str(folder / "a.mp4"), array], return_tensors="pt")
    assert outputs["pixel_values_videos"].shape == (11, 3, 64, 64)
    assert outputs["video_grid_thw"].tolist() == [[8, 1, 1], [3, 1, 1]]
    empty = processor([], return_tensors="pt")
    assert empty["pixel_values_videos"].shape == (0, 3, 64, 64)
    assert empty["video_grid_thw"].shape == (0, 3)
    assert set(outputs) == set(processor.model_input_names)


def test_pixels_match_pil(processor):
    array = np.random.default_rng(0).integers(0, 256, (2, 100, 150, 3), dtype=np.uint8)
    ours = processor(array, return_tensors="pt")["pixel_values_videos"] * 255
    steps = [Image.fromarray(frame).resize((64, 100), Image.BICUBIC) for frame in array]
    reference = np.stack([np.asarray(step.resize((64, 64), Image.BICUBIC)) for step in steps]).transpose(0, 3, 1, 2)
    difference = np.abs(ours.round().numpy() - reference)
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_progress_and_saved_settings(processor, folder, tmp_path):
    seen = []
    processor(folder / "a.mp4", num_frames=3, progress=lambda *counts: seen.append(counts))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    PVCVideoProcessor(max_frames=4, fps=2.0).save_pretrained(tmp_path)
    again = PVCVideoProcessor.from_pretrained(tmp_path)
    assert (again.max_frames, again.fps, again.do_sample_frames) == (4, 2.0, False)
    outputs = again(folder / "a.mp4", num_frames=6)  # a setting of the call replaces the saved rival
    assert outputs["video_grid_thw"].tolist() == [[6, 1, 1]]


def test_frames_are_resized_as_they_arrive(folder, monkeypatch):
    order = []
    resize, decode = PVCVideoProcessor.resize, module.upright
    monkeypatch.setattr(PVCVideoProcessor, "resize", lambda *a, **k: (order.append("resize"), resize(*a, **k))[1])
    monkeypatch.setattr(module, "upright", lambda frame: (order.append("decode"), decode(frame))[1])
    PVCVideoProcessor(num_frames=3, video_backend="pyav")(folder / "a.mp4")
    assert order == ["decode", "resize"] * 3


@pytest.mark.parametrize("size", [1, 3, 8, 50])
@pytest.mark.parametrize("settings", [{}, {"num_frames": 5}, {"fps": 2.0}, {"num_frames": 90}, {"max_frames": 40}])
def test_a_stream_is_the_video_in_chunks(processor, folder, size, settings):
    whole = processor(folder / "vfr.mp4", return_metadata=True, **settings)
    stream = processor.stream(folder / "vfr.mp4", frames_per_chunk=size, **settings)
    chunks = list(stream)
    pixels = torch.cat([pixels for pixels, _ in chunks])
    assert torch.equal(pixels, torch.as_tensor(whole["pixel_values_videos"]))
    assert [time for _, times in chunks for time in times] == whole["video_metadata"][0].frame_times
    assert stream.metadata == whole["video_metadata"][0]
    assert stream.num_frames == len(pixels)
    assert len(stream) == len(chunks)
    assert all(len(pixels) == len(times) == size for pixels, times in chunks[:-1])


def test_a_stream_of_frames_in_memory(processor):
    frames = np.stack([picture(index) for index in range(7)])
    pixels, times = zip(*processor.stream(frames, frames_per_chunk=3))
    assert [len(chunk) for chunk in pixels] == [3, 3, 1]
    assert times == (None, None, None)
    assert names({"pixel_values_videos": torch.cat(pixels)}) == list(range(7))
    timed = processor.stream({"frames": frames, "timestamps": [0.0, 0.5, 2.0, 3.0, 4.0, 5.0, 9.0]}, 4)
    assert [times for _, times in timed] == [[0.0, 0.5, 2.0, 3.0], [4.0, 5.0, 9.0]]


def test_a_stream_is_decoded_while_it_is_used(processor, folder, monkeypatch):
    """The second chunk is decoded before the first is done with, and never a third."""
    decoded, decode, ready = [], module.upright, threading.Event()

    def count(frame):
        decoded.append(threading.current_thread())
        if len(decoded) == 8:
            ready.set()
        return decode(frame)

    monkeypatch.setattr(module, "upright", count)
    stream = iter(processor.stream(folder / "a.mp4", frames_per_chunk=4, max_frames=40))
    next(stream)
    assert ready.wait(timeout=60)
    time.sleep(0.2)
    assert len(decoded) == 8
    assert threading.current_thread() not in decoded
    stream.close()


def test_a_stream_holds_two_chunks(processor, folder, monkeypatch):
    """However long a video, no more frames are in memory than the chunk that is used and the one that comes."""
    living, most, resize = weakref.WeakSet(), [0], PVCVideoProcessor.resize_frame

    def watch(self, frame, settings):
        frame = resize(self, frame, settings)
        living.add(frame)
        most[0] = max(most[0], len(living))
        return frame

    monkeypatch.setattr(PVCVideoProcessor, "resize_frame", watch)
    for _ in processor.stream(folder / "a.mp4", frames_per_chunk=4, max_frames=40):
        pass
    assert 4 <= most[0] <= 8


def test_a_stream_tells_what_it_takes_before_it_is_decoded(processor, folder):
    metadata = processor.stream(folder / "a.mp4").metadata
    assert metadata.frames_indices == [2, 7, 12, 17, 22, 26, 31, 36]
    assert metadata.timestamps == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.2, 2.6, 3.1, 3.6])


@pytest.mark.parametrize("leave", ["close", "forget", "interrupt"])
@pytest.mark.parametrize("kind", ["reader", "stream"])
def test_left_midway(processor, folder, monkeypatch, kind, leave):
    """No thread is left behind, and nothing is raised where nobody could catch it."""
    unraised, threads = [], threading.active_count()
    monkeypatch.setattr(sys, "unraisablehook", unraised.append)
    if kind == "reader":
        items = module.PyAVReader(str(folder / "a.mp4")).frames(list(range(40)))
    else:
        items = iter(processor.stream(folder / "a.mp4", frames_per_chunk=4, max_frames=40))
    next(items), next(items)
    assert threading.active_count() > threads
    if leave == "close":
        items.close()
    elif leave == "interrupt":
        with pytest.raises(KeyboardInterrupt):
            items.throw(KeyboardInterrupt)
    del items
    assert threading.active_count() == threads
    assert unraised == []


def test_an_error_while_decoding_reaches_the_caller(processor, folder, monkeypatch):
    decode, threads = module.PyAVReader._decode, threading.active_count()

    def break_off(self, *arguments):
        yield from itertools.islice(decode(self, *arguments), 6)
        raise av.error.InvalidDataError(1, "cut here")

    monkeypatch.setattr(module.PyAVReader, "_decode", break_off)
    stream = iter(processor.stream(folder / "a.mp4", frames_per_chunk=4, max_frames=40))
    assert len(next(stream)[0]) == 4
    for rest in (stream, module.PyAVReader(str(folder / "a.mp4")).frames(list(range(40)))):
        with pytest.raises(ValueError, match="expected 40 readable frames in .*, received 6: .*cut here"):
            list(rest)
    monkeypatch.setattr(module, "upright", lambda frame: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        next(iter(processor.stream(folder / "a.mp4")))
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("video", "size", "message"),
    [
        ([np.zeros((2, 8, 8, 3), np.uint8)] * 2, 8, "expected one video, received 2"),
        ([], 8, "expected one video, received 0"),
        (np.zeros((2, 8, 8, 3), np.uint8), 0, "frames_per_chunk of at least 1, received 0"),
        ("nothing.mp4", 8, "existing file"),
    ],
)
def test_streams_refused(processor, video, size, message):
    with pytest.raises(ValueError, match=message):
        processor.stream(video, frames_per_chunk=size)


@pytest.mark.parametrize("settings", [{"do_center_crop": True, "crop_size": 4}, {"do_pad": True}])
def test_streams_refuse_what_calls_refuse(processor, settings):
    for read in (processor, processor.stream):
        with pytest.raises(ValueError, match="expected whole frames, received do_center_crop or do_pad"):
            read(np.zeros((2, 8, 8, 3), np.uint8), **settings)
    entries = [{"fps": 1.0, "total_num_frames": 2}] * 2
    with pytest.raises(ValueError, match=r"per video \(1\), received 2"):
        processor.stream(np.zeros((2, 8, 8, 3), np.uint8), video_metadata=entries)
    frames = [Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))]
    with pytest.raises(ValueError, match=r"one size, received \(4, 4\) and \(4, 5\)"):
        list(processor.stream(frames, do_resize=False))


def test_fetch_videos(processor, folder):
    clip, _ = processor.fetch_videos(str(folder / "a.mp4"))
    assert clip.shape == (8, 3, 64, 96)
    clips, entries = processor.fetch_videos([str(folder / "a.mp4")], sample_indices_fn=lambda metadata: [0, 3])
    assert clips[0].shape == (2, 3, 64, 96)
    assert entries[0].timestamps == pytest.approx([0.0, 0.3])


def test_decord(processor, folder):
    pytest.importorskip("decord")
    outputs = processor(folder / "a.mp4", video_backend="decord", return_metadata=True, return_tensors="pt")
    assert names(outputs) == outputs["video_metadata"][0].frames_indices == [2, 7, 12, 17, 22, 26, 31, 36]
    assert outputs["video_metadata"][0].timestamps == pytest.approx([0.2, 0.7, 1.2, 1.7, 2.2, 2.6, 3.1, 3.6])
    with pytest.raises(ValueError, match="which is not one"):
        processor(b"not a video at all", video_backend="decord")


class FakeDecoder:
    """What this project uses of torchcodec's VideoDecoder."""

    metadata = SimpleNamespace(average_fps=10.0, begin_stream_seconds=1.0)

    def __init__(self, source, dimension_order, seek_mode):
        if source == "broken":
            raise RuntimeError("no")
        self.length = 0 if source == "empty" else 40

    def __len__(self):
        return self.length

    def get_frame_at(self, index):
        if index > 36:
            raise RuntimeError("cut")
        data = torch.from_numpy(picture(index)).permute(2, 0, 1)
        return SimpleNamespace(data=data, pts_seconds=1.0 + index / 10 + 0.01)


def test_torchcodec(processor, folder, monkeypatch):
    decoders = SimpleNamespace(VideoDecoder=FakeDecoder)
    monkeypatch.setattr(module, "import_backend", lambda package: decoders if package == "torchcodec" else None)
    monkeypatch.setattr(module, "read_source", str)
    outputs = processor("a.mp4", video_backend="torchcodec", return_metadata=True, return_tensors="pt")
    assert names(outputs) == [2, 7, 12, 17, 22, 26, 31, 36]
    assert outputs["video_metadata"][0].video_backend == "torchcodec"
    stream = processor.stream("a.mp4", video_backend="torchcodec")
    assert stream.metadata.frame_times == [0.2, 0.7, 1.2, 1.7, 2.2, 2.6, 3.1, 3.6]
    assert [time for _, times in stream for time in times] == outputs["video_metadata"][0].frame_times
    assert stream.metadata == outputs["video_metadata"][0]
    assert stream.metadata.frame_times == pytest.approx([0.21, 0.71, 1.21, 1.71, 2.21, 2.61, 3.11, 3.61])
    reader = module.TorchCodecReader("a.mp4")
    assert len(list(reader.frames([2, 7]))) == 2
    assert reader.times[[2, 7]].tolist() == pytest.approx([0.21, 0.71])
    with pytest.raises(ValueError, match="received 1; the file is truncated"):
        list(reader.frames([3, 38]))
    with pytest.raises(ValueError, match="which is not one"):
        module.TorchCodecReader("broken")
    with pytest.raises(ValueError, match="with none"):
        module.TorchCodecReader("empty")


def test_backend_chain(monkeypatch):
    monkeypatch.setattr(module, "import_backend", lambda package: None)
    with pytest.raises(ImportError, match="pip install av"):
        module.choose_reader(None)
    with pytest.raises(ImportError, match="pip install decord"):
        module.choose_reader("decord")
    with pytest.raises(ValueError, match="received 'opencv'"):
        module.choose_reader("opencv")
    monkeypatch.setattr(module, "import_backend", lambda package: package in ("decord", "av") or None)
    assert module.choose_reader(None).name == "pyav"
    monkeypatch.undo()
    monkeypatch.setattr(module, "is_torchcodec_available", lambda: True)
    monkeypatch.setitem(sys.modules, "torchcodec", None)  # installed, but cannot be loaded
    assert module.choose_reader(None).name == "pyav"


@pytest.mark.parametrize(("name", "part"), [("fast.mp4", 0.6), ("fast.mp4", 0.95), ("a.mkv", 0.6), ("a.webm", 0.95)])
def test_truncated(processor, folder, name, part):
    data = (folder / name).read_bytes()
    with pytest.raises(ValueError, match=r"expected 40 readable frames in .*, received \d+.*truncated"):
        processor(data[: int(len(data) * part)])


def test_cut_between_packets(processor, folder):
    with av.open(str(folder / "fast.mp4")) as container:
        ends = [packet.pos + packet.size for packet in container.demux(video=0) if packet.size]
    data = (folder / "fast.mp4").read_bytes()
    with pytest.raises(ValueError, match=r"expected 40 readable frames"):
        processor(data[: sorted(ends)[19]])


def test_corrupt_in_the_middle(processor, folder):
    data = bytearray((folder / "fast.mp4").read_bytes())
    with av.open(str(folder / "fast.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    for packet in packets[8:32]:
        data[packet.pos : packet.pos + packet.size] = b"\x00" * packet.size
    with pytest.raises(ValueError, match=r"expected \d+ readable frames in .*, received \d+"):
        processor(bytes(data), max_frames=None)


def test_matroska_sizes(folder):
    assert ebml_size(b"\x81", 0) == (1, 1)
    assert ebml_size(b"\x40\x02", 0) == (2, 2)
    data = (folder / "a.mkv").read_bytes()
    start = data.index(b"\x18\x53\x80\x67") + 4
    unknown = data[:start] + b"\x01" + b"\xff" * 7 + data[start + 8 :]  # a live recording states no size
    assert module.missing_matroska_bytes(module.read_source(unknown)) == 0
    assert module.missing_matroska_bytes(module.read_source(data)) == 0
    assert module.missing_matroska_bytes(module.read_source(data[:-9])) == 9
    assert module.missing_matroska_bytes(str(folder / "a.mkv")) == 0
    assert module.missing_matroska_bytes(module.read_source(b"\x1a\x45\xdf\xa3\x81\x00" + b"\x00" * 20)) == 0


def test_hidden_vp8_frames():
    stream = SimpleNamespace(codec_context=SimpleNamespace(name="vp8"))
    packets = [av.Packet(bytes([value])) for value in (0x10, 0x01)]
    assert [module.is_hidden_vp8(stream, packet) for packet in packets] == [False, True]
    assert not module.is_hidden_vp8(SimpleNamespace(codec_context=SimpleNamespace(name="h264")), packets[1])


ARRAY = np.zeros((4, 8, 8, 3), np.uint8)


@pytest.mark.parametrize(
    ("videos", "settings", "message"),
    [
        ("/nowhere/a.mp4", {}, "existing file"),
        (b"not a video at all", {}, "which is not one"),
        (17, {}, "received int"),
        ([{"type": "video"}], {}, r"received keys \['type'\]"),
        ({"frames": ARRAY, "timestamps": [0.0]}, {}, r"one timestamp per frame \(4\), received 1"),
        (ARRAY, {"video_metadata": {"total_num_frames": 4, "frame_times": [0.0]}}, r"per frame \(4\), received 1"),
        (ARRAY[:0], {}, "length 0"),
        (ARRAY[:, :0], {}, r"image with pixels, received shape \(0, 8, 3\)"),
        (ARRAY.astype(np.complex64), {}, "real numbers, received torch.complex64"),
        (ARRAY.astype(object), {}, "received an array of dtype object"),
        ([Image.new("RGB", (0, 5))], {}, r"image with pixels, received shape \(5, 0, 3\)"),
        (np.zeros((4, 8, 8, 7), np.uint8), {}, r"received \(4, 8, 8, 7\)"),
        (ARRAY[..., :1], {"do_convert_rgb": False}, r"3 channels, received 1"),
        (ARRAY, {"fps": 2}, "fps or timestamps"),
        (ARRAY, {"bound": (0, 1)}, "sample by `bound`"),
        (ARRAY, {"num_frames": 2, "fps": 2.0}, "num_frames=2 and fps=2.0"),
        (ARRAY, {"max_frames": 0}, "max_frames above 0, received 0"),
        (ARRAY, {"num_frames": 0}, "num_frames above 0, received 0"),
        (ARRAY, {"num_frames": -1}, "num_frames above 0, received -1"),
        (ARRAY, {"fps": 0.0}, "fps above 0, received 0.0"),
        (ARRAY, {"do_center_crop": True, "crop_size": 4}, "do_center_crop"),
        (ARRAY, {"size": {"shortest_edge": 4}}, "height and width"),
        (ARRAY, {"video_metadata": [{"fps": 1.0, "total_num_frames": 4}] * 2}, r"per video \(1\), received 2"),
        ([ARRAY, ARRAY[:, :4]], {"do_resize": False}, r"one size, received \[\(4, 8\), \(8, 8\)\]"),
        ([Image.new("RGB", (4, 4)), Image.new("RGB", (5, 4))], {"do_resize": False}, r"\(4, 4\) and \(4, 5\)"),
    ],
)
def test_refused(processor, videos, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(videos, return_tensors="pt", **settings)


@pytest.mark.parametrize("bound", [(2, 1), (1, 2, 3), (50, 60)])
def test_refused_bounds(processor, bound):
    with pytest.raises(ValueError, match="bound"):
        processor.sample_frames(PVCVideoMetadata(40, fps=10.0), num_frames=2, bound=bound)


def test_refused_files(processor, folder):
    with pytest.raises(ValueError, match="received only audio"):
        processor(folder / "audio.m4a")
    with av.open(str(folder / "cover.m4a"), "w", format="mp4") as container:
        sound, cover = container.add_stream("aac", rate=16000), container.add_stream("png", rate=1)
        cover.width, cover.height, cover.pix_fmt = 16, 16, "rgb24"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), format="rgb24")
        for packet in [*cover.encode(picture), *cover.encode(None)]:
            packet.time_base, packet.pts, packet.dts = Fraction(1, 1), 0, 0
            container.mux(packet)
        add_silence(container, sound)
    with pytest.raises(ValueError, match="received only a cover picture, audio"):
        processor(folder / "cover.m4a")
    with av.open(str(folder / "none.mkv"), "w") as container:
        video = container.add_stream("mpeg4", rate=10)
        video.width, video.height, video.pix_fmt = 96, 64, "yuv420p"
        add_silence(container)
    with pytest.raises(ValueError, match="with none"):
        processor(folder / "none.mkv")


def test_lists_of_videos():
    frame = np.zeros((4, 4, 3), np.uint8)
    assert make_list_of_videos([["a.mp4", "b.mp4"], [], ["c.mp4"]]) == ["a.mp4", "b.mp4", "c.mp4"]
    assert make_list_of_videos(["1.png", "2.png"]) == [["1.png", "2.png"]]
    assert make_list_of_videos([["1.png", "2.png"], ["3.png"]]) == [["1.png", "2.png"], ["3.png"]]
    assert len(make_list_of_videos([[[frame, frame], [frame]], [[frame]]])) == 3
    assert len(make_list_of_videos(np.zeros((2, 5, 4, 4, 3)))) == 2
    assert make_list_of_metadata(None, 2) == [None, None]
