# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""From drawn samples to the batches the model trains on, through the processor that everybody uses."""

import multiprocessing
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch.utils.data import Dataset

from training.scenes import FIRST_SHAPE, HIGHEST_RANK, UNKNOWN, Middle, through_h264, tile_grid
from training.tasks import LAST_LEVEL, LEVELS, TASKS, TRAINING_TASKS, VIDEO_TASKS, Sample, draw


# Each token of the vision tower is labelled at POINTS x POINTS points of the square that it stands for.
POINTS = 4
# Tasks whose sequences are alike in length share batches.
ALBUM_TASKS = ("multi_image", "pairs")
IMAGE_TASKS = tuple(task for task in TASKS if task not in (*VIDEO_TASKS, *ALBUM_TASKS))
BATCHES = (VIDEO_TASKS, ALBUM_TASKS, tuple(task for task in TRAINING_TASKS if task not in ALBUM_TASKS), IMAGE_TASKS)
FIRST_WIDE_LEVEL = next(number for number, level in enumerate(LEVELS) if level.wide)


@dataclass(frozen=True)
class Schedule:
    """
    What is drawn when: the weight of each task and the levels of difficulty.

    Level `first_level` comes at the start, the last level from `settled` (a fraction of the stage) to the end, and
    between them the level rises linearly, with neighbouring levels mixed in.
    """

    weights: dict[str, float]
    first_level: int = 0
    settled: float = 0.7

    def level(self, progress: float, rng: np.random.Generator) -> int:
        mean = self.first_level + (LAST_LEVEL + 1 - self.first_level) * progress / self.settled
        return int(np.clip(mean + rng.uniform(-1.5, 0.5), 0, LAST_LEVEL))

    def task(self, rng: np.random.Generator, names: Sequence[str]) -> str:
        weights = np.array([self.weights[name] for name in names])
        return names[rng.choice(len(names), p=weights / weights.sum())]


