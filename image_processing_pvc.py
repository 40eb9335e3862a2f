# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""Images to tiles: the dynamic tiling of InternVL, which PVC inherits.

A photograph is resized to the grid of square tiles whose aspect ratio is nearest to its own, cut row by row, and
followed by a thumbnail of the whole. The rule is OpenGVLab's published `dynamic_preprocess`; pixel values stay
within two grey levels of its PIL bicubic resize (rows before columns, the only order of Pillow before release 13).
"""

import base64
import binascii
import io
import os
import urllib.request
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from transformers.image_processing_backends import TorchvisionBackend
from transformers.image_processing_utils import BatchFeature
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, PILImageResampling, SizeDict
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import TensorType


ALPHA_MODES = ("RGBA", "LA", "PA", "La", "RGBa")


class PVCImageProcessorKwargs(ImagesKwargs, total=False):
    r"""
    min_tiles (`int`, *optional*, defaults to `self.min_tiles`):
        Smallest number of tiles a grid may have.
    max_tiles (`int`, *optional*, defaults to `self.max_tiles`):
        Largest number of tiles a grid may have, the thumbnail not counted.
    use_thumbnail (`bool`, *optional*, defaults to `self.use_thumbnail`):
        Whether a grid of several tiles is followed by a thumbnail of the whole image.
    """

    min_tiles: int
    max_tiles: int
    use_thumbnail: bool


def read_source(source):
    """Turn a URL, a `data:` URL, bytes, a file object or a path into something a decoder opens: a path or a `BytesIO`.

    Raises:
        ValueError: a path that does not exist, a `data:` URL that is not base64, or a URL that cannot be read.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return io.BytesIO(bytes(source))
    if hasattr(source, "read"):
        if hasattr(source, "seekable") and source.seekable():
            source.seek(0)
            return source
        return io.BytesIO(source.read())
    text = os.fspath(source)
    if text.startswith("data:"):
        header, _, payload = text.partition(",")
        try:
            return io.BytesIO(base64.b64decode(payload, validate=True))
        except binascii.Error as error:
            raise ValueError(f"expected base64 data after `{header},`, received data that is not: {error}") from error
    if text.startswith(("http://", "https://")):
        return _download(text)
    if os.path.isfile(text):
        return text
    if os.path.isdir(text):
        raise ValueError(f"expected a file, received the folder {text[:200]!r}; name a file in it")
    raise ValueError(f"expected an existing file, a URL or a `data:` URL, received {text[:200]!r}; check the path")


def _download(url: str) -> io.BytesIO:
    request = urllib.request.Request(url, headers={"User-Agent": "pvc"})
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return io.BytesIO(response.read())
    except (OSError, ValueError) as error:
        raise ValueError(f"expected a readable URL, received {url!r}: {error}; download the file first") from error


def open_image(source) -> Image.Image:
    """Open an image file, URL, `data:` URL, base64 string, bytes or file object as an upright RGB image.

    Raises:
        ValueError: the source does not exist, is not an image, is truncated or is too large to be safe.
    """
    decoded = None
    if isinstance(source, str) and not source.startswith(("http://", "https://", "data:")):
        decoded = None if os.path.isfile(source) else _decode_base64(source)
    opened = read_source(source if decoded is None else decoded)
    try:
        with Image.open(opened) as image:
            return to_rgb(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"expected an image, received a file that is not one: {_short_name(source)}") from error
    except (OSError, SyntaxError, TypeError, Image.DecompressionBombError) as error:  # Pillow's, for damaged files
        raise ValueError(f"expected a readable image, received {_short_name(source)}: {error}") from error


def _decode_base64(text: str) -> bytes | None:
    try:
        data = base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if len(data) > 32 else None


def _short_name(source) -> str:
    return repr(source)[:100]


