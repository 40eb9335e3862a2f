# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Seeded drawing of small scenes: fonts, colours, shapes, backgrounds, and H.264.

Design decisions:

- Every background is one scalar field in [0, 1] mapped onto the line between two colours, so contrast with text and
  objects is checked on those two colours instead of on pixels.
- Every object and every glyph has a name, a colour with a name, a rank (its place in the line, or in time) and a
  motion. A `Canvas` paints it and writes these four labels and its middle in the same call, so they cannot drift away.
- What the test split must not share with training (font families, textures) is stated here as one table per split.

Sizes are (width, height) in pixels, as in Pillow; arrays are indexed [row, column].
"""

import io
import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont


SPLITS = ("train", "test")
DIGITS = tuple("0123456789")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyz")
SHAPES = ("circle", "square", "triangle", "star", "cross", "diamond", "heart", "ring")

# Hue in degrees, saturation and value in [0, 1]. The gaps between the ranges keep every jittered colour inside its
# name.
COLOUR_RANGES = {
    "red": ((-6, 6), (0.82, 1.0), (0.75, 1.0)),
    "green": ((108, 140), (0.65, 1.0), (0.45, 0.8)),
    "blue": ((218, 234), (0.75, 1.0), (0.65, 1.0)),
    "yellow": ((52, 58), (0.8, 1.0), (0.92, 1.0)),
    "orange": ((25, 33), (0.9, 1.0), (0.96, 1.0)),
    "purple": ((274, 288), (0.65, 0.95), (0.45, 0.7)),
    "pink": ((325, 342), (0.32, 0.55), (0.96, 1.0)),
    "cyan": ((179, 187), (0.75, 1.0), (0.88, 1.0)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.1)),
    "brown": ((18, 27), (0.65, 0.85), (0.35, 0.5)),
    "grey": ((0, 360), (0.0, 0.04), (0.42, 0.6)),
}
COLOURS = tuple(COLOUR_RANGES)

WHAT_CLASSES = ("background", *DIGITS, *LETTERS, *SHAPES)
COLOUR_CLASSES = ("background", *COLOURS)
# Ranks start at 1; 0 is the background and what has none.
HIGHEST_RANK = 9
MOTION_CLASSES = ("none", "left", "right", "up", "down")
# A label that a causal encoder, or one that sees a tile alone, cannot know.
UNKNOWN = 255
FIRST_SHAPE = WHAT_CLASSES.index(SHAPES[0])  # all the classes from here on are shapes
WHAT_INDEX = {name: index for index, name in enumerate(WHAT_CLASSES)}
COLOUR_INDEX = {name: index for index, name in enumerate(COLOUR_CLASSES)}

# Faces per family as (folder of a package, pattern of the file stems, what goes into the pattern). Hairline weights,
# small capitals and old-style digits are left out: they cannot be read at 10 pixels.
_MATPLOTLIB = "matplotlib/mpl-data/fonts/ttf"
FAMILIES = {
    "Roboto": (
        "font_roboto/files",
        "Roboto-{}",
        "Regular Italic Medium MediumItalic Bold BoldItalic Black BlackItalic",
    ),
    "Source Sans Pro": ("font_source_sans_pro/files", "SourceSansPro-{}", "Regular It Semibold SemiboldIt Bold Black"),
    "Source Serif Pro": (
        "font_source_serif_pro/files",
        "SourceSerifPro-{}",
        "Regular It Semibold SemiboldIt Bold Black",
    ),
    "Manrope": ("font_manrope/files", "Manrope-{}", "Regular Medium SemiBold Bold ExtraBold"),
    "Fredoka One": ("font_fredoka_one/files", "FredokaOne-{}", "Regular"),
    "DejaVu Sans": (_MATPLOTLIB, "DejaVuSans{}", " -Oblique -Bold -BoldOblique"),
    "DejaVu Serif": (_MATPLOTLIB, "DejaVuSerif{}", " -Italic -Bold -BoldItalic"),
    "DejaVu Sans Mono": (_MATPLOTLIB, "DejaVuSansMono{}", " -Oblique -Bold -BoldOblique"),
    "Computer Modern": (_MATPLOTLIB, "cm{}10", "b r ss tt"),
    "Caladea": ("font_caladea/files", "Caladea-{}", "Regular Italic Bold BoldItalic"),
    "Hanken Grotesk": (
        "font_hanken_grotesk/files",
        "HankenGrotesk-{}",
        "Regular Italic Medium SemiBold Bold BoldItalic",
    ),
    "STIX": (_MATPLOTLIB, "STIXGeneral{}", " Italic Bol BolIta"),
}
TEST_FAMILIES = ("Caladea", "Hanken Grotesk", "STIX")
SPLIT_FAMILIES = {
    "train": tuple(family for family in FAMILIES if family not in TEST_FAMILIES),
    "test": TEST_FAMILIES,
}

GRADIENTS = ("linear", "radial")
TEXTURES = {
    "train": ("noise", "stripes", "checks", "blobs"),
    "test": ("grain", "stripes", "rings", "dots"),
}
STRIPE_DEGREES = {"train": (0, 75), "test": (100, 160)}

TILE_SIZE = 64
MAX_TILES = 4


@lru_cache(maxsize=4096)
def tile_grid(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the tiles an image is cut into, by InternVL's rule: nearest aspect ratio, at most 4 tiles.

    Of two equally near ratios the larger grid wins when the image fills over half of its pixels, so a 64x64 image is
    one tile and a 100x100 image is 2x2.
    """
    grids = [(c, r) for c in range(1, MAX_TILES + 1) for r in range(1, MAX_TILES + 1) if c * r <= MAX_TILES]
    best, best_difference = (1, 1), math.inf
    for columns, rows in sorted(grids, key=lambda grid: (grid[0] * grid[1], grid)):
        difference = abs(width / height - columns / rows)
        roomy = width * height > 0.5 * TILE_SIZE**2 * columns * rows
        if difference < best_difference or (difference == best_difference and roomy):
            best, best_difference = (columns, rows), difference
    return best


