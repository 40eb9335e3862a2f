# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""Seeded questions about drawn images and videos, for training and for testing.

`draw(task, seed, split, level)` is a pure function of its arguments. The test split shares with training neither font
families nor textures (see `scenes`), nor any string of two characters or more: a string belongs to the test split when
its SHA-256 falls into one bucket of five.

Levels are a curriculum from one large character on a flat 64x64 canvas (0) to the full distribution (`LAST_LEVEL`),
which is also the distribution of the tests.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image

from .scenes import (
    COLOUR_CLASSES,
    COLOURS,
    DIGITS,
    GRADIENTS,
    LETTERS,
    MOTION_CLASSES,
    SHAPES,
    SPLITS,
    TEXTURES,
    UNKNOWN,
    Canvas,
    Line,
    Middle,
    Thing,
    add_noise,
    background_field,
    fill_background,
    fit_line,
    jitter_colour,
    make_thing,
    random_face,
    random_palette,
    set_line,
    shape_mask,
    smallest_font,
    text_colour,
    tile_grid,
    tile_scale,
)


LAST_LEVEL = 4
MARGIN = 2


@dataclass(frozen=True)
class Sample:
    """One question with its answer. Image tasks fill `images`, video tasks fill `frames`; the other list is empty.

    `labels` holds uint8[h, w, 4] per image or frame: an index into `WHAT_CLASSES`, one into `COLOUR_CLASSES`, the rank
    (of a character in its line, of an object from left to right, of an event in time), from 1, and an index into
    `MOTION_CLASSES`, `UNKNOWN` in the first frame of what will move. They describe the picture before blur, noise and
    compression, which do not move anything. `middles` lists what each of them shows, by where its middle is. `turns`
    holds further questions about the same picture with their answers, which only samples of the training split have.
    """

    task: str
    question: str
    answer: str
    images: list[Image.Image] = field(default_factory=list)
    frames: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    middles: list[list[Middle]] = field(default_factory=list)
    fps: float = 0.0
    turns: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Level:
    """What a level allows. Ranges include both ends."""

    digits: tuple[int, int]
    letters: tuple[int, int]
    objects: int
    frames: tuple[int, int]
    parts: tuple[int, int]
    wide: float
    textures: bool
    noise: bool


LEVELS = (
    Level((1, 1), (1, 1), 2, (4, 6), (2, 2), 0.0, textures=False, noise=False),
    Level((1, 2), (1, 2), 4, (4, 8), (2, 2), 0.0, textures=False, noise=False),
    Level((1, 3), (1, 3), 6, (4, 12), (2, 3), 0.0, textures=True, noise=True),
    Level((1, 5), (2, 5), 6, (4, 16), (2, 5), 0.1, textures=True, noise=True),
    Level((1, 5), (3, 5), 6, (4, 32), (2, 5), 0.3, textures=True, noise=True),
)


@dataclass(frozen=True)
class Draw:
    """What every task draws from: the random generator, the split, and the level with its number."""

    rng: np.random.Generator
    split: str
    level: int
    wide: bool | None = None

    @property
    def limits(self) -> Level:
        limits = LEVELS[self.level]
        return limits if self.wide is None else replace(limits, wide=float(self.wide))

    def integer(self, low: int, high: int) -> int:
        """A random integer from `low` to `high`, both included."""
        return int(self.rng.integers(low, high + 1))

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def pick_several(self, options, number: int) -> list:
        return [options[index] for index in self.rng.permutation(len(options))[:number]]


def is_held_out(text: str) -> bool:
    """Whether a string is kept for the test split. Single characters belong to both splits."""
    return len(text) > 1 and int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 5 == 0


def may_show(split: str, text: str) -> bool:
    """Whether a split may show `text` as a part of something: training shows no string that is held out."""
    return split == "test" or not is_held_out(text)


@cache
def words(split: str) -> tuple[str, ...]:
    """English words of 3 to 5 letters that the split may show."""
    text = (Path(__file__).parent / "words.txt").read_text(encoding="utf-8")
    return tuple(word for word in text.split() if is_held_out(word) == (split == "test"))


@cache
def words_of_length(split: str, length: int) -> tuple[str, ...]:
    return tuple(word for word in words(split) if len(word) == length)


def random_string(d: Draw, alphabet: tuple[str, ...], length: int) -> str:
    """A random string of the split."""
    while True:
        text = "".join(d.pick(alphabet) for _ in range(length))
        if length == 1 or is_held_out(text) == (d.split == "test"):
            return text


def random_letters(d: Draw, length: int) -> str:
    """Random letters of the split; half of the time consonants and vowels take turns, so that it can be pronounced."""
    if length < 3 or d.chance(0.5):
        return random_string(d, LETTERS, length)
    vowels = tuple("aeiou")
    consonants = tuple(letter for letter in LETTERS if letter not in vowels)
    while True:
        kinds = [vowels, consonants] if d.chance(0.5) else [consonants, vowels]
        text = "".join(d.pick(kinds[place % 2]) for place in range(length))
        if is_held_out(text) == (d.split == "test"):
            return text


def letter_case(d: Draw, text: str) -> str:
    """`text` in small letters, capitals or a capital and small letters.

    A capital I looks like a small l in many faces, so a spelling in which one could be read as the other is not used.
    """
    forms = [text.lower(), text.upper()]
    if set(text) <= {"i", "l"}:
        return text.upper() if set(text) == {"l"} else text.lower()
    if not text.startswith("i") and not set(text[1:]) <= {"l"}:
        forms.append(text.title())
    return d.pick(forms)


def image_size(d: Draw) -> tuple[int, int]:
    """Width and height of an image: mostly one tile, in part of the samples larger or elongated."""
    if d.level == 0:
        return 64, 64
    if d.level < 3:
        return d.integer(56, 80), d.integer(56, 80)
    if not d.chance(d.limits.wide):
        width = d.integer(48, 90)
        return width, int(np.clip(round(width * d.rng.uniform(0.78, 1.28)), 48, 90))
    longest = math.exp(d.rng.uniform(math.log(96), math.log(320)))
    ratio = math.exp(d.rng.uniform(0, math.log(4))) if d.chance(0.7) else 1.0
    shortest = max(longest / ratio, 44)
    size = round(longest), round(shortest)
    return size if d.chance(0.5) else size[::-1]


def album_size(d: Draw) -> tuple[int, int]:
    """Width and height of one of several images: at most 3:2, since several images may be shown as one tile each."""
    while True:
        width, height = image_size(d)
        if max(width, height) <= 1.5 * min(width, height):
            return width, height