def to_rgb(image: Image.Image) -> Image.Image:
    """Upright 8-bit RGB of the first frame; alpha is composited on white, 16-bit greys keep their high byte.

    Mode "I" holds 16-bit PNG files as well as arrays of 8-bit values; values above 255 tell the first from the second.

    Raises:
        ValueError: a mode with no defined way to RGB, such as 32-bit floats.
    """
    if getattr(image, "n_frames", 1) > 1:
        image.seek(0)
    # A file is read here, while it is open; turning copies, so it is left out where nothing turns.
    image.load()
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        image = ImageOps.exif_transpose(image)
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):
        return _sixteen_bit_to_rgb(image)
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        image = image.convert("RGBA")
        canvas = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(canvas, image).convert("RGB")
    if image.mode == "F":
        raise ValueError("expected an 8-bit or 16-bit image, received mode 'F' (floats); scale it to 0..255 first")
    return image.convert("RGB")


def _sixteen_bit_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise ValueError(f"expected 16-bit grey values in 0..65535, received {lowest}..{highest}; rescale the image")
    shift = 0 if image.mode == "I" and highest <= 255 else 8
    return Image.fromarray((values.astype(np.uint16) >> shift).astype(np.uint8)).convert("RGB")


@lru_cache(maxsize=32)
def candidate_grids(min_tiles: int, max_tiles: int) -> tuple[tuple[int, int], ...]:
    """All (columns, rows) whose product is in `min_tiles..max_tiles`, ordered by that product as published."""
    grids = {
        (columns, rows)
        for columns in range(1, max_tiles + 1)
        for rows in range(1, max_tiles // columns + 1)
        if columns * rows >= min_tiles
    }
    return tuple(sorted(sorted(grids), key=lambda grid: grid[0] * grid[1]))


@lru_cache(maxsize=1024)
def tile_grid(height: int, width: int, tile: tuple[int, int], min_tiles: int, max_tiles: int) -> tuple[int, int]:
    """(columns, rows) nearest to `width / height`; on an exact tie the later candidate if the image is large enough.

    Rule of OpenGVLab's `find_closest_aspect_ratio`: large enough means more than half of the candidate's pixels.

    Raises:
        ValueError: an image without pixels, or limits that no grid satisfies.
    """
    if height < 1 or width < 1:
        raise ValueError(f"expected an image with pixels, received height {height} and width {width}")
    if not 1 <= min_tiles <= max_tiles:
        raise ValueError(
            f"expected 1 <= min_tiles <= max_tiles, received min_tiles={min_tiles}, max_tiles={max_tiles}"
        )
    aspect_ratio, area = width / height, width * height
    best, best_difference = (1, 1), float("inf")
    for columns, rows in candidate_grids(min_tiles, max_tiles):
        difference = abs(aspect_ratio - columns / rows)
        if difference < best_difference:
            best, best_difference = (columns, rows), difference
        elif difference == best_difference and area > 0.5 * tile[0] * tile[1] * columns * rows:
            best = (columns, rows)
    return best


class PVCImageProcessor(TorchvisionBackend):  # trf-ignore: TRF057 (its docstring is written out, with an example)
    r"""
    Tiles images and normalises them.

    One example at 448-pixel tiles and `max_tiles=12`: an 800x600 photograph has aspect ratio 4/3, so it is resized to
    4 x 3 tiles (1792x1344 pixels), cut row by row into 12 tiles and followed by a 448x448 thumbnail: 13 tiles.
    `pixel_values` is `float[13, 3, 448, 448]` and `image_grid_thw` is `[[13, 1, 1]]`.

    Args:
        size (`dict`): `{"height": ..., "width": ...}` of one tile in pixels.
        min_tiles (`int`, *optional*, defaults to 1): smallest grid.
        max_tiles (`int`, *optional*, defaults to 12): largest grid, the thumbnail not counted.
        use_thumbnail (`bool`, *optional*, defaults to `True`): a thumbnail follows a grid of several tiles.

    With `do_resize=False` an image must have the size of one tile and becomes that tile.
    """

    valid_kwargs = PVCImageProcessorKwargs
    model_input_names: ClassVar[list[str]] = ["pixel_values", "image_grid_thw"]
    resample = PILImageResampling.BICUBIC
    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size: ClassVar[dict[str, int]] = {"height": 448, "width": 448}
    do_resize = True
    do_rescale = True
    do_normalize = True
    do_convert_rgb = True
    min_tiles = 1
    max_tiles = 12
    use_thumbnail = True

    def __init__(self, **kwargs: Unpack[PVCImageProcessorKwargs]):
        super().__init__(**kwargs)

    def fetch_images(self, image_url_or_urls):
        """Open paths, URLs, bytes and file objects; images, arrays and tensors pass through; lists keep their form."""
        if isinstance(image_url_or_urls, (list, tuple)):
            return [self.fetch_images(image) for image in image_url_or_urls]
        if isinstance(image_url_or_urls, (Image.Image, np.ndarray, torch.Tensor)):
            return image_url_or_urls[None] if getattr(image_url_or_urls, "ndim", 3) == 2 else image_url_or_urls
        if isinstance(image_url_or_urls, (str, Path, bytes)) or hasattr(image_url_or_urls, "read"):
            return open_image(image_url_or_urls)
        received = type(image_url_or_urls).__name__
        raise ValueError(f"expected an image, a path, a URL, bytes, an array or a tensor, received {received}")

    def process_image(
        self, image, do_convert_rgb=None, do_rescale=None, input_data_format=None, device=None, **kwargs
    ):
        """One image of any accepted kind -> uint8[3, height, width], or float where `do_rescale` is off."""
        if isinstance(image, Image.Image):
            image = np.array(to_rgb(image) if do_convert_rgb else image)
            input_data_format = "channels_last"
        image = channels_first(image, input_data_format)
        image = to_grey_levels(image, do_rescale)
        if do_convert_rgb:
            image = array_to_rgb(image)
        if image.shape[0] != 3:
            raise ValueError(f"expected 3 channels, received {image.shape[0]}; pass `do_convert_rgb=True`")
        return image if device is None else image.to(device)

    def _preprocess(
        self,
        images: list[torch.Tensor],
        do_resize: bool,
        size: SizeDict,
        resample,
        do_rescale: bool,
        rescale_factor: float,
        do_normalize: bool,
        image_mean,
        image_std,
        min_tiles: int,
        max_tiles: int,
        use_thumbnail: bool,
        return_tensors: str | TensorType | None = None,
        do_center_crop: bool | None = None,
        do_pad: bool | None = None,
        **kwargs,
    ) -> BatchFeature:
        if do_center_crop or do_pad:
            raise ValueError(
                f"expected images that tiling covers whole, received do_center_crop={do_center_crop}, "
                f"do_pad={do_pad}; crop or pad before calling the image processor"
            )
        check_size(size)
        if do_resize:
            tile = (size.height, size.width)
            grids = [tile_grid(*image.shape[-2:], tile, min_tiles, max_tiles) for image in images]
        else:
            check_single_tiles(images, size)
            grids = [(1, 1)] * len(images)
        counts = [columns * rows + (use_thumbnail and columns * rows > 1) for columns, rows in grids]
        device = images[0].device if images else None
        pixels = allocate(sum(counts), size.height, size.width, 3, device=device)
        for image, grid, tiles in zip(images, grids, pixels.split(counts)):
            self._cut(image, grid, tiles, size, resample)
        pixels = normalise(pixels, do_rescale, rescale_factor, do_normalize, image_mean, image_std)
        grid = torch.tensor([[count, 1, 1] for count in counts], dtype=torch.int64).reshape(-1, 3)
        return BatchFeature({"pixel_values": pixels, "image_grid_thw": grid}, tensor_type=return_tensors)

    def _cut(self, image: torch.Tensor, grid: tuple[int, int], tiles: torch.Tensor, size: SizeDict, resample) -> None:
        """uint8[3, H, W] into float[tiles, size.height, size.width, 3], row by row, the thumbnail last."""
        columns, rows = grid
        whole = resize_last(self.resize, image, rows * size.height, columns * size.width, resample)
        whole = whole.unflatten(1, (columns, size.width)).unflatten(0, (rows, size.height))
        tiles[: rows * columns].unflatten(0, (rows, columns)).copy_(whole.transpose(1, 2))
        if len(tiles) > rows * columns:
            tiles[-1] = resize_last(self.resize, image, size.height, size.width, resample)

    def get_number_of_image_patches(self, height: int, width: int, images_kwargs: dict | None = None) -> int:
        """
        Number of tiles of an image, the thumbnail included.

        Args:
            height (`int`): height of the image in pixels.
            width (`int`): width of the image in pixels.
            images_kwargs (`dict`, *optional*): settings that differ from this processor's.
        """
        settings = {key: value for key, value in (images_kwargs or {}).items() if value is not None}
        if not settings.get("do_resize", self.do_resize):
            return 1
        size = self._standardize_kwargs(size=settings.get("size", self.size))["size"]
        min_tiles = settings.get("min_tiles", self.min_tiles)
        max_tiles = settings.get("max_tiles", self.max_tiles)
        columns, rows = tile_grid(height, width, (size.height, size.width), min_tiles, max_tiles)
        tiles = columns * rows
        return tiles + 1 if tiles > 1 and settings.get("use_thumbnail", self.use_thumbnail) else tiles


def array_to_tensor(array: np.ndarray) -> torch.Tensor:
    """The same numbers, in the same memory where torch can write to it.

    Raises:
        ValueError: objects, text, long doubles or bytes in the order of another machine.
    """
    try:
        return torch.from_numpy(np.require(array, requirements=("C", "W")))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"expected numbers of a type that torch has, received an array of dtype {array.dtype}; "
            "convert it with `.astype(np.uint8)`"
        ) from error