class DrawnSamples(Dataset):
    """
    Samples drawn as they are asked for: the index alone decides the sample, so an interrupted run resumes on the
    same data and no two indices see the same picture. What makes sequences unlike in length, images or videos and one
    tile or several, is decided per step, which is one batch of each process; batches of long sequences hold
    `long_share` of the samples.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        seed: int,
        schedule: Schedule,
        long_share: float = 0.375,
        compressed_videos: float = 0.3,
        num_processes: int = 1,
    ):
        self.length = length
        self.batch_size = batch_size
        self.seed = seed
        self.schedule = schedule
        self.long_share = long_share
        self.compressed_videos = compressed_videos
        self.num_processes = num_processes

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample | None:
        """The sample, or None where a batch of long sequences is full."""
        rng = np.random.default_rng([self.seed, index])
        level = self.schedule.level(index / self.length, rng)
        number = index // (self.batch_size * self.num_processes)
        step = np.random.default_rng([self.seed, self.length + number])
        task = self.schedule.task(step, list(self.schedule.weights))
        wide = bool(step.random() < LEVELS[level].wide)
        tasks = next(group for group in BATCHES if task in group)
        is_long = tasks in (VIDEO_TASKS, ALBUM_TASKS) or (wide and level >= FIRST_WIDE_LEVEL)
        if is_long and index % self.batch_size >= self.long_share * self.batch_size:
            return None
        sample = draw(self.schedule.task(rng, tasks), int(rng.integers(2**62)), "train", level, wide)
        if sample.frames and rng.random() < self.compressed_videos:
            sample.frames[:] = through_h264(sample.frames, sample.fps, int(rng.integers(18, 33)))
        return sample


class DrawnAhead(Dataset):
    """
    `samples`, of which those of some `steps` are drawn at a time, each time the first of them is asked for.

    Drawing between steps instead of beside them: where every core trains, one that also draws holds up all the others
    at every operation. On two cores steps took 0.7 to 0.8 of the time. Of several processes that take turns at the
    batches, as `Trainer`'s do, each draws its own.
    """

    def __init__(self, samples: DrawnSamples, steps: int, process_index: int = 0):
        self.samples = samples
        self.block = steps * samples.batch_size * samples.num_processes
        self.process_index = process_index
        self.start = None
        self.drawn = {}
        self.pool = None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample | None:
        start = index - index % self.block
        if start != self.start:
            self.pool = self.pool or multiprocessing.Pool(max(1, os.cpu_count() // self.samples.num_processes))
            batches = np.arange(start, min(start + self.block, len(self))) // self.samples.batch_size
            own = np.flatnonzero(batches % self.samples.num_processes == self.process_index)
            numbers = (start + own).tolist()
            self.drawn = dict(zip(numbers, self.pool.map(self.samples.__getitem__, numbers, 32), strict=True))
            self.start = start
        return self.drawn[index]


def conversation(sample: Sample, with_answer: bool) -> list[dict]:
    """A sample as the chat messages of a user who asks about it, and with answers all its turns."""
    visuals = [{"type": "image"}] * len(sample.images) + [{"type": "video"}] * bool(sample.frames)
    messages = [{"role": "user", "content": visuals + [{"type": "text", "text": sample.question}]}]
    if with_answer:
        answer = sample.answer
        for question, next_answer in sample.turns:
            messages.append({"role": "assistant", "content": answer})
            messages.append({"role": "user", "content": question})
            answer = next_answer
        messages.append({"role": "assistant", "content": answer})
    return messages


def cut_labels(labels: np.ndarray, grid: tuple[int, int], points: int) -> np.ndarray:
    """
    Labels of a picture at the points of its tiles: `uint8[h, w, 4] -> uint8[tiles, points, points, 4]`.

    `grid` is (columns, rows) of tiles; of several, the thumbnail comes last, as the image processor orders them. Tiles
    are encoded one by one, so of several tiles only the thumbnail keeps its ranks: what others show in part would have
    to be ranked by what they do not show.
    """

    def at(height: int, width: int) -> np.ndarray:
        y = ((np.arange(height) + 0.5) * labels.shape[0] / height).astype(int)
        x = ((np.arange(width) + 0.5) * labels.shape[1] / width).astype(int)
        return labels[y[:, None], x]

    columns, rows = grid
    tiles = at(rows * points, columns * points).reshape(rows, points, columns, points, 4)
    tiles = tiles.transpose(0, 2, 1, 3, 4).reshape(rows * columns, points, points, 4)
    if rows * columns > 1:
        tiles[..., 2] = UNKNOWN
        tiles = np.concatenate([tiles, at(points, points)[None]])
    return tiles


def cut_middles(middles: list[Middle], grid: tuple[int, int]) -> list[list[Middle]]:
    """
    The middles that each tile of a picture shows, in shares of the tile, as `cut_labels` cuts its labels.

    A tile of several ranks the middles that it shows anew, from left to right.
    """
    columns, rows = grid
    if columns * rows == 1:
        return [middles]
    tiles = [[] for _ in range(rows * columns)]
    for middle in sorted(middles, key=lambda middle: middle.x):
        (column, x), (row, y) = divmod(middle.x * columns, 1), divmod(middle.y * rows, 1)
        tile = tiles[int(row) * columns + int(column)]
        tile.append(middle._replace(x=x, y=y, rank=len(tile) + 1))
    return [*tiles, middles]


def label_middles(middles: list[Middle], side: int) -> tuple[np.ndarray, np.ndarray]:
    """
    What has its middle in the square of each token: shapes `uint8[side^2, 5]` and characters `uint8[side^2, ranks]`.

    Of a shape its class, its colour, its rank, and its place among those of its shape and among those of its colour;
    these three are unknown where shapes share ranks. Of the character of each rank its class. Zero where there is
    none, `UNKNOWN` where there are several.
    """
    shapes = np.zeros((side**2, 5), np.uint8)
    characters = np.zeros((side**2, HIGHEST_RANK), np.uint8)
    all_shapes = [middle for middle in middles if middle.what >= FIRST_SHAPE]
    ranked = len({middle.rank for middle in all_shapes}) == len(all_shapes)
    for middle in middles:
        token = int(middle.y * side) * side + int(middle.x * side)
        if middle.what < FIRST_SHAPE:
            taken = characters[token, middle.rank - 1]
            characters[token, middle.rank - 1] = UNKNOWN if taken else middle.what
            continue
        so_far = [other for other in all_shapes if other.rank <= middle.rank]
        same_shape = sum(other.what == middle.what for other in so_far)
        same_colour = sum(other.colour == middle.colour for other in so_far)
        ranks = (middle.rank, same_shape, same_colour) if ranked else (UNKNOWN,) * 3
        taken = shapes[token].any()
        shapes[token] = UNKNOWN if taken else (middle.what, middle.colour, *ranks)
    return shapes, characters


def split_questions(sample: Sample, most: int) -> list[Sample]:
    """The first `most` questions about a picture, each as a sample of its own."""
    turns = [(sample.question, sample.answer), *sample.turns][:most]
    return [replace(sample, question=question, answer=answer, turns=[]) for question, answer in turns]


class Collator:
    """
    Samples to a batch: the processor's tensors, `labels` of the last positions of each row (only answers carry loss)
    and what each token of each image tile or video frame shows: `point_labels` `uint8[frames, tokens, POINTS^2, 4]` at
    the points of its square, and `shape_labels` `uint8[frames, tokens, 5]` and `character_labels`
    `uint8[frames, tokens, ranks]` of what has its middle there.

    A sample is a row, a conversation of all its turns. With `questions_apart` each of its questions, up to that many,
    is a row: pixels and what they show still come once, and `visuals` lists which of them the rows show, one row after
    the other. `tokens_per_side` is the root of the tokens per frame. Without `with_text` there are only pixels and
    their labels.
    """

    def __init__(self, processor, tokens_per_side: int, with_text: bool = True, questions_apart: int = 0):
        self.processor = processor
        self.tokens_per_side = tokens_per_side
        self.with_text = with_text
        self.questions_apart = questions_apart

    def __call__(self, samples: list[Sample | None]) -> dict[str, torch.Tensor]:
        samples = [sample for sample in samples if sample is not None]
        images = [image for sample in samples for image in sample.images]
        videos = [np.stack(sample.frames) for sample in samples if sample.frames]
        if videos:
            batch = self.processor.video_processor(videos, return_tensors="pt")
        else:
            batch = self.processor.image_processor(images, return_tensors="pt")
        if self.with_text:
            batch.update(self.text_of(samples, batch))
        return {**batch, **self.token_labels(samples)}

    def text_of(self, samples: list[Sample], batch: dict) -> dict[str, torch.Tensor]:
        """What the rows say, with a placeholder for each token of the visuals of `batch`."""
        rows, visuals, number = [], [], 0
        for sample in samples:
            own = range(number, number + (len(sample.images) or 1))
            number = own.stop
            apart = split_questions(sample, self.questions_apart) if self.questions_apart else [sample]
            rows += apart
            visuals += [*own] * len(apart)
        processor = self.processor
        texts = [processor.apply_chat_template(conversation(row, with_answer=True), tokenize=False) for row in rows]
        expand = processor.replace_video_token if samples[0].frames else processor.replace_image_token
        expanded = [expand(batch, index) for index in range(number)]
        shown = {"videos_replacements" if samples[0].frames else "images_replacements": [expanded[v] for v in visuals]}
        texts, _ = processor.get_text_with_replacements(texts, **shown)
        tokens = processor.tokenizer(texts, padding=True, return_tensors="pt")
        labels = self.answers_of(tokens["input_ids"])
        # Padding and visuals stand on the left: only the positions from the first answer on need logits. The one
        # before it predicts its first token.
        first = int((labels != -100).any(dim=0).nonzero()[0])
        return {**tokens, "labels": labels[:, first - 1 :], "visuals": visuals}

    def answers_of(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What an assistant says, its end of turn included; -100 elsewhere. `int[b, s] -> int[b, s]`."""
        ids = self.processor.tokenizer.convert_tokens_to_ids
        opening, end = [ids("<|im_start|>"), ids("assistant")], ids("<|im_end|>")
        labels = []
        for row in input_ids.tolist():
            speaks, kept = False, []
            for position, token in enumerate(row):
                kept.append(token if speaks else -100)
                # After the role comes a line break, and then the answer.
                speaks = token != end if speaks else row[position - 2 : position] == opening
            labels.append(kept)
        return torch.tensor(labels)

    def token_labels(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """Labels of every tile or frame of a batch, grouped by token."""
        side = self.tokens_per_side
        cuts, named = [], []
        for sample in samples:
            for picture, middles in zip(sample.labels, sample.middles, strict=True):
                grid = (1, 1) if sample.frames else tile_grid(picture.shape[1], picture.shape[0])
                cuts.append(cut_labels(picture, grid, side * POINTS))
                named += [label_middles(tile, side) for tile in cut_middles(middles, grid)]
        points = torch.from_numpy(np.concatenate(cuts))
        # t (h r) (w s) c -> t (h w) (r s) c: the points of a token together.
        points = points.unflatten(1, (side, POINTS)).unflatten(3, (side, POINTS))
        points = points.transpose(2, 3).flatten(1, 2).flatten(2, 3)
        shapes, characters = (torch.from_numpy(np.stack(labels)) for labels in zip(*named, strict=True))
        return {"point_labels": points, "shape_labels": shapes, "character_labels": characters}


def stable_seed(name: str) -> int:
    """A seed that depends on nothing but the name."""
    return zlib.crc32(name.encode())
