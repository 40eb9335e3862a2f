# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Tiling against the published rule worked by hand, pixels against PIL's bicubic, and every kind of image."""

import base64
import io
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest
import torch
from PIL import Image
from pvc.image_processing_pvc import PVCImageProcessor, open_image, read_source, tile_grid


TILE = (448, 448)


def photo(width, height, mode="RGB"):
    values = np.random.default_rng(width + height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bicubic(image, size):
    """PIL's bicubic, along rows and then columns: the only order before Pillow 13, which may take the other."""
    return image.resize((size[0], image.height), Image.BICUBIC).resize(size, Image.BICUBIC)


def bicubic_tiles(image, columns, rows, size):
    """The published pre-processing, written with PIL only."""
    resized = bicubic(image, (columns * size, rows * size))
    boxes = [(size * c, size * r, size * (c + 1), size * (r + 1)) for r in range(rows) for c in range(columns)]
    tiles = [np.asarray(resized.crop(box)) for box in boxes]
    if len(tiles) > 1:
        tiles.append(np.asarray(bicubic(image, (size, size))))
    return np.stack(tiles).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def processor():
    return PVCImageProcessor(size={"height": 64, "width": 64}, max_tiles=4)


@pytest.mark.parametrize(
    ("width", "height", "grid"),
    [
        (800, 600, (4, 3)),  # 4/3, met exactly only by 4x3
        (448, 448, (1, 1)),  # ratio 1 ties 1x1, 2x2, 3x3; 200704 > 0.5 * 200704 * 4 is false
        (640, 640, (2, 2)),  # 409600 > 401408 takes 2x2; 409600 > 903168 is false
        (1000, 1000, (3, 3)),  # 1000000 > 903168 takes 3x3
        (800, 400, (2, 1)),  # ratio 2 ties 2x1 and 4x2; 320000 > 802816 is false
        (1600, 800, (4, 2)),  # 1280000 > 802816 takes 4x2
        (5000, 1, (12, 1)),
        (1, 3000, (1, 12)),
        (1000, 700, (3, 2)),  # 1.4286: 1.5 is 0.0714 away, 4/3 is 0.0952 away
    ],
)
def test_grid_by_hand(width, height, grid):
    assert tile_grid(height, width, TILE, 1, 12) == grid


def test_native_rule_agrees():
    native = pytest.importorskip("transformers.models.got_ocr2.image_processing_got_ocr2")
    rng = np.random.default_rng(0)
    for width, height in rng.integers(1, 3000, (300, 2)).tolist():
        for limits in ((1, 12), (1, 6), (2, 4)):
            assert tile_grid(height, width, TILE, *limits) == native.get_optimal_tiled_canvas(
                (height, width), TILE, *limits
            )


@pytest.mark.parametrize("size", [(800, 600), (300, 900), (64, 64), (1733, 1211)])
def test_pixels_match_pil(size):
    processor, image = PVCImageProcessor(), photo(*size)
    columns, rows = tile_grid(size[1], size[0], TILE, 1, 12)
    reference = bicubic_tiles(image, columns, rows, 448)
    outputs = processor(image, return_tensors="pt")
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (processor.image_mean, processor.image_std))
    levels = ((outputs["pixel_values"] * std + mean) * 255).round().numpy()
    difference = np.abs(levels - reference)
    assert outputs["image_grid_thw"].tolist() == [[len(reference), 1, 1]]
    assert difference.max() <= 2
    assert difference.mean() < 0.05


def test_worked_example_and_patch_count():
    processor = PVCImageProcessor()
    outputs = processor(photo(800, 600), return_tensors="pt")
    assert outputs["pixel_values"].shape == (13, 3, 448, 448)
    assert processor.get_number_of_image_patches(600, 800) == 13
    assert processor.get_number_of_image_patches(600, 800, {"use_thumbnail": False}) == 12
    assert processor.get_number_of_image_patches(600, 800, {"max_tiles": 1}) == 1
    assert processor.get_number_of_image_patches(600, 800, {"do_resize": False}) == 1
    assert processor.get_number_of_image_patches(600, 800, {"size": {"height": 64, "width": 64}}) == 13