def channels_first(image: np.ndarray | torch.Tensor, input_data_format=None) -> torch.Tensor:
    """[H, W], [H, W, C] or [C, H, W] -> [C, H, W]; a last axis of 1, 3 or 4 is the channels unless said otherwise.

    Raises:
        ValueError: no real numbers, no pixels, another number of axes, or no axis that could hold channels.
    """
    if isinstance(image, np.ndarray):
        image = array_to_tensor(image)
    if image.is_complex():
        raise ValueError(f"expected an image of real numbers, received {image.dtype}; pass its real part")
    if image.numel() == 0:
        raise ValueError(f"expected an image with pixels, received shape {tuple(image.shape)}; leave it out")
    if image.ndim == 2:
        return image[None]
    if image.ndim != 3:
        raise ValueError(f"expected an image of 2 or 3 axes, received shape {tuple(image.shape)}")
    if input_data_format is not None:
        last = getattr(input_data_format, "value", input_data_format) == "channels_last"
    elif image.shape[0] in (1, 3, 4) and image.shape[2] not in (3, 4):
        last = False
    elif image.shape[2] in (1, 3, 4):
        last = image.shape[2] == 3 or image.shape[0] != 3
    else:
        raise ValueError(f"expected 1, 3 or 4 channels first or last, received shape {tuple(image.shape)}")
    return image.permute(2, 0, 1) if last else image


