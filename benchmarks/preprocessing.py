# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Files to pixel values, against what people use today, and the memory that takes.

    python benchmarks/preprocessing.py

Images against the image processor of transformers' `InternVLProcessor` and against PIL and torchvision, as the
published code uses them, at one to three threads; all give the same tiles, within two grey levels. A video of 900
frames to 64, as float tensors of 448 pixels, against decord, PyAV and OpenCV: the same frames, but each peer has its
own way to resize and to convert colours, so pixels differ, by the mean that is reported.

Memory is what a process of its own takes at most to stream 512 frames of the video, beside one that streams 64.
"""

import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import psutil
import torch
from measuring import ROOT, alternate, parser, prepare, ratio, report
from PIL import Image
from pvc.image_processing_pvc import PVCImageProcessor, tile_grid
from pvc.video_processing_pvc import PVCVideoProcessor, import_backend, uniform_indices
from torchvision.transforms import v2
from transformers import AutoModelForImageTextToText, AutoProcessor, GotOcr2ImageProcessor


TILE, MAX_TILES, NUM_FRAMES, NUM_SAMPLED = 448, 12, 900, 64
SIZES = ((800, 600), (1920, 1080), (640, 960))
NUM_STREAMED = (64, 512)
GREY_LEVELS = 2.01  # two, and what float32 rounds


def photographs() -> list[Image.Image]:
    """Noise at two scales: content does not matter to the time, size does."""
    rng = np.random.default_rng(0)
    images = []
    for width, height in SIZES:
        coarse = Image.fromarray(rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8))
        images.append(coarse.resize((width, height), Image.Resampling.BICUBIC))
    return images


def published(images: list[Image.Image], mean, std) -> torch.Tensor:
    """The published rules with PIL and torchvision, image by image."""
    to_tensor = v2.Compose([v2.PILToTensor(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])
    tiles = []
    for image in images:
        columns, rows = tile_grid(image.height, image.width, (TILE, TILE), 1, MAX_TILES)
        whole = image.resize((columns * TILE, rows * TILE), Image.Resampling.BICUBIC)
        for row in range(rows):
            for column in range(columns):
                corner = (column * TILE, row * TILE)
                tiles.append(whole.crop((*corner, corner[0] + TILE, corner[1] + TILE)))
        if columns * rows > 1:
            tiles.append(image.resize((TILE, TILE), Image.Resampling.BICUBIC))
    return torch.stack([to_tensor(tile) for tile in tiles])


def write_video(path: Path) -> None:
    """900 frames of 1280x720 in H.264, as a phone or a screen recorder writes them: B-frames, long groups."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 256, (90, 160, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 1280, 720, "yuv420p"
        stream.options = {"crf": "23", "preset": "veryfast"}
        for number in range(NUM_FRAMES):
            frame = np.roll(background, 4 * number, axis=1)
            frame[100:200, (7 * number) % 1100 : (7 * number) % 1100 + 100] = (255, 0, 0)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))


def to_pixels(frames, mean, std) -> torch.Tensor:
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float().div_(255)
    return pixels.sub_(torch.tensor(mean).view(3, 1, 1)).div_(torch.tensor(std).view(3, 1, 1))


def readers(path: str, mean, std) -> dict:
    """Each decoder alone, from the file to the tensor."""
    indices = uniform_indices(0, NUM_FRAMES - 1, NUM_SAMPLED)
    wanted = set(indices.tolist())

    def with_pyav():
        frames = []
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            for number, frame in enumerate(container.decode(video=0)):
                if number in wanted:
                    frames.append(frame.reformat(TILE, TILE, "rgb24", interpolation="BICUBIC").to_ndarray())
        return to_pixels(frames, mean, std)

    def with_opencv():
        import cv2

        frames, capture = [], cv2.VideoCapture(path)
        for number in range(NUM_FRAMES):
            capture.grab()
            if number in wanted:
                frame = cv2.resize(capture.retrieve()[1], (TILE, TILE), interpolation=cv2.INTER_AREA)
                frames.append(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB))
        return to_pixels(frames, mean, std)

    def with_decord():
        video = import_backend("decord").VideoReader(path, width=TILE, height=TILE)
        return to_pixels(video.get_batch(indices).asnumpy(), mean, std)

    found = {"pyav": with_pyav}
    if import_backend("decord") is not None:
        found["decord"] = with_decord
    try:
        import cv2  # noqa: F401
    except ImportError:
        return found
    return {**found, "opencv": with_opencv}