def test_batch_equals_single(processor):
    images = [photo(64, 64), photo(300, 100), photo(100, 250)]
    together = processor(images, return_tensors="pt")
    alone = [processor(image, return_tensors="pt")["pixel_values"] for image in images]
    assert torch.equal(together["pixel_values"], torch.cat(alone))
    assert together["image_grid_thw"][:, 0].tolist() == [len(rows) for rows in alone]
    assert processor([], return_tensors="pt")["pixel_values"].shape == (0, 3, 64, 64)


def test_every_flag(processor):
    image = photo(64, 64)
    values = np.asarray(image).transpose(2, 0, 1)
    raw = processor(image, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert raw.dtype == torch.float32
    assert np.array_equal(raw[0].numpy(), values)
    scaled = processor(image, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.allclose(scaled, raw / 255)
    whole = processor(image, do_resize=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    assert torch.equal(whole, scaled)
    assert len(processor(photo(200, 100), use_thumbnail=False, return_tensors="pt")["pixel_values"]) == 2
    assert len(processor(photo(200, 100), max_tiles=1, return_tensors="pt")["pixel_values"]) == 1
    assert isinstance(processor(image, return_tensors="np")["pixel_values"], np.ndarray)


def test_same_picture_in_every_form(processor, tmp_path):
    image = photo(130, 90)
    path = tmp_path / "picture.png"
    image.save(path)
    array, data = np.asarray(image), path.read_bytes()
    text = base64.b64encode(data).decode()
    forms = [path, str(path), data, io.BytesIO(data), path.open("rb"), f"data:image/png;base64,{text}", text]
    forms += [array, array.transpose(2, 0, 1), torch.from_numpy(array.copy()), array.astype(np.int64)]
    forms += [array.astype(np.float32), array.astype(np.uint16) * 257, array.astype(np.uint32)]
    expected = processor(image, return_tensors="pt")["pixel_values"]
    for form in forms:
        assert torch.equal(processor(form, return_tensors="pt")["pixel_values"], expected), type(form)
    smooth = np.linspace(0, 255, 90 * 130 * 3).reshape(90, 130, 3)
    floats = processor(smooth.astype(np.float32) / 255, do_rescale=False, return_tensors="pt")["pixel_values"]
    levels = processor(smooth.astype(np.uint8), return_tensors="pt")["pixel_values"]
    assert (floats - levels).abs().max() < 0.05


def solid(mode, colour, **info):
    image = Image.new(mode, (64, 64), colour)
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (solid("RGBA", (255, 0, 0, 0)), (255, 255, 255)),
        (solid("RGBA", (255, 0, 0, 255)), (255, 0, 0)),
        (solid("LA", (0, 0)), (255, 255, 255)),
        (solid("L", 77), (77, 77, 77)),
        (solid("L", 77, transparency=77), (255, 255, 255)),
        (solid("1", 1), (255, 255, 255)),
        (solid("RGB", (9, 8, 7)).convert("P", palette=Image.ADAPTIVE), (9, 8, 7)),
        (solid("CMYK", (0, 255, 255, 0)), (255, 0, 0)),
        (solid("I;16", 0x8040), (0x80, 0x80, 0x80)),
        (solid("I", 0x4000), (0x40, 0x40, 0x40)),
        (solid("I", 200), (200, 200, 200)),
    ],
)
def test_modes(processor, image, rgb):
    values = processor(image, do_normalize=False, do_rescale=False, return_tensors="pt")["pixel_values"]
    assert values[0, :, 5, 5].tolist() == list(rgb)


def test_files_that_need_care(processor):
    two = Image.new("RGB", (64, 128), (255, 0, 0))
    two.paste((0, 0, 255), (0, 64, 64, 128))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise to view
    turned = open_image(encoded(two, exif=exif))
    assert turned.size == (128, 64)
    assert turned.getpixel((10, 10)) == (0, 0, 255)
    frames = [Image.new("RGB", (64, 64), colour) for colour in ("lime", "red")]
    animated = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert open_image(animated).getpixel((3, 3)) == (0, 255, 0)
    grey = np.full((64, 64), 0x8040, dtype=np.uint16)
    assert open_image(encoded(Image.fromarray(grey))).getpixel((0, 0)) == (0x80, 0x80, 0x80)
    rgba = np.zeros((64, 64, 4), dtype=np.uint8)
    assert processor(rgba, do_normalize=False, return_tensors="pt")["pixel_values"].min() == 1
    assert processor(rgba[..., 0] > 0, do_normalize=False, return_tensors="pt")["pixel_values"].max() == 0


class NoSeek:
    def __init__(self, data):
        self.data = data

    def read(self):
        return self.data


def test_read_source(tmp_path, monkeypatch):
    assert read_source(NoSeek(b"abc")).read() == b"abc"
    with pytest.raises(ValueError, match="existing file"):
        read_source(tmp_path / "missing.png")
    with pytest.raises(ValueError, match="base64"):
        read_source("data:image/png;base64,@@@")
    with pytest.raises(ValueError, match="readable URL"):
        read_source("http://127.0.0.1:9/a.png")


def test_url(processor, tmp_path):
    photo(70, 70).save(tmp_path / "a.png")
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    handler.log_message = lambda *args: None
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        image = open_image(f"http://127.0.0.1:{server.server_port}/a.png")
        server.shutdown()
    assert np.array_equal(np.asarray(image), np.asarray(photo(70, 70)))


@pytest.mark.parametrize(
    ("image", "settings", "message"),
    [
        (photo(65, 64), {"do_resize": False}, "64x64 with do_resize=False, received 64x65"),
        (photo(64, 64), {"do_center_crop": True, "crop_size": 32}, "do_center_crop=True"),
        (photo(64, 64), {"size": {"shortest_edge": 64}}, "height and width"),
        (photo(64, 64), {"min_tiles": 5}, "min_tiles=5, max_tiles=4"),
        (photo(64, 64, "L"), {"do_convert_rgb": False}, "expected 3 channels, received 1"),
        (solid("F", 0.5), {}, "mode 'F'"),
        (solid("I", 70000), {}, "70000..70000"),
        (np.full((8, 8, 3), 300), {}, "0..255, received 300..300"),
        (np.full((8, 8, 3), -1.0), {}, "received -1.0..-1.0"),
        (np.full((8, 8, 3), np.nan), {}, "received nan..nan"),
        (np.full((8, 8, 3), 0.5), {}, "do_rescale=False"),
        (np.zeros((8, 8, 7), np.uint8), {}, r"received shape \(8, 8, 7\)"),
        (np.zeros((0, 48, 3), np.uint8), {}, r"image with pixels, received shape \(0, 48, 3\)"),
        (np.zeros((48, 0, 3), np.float32), {}, r"image with pixels, received shape \(48, 0, 3\)"),
        (np.zeros((8, 8, 3), np.complex64), {}, "real numbers, received torch.complex64"),
        (np.zeros((8, 8, 3), object), {}, "received an array of dtype object"),
        (np.full((8, 8, 3), "grey"), {}, "received an array of dtype <U4"),
        (np.zeros((8, 8, 3), ">i4"), {}, "received an array of dtype >i4"),
        (b"not an image", {}, "file that is not one"),
        (encoded(photo(99, 99))[:500], {}, "readable image"),
        (17, {}, "received int"),
    ],
)
def test_refused(processor, image, settings, message):
    with pytest.raises(ValueError, match=message):
        processor(image, return_tensors="pt", **settings)


def test_refused_helpers(processor, monkeypatch):
    with pytest.raises(ValueError, match="height 0"):
        tile_grid(0, 5, TILE, 1, 12)
    with pytest.raises(ValueError, match="2 or 3 axes"):
        processor.process_image(np.zeros((2, 2, 2, 2), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="readable image"):
        open_image(encoded(photo(64, 64)))


def test_save_and_load(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    again = PVCImageProcessor.from_pretrained(tmp_path)
    assert again.to_dict() == processor.to_dict()
    image = photo(200, 100)
    first, second = (each(image, return_tensors="pt")["pixel_values"] for each in (processor, again))
    assert torch.equal(first, second)
    assert set(processor(image)) == set(processor.model_input_names)