def to_grey_levels(image: torch.Tensor, do_rescale: bool | None) -> torch.Tensor:
    """Any dtype -> uint8; floats stay floats where `do_rescale` is off.

    Raises:
        ValueError: values outside 0..255, or floats in 0..1 that would be rescaled a second time.
    """
    if image.dtype == torch.uint8:
        return image
    if image.dtype == torch.bool:
        return image.to(torch.uint8) * 255
    if image.dtype == torch.uint16:
        return (image.to(torch.int32) >> 8).to(torch.uint8)
    if image.is_floating_point() and not do_rescale:
        return image.float()
    if not image.is_floating_point():
        image = image.to(torch.int64)  # torch finds no least of unsigned numbers
    lowest, highest = image.min().item(), image.max().item()
    if not (lowest >= 0 and highest <= 255):
        raise ValueError(f"expected pixel values in 0..255, received {lowest}..{highest}; rescale the image first")
    if image.is_floating_point() and 0 < highest <= 1:
        raise ValueError(f"expected floats in 0..255, received at most {highest}; pass `do_rescale=False` for 0..1")
    return image.round().to(torch.uint8) if image.is_floating_point() else image.to(torch.uint8)


def array_to_rgb(image: torch.Tensor) -> torch.Tensor:
    """[1 or 3 or 4, H, W] -> [3, H, W]; the alpha of an array is composited on white."""
    if image.shape[0] == 1:
        return image.expand(3, -1, -1)
    if image.shape[0] == 4:
        white = 255.0 if image.dtype == torch.uint8 else 1.0
        alpha = image[3:].float() / white
        rgb = image[:3].float() * alpha + white * (1 - alpha)
        return rgb.round().to(torch.uint8) if image.dtype == torch.uint8 else rgb
    return image