def video_size(d: Draw) -> tuple[int, int]:
    """Even width and height of a video."""
    if d.level == 0:
        return 64, 64
    low, high, stretch = (56, 80, 1.25) if d.level < 3 else (48, 128, 2.0)
    width = d.integer(low // 2, high // 2) * 2
    height = width * stretch ** d.rng.uniform(-1, 1)
    return width, round(min(max(height, low, width / 2), high, width * 2) / 2) * 2


def background(d: Draw, size: tuple[int, int], things: list[Thing] | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Background pixels float[h, w, 3] and their palette, which stands out from `things`."""
    kinds = ("flat",) if d.level == 0 else ("flat", *GRADIENTS)
    kind = d.pick(kinds)
    if d.limits.textures and d.chance(0.55):
        kind = d.pick(TEXTURES[d.split])
    # A texture behind objects stays fainter than one behind text, so that no blob or dot is taken for an object.
    softness = 60 if kind in GRADIENTS else 16 if things else 30
    palette = random_palette(d.rng, [thing.rgb for thing in things or []], softness)
    return fill_background(background_field(d.rng, size, kind, d.split), palette), palette


def finish(d: Draw, canvas: Canvas) -> Image.Image:
    """Blur, add noise and compress as the level allows."""
    if not d.limits.noise:
        return canvas.finish(d.rng, 0, 0, jpeg=False)
    noise = d.rng.uniform(1, 9) if d.chance(0.5) else 0
    # Blur grows with the tile scale, so that what is left after resizing to tiles stays equally sharp.
    size = canvas.labels.shape[1], canvas.labels.shape[0]
    scale = tile_scale(size, tile_grid(*size))
    blur = d.rng.uniform(0.3, 0.7) / max(1.0, *scale) if d.chance(0.3) else 0
    return canvas.finish(d.rng, noise, blur, jpeg=d.chance(0.5))


def finish_images(d: Draw, *canvases: Canvas) -> dict:
    """The fields of `Sample` that hold images."""
    return {
        "images": [finish(d, canvas) for canvas in canvases],
        "labels": [canvas.labels for canvas in canvases],
        "middles": [canvas.middles for canvas in canvases],
    }


def finish_frames(d: Draw, canvases: list[Canvas]) -> dict:
    """The fields of `Sample` that hold a video."""
    noise = d.rng.uniform(1, 7) if d.limits.noise and d.chance(0.5) else 0
    return {
        "frames": [add_noise(d.rng, canvas.pixels, noise) for canvas in canvases],
        "labels": [canvas.labels for canvas in canvases],
        "middles": [canvas.middles for canvas in canvases],
        "fps": float(d.integer(4, 10)),
    }


def object_sizes(d: Draw, size: tuple[int, int], grid: tuple[int, int], number: int) -> tuple[float, float]:
    """Smallest and largest side of an object: 14 pixels or more after resizing to tiles, with room for `number`."""
    smallest = max(14, 14 / min(tile_scale(size, grid)))
    room = min(min(size) * 0.8, math.sqrt(size[0] * size[1] / number) * (0.8 if number == 1 else 0.62))
    return smallest, max(room, smallest)


def random_side(d: Draw, sizes: tuple[float, float]) -> float:
    low, high = sizes
    if d.level == 0:
        low = max(low, 0.6 * high)
    return d.rng.uniform(low, high)


def random_corner(d: Draw, size: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    """Where the top left corner of something of size `inner` goes; near the middle at level 0."""
    corner = []
    for whole, part in zip(size, inner, strict=True):
        slack = max(whole - part - 2 * MARGIN, 0)
        share = d.rng.uniform(0.35, 0.65) if d.level == 0 else d.rng.random()
        corner.append(min(MARGIN, max(whole - part, 0)) + round(slack * share))
    return corner[0], corner[1]


def overlaps(a: tuple[int, int, int, int], b: tuple[int, int, int, int], gap: int = 2) -> bool:
    """Whether two boxes (left, top, right, bottom) come nearer than `gap`."""
    return a[0] < b[2] + gap and b[0] < a[2] + gap and a[1] < b[3] + gap and b[1] < a[3] + gap


def box_at(corner: tuple[int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    return corner[0], corner[1], corner[0] + size[0], corner[1] + size[1]


def scatter(
    d: Draw, size: tuple[int, int], names: list[tuple[str, str]], grid: tuple[int, int]
) -> list[tuple[Thing, tuple[int, int]]]:
    """Things of the given (shape, colour) with corners at which they do not overlap.

    Random places first; where these fail the smallest size on a grid of cells always fits.
    """
    sizes = object_sizes(d, size, grid, len(names))
    for attempt in range(3):
        low, high = sizes[0], sizes[0] + (sizes[1] - sizes[0]) * (1 - attempt / 3)
        placed, boxes = [], []
        for kind, colour in names:
            thing = make_thing(d.rng, kind, colour, random_side(d, (low, high)))
            for _ in range(12):
                corner = random_corner(d, size, thing.size) if len(names) == 1 else _any_corner(d, size, thing.size)
                box = box_at(corner, thing.size)
                if not any(overlaps(box, other) for other in boxes):
                    placed.append((thing, corner))
                    boxes.append(box)
                    break
        if len(placed) == len(names):
            return placed
    return _scatter_on_cells(d, size, names)


def _any_corner(d: Draw, size: tuple[int, int], inner: tuple[int, int]) -> tuple[int, int]:
    return tuple(d.integer(1, max(1, whole - part - 1)) for whole, part in zip(size, inner, strict=True))


def _scatter_on_cells(
    d: Draw, size: tuple[int, int], names: list[tuple[str, str]]
) -> list[tuple[Thing, tuple[int, int]]]:
    columns = min(range(1, len(names) + 1), key=lambda c: -min(size[0] / c, size[1] / math.ceil(len(names) / c)))
    rows = math.ceil(len(names) / columns)
    cell = size[0] // columns, size[1] // rows
    placed = []
    for (kind, colour), index in zip(names, d.rng.permutation(columns * rows), strict=False):
        # A turned shape is up to a fifth wider than its side.
        thing = make_thing(d.rng, kind, colour, (min(cell) - 4) / 1.2)
        inner = _any_corner(d, cell, thing.size)
        placed.append((thing, (int(index) % columns * cell[0] + inner[0], int(index) // columns * cell[1] + inner[1])))
    return placed


def left_to_right(placed: list[tuple[Thing, tuple[int, int]]]) -> list[tuple[Thing, tuple[int, int]]]:
    return sorted(placed, key=lambda item: item[1])


def paint_all(canvas: Canvas, placed: list[tuple[Thing, tuple[int, int]]]) -> None:
    """Ranks run from left to right."""
    for rank, (thing, corner) in enumerate(left_to_right(placed), start=1):
        canvas.paint(thing, *corner, rank)


def random_names(d: Draw, number: int) -> list[tuple[str, str]]:
    """Different (shape, colour) pairs."""
    chosen = d.rng.permutation(len(SHAPES) * len(COLOURS))[:number]
    return [(SHAPES[index % len(SHAPES)], COLOURS[index // len(SHAPES)]) for index in chosen]


def full_name(name: tuple[str, str]) -> str:
    return f"{name[1]} {name[0]}"


def write_text(d: Draw, text: str, single_tile: bool = False) -> Canvas:
    """A canvas with one readable line somewhere on it.

    Readable means after resizing to the tile grid; for six in ten of the images of several tiles, where the text has
    room to be that large, also in their one-tile thumbnail. A canvas that is too narrow for the text is drawn again.
    """
    while True:
        size = album_size(d) if single_tile else image_size(d)
        grid = (1, 1) if single_tile else tile_grid(*size)
        room = size[0] - 2 * MARGIN, size[1] - 2 * MARGIN
        scales = [tile_scale(size, grid)]
        if grid != (1, 1) and d.chance(0.6):
            scales.insert(0, tile_scale(size, (1, 1)))
        face = random_face(d.rng, d.split)
        for scale in scales:
            line = fit_line(d.rng, text, face, room, scale, large=d.level == 0, slanted=d.level > 0)
            if line is not None:
                pixels, palette = background(d, size)
                canvas = Canvas(pixels)
                canvas.write(line, *random_corner(d, size, line.size), *text_colour(d.rng, palette))
                return canvas


NUMBER_QUESTIONS = (
    "What number is written in the picture?",
    "Which number do you see?",
    "What is the number in the image?",
    "Read the number.",
)
WORD_QUESTIONS = (
    "What word is written in the picture?",
    "Which word do you see?",
    "What does the text say?",
    "Read the word.",
)


def number(d: Draw) -> Sample:
    text = random_string(d, DIGITS, d.integer(*d.limits.digits))
    canvas = write_text(d, text)
    return Sample("number", d.pick(NUMBER_QUESTIONS), text, **finish_images(d, canvas))


def random_word(d: Draw) -> str:
    """Half of the training strings are no words, so that letters have to be read instead of guessed."""
    length = d.integer(*d.limits.letters)
    is_word = length > 2 and (d.split == "test" or d.chance(0.5))
    return d.pick(words_of_length(d.split, length)) if is_word else random_letters(d, length)


def word(d: Draw) -> Sample:
    text = random_word(d)
    canvas = write_text(d, letter_case(d, text))
    return Sample("word", d.pick(WORD_QUESTIONS), text, **finish_images(d, canvas))


def add_lines(d: Draw, pixels: np.ndarray, palette: np.ndarray) -> None:
    """Faint straight lines over a background, in place."""
    height, width = pixels.shape[:2]
    x, y = np.arange(width)[None], np.arange(height)[:, None]
    shade = palette[0] + d.rng.uniform(12, 22) * (1 if palette.mean() < 128 else -1)
    for _ in range(d.integer(1, 3)):
        angle = d.rng.uniform(0, np.pi)
        distance = (x - d.rng.uniform(0, width)) * math.cos(angle) + (y - d.rng.uniform(0, height)) * math.sin(angle)
        pixels[np.abs(distance) < 0.8] = np.clip(shade, 0, 255)


def shape_colour(d: Draw) -> Sample:
    size = image_size(d)
    grid = tile_grid(*size)
    placed = scatter(d, size, random_names(d, 1), grid)
    thing = placed[0][0]
    pixels, palette = background(d, size, [thing])
    if d.limits.noise and d.chance(0.3):
        add_lines(d, pixels, palette)
    canvas = Canvas(pixels)
    paint_all(canvas, placed)
    question, answer = d.pick(
        (
            (d.pick(("What is in the picture?", "What do you see?", "What is shown in the image?")), thing.name),
            (d.pick((f"What colour is the {thing.kind}?", "What colour is the object?")), thing.colour),
            (d.pick(("What shape is it?", "What shape is the object?", f"What shape is {thing.colour}?")), thing.kind),
        )
    )
    return Sample("shape_colour", question, answer, **finish_images(d, canvas))


def count(d: Draw) -> Sample:
    target = d.integer(1, d.limits.objects)
    extra = d.integer(0, min(3, d.limits.objects // 2))
    kind, colour = random_names(d, 1)[0]
    other_kinds = [shape for shape in SHAPES if shape != kind]
    other_colours = [other for other in COLOURS if other != colour]
    form = d.pick(("objects", "shape", "colour"))
    if form == "objects":
        names = [(d.pick(SHAPES), d.pick(COLOURS)) for _ in range(target)]
        question = d.pick(("How many objects are there?", "How many objects do you see?", "Count the objects."))
    elif form == "shape":
        names = [(kind, d.pick(COLOURS)) for _ in range(target)]
        names += [(d.pick(other_kinds), d.pick(COLOURS)) for _ in range(extra)]
        plural = "crosses" if kind == "cross" else f"{kind}s"
        question = d.pick((f"How many {plural} are there?", f"How many {plural} do you see?", f"Count the {plural}."))
    else:
        names = [(d.pick(SHAPES), colour) for _ in range(target)]
        names += [(d.pick(SHAPES), d.pick(other_colours)) for _ in range(extra)]
        question = d.pick((f"How many {colour} objects are there?", f"How many objects are {colour}?"))
    size = image_size(d)
    placed = scatter(d, size, names, tile_grid(*size))
    canvas = Canvas(background(d, size, [thing for thing, _ in placed])[0])
    paint_all(canvas, placed)
    image = finish_images(d, canvas)
    turns = more_turns(d, question, count_questions(d, placed), 3)
    return Sample("count", question, str(target), turns=turns, **image)


def relation(d: Draw) -> Sample:
    """The offset along the answer's axis is at least 1.5 times the other one, in pixels and as share of the canvas."""
    size = image_size(d)
    grid = tile_grid(*size)
    first, second = random_names(d, 2)
    answer = d.pick(("left", "right", "above", "below"))
    axis = 0 if answer in ("left", "right") else 1
    low, high = object_sizes(d, size, grid, 4)
    high = max(low, min(high, (size[axis] - 8) / 2.3))
    a, b = (make_thing(d.rng, *name, random_side(d, (low, high))) for name in (first, second))
    # Along the axis the boxes stay apart; across it the offset is bounded by the one along.
    nearest = (a.size[axis] + b.size[axis]) / 2 + 3
    farthest = size[axis] - (a.size[axis] + b.size[axis]) / 2 - 2
    along = d.rng.uniform(nearest, max(nearest, farthest))
    room = size[1 - axis] - (a.size[1 - axis] + b.size[1 - axis]) / 2 - 2
    across = min(along / 1.7, along / 1.7 * size[1 - axis] / size[axis], room)
    offset = [0.0, 0.0]
    offset[axis] = along if answer in ("right", "below") else -along
    offset[1 - axis] = 0 if d.level == 0 else d.rng.uniform(-across, across)
    corners = _corners_with_offset(d, size, a.size, b.size, offset)
    canvas = Canvas(background(d, size, [a, b])[0])
    placed = list(zip((a, b), corners, strict=True))
    paint_all(canvas, placed)
    question, image = relation_question(d, a, b), finish_images(d, canvas)
    turns = more_turns(d, question, object_questions(d, placed, size), 5)
    return Sample("relation", question, answer, turns=turns, **image)


def relation_question(d: Draw, a: Thing, b: Thing) -> str:
    return d.pick(
        (
            f"Where is the {a.name} relative to the {b.name}?",
            f"Is the {a.name} left, right, above or below the {b.name}?",
            f"On which side of the {b.name} is the {a.name}?",
        )
    )


def side_of(a: tuple[Thing, tuple[int, int]], b: tuple[Thing, tuple[int, int]]) -> str | None:
    """On which side of the second thing the first one is, or None where that is not clear."""
    offset = [a[1][axis] + a[0].size[axis] / 2 - b[1][axis] - b[0].size[axis] / 2 for axis in (0, 1)]
    axis = int(abs(offset[1]) > abs(offset[0]))
    if abs(offset[axis]) < max(8, 1.5 * abs(offset[1 - axis])):
        return None
    return (("left", "right"), ("above", "below"))[axis][offset[axis] > 0]


def _corners_with_offset(
    d: Draw, size: tuple[int, int], a: tuple[int, int], b: tuple[int, int], offset: list[float]
) -> list[tuple[int, int]]:
    """Corners of two boxes inside the canvas whose centres differ by `offset` (of the first from the second)."""
    corners_a, corners_b = [], []
    for axis in (0, 1):
        # Corner of the first seen from the corner of the second.
        shift = offset[axis] + b[axis] / 2 - a[axis] / 2
        low, high = max(1, 1 - shift), min(size[axis] - b[axis] - 1, size[axis] - a[axis] - 1 - shift)
        corner = d.rng.uniform(low, high) if high > low else (low + high) / 2
        corners_b.append(min(max(round(corner), 0), size[axis] - b[axis]))
        corners_a.append(min(max(round(corner + shift), 0), size[axis] - a[axis]))
    return [tuple(corners_a), tuple(corners_b)]


def multi_image(d: Draw) -> Sample:
    return d.pick((which_shape, which_number, same_images))(d)


def which_shape(d: Draw) -> Sample:
    """One image shows the named object; the others share its shape or its colour or neither."""
    names = random_names(d, d.integer(2, 2 if d.level == 0 else 3))
    target = d.integer(0, len(names) - 1)
    for index in range(len(names)):
        if index != target and d.chance(0.6):
            other = d.pick(random_names(d, 4))
            near = (names[target][0], other[1]) if d.chance(0.5) else (other[0], names[target][1])
            names[index] = near if near != names[target] else names[index]
    canvases = []
    for name in names:
        size = album_size(d)
        placed = scatter(d, size, [name], (1, 1))
        canvas = Canvas(background(d, size, [placed[0][0]])[0])
        paint_all(canvas, placed)
        canvases.append(canvas)

    def which(index: int) -> str:
        name = full_name(names[index])
        forms = (f"Which image shows a {name}?", f"Which picture has the {name}?", f"In which image is a {name}?")
        return d.pick(forms).replace(" a orange", " an orange")

    question = which(target)
    return _several(d, question, str(target + 1), canvases, _about_all(d, list(map(full_name, names)), target, which))


def which_number(d: Draw) -> Sample:
    length = d.integer(1, min(2, d.limits.digits[1]))
    texts = [random_string(d, DIGITS, length)]
    while len(texts) < (2 if d.level == 0 or d.chance(0.5) else 3):
        other = random_string(d, DIGITS, length)
        if other not in texts:
            texts.append(other)
    target = d.integer(0, len(texts) - 1)
    canvases = [write_text(d, text, single_tile=True) for text in texts]

    def which(index: int) -> str:
        number = f"the number {texts[index]}"
        return d.pick((f"Which image shows {number}?", f"Which picture has {number}?", f"In which image is {number}?"))

    return _several(d, which(target), str(target + 1), canvases, _about_all(d, texts, target, which))


def _about_all(d: Draw, shown: list[str], target: int, which: Callable[[int], str]) -> list[tuple[str, str]]:
    """For training, which of several images shows what, for each but `target`, and what each image shows."""
    if d.split != "train":
        return []
    turns = [(which(i), str(i + 1)) for i in range(len(shown)) if i != target and shown.count(shown[i]) == 1]
    turns += [(f"What is shown in image {i + 1}?", text) for i, text in enumerate(shown)]
    return d.pick_several(turns, 3)


def same_images(d: Draw) -> Sample:
    """Two views of one scene, the second enlarged or reduced; in half of the samples one object of it is changed."""
    size = album_size(d)
    # Half of the things come again at another scale, so they start larger than the smallest readable size.
    factor = 1.0 if d.level < 3 else d.rng.uniform(0.85, 1.3)
    second_size = round(size[0] * factor), round(size[1] * factor)
    placed = scatter(d, size, random_names(d, d.integer(1, 1 if d.level == 0 else 3)), (1, 1))
    answer = d.pick(("yes", "no"))
    changed, difference = (list(placed), "nothing") if answer == "yes" else _change_one(d, size, placed)
    pixels, _ = background(d, size, [thing for thing, _ in placed + changed])
    canvases = [Canvas(pixels), Canvas(_resize(pixels, second_size))]
    paint_all(canvases[0], placed)
    for rank, (thing, corner) in enumerate(left_to_right(changed), start=1):
        # The box is scaled as a whole, so that neighbours cannot come to overlap.
        box = [round(value * factor) for value in box_at(corner, thing.size)]
        mask = _resize(thing.mask, (box[2] - box[0], box[3] - box[1]))
        left = min(box[0], second_size[0] - mask.shape[1])
        top = min(box[1], second_size[1] - mask.shape[0])
        canvases[1].paint(Thing(thing.kind, thing.colour, thing.rgb, mask), left, top, rank)
    scenes = [placed, changed]
    if d.chance(0.5):
        canvases.reverse()
        scenes.reverse()
    question = d.pick(
        ("Are the images the same?", "Are the two pictures the same?", "Do both images show the same scene?")
    )
    turns = _about_both(d, scenes, difference) if d.split == "train" else []
    return _several(d, question, answer, canvases, turns)


def _about_both(d: Draw, scenes: list[list[tuple[Thing, tuple[int, int]]]], difference: str) -> list[tuple[str, str]]:
    """What differs between two scenes. The object that has changed is easier to learn than whether one has."""
    first, second = scenes
    changed = [item[0].name for item in second if not any(item is other for other in first)]
    name, number = d.pick(first)[0].name, d.integer(1, 2)
    both = "yes" if name in [thing.name for thing, _ in second] else "no"
    turns = [
        ("What is different?", difference),
        ("Which object of image 2 has changed?", changed[0] if changed else "none"),
        (f"Do both images show a {name}?".replace(" a orange", " an orange"), both),
        (f"What is shown in image {number}?", list_of(scenes[number - 1])),
    ]
    return d.pick_several(turns, len(turns))


def list_of(placed: list[tuple[Thing, tuple[int, int]]]) -> str:
    """The names of things from left to right."""
    return ", ".join(thing.name for thing, _ in left_to_right(placed))


def _resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """float[h, w] or float[h, w, c] to another (width, height)."""
    if array.shape[1::-1] == size:
        return array
    planes = np.atleast_3d(array).transpose(2, 0, 1)
    planes = [Image.fromarray(plane.astype(np.float32)).resize(size, Image.Resampling.BOX) for plane in planes]
    return np.stack([np.asarray(plane) for plane in planes], axis=-1).reshape(*size[::-1], *array.shape[2:])


def _change_one(
    d: Draw, size: tuple[int, int], placed: list[tuple[Thing, tuple[int, int]]]
) -> tuple[list[tuple[Thing, tuple[int, int]]], str]:
    """The scene with one thing in another colour, in another shape, or moved by a quarter of the canvas or more, and
    which of these it is."""
    changed = list(placed)
    index = d.integer(0, len(placed) - 1)
    thing, corner = placed[index]
    others = [box_at(place, other.size) for i, (other, place) in enumerate(placed) if i != index]
    change = d.pick(("colour", "shape", "place"))
    if change == "place":
        for _ in range(30):
            moved = _any_corner(d, size, thing.size)
            far = max(abs(moved[axis] - corner[axis]) / size[axis] for axis in (0, 1)) >= 0.25
            if far and not any(overlaps(box_at(moved, thing.size), other) for other in others):
                changed[index] = thing, moved
                return changed, "place"
    if change == "shape":
        kind = d.pick([kind for kind in SHAPES if kind != thing.kind])
        mask = _resize(shape_mask(kind, max(thing.size), 0), thing.size)
        changed[index] = Thing(kind, thing.colour, thing.rgb, mask), corner
    else:
        colour = d.pick([colour for colour in COLOURS if colour != thing.colour])
        changed[index] = Thing(thing.kind, colour, jitter_colour(d.rng, colour), thing.mask), corner
    return changed, "shape" if change == "shape" else "colour"


def _several(
    d: Draw, question: str, answer: str, canvases: list[Canvas], turns: list[tuple[str, str]] | None = None
) -> Sample:
    return Sample("multi_image", question, answer, turns=turns or [], **finish_images(d, *canvases))


def video_length(d: Draw, needed: int = 4) -> int:
    """Number of frames: mostly up to 12, rarely up to 32, and never less than `needed`."""
    low, high = d.limits.frames
    frames = d.integer(13, high) if high > 12 and d.chance(0.1) else d.integer(low, min(high, 12))
    return max(frames, needed)


def split_frames(d: Draw, total: int, parts: int) -> list[int]:
    """A random way to write `total` as a sum of `parts` numbers of at least 1."""
    cuts = np.sort(d.rng.permutation(total - 1)[: parts - 1] + 1)
    return np.diff([0, *cuts, total]).tolist()


def timeline(d: Draw, total: int, events: int, gaps: bool, edges: bool) -> list[int | None]:
    """What each frame shows: an event's index, or None for a blank.

    With `gaps`, blanks separate the events; with `edges`, blanks may also come before the first and after the last.
    """
    order = []
    for event in range(events):
        order += [None, event] if gaps and event else [event]
    spare = total - len(order)
    if edges:
        for position in (0, len(order) + 1):
            if spare > 0 and d.chance(0.5):
                order.insert(min(position, len(order)), None)
                spare -= 1
    lengths = split_frames(d, total, len(order))
    return [event for event, length in zip(order, lengths, strict=True) for _ in range(length)]


def direction(d: Draw) -> Sample:
    """One object crosses a quarter of the frame or more; a second one may stand outside of its path."""
    size = video_size(d)
    answer = d.pick(("left", "right", "up", "down"))
    axis = 0 if answer in ("left", "right") else 1
    total = video_length(d)
    low, high = object_sizes(d, size, (1, 1), 3)
    first, second = random_names(d, 2)
    mover = make_thing(d.rng, *first, random_side(d, (low, max(low, min(high, size[axis] * 0.5)))))
    span = size[axis] - mover.size[axis]
    travel = d.rng.uniform(min(span, max(0.28 * size[axis], 12)), span)
    start, end = list(_any_corner(d, size, mover.size)), [0, 0]
    start[axis] = d.rng.uniform(0, span - travel)
    # A slight drift to the side, a quarter of the way or less in pixels and as share of the frame.
    drift = 0.25 * travel * min(1, size[1 - axis] / size[axis]) * d.rng.uniform(-1, 1) if d.level > 1 else 0
    end[axis] = start[axis] + travel
    end[1 - axis] = min(max(start[1 - axis] + drift, 0), size[1 - axis] - mover.size[1 - axis])
    if answer in ("left", "up"):
        start, end = end, start
    path = [tuple(int(round(v)) for v in point) for point in np.linspace(start, end, total)]
    things, still = [mover], None
    if d.level > 0 and d.chance(0.4):
        still = _beside_path(d, size, make_thing(d.rng, *second, low), mover, path)
        things += [still[0]] if still else []
    plain = Canvas(background(d, size, things)[0])
    if still:
        plain.paint(still[0], *still[1])
    canvases = []
    for index, corner in enumerate(path):
        canvases.append(plain.copy())
        canvases[-1].paint(mover, *corner, motion=MOTION_CLASSES.index(answer) if index else UNKNOWN)
    forms = [f"Which way does the {mover.name} move?", f"In which direction does the {mover.name} move?"]
    forms.append("Which way does the moving object go?" if still else "Which direction does the object move?")
    return Sample("direction", d.pick(forms), answer, **finish_frames(d, canvases))


def _beside_path(
    d: Draw, size: tuple[int, int], thing: Thing, mover: Thing, path: list[tuple[int, int]]
) -> tuple[Thing, tuple[int, int]] | None:
    """A place for a still thing that the mover never touches, or None if there is none."""
    first, last = box_at(path[0], mover.size), box_at(path[-1], mover.size)
    swept = (*np.minimum(first, last)[:2], *np.maximum(first, last)[2:])
    for _ in range(12):
        corner = _any_corner(d, size, thing.size)
        if not overlaps(box_at(corner, thing.size), swept):
            return thing, corner
    return None


ORDINALS = ("first", "second", "last")


def order(d: Draw) -> Sample:
    size = video_size(d)
    place = d.integer(0, 2)
    gaps = d.chance(0.5)
    shown = timeline(d, video_length(d, needed=5 if gaps else 4), 3, gaps, edges=d.level > 0)
    if d.chance(0.5):
        names = random_names(d, 3)
        sizes = object_sizes(d, size, (1, 1), 2)
        things = [make_thing(d.rng, *name, random_side(d, sizes)) for name in names]
        plain = Canvas(background(d, size, things)[0])
        corners = [random_corner(d, size, thing.size) for thing in things]
        answers = [thing.name for thing in things]
        subjects = ("What came", "Which object came", "What was shown")

        def show(canvas: Canvas, event: int) -> None:
            canvas.paint(things[event], *corners[event], rank=event + 1)
    else:
        answers = d.pick_several(DIGITS, 3)
        pixels, palette = background(d, size)
        plain = Canvas(pixels)
        room = size[0] - 2 * MARGIN, size[1] - 2 * MARGIN
        while (lines := readable_lines(d, size, answers, room)) is None:
            pass
        corners = [random_corner(d, size, line.size) for line in lines]
        style = text_colour(d.rng, palette)
        subjects = ("What came", "Which number came", "What was shown")

        def show(canvas: Canvas, event: int) -> None:
            canvas.write(lines[event], *corners[event], *style, first_rank=event + 1)

    question = f"{d.pick(subjects)} {ORDINALS[place]}?"
    frames = finish_frames(d, show_events(plain, shown, show))
    # A video is dear to encode, so in training it is asked about twice more.
    others = [index for index in range(3) if index != place] if d.split == "train" else []
    turns = [(f"{d.pick(subjects)} {ORDINALS[index]}?", answers[index]) for index in others]
    return Sample("order", question, answers[place], turns=turns, **frames)


def show_events(plain: Canvas, shown: list[int | None], show: Callable[[Canvas, int], None]) -> list[Canvas]:
    """One canvas per frame; `show` draws an event, a blank stays the plain background."""
    canvases = []
    for event in shown:
        canvases.append(plain.copy())
        if event is not None:
            show(canvases[-1], event)
    return canvases


def readable_lines(d: Draw, size: tuple[int, int], texts: list[str], room: tuple[float, float]) -> list[Line] | None:
    """Lines of one face, each readable in a frame resized to one tile, or None where one does not fit.

    `room` is what a line of one character may fill; a longer line gets as many times the width.
    """
    face = random_face(d.rng, d.split)
    scale = tile_scale(size, (1, 1))
    lines = []
    for text in texts:
        whole = min(room[0] * len(text), size[0] - 2 * MARGIN), room[1]
        lines.append(fit_line(d.rng, text, face, whole, scale, d.level == 0, d.level > 0))
    return None if any(line is None for line in lines) else lines


def flash(d: Draw) -> Sample:
    """An object appears, an object lights up, or the whole background does."""
    most = min(5, (d.limits.frames[1] - 1) // 2)
    times = d.integer(1, most)
    total = video_length(d, needed=2 * times + 1)
    form = d.pick(("object", "light", "background"))
    lit = _flashes(d, total, times, edges=form == "object")
    size = video_size(d)
    kind, colour = random_names(d, 1)[0]
    if form == "background":
        bright, dark = _two_lights(d)
        canvases = []
        for on, rank in zip(lit, _ranks(lit), strict=True):
            name, rgb = bright if on else dark
            canvas = Canvas(np.broadcast_to(rgb, (size[1], size[0], 3)))
            canvas.labels[..., 1:3] = (COLOUR_CLASSES.index(name), rank) if on else 0
            canvases.append(canvas)
        forms = ["How many times did it flash?", "How many times did the picture flash?"]
        return Sample("flash", d.pick(forms), str(times), **finish_frames(d, canvases))
    sides = object_sizes(d, size, (1, 1), 2)
    thing = make_thing(d.rng, kind, colour, random_side(d, sides))
    corner = random_corner(d, size, thing.size)
    things, forms = [thing], ["How many times did it flash?", f"How many times did the {kind} flash?"]
    if form == "light":
        bright, dark = _two_lights(d)
        things = [Thing(kind, *bright, thing.mask), Thing(kind, *dark, thing.mask)]
    else:
        forms.append(f"How many times did the {thing.name} appear?")
    plain = Canvas(background(d, size, things)[0])
    canvases = []
    for on, rank in zip(lit, _ranks(lit), strict=True):
        canvases.append(plain.copy())
        if on or form == "light":
            canvases[-1].paint(things[0 if on else -1], *corner, rank)
    return Sample("flash", d.pick(forms), str(times), **finish_frames(d, canvases))


def _ranks(lit: list[bool]) -> list[int]:
    """Which flash each frame belongs to, from 1; 0 between them."""
    starts = np.diff([0, *lit]) == 1
    return (np.cumsum(starts) * np.array(lit)).tolist()


def _two_lights(d: Draw) -> tuple[tuple[str, np.ndarray], tuple[str, np.ndarray]]:
    """A bright and a dark named colour."""
    bright, dark = d.pick(("white", "yellow", "orange", "cyan", "pink")), d.pick(("black", "blue", "brown", "purple"))
    return (bright, jitter_colour(d.rng, bright)), (dark, jitter_colour(d.rng, dark))


def _flashes(d: Draw, total: int, times: int, edges: bool) -> list[bool]:
    """On or off per frame: `times` runs of on with off before, between and after.

    With `edges` some videos begin or end on. This suits things that appear; of two lights that take turns from the
    first frame to the last, nobody could say which one is the flash.
    """
    order = [index % 2 == 1 for index in range(2 * times + 1)]
    if edges and d.chance(0.3):
        order = order[1:] if d.chance(0.5) else order[:-1]
    lengths = split_frames(d, total, len(order))
    return [on for on, length in zip(order, lengths, strict=True) for _ in range(length)]


def video_number(d: Draw) -> Sample:
    """Parts of a number one after another: separated by blanks, or each clearly further right than the one before."""
    text = random_string(d, DIGITS, d.integer(*d.limits.parts))
    rightwards = d.chance(0.5)
    parts = _cut(d, text)
    gaps = not rightwards or d.chance(0.3)
    total = video_length(d, max(4, 2 * len(parts) - 1 if gaps else len(parts)))
    shown = timeline(d, total, len(parts), gaps, edges=d.level > 0)
    lines = None
    while lines is None:
        size = video_size(d)
        width = (size[0] - 2 * MARGIN) / len(text) if rightwards else size[0]
        lines = readable_lines(d, size, parts, (width, size[1] - 2 * MARGIN))
    pixels, palette = background(d, size)
    style = text_colour(d.rng, palette)
    corners = _left_to_right(d, size, lines) if rightwards else [random_corner(d, size, line.size) for line in lines]

    def show(canvas: Canvas, event: int) -> None:
        canvas.write(lines[event], *corners[event], *style, first_rank=1 + sum(map(len, parts[:event])))

    question = d.pick(
        (
            "What number is shown over the video?",
            "Which number is shown part by part?",
            "Put the digits together. What is the number?",
        )
    )
    return Sample("video_number", question, text, **finish_frames(d, show_events(Canvas(pixels), shown, show)))


def _cut(d: Draw, text: str) -> list[str]:
    """`text` in two or more parts of one or two digits."""
    parts, rest = [], text
    while rest:
        two = len(rest) > 1 and rest != text[:2] and may_show(d.split, rest[:2])
        length = 2 if two and d.chance(0.35) else 1
        parts.append(rest[:length])
        rest = rest[length:]
    return parts


def _left_to_right(d: Draw, size: tuple[int, int], lines: list[Line]) -> list[tuple[int, int]]:
    """Corners that put each line right of the one before it, with what room is left spread at random."""
    slack = size[0] - 2 * MARGIN - sum(line.size[0] for line in lines)
    shares = np.sort(d.rng.random(len(lines))) * slack
    corners, left = [], MARGIN
    for line, share in zip(lines, shares, strict=True):
        corners.append((left + int(share), random_corner(d, size, line.size)[1]))
        left += line.size[0]
    return corners


def page(d: Draw) -> Sample:
    """A canvas of one tile with a number, a word and a row of objects, as far as there is room for them.

    Only training draws it: much to see and to be asked for the price of one picture.
    """
    size = 64, 64
    pixels, palette = background(d, size)
    canvas = Canvas(pixels)
    top, asked, placed = d.integer(0, 6), [], []
    for row in d.pick_several(("number", "word", "objects"), 3):
        room = size[0] - 2 * MARGIN, min(size[1] - top, 9 * 5 ** d.rng.random())
        if room[1] < 9:
            break
        if row == "objects":
            placed = _row_of_objects(d, canvas, top, room)
            asked += d.pick_several(object_questions(d, placed, size), 5)
            top += max([thing.size[1] for thing, _ in placed], default=0) + d.integer(1, 3)
            continue
        text = random_string(d, DIGITS, d.integer(*d.limits.digits)) if row == "number" else random_word(d)
        line = fit_line(d.rng, letter_case(d, text), random_face(d.rng, d.split), room, (1.0, 1.0))
        if line is not None:
            left = MARGIN + d.integer(0, max(0, int(room[0] - line.size[0])))
            canvas.write(line, left, top, *text_colour(d.rng, palette))
            asked.append((d.pick(NUMBER_QUESTIONS if row == "number" else WORD_QUESTIONS), text))
            top += line.size[1] + d.integer(1, 3)
    return _asked_in_turns(d, "page", canvas, asked)


def sheet(d: Draw) -> Sample:
    """A tile full of lines of characters or shapes of all sizes, and questions about what the lines say.

    Only training draws it: several times as many characters to learn from as on a picture of the tests.
    """
    size = 64, 64
    pixels, palette = background(d, size)
    canvas = Canvas(pixels)
    top, texts = d.integer(0, 4), []
    while size[1] - top >= 10:
        if d.chance(0.15):
            side = min(size[1] - top, d.rng.uniform(12, 30))
            placed = _row_of_objects(d, canvas, top, (size[0] - 2 * MARGIN, side))
            top += max((thing.size[1] for thing, _ in placed), default=8) + d.integer(1, 3)
            continue
        line, text = _line_of_characters(d, (size[0] - 2, size[1] - top))
        if line is None:
            break
        canvas.write(line, d.integer(0, size[0] - line.size[0]), top, *text_colour(d.rng, palette))
        texts.append(text)
        top += line.size[1] + d.integer(1, 3)
    asked = [(f"What does line {number} say?", text) for number, text in enumerate(texts, start=1)]
    return _asked_in_turns(d, "sheet", canvas, asked)


def _line_of_characters(d: Draw, room: tuple[int, int]) -> tuple[Line | None, str]:
    """A line of random characters, about as many as fit at a random readable size."""
    alphabet, upper = d.pick(((DIGITS, False), (LETTERS, False), (LETTERS, True)))
    text = random_string(d, alphabet, 8)
    text = text.upper() if upper else text
    face = random_face(d.rng, d.split)
    smallest = smallest_font(face, text, (1.0, 1.0))
    size = round(smallest * 3.2 ** d.rng.random())
    degrees, shear = d.rng.uniform((-6, -0.12), (6, 0.12)) if d.chance(0.5) else (0.0, 0.0)
    spacing = d.rng.uniform(0.0, 0.25)
    while text:
        line = set_line(text, face, size, spacing, degrees, shear)
        fits = line.size[0] <= room[0] and line.size[1] <= room[1]
        if fits and may_show(d.split, text.lower()):
            return line, text.lower()
        # Too high for the room: smaller; too wide or held out: shorter.
        too_high = line.size[1] > room[1] and size > smallest
        shorter = text[: min(len(text) - 1, len(text) * room[0] // line.size[0])]
        size, text = (max(smallest, size * room[1] // line.size[1]), text) if too_high else (size, shorter)
    return None, ""


def objects(d: Draw) -> Sample:
    """Several objects and several questions about them; only training draws it."""
    size = image_size(d)
    # Of few shapes or colours several objects are alike, which gives counts other than 1.
    kinds = d.pick_several(SHAPES, d.pick((2, len(SHAPES))))
    colours = d.pick_several(COLOURS, d.pick((2, len(COLOURS))))
    names = [(d.pick(kinds), d.pick(colours)) for _ in range(d.integer(2, max(2, d.limits.objects)))]
    placed = scatter(d, size, names, tile_grid(*size))
    canvas = Canvas(background(d, size, [thing for thing, _ in placed])[0])
    paint_all(canvas, placed)
    return _asked_in_turns(d, "objects", canvas, object_questions(d, placed, size))


def pairs(d: Draw) -> Sample:
    """Two pictures that are the same or not; only training draws it."""
    return replace(same_images(d), task="pairs")


def names(d: Draw) -> Sample:
    """Objects unlike in shape and in colour, and questions that name one of them; only training draws it.

    Every question wants the object that it names, which other tasks ask for too rarely to be learned from them.
    """
    size = image_size(d)
    number = d.integer(2, min(4, d.limits.objects))
    called = list(zip(d.pick_several(SHAPES, number), d.pick_several(COLOURS, number), strict=True))
    placed = scatter(d, size, called, tile_grid(*size))
    canvas = Canvas(background(d, size, [thing for thing, _ in placed])[0])
    paint_all(canvas, placed)
    asked = []
    for item in placed:
        thing = item[0]
        asked.append((f"What colour is the {thing.kind}?", thing.colour))
        asked.append((f"What shape is {thing.colour}?", thing.kind))
        asked.append((f"Where is the {thing.name}?", place_of(item, size)))
    pairs = d.pick_several([(a, b) for a in placed for b in placed if a is not b], 4)
    asked += [(relation_question(d, a[0], b[0]), side) for a, b in pairs if (side := side_of(a, b)) is not None]
    return _asked_in_turns(d, "names", canvas, asked)


def _asked_in_turns(d: Draw, task: str, canvas: Canvas, asked: list[tuple[str, str]]) -> Sample:
    asked = list(dict(asked).items()) or [("How many objects are there?", "0")]
    (question, answer), *turns = d.pick_several(asked, 8)
    return Sample(task, question, answer, turns=turns, **finish_images(d, canvas))


def _row_of_objects(
    d: Draw, canvas: Canvas, top: int, room: tuple[float, float]
) -> list[tuple[Thing, tuple[int, int]]]:
    """Coloured shapes painted in a row."""
    side, left, placed = max(12.0, room[1] - 2), d.integer(0, 6), []
    for name in random_names(d, d.integer(1, 6)):
        thing = make_thing(d.rng, *name, side * d.rng.uniform(0.8, 1.0))
        if left + thing.size[0] > canvas.labels.shape[1] or top + thing.size[1] > canvas.labels.shape[0]:
            break
        placed.append((thing, (left, top)))
        left += thing.size[0] + d.integer(1, 8)
    paint_all(canvas, placed)
    return placed


def place_of(item: tuple[Thing, tuple[int, int]], size: tuple[int, int]) -> str:
    """In which ninth of the picture a thing's centre is."""
    thirds = [int(3 * (item[1][axis] + item[0].size[axis] / 2) / size[axis]) for axis in (0, 1)]
    return " ".join((("top", "", "bottom")[thirds[1]], ("left", "", "right")[thirds[0]])).strip() or "middle"


def object_questions(
    d: Draw, placed: list[tuple[Thing, tuple[int, int]]], size: tuple[int, int]
) -> list[tuple[str, str]]:
    """Questions that the objects of a picture answer: of a colour, a shape, counts, names, places and relations.

    Some questions of a place name a second object, to teach which of two names is asked for: as long as a model
    confuses the two, nothing about them tells it on which side one is of the other.
    """
    things = [thing for thing, _ in placed]
    kinds, colours = [thing.kind for thing in things], [thing.colour for thing in things]
    names = [thing.name for thing in things]
    mixed = d.pick_several(things, len(things))
    asked = [(f"What colour is the {t.kind}?", t.colour) for t in mixed if kinds.count(t.kind) == 1][:3]
    asked += [(f"What shape is {t.colour}?", t.kind) for t in mixed[::-1] if colours.count(t.colour) == 1][:3]
    if len(things) == 1:
        asked = [(d.pick(("What is in the picture?", "What do you see?")), things[0].name)]
    if things:
        asked += count_questions(d, placed)
    unique = [item for item in placed if names.count(item[0].name) == 1]
    asked += [(f"Where is the {item[0].name}?", place_of(item, size)) for item in d.pick_several(unique, 3)]
    pairs = d.pick_several([(a, b) for a in unique for b in unique if a is not b], 6)
    places = [(place_question(d, a[0], b[0]), place_of(a, size)) for a, b in pairs]
    sides = [(relation_question(d, a[0], b[0]), side) for a, b in pairs if (side := side_of(a, b)) is not None]
    return asked + places[-2:] + sides[:3]


def more_turns(d: Draw, question: str, asked: list[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """Some of `asked` that are not `question`, in training only."""
    asked = [item for item in dict(asked).items() if item[0] != question]
    return d.pick_several(asked, most) if d.split == "train" else []


def count_questions(d: Draw, placed: list[tuple[Thing, tuple[int, int]]]) -> list[tuple[str, str]]:
    """How many objects there are in all, of the shapes of two of them, and of the colours of two; and their names."""
    kinds, colours = [thing.kind for thing, _ in placed], [thing.colour for thing, _ in placed]
    asked = [(d.pick(("How many objects are there?", "Count the objects.")), str(len(placed)))]
    asked.append(("Name the objects from left to right.", list_of(placed)))
    for kind in sorted(set(d.pick_several(kinds, 2))):
        plural = "crosses" if kind == "cross" else f"{kind}s"
        asked.append((d.pick((f"How many {plural} are there?", f"Count the {plural}.")), str(kinds.count(kind))))
    for colour in sorted(set(d.pick_several(colours, 2))):
        asked.append((f"How many {colour} objects are there?", str(colours.count(colour))))
    return asked


def place_question(d: Draw, thing: Thing, other: Thing) -> str:
    return d.pick(
        (
            f"Where is the {thing.name}?",
            f"Where is the {thing.name}, not the {other.name}?",
            f"Not the {other.name}, where is the {thing.name}?",
            f"Where in the picture is the {thing.name} relative to the {other.name}?",
            f"On which side of the picture, not of the {other.name}, is the {thing.name}?",
        )
    )


_DRAWERS = {
    "number": number,
    "word": word,
    "shape_colour": shape_colour,
    "count": count,
    "relation": relation,
    "multi_image": multi_image,
    "direction": direction,
    "order": order,
    "flash": flash,
    "video_number": video_number,
    "page": page,
    "objects": objects,
    "sheet": sheet,
    "names": names,
    "pairs": pairs,
}
TRAINING_TASKS = ("page", "objects", "sheet", "names", "pairs")
TASKS = tuple(task for task in _DRAWERS if task not in TRAINING_TASKS)
VIDEO_TASKS = ("direction", "order", "flash", "video_number")


def draw(task: str, seed: int, split: str = "train", level: int = LAST_LEVEL, wide: bool | None = None) -> Sample:
    """Draw the sample that belongs to (task, seed, split, level).

    `wide` decides whether an image is larger than a tile or elongated; if None, the level's share of such images does.

    Raises:
        ValueError: If the task, the split or the level does not exist.
    """
    levels = range(LAST_LEVEL + 1)
    for name, value, options in (("task", task, tuple(_DRAWERS)), ("split", split, SPLITS), ("level", level, levels)):
        if value not in options:
            raise ValueError(f"Expected `{name}` to be one of {tuple(options)}, but got {value!r}.")
    seeds = np.random.SeedSequence([tuple(_DRAWERS).index(task), seed, SPLITS.index(split), level])
    return _DRAWERS[task](Draw(np.random.default_rng(seeds), split, level, wide))