def grey_levels(ours: torch.Tensor, theirs: torch.Tensor, std) -> torch.Tensor:
    """Normalised pixels `float[n, 3, H, W]` twice -> their distances in levels of 0 to 255."""
    return (ours - theirs).abs() * torch.tensor(std).view(3, 1, 1) * 255


def resident_peak(path: str, frames: int, encode: bool) -> float:
    """
    The most megabytes that are resident, read after each chunk, while `frames` of a video are streamed.

    Pixels are let go of; where the model in this repository encodes them, at its frame size, its features are kept.
    """
    process, peak, features = psutil.Process(), 0.0, []
    if encode:
        processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True).video_processor
        model = AutoModelForImageTextToText.from_pretrained(ROOT, trust_remote_code=True).eval()
    else:
        processor = PVCVideoProcessor()
    chunks = processor.stream(path, num_frames=frames, video_backend="pyav")
    for chunk in model.encode_video(chunks) if encode else chunks:
        peak = max(peak, process.memory_info().rss / 1e6)
        if encode:
            features.append(chunk)
    return peak


def memory_of_frame(path: str, encode: bool) -> float:
    """Megabytes that a streamed frame adds, between two processes in which nothing freed before hides it."""
    peaks = []
    for frames in NUM_STREAMED:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            peaks.append(fresh.submit(resident_peak, path, frames, encode).result())
    few, many = NUM_STREAMED
    return (peaks[1] - peaks[0]) / (many - few)


def main():
    args = parser(__doc__).parse_args()
    prepare(args)
    figures, images = {}, photographs()
    ours = PVCImageProcessor(max_tiles=MAX_TILES)
    mean, std = ours.image_mean, ours.image_std
    settings = {"min_patches": 1, "max_patches": MAX_TILES, "image_mean": mean, "image_std": std}
    native = GotOcr2ImageProcessor(size={"height": TILE, "width": TILE}, crop_to_patches=True, **settings)
    peers = {
        "pvc": lambda: ours(images, return_tensors="pt")["pixel_values"],
        "internvl": lambda: native(images, return_tensors="pt")["pixel_values"],
        "pil": lambda: published(images, mean, std),
    }
    for name in ("internvl", "pil"):
        figures[f"images: grey levels between ours and {name}"] = {
            "ratio": float(grey_levels(peers["pvc"](), peers[name](), std).max()),
            "goal": f"at most {GREY_LEVELS}",
        }
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        seconds = alternate(peers, 3 * args.repeats)
        for name in ("internvl", "pil"):
            label = f"images per second, PVC / {name}, threads: {threads}"
            figures[label] = {**ratio(seconds, name, "pvc"), "goal": "at least 2"}
    torch.set_num_threads(args.threads)

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "video.mp4"
        write_video(path)
        processor = PVCVideoProcessor(num_frames=NUM_SAMPLED, video_backend="pyav")
        peers = {"pvc": lambda: processor(path)["pixel_values_videos"], **readers(str(path), mean, std)}
        seconds = alternate(peers, 2 * args.repeats)
        for name in list(peers)[1:]:
            figures[f"video: time of 64 frames of 900, PVC / {name}"] = {
                **ratio(seconds, "pvc", name),
                "goal": "at most 1",
            }
        ours_of_video = peers["pvc"]()
        for name in list(peers)[1:]:
            mean_difference = grey_levels(ours_of_video, peers[name](), std).mean()
            figures[f"video: mean grey levels between ours and {name}"] = {"ratio": float(mean_difference)}
        label = "video: MB of memory that a streamed frame adds"
        figures[label] = {"ratio": memory_of_frame(str(path), encode=False), "goal": "at most 0.7"}
        figures[f"{label}, at 64x64 with features kept"] = {"ratio": memory_of_frame(str(path), encode=True)}
    sizes = " ".join(f"{width}x{height}" for width, height in SIZES)
    report(
        "preprocessing",
        args,
        {"images": sizes, "tiles": len(ours(images)["pixel_values"]), "video": "1280x720 H.264"},
        figures,
    )


if __name__ == "__main__":
    main()