def check_size(size: SizeDict) -> None:
    if not (size.height and size.width):
        raise ValueError(f"expected size with height and width, received {dict(size)}")


def check_single_tiles(images: list[torch.Tensor], size: SizeDict) -> None:
    for image in images:
        if tuple(image.shape[-2:]) != (size.height, size.width):
            raise ValueError(
                f"expected images of {size.height}x{size.width} with do_resize=False, received "
                f"{image.shape[-2]}x{image.shape[-1]}; pass `do_resize=True`"
            )


def resize_last(resize: Callable, image: torch.Tensor, height: int, width: int, resample) -> torch.Tensor:
    """
    `uint8[3, H, W] -> uint8[height, width, 3]`, by a processor's `resize`, unless it has that size already.

    Channels go last: decoders deliver them so, and torch resizes such bytes in half the time.
    """
    image = image.permute(1, 2, 0).contiguous()
    if image.shape[:2] == (height, width):
        return image
    size = SizeDict(height=height, width=width)
    return resize(image[None].permute(0, 3, 1, 2), size, resample=resample)[0].permute(1, 2, 0)


def allocate(*shape: int, device=None) -> torch.Tensor:
    """
    `float32[shape]`, not written yet.

    On the host in memory that numpy allocates: it asks Linux for huge pages, and filling them takes 0.4 of the time.
    """
    if device is None or torch.device(device).type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))
    return torch.empty(shape, device=device)


def normalise(
    pixels: torch.Tensor, do_rescale: bool, rescale_factor: float, do_normalize: bool, image_mean, image_std
) -> torch.Tensor:
    """
    `float32[N, H, W, 3] -> float32[N, 3, H, W]`, written over: (x * rescale_factor - mean) / std in one pass.

    Channels stay last in memory, where decoding and resizing put them and a patch embedding wants them.
    """
    scale = torch.full((3,), rescale_factor if do_rescale else 1.0, device=pixels.device)
    shift = torch.zeros(3, device=pixels.device)
    if do_normalize:
        mean, std = (torch.tensor(x, device=pixels.device).expand(3) for x in (image_mean, image_std))
        scale, shift = scale / std, -mean / std
    # A row of pixels at a time, as three numbers are too few for a vector unit.
    rows, width = pixels.flatten(2), pixels.shape[2]
    torch.addcmul(shift.repeat(width), rows, scale.repeat(width), out=rows)
    return pixels.permute(0, 3, 1, 2)


PVCImageProcessor.register_for_auto_class("AutoImageProcessor")

__all__ = ["PVCImageProcessor"]