def tile_scale(size: tuple[int, int], grid: tuple[int, int]) -> tuple[float, float]:
    """Horizontal and vertical scale from an image of `size` to `grid` tiles."""
    return grid[0] * TILE_SIZE / size[0], grid[1] * TILE_SIZE / size[1]


def luminance(rgb: np.ndarray) -> np.ndarray:
    """float[..., 3] -> float[...], Rec. 601, in [0, 255]."""
    return rgb @ np.array([0.299, 0.587, 0.114])


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """float[..., 3], hue in degrees and the rest in [0, 1] -> float[..., 3] in [0, 255]."""
    hue, saturation, value = hsv[..., :1], hsv[..., 1:2], hsv[..., 2:]
    k = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    return 255 * value * (1 - saturation * np.clip(np.minimum(k, 4 - k), 0, 1))


def rgb_to_lab(rgb: np.ndarray) -> np.ndarray:
    """float[..., 3] sRGB in [0, 255] -> float[..., 3] CIELAB (D65)."""
    rgb = rgb / 255
    linear = np.where(rgb > 0.04045, ((rgb + 0.055) / 1.055) ** 2.4, rgb / 12.92)
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def jitter_colour(rng: np.random.Generator, name: str) -> np.ndarray:
    """A random float[3] in [0, 255] that a person calls `name`."""
    low, high = np.array(COLOUR_RANGES[name], dtype=float).T
    return hsv_to_rgb(rng.uniform(low, high))


def contrast_space(rgb: np.ndarray) -> np.ndarray:
    """CIELAB with the colour axes halved: a blue star on a navy sky differs much in CIELAB, but little to the eye."""
    return rgb_to_lab(rgb) * np.array([1.0, 0.5, 0.5])


def random_palette(rng: np.random.Generator, avoid: list[np.ndarray], softness: float) -> np.ndarray:
    """Two background colours, float[2, 3], well apart from every colour in `avoid` and near each other.

    `softness` bounds their own CIELAB distance; their luminance differs by at most 55, which leaves room for black
    or for white text. Where no candidate is far enough from many colours at once, the best one is taken.
    """
    number, far_enough = 80 if avoid else 1, 38
    hsv = rng.uniform((0, 0, 0.0), (360, 1, 1.0), (number, 2, 3))
    hsv[..., 1] = np.where(rng.random((number, 1)) < 0.7, 0.35, 0.9) * hsv[..., 1]
    pairs = hsv_to_rgb(hsv)
    difference = pairs[:, 1] - pairs[:, 0]
    distance = np.linalg.norm(np.diff(rgb_to_lab(pairs), axis=1)[:, 0], axis=-1)
    step = np.minimum(softness / (distance + 1e-6), 55 / (np.abs(luminance(difference)) + 1e-6))
    pairs[:, 1] = pairs[:, 0] + difference * np.minimum(step, 1)[:, None]
    if not avoid:
        return pairs[0]
    probes = contrast_space(np.stack([pairs[:, 0], pairs.mean(axis=1), pairs[:, 1]], axis=1))
    apart = np.linalg.norm(probes[:, :, None] - contrast_space(np.stack(avoid)), axis=-1).min(axis=(1, 2))
    return pairs[np.argmax(apart >= min(far_enough, apart.max()))]


def text_colour(rng: np.random.Generator, palette: np.ndarray) -> tuple[str, np.ndarray]:
    """A named colour whose luminance lies at least 75 above or below the whole palette."""
    low, high = np.sort(luminance(palette))
    for name in rng.permutation(COLOURS):
        rgb = jitter_colour(rng, str(name))
        if luminance(rgb) <= low - 75 or luminance(rgb) >= high + 75:
            return str(name), rgb
    name = "black" if low > 255 - high else "white"
    return name, np.full(3, 0.0 if name == "black" else 255.0)


def _smooth_noise(rng: np.random.Generator, size: tuple[int, int], cells: tuple[int, int]) -> np.ndarray:
    """Random values on a grid of `cells`, enlarged to float[height, width] in about [0, 1]."""
    small = Image.fromarray(rng.random((cells[1], cells[0]), dtype=np.float32))
    return np.asarray(small.resize(size, Image.Resampling.BICUBIC))


def _waves(rng: np.random.Generator, coordinate: np.ndarray, period: float) -> np.ndarray:
    """Soft or hard stripes along a coordinate."""
    wave = np.sin(2 * np.pi * coordinate / period + rng.uniform(0, 2 * np.pi))
    return 0.5 + 0.5 * (np.clip(4 * wave, -1, 1) if rng.random() < 0.5 else wave)


def _noise_field(rng: np.random.Generator, size: tuple[int, int], kind: str) -> np.ndarray:
    width, height = size
    if kind == "grain":  # stretched along one axis, like wood
        cells = (max(2, width // 3), 3) if rng.random() < 0.5 else (3, max(2, height // 3))
        return _smooth_noise(rng, size, cells)
    if kind == "blobs":
        coarse = _smooth_noise(rng, size, (int(rng.integers(3, 7)), int(rng.integers(3, 7))))
        return np.clip(6 * (coarse - 0.5) + 0.5, 0, 1)
    scales = rng.choice([4, 8, 16, 32], size=2, replace=False)
    return np.mean([_smooth_noise(rng, size, (int(cells), int(cells))) for cells in scales], axis=0)


def _wave_field(rng: np.random.Generator, size: tuple[int, int], kind: str, split: str) -> np.ndarray:
    width, height = size
    x, y = np.arange(width, dtype=np.float32)[None], np.arange(height, dtype=np.float32)[:, None]
    period = rng.uniform(0.1, 0.35) * min(width, height)
    angle = math.radians(rng.uniform(*STRIPE_DEGREES[split]))
    if kind == "rings":
        return _waves(rng, np.hypot(x - rng.uniform(0, width), y - rng.uniform(0, height)), period)
    along = _waves(rng, x * math.cos(angle) + y * math.sin(angle), period)
    if kind == "stripes":
        return along
    across = _waves(rng, y * math.cos(angle) - x * math.sin(angle), period)
    if kind == "checks":
        return along * across + (1 - along) * (1 - across)
    return np.clip(3 * along * across - 1.2, 0, 1)  # dots


def background_field(rng: np.random.Generator, size: tuple[int, int], kind: str, split: str) -> np.ndarray:
    """float[height, width] in [0, 1]: where each pixel lies between the two colours of a palette."""
    width, height = size
    if kind == "flat":
        return np.zeros((height, width), np.float32)
    if kind in GRADIENTS:
        x, y = np.linspace(-1, 1, width)[None], np.linspace(-1, 1, height)[:, None]
        if kind == "radial":
            field = np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1))
        else:
            angle = rng.uniform(0, 2 * np.pi)
            field = x * math.cos(angle) + y * math.sin(angle)
        return (field - field.min()) / np.ptp(field)
    if kind in ("noise", "blobs", "grain"):
        return np.clip(_noise_field(rng, size, kind), 0, 1)
    return _wave_field(rng, size, kind, split)


def fill_background(field: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """float[h, w] and float[2, 3] -> float[h, w, 3]."""
    palette = palette.astype(np.float32)
    return palette[0] + field[..., None].astype(np.float32) * (palette[1] - palette[0])


def _outline(kind: str) -> np.ndarray:
    """Corners of a shape inside the unit circle or square, float[corners, 2], y down."""
    if kind == "square":
        return np.array([(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)])
    if kind == "diamond":
        return np.array([(0, -1), (0.8, 0), (0, 1), (-0.8, 0)])
    if kind == "triangle":
        return np.array([(0, -0.95), (1, 0.85), (-1, 0.85)])
    if kind == "cross":
        inner = 0.34
        quarter = [(inner, -1), (inner, -inner), (1, -inner)]
        corners = [(x, y) for x, y in quarter] + [(x, -y) for x, y in reversed(quarter)]
        return np.array(corners + [(-x, -y) for x, y in corners])
    if kind == "star":
        angle = np.arange(10) * np.pi / 5
        radius = np.where(np.arange(10) % 2 == 0, 1.0, 0.42)
        return np.stack([radius * np.sin(angle), -radius * np.cos(angle)], axis=-1)
    if kind == "heart":
        t = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        y = -(13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)) / 16
        return np.stack([np.sin(t) ** 3, y - 0.15], axis=-1)
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)  # circle and ring
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


# Degrees either way that leave the shape itself: a square turned further would become a diamond.
MAX_TURN = {"circle": 0, "ring": 0, "square": 8, "diamond": 8, "cross": 10, "heart": 14, "triangle": 14, "star": 18}


@lru_cache(maxsize=8192)
def shape_mask(kind: str, size: int, turn: int) -> np.ndarray:
    """Coverage in [0, 1] of a shape about `size` pixels across and turned by `turn` degrees, cropped to its ink."""
    oversampling = 3
    side = (size + 4 + size // 4) * oversampling
    angle = math.radians(turn)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = _outline(kind) @ rotation.T
    image = Image.new("L", (side, side))
    pen = ImageDraw.Draw(image)
    radius = size * oversampling / 2
    pen.polygon([tuple(point) for point in corners * radius + side / 2], fill=255)
    if kind == "ring":
        pen.polygon([tuple(point) for point in corners * radius * 0.55 + side / 2], fill=0)
    image = image.reduce(oversampling)
    mask = np.asarray(image.crop(image.getbbox()), dtype=np.float32) / 255
    mask.flags.writeable = False
    return mask


@dataclass(frozen=True)
class Thing:
    """A coloured shape with its pixels."""

    kind: str
    colour: str
    rgb: np.ndarray
    mask: np.ndarray

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"

    @property
    def size(self) -> tuple[int, int]:
        return self.mask.shape[1], self.mask.shape[0]


def make_thing(rng: np.random.Generator, kind: str, colour: str, size: float) -> Thing:
    turn = MAX_TURN[kind]
    mask = shape_mask(kind, round(size), int(rng.integers(-turn, turn + 1)))
    return Thing(kind, colour, jitter_colour(rng, colour), mask)


@cache
def faces(family: str) -> tuple[str, ...]:
    """Paths of the faces of one family.

    Raises:
        FileNotFoundError: If the package that holds the family is not installed.
    """
    folder, pattern, variants = FAMILIES[family]
    package, _, inner = folder.partition("/")
    spec = find_spec(package)
    if spec is None:
        raise FileNotFoundError(
            f"The fonts of {family!r} come from the package {package!r}, which is not installed: "
            "`pip install -r requirements-training.txt`."
        )
    root = Path(spec.origin).parent / inner
    paths = []
    for variant in variants.split(" "):
        stem = pattern.format(variant)
        paths.append(next(str(path) for path in (root / f"{stem}.ttf", root / f"{stem}.otf") if path.exists()))
    return tuple(paths)


def random_face(rng: np.random.Generator, split: str) -> str:
    """A face of the split's families; each family is as likely as any other, however many faces it has."""
    families = SPLIT_FAMILIES[split]
    paths = faces(families[rng.integers(len(families))])
    return paths[rng.integers(len(paths))]


@lru_cache(maxsize=2048)
def _font(face: str, size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(face, size, layout_engine=ImageFont.Layout.BASIC)


@lru_cache(maxsize=16384)
def _glyph(face: str, size: int, character: str) -> tuple[Image.Image, int, int, float]:
    """The ink of one character, its left and top from the pen position on the base line, and its advance."""
    font = _font(face, size)
    left, top, right, bottom = font.getbbox(character, anchor="ls")
    image = Image.new("L", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), character, font=font, fill=255, anchor="ls")
    return image, left, top, font.getlength(character)


@lru_cache(maxsize=4096)
def ink_size(face: str, character: str) -> tuple[float, float]:
    """Ink width and height of a character in units of the font size."""
    left, top, right, bottom = _font(face, 100).getbbox(character, anchor="ls")
    return (right - left) / 100, (bottom - top) / 100


@dataclass(frozen=True)
class Line:
    """A line of text ready to be painted: per character its class, its coverage, and its left and top in the line."""

    glyphs: tuple[tuple[str, np.ndarray, int, int], ...]
    size: tuple[int, int]


def set_line(text: str, face: str, size: int, spacing: float = 0.0, degrees: float = 0.0, shear: float = 0.0) -> Line:
    """Lay out `text`; `spacing` is extra room between characters in units of the font size."""
    angle = math.radians(degrees)
    matrix = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    matrix = matrix @ np.array([[1.0, -shear], [0.0, 1.0]])
    inverse = np.linalg.inv(matrix)
    straight = degrees == 0 and shear == 0
    placed, pen = [], 0.0
    for character in text:
        image, left, top, advance = _glyph(face, size, character)
        corner = np.array([round(pen) + left, top], dtype=float)
        if straight:
            origin, mask = corner.astype(int), np.asarray(image)
        else:
            box = corner + np.array([(0, 0), (image.width, 0), (0, image.height), image.size])
            turned = box @ matrix.T
            origin = np.floor(turned.min(axis=0)).astype(int)
            extent = np.ceil(turned.max(axis=0)).astype(int) - origin
            shift = inverse @ origin - corner
            coefficients = (*inverse[0], shift[0], *inverse[1], shift[1])
            image = image.transform(tuple(extent), Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR)
            mask = np.asarray(image)
        placed.append((character.lower(), mask.astype(np.float32) / 255, origin))
        pen += advance + spacing * size
    low = np.min([origin for _, _, origin in placed], axis=0)
    high = np.max([origin + mask.shape[::-1] for _, mask, origin in placed], axis=0)
    glyphs = tuple((character, mask, *(int(v) for v in origin - low)) for character, mask, origin in placed)
    return Line(glyphs, (int(high[0] - low[0]), int(high[1] - low[1])))


def smallest_font(face: str, text: str, scale: tuple[float, float]) -> int:
    """Font size from which `text` can be read after an image is resized by `scale`.

    A capital or a digit must come out 9 pixels high, a small letter without ascender 7, and either 5 wide.
    """
    # Hinting can take most of a pixel off the nominal height of small sizes.
    probe, height = ("n", 7.7) if any(c.islower() for c in text) else ("0" if text.isdigit() else "H", 9.7)
    ink_width, ink_height = ink_size(face, probe)
    return math.ceil(max(height / (ink_height * scale[1]), 5 / (ink_width * scale[0]), 7))


def fit_line(
    rng: np.random.Generator,
    text: str,
    face: str,
    room: tuple[float, float],
    scale: tuple[float, float],
    large: bool = False,
    slanted: bool = True,
) -> Line | None:
    """A line of a random readable size, spacing and slant that fits into `room`, or None if the room is too small."""
    spacing = float(rng.uniform(0.02, 0.2)) if rng.random() < 0.7 else 0.03
    tilted = slanted and rng.random() < 0.7
    degrees, shear = rng.uniform((-8, -0.12), (8, 0.12)) if tilted else (0.0, 0.0)
    probe = set_line(text, face, 40, spacing, degrees, shear)
    largest = math.floor(40 * min(room[0] / probe.size[0], room[1] / probe.size[1], 4.5))
    smallest = smallest_font(face, text, scale)
    if largest < smallest:
        return None
    if large:
        smallest = max(smallest, round(0.6 * largest))
    size = round(math.exp(rng.uniform(math.log(smallest), math.log(largest))))
    # Rounding to pixels can exceed the proportional estimate by a pixel or two.
    for candidate in range(size, smallest - 1, -1):
        line = set_line(text, face, candidate, spacing, degrees, shear)
        if line.size[0] <= room[0] and line.size[1] <= room[1]:
            return line
    return None


class Middle(NamedTuple):
    """Where the middle of a character or a shape is, in shares of the canvas, and its labels."""

    x: float
    y: float
    what: int
    colour: int
    rank: int


class Canvas:
    """
    A picture in progress: float[h, w, 3] pixels in [0, 255], uint8[h, w, 4] labels (what, colour, rank, motion) and
    the middles of what was painted.
    """

    def __init__(self, pixels: np.ndarray):
        self.pixels = np.array(pixels, dtype=np.float32)
        self.labels = np.zeros((*pixels.shape[:2], 4), np.uint8)
        self.middles = []

    def copy(self) -> "Canvas":
        other = Canvas(self.pixels)
        other.labels, other.middles = self.labels.copy(), self.middles.copy()
        return other

    def _note_middle(self, box: tuple[int, int, int, int], what: str, colour: str, rank: int) -> None:
        height, width = self.labels.shape[:2]
        x, y = (box[0] + box[2]) / (2 * width), (box[1] + box[3]) / (2 * height)
        self.middles.append(Middle(x, y, WHAT_INDEX[what], COLOUR_INDEX[colour], rank))

    def _blend(self, mask: np.ndarray, x: int, y: int, rgb: np.ndarray) -> None:
        region = self.pixels[y : y + mask.shape[0], x : x + mask.shape[1]]
        region += mask[..., None] * (rgb.astype(np.float32) - region)

    def paint(self, thing: Thing, x: int, y: int, rank: int = 1, motion: int = 0) -> None:
        """Paint a shape with its top left corner at (x, y) and label its filled pixels."""
        self._blend(thing.mask, x, y, thing.rgb)
        region = self.labels[y : y + thing.mask.shape[0], x : x + thing.mask.shape[1]]
        region[thing.mask >= 0.5] = (WHAT_INDEX[thing.kind], COLOUR_INDEX[thing.colour], rank, motion)
        self._note_middle((x, y, x + thing.size[0], y + thing.size[1]), thing.kind, thing.colour, rank)

    def write(self, line: Line, x: int, y: int, colour: str, rgb: np.ndarray, first_rank: int = 1) -> None:
        """Write a line with its top left corner at (x, y) and label the ink bounding box of each character."""
        for rank, (character, mask, left, top) in enumerate(line.glyphs, start=first_rank):
            self._blend(mask, x + left, y + top, rgb)
            ink = mask > 0.25
            rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
            box = x + left + columns[0], y + top + rows[0], x + left + columns[-1] + 1, y + top + rows[-1] + 1
            self.labels[box[1] : box[3], box[0] : box[2]] = (WHAT_INDEX[character], COLOUR_INDEX[colour], rank, 0)
            self._note_middle(box, character, colour, rank)

    def finish(self, rng: np.random.Generator, noise: float, blur: float, jpeg: bool) -> Image.Image:
        """The final RGB image; `noise` is a standard deviation in [0, 255], `blur` a radius in pixels."""
        image = Image.fromarray(add_noise(rng, self.pixels, noise))
        if blur > 0:
            image = image.filter(ImageFilter.GaussianBlur(blur))
        if jpeg:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=int(rng.integers(40, 96)), subsampling=int(rng.choice([0, 2])))
            image = Image.open(buffer)
            image.load()
        return image


def add_noise(rng: np.random.Generator, pixels: np.ndarray, deviation: float) -> np.ndarray:
    """float[h, w, 3] -> uint8[h, w, 3]."""
    if deviation > 0:
        pixels = pixels + np.float32(deviation) * rng.standard_normal(pixels.shape, dtype=np.float32)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def encode_mp4(frames: list[np.ndarray], fps: float, path_or_buffer, crf: int = 23) -> None:
    """Write uint8[h, w, 3] frames of even size as H.264 (yuv420p) in an MP4 container.

    Raises:
        ValueError: If a side of the frames is odd, which yuv420p cannot hold.
    """
    height, width = frames[0].shape[:2]
    if height % 2 or width % 2:
        raise ValueError(f"H.264 needs an even height and width, but got {(height, width)}; crop or pad by one pixel.")
    with av.open(path_or_buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        # One thread: x264's output depends on the number of threads, and samples must not depend on the machine.
        stream.codec_context.thread_count = 1
        stream.options = {"crf": str(crf), "preset": "veryfast", "threads": "1"}
        for array in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(array), format="rgb24")))
        container.mux(stream.encode(None))


def through_h264(frames: list[np.ndarray], fps: float, crf: int) -> list[np.ndarray]:
    """Encode frames to MP4 in memory and decode them again; the number of frames stays."""
    buffer = io.BytesIO()
    encode_mp4(frames, fps, buffer, crf)
    buffer.seek(0)
    with av.open(buffer) as container:
        container.streams.video[0].codec_context.thread_count = 1
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
