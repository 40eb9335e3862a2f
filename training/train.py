# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Trains the model in this repository from nothing, on what `training/tasks.py` draws.

    python -m training.train --output runs
    torchrun --standalone --nproc-per-node 2 -m training.train --output runs --no-compile    # a process for each core

Nine stages, each a `Trainer` run that resumes from its last checkpoint and is skipped once finished:

1. `tokens`: the vision tower alone learns to say what each of its tokens shows, which the generator knows: characters,
   shapes, colours, ranks in a line or in time, motion, what has its middle there and where that is in the frame.
2. `details`: the same in batches of twice the size, from the full distribution.
3. `names`: the language model alone learns to find what a question names. Asked for nothing else and each question in
   a sequence of its own, it does so within some hundred steps; mixed with everything, it did not within thousands.
4. `several`: the language model alone, in which of several images something is.
5. `counting`: the language model alone, how many there are.
6. `pairs`: the language model alone, whether two images are the same, beside easier questions about what they share.
7. `whole`: the whole model, asked for everything; images are seen in one step (`T_img` 1).
8. `answers`: the same in the four steps of the released models.
9. `conversations`: the same with all the questions about a picture in one conversation; the weights are averaged with
   those before.

Matrices are trained by Muon (https://kellerjordan.github.io/posts/muon), the rest by AdamW.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from training.data import POINTS, Collator, DrawnAhead, DrawnSamples, Schedule, stable_seed
from training.scenes import COLOUR_CLASSES, FIRST_SHAPE, HIGHEST_RANK, MOTION_CLASSES, UNKNOWN, WHAT_CLASSES
from training.tasks import TASKS, TRAINING_TASKS


ROOT = Path(__file__).resolve().parents[1]
# Most of a picture is background, which is learned in no time.
BACKGROUND_WEIGHT = 0.1
# The share of each loss of a token: of what is at its points (what, of which colour, of which rank, moving which way),
# of the shape whose middle it holds (what, of which colour, its rank, its places among those of its shape and colour),
# of the characters whose middles it holds, and of its own place.
POINT_LOSSES = (1.0, 0.5, 1.0, 1.0)
SHAPE_LOSSES = (0.4, 0.4, 0.4, 0.4, 0.4)
CHARACTER_LOSSES = (1.0,)
PLACE_LOSS = 0.2

# Binary digits that stored weights keep after the leading one.
MANTISSA_BITS = 4

# How often each task is drawn.
NO_TASKS = dict.fromkeys((*TASKS, *TRAINING_TASKS), 0.0)
WEIGHTS_TO_SEE = {
    **NO_TASKS,
    "number": 5.0,
    "word": 8.0,
    "shape_colour": 0.5,
    "count": 5.0,
    "relation": 1.0,
    "multi_image": 1.5,
    "direction": 6.0,
    "order": 5.0,
    "flash": 7.0,
    "video_number": 9.0,
    "page": 8.0,
    "objects": 8.0,
    "sheet": 22.0,
}
WEIGHTS_TO_ANSWER = {
    **NO_TASKS,
    "number": 4.0,
    "word": 8.0,
    "shape_colour": 0.5,
    "count": 6.0,
    "relation": 2.0,
    "multi_image": 4.0,
    "direction": 1.0,
    "order": 1.0,
    "flash": 3.0,
    "video_number": 5.0,
    "page": 5.0,
    "objects": 3.0,
    "sheet": 4.0,
    "names": 3.0,
    "pairs": 3.0,
}


@dataclass(frozen=True)
class Stage:
    """
    One `Trainer` run.

    `token_loss` and `answer_loss` weigh the two losses; without an answer loss the vision tower trains alone, and at a
    `tower_rate` of zero the language model does. `weights` are those of the tasks, `image_steps` is T_img,
    `questions_apart` the `Collator`'s. `learning_rate` is Muon's, whose updates have a norm that does not depend on
    the gradient's; the vision tower's is `tower_rate` of it. An `averaged` stage leaves the mean of the weights before
    and after it, so as not to forget (https://arxiv.org/abs/2109.01903).
    """

    name: str
    weights: dict[str, float]
    steps: int
    batch_size: int
    learning_rate: float
    token_loss: float
    answer_loss: float
    image_steps: int = 1
    tower_rate: float = 1.0
    first_level: int = 0
    settled: float = 0.7
    long_share: float = 0.375
    questions_apart: int = 0
    averaged: bool = False
    scheduler: str = "cosine"


ADAMW_LEARNING_RATE = 0.15  # of Muon's
STAGES = (
    Stage(
        "tokens",
        WEIGHTS_TO_SEE,
        steps=14500,
        batch_size=32,
        learning_rate=2e-2,
        token_loss=1.0,
        answer_loss=0.0,
        settled=0.2,
        long_share=0.2,
    ),
    Stage(
        "details",
        WEIGHTS_TO_SEE,
        steps=8000,
        batch_size=64,
        learning_rate=2e-2,
        token_loss=1.0,
        answer_loss=0.0,
        first_level=3,
        settled=0.1,
        long_share=0.2,
    ),
    Stage(
        "names",
        {**NO_TASKS, "names": 1.0},
        steps=1200,
        batch_size=24,
        learning_rate=1e-2,
        token_loss=0.0,
        answer_loss=1.0,
        tower_rate=0.0,
        first_level=2,
        settled=1.0,
        questions_apart=4,
        scheduler="constant_with_warmup",
    ),
    Stage(
        "several",
        {**NO_TASKS, "multi_image": 3.0, "pairs": 4.0, "names": 1.0},
        steps=1200,
        batch_size=24,
        learning_rate=1e-2,
        token_loss=0.0,
        answer_loss=1.0,
        tower_rate=0.0,
        settled=0.5,
        long_share=1.0,
        questions_apart=4,
        scheduler="constant_with_warmup",
    ),
    Stage(
        "counting",
        {**NO_TASKS, "count": 5.0, "multi_image": 2.0, "pairs": 3.0, "names": 4.0, "objects": 1.0},
        steps=2000,
        batch_size=24,
        learning_rate=1e-2,
        token_loss=0.0,
        answer_loss=1.0,
        tower_rate=0.0,
        first_level=2,
        settled=0.4,
        long_share=0.75,
        questions_apart=4,
        scheduler="constant_with_warmup",
    ),
    Stage(
        "pairs",
        {**NO_TASKS, "count": 1.0, "multi_image": 1.0, "pairs": 6.0, "names": 2.0},
        steps=2200,
        batch_size=24,
        learning_rate=1e-2,
        token_loss=0.0,
        answer_loss=1.0,
        tower_rate=0.0,
        first_level=2,
        settled=0.5,
        long_share=0.75,
        questions_apart=3,
        scheduler="constant_with_warmup",
    ),
    Stage(
        "whole",
        WEIGHTS_TO_ANSWER,
        steps=8000,
        batch_size=24,
        learning_rate=1e-2,
        token_loss=0.5,
        answer_loss=1.0,
        tower_rate=0.3,
        first_level=3,
        settled=0.2,
        questions_apart=4,
        scheduler="constant_with_warmup",
    ),
    Stage(
        "answers",
        WEIGHTS_TO_ANSWER,
        steps=10000,
        batch_size=16,
        learning_rate=8e-3,
        token_loss=0.5,
        answer_loss=1.0,
        image_steps=4,
        tower_rate=0.3,
        first_level=4,
        questions_apart=3,
    ),
    Stage(
        "conversations",
        WEIGHTS_TO_ANSWER,
        steps=450,
        batch_size=16,
        learning_rate=4e-3,
        token_loss=0.2,
        answer_loss=1.0,
        image_steps=4,
        tower_rate=0.2,
        first_level=4,
        averaged=True,
    ),
)


class TokenSupervised(nn.Module):
    """
    PVC with heads that name what each token of the vision tower shows, for training only.

    Each is one linear layer on the compressed tokens. `point_head` names the classes of what, of which colour, of
    which rank and moving which way is at POINTS^2 points of the square that a token stands for; `shape_head` the shape
    whose middle is in the square, its colour, rank and places among its like, so that counting is finding the last;
    `character_head` the character of each rank whose middle is in it, so that reading is adding up tokens;
    `place_head` the token's place in its frame, so that what is said about its square can be said about where it is.
    """

    def __init__(self, pvc: nn.Module, token_loss: float = 1.0, answer_loss: float = 1.0):
        super().__init__()
        self.pvc = pvc
        self.token_loss = token_loss
        self.answer_loss = answer_loss
        what, colour, rank = len(WHAT_CLASSES), len(COLOUR_CLASSES), 1 + HIGHEST_RANK
        self.point_classes = (what, colour, rank, len(MOTION_CLASSES))
        self.shape_classes = (what, colour, rank, rank, rank)
        width = pvc.config.vision_config.projection_dim
        self.point_head = nn.Linear(width, POINTS**2 * sum(self.point_classes))
        self.shape_head = nn.Linear(width, sum(self.shape_classes))
        self.character_head = nn.Linear(width, HIGHEST_RANK * FIRST_SHAPE)
        self.place_head = nn.Linear(width, pvc.config.vision_config.tokens_per_frame)

    def loss_of_tokens(
        self, tokens: torch.Tensor, points: torch.Tensor, shapes: torch.Tensor, characters: torch.Tensor
    ) -> torch.Tensor:
        """
        Weighted sum of eleven cross-entropies.

        `float[t, n, D], uint8[t, n, points, 4], uint8[t, n, 5], uint8[t, n, ranks] -> float[]`.
        """
        places = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape[:2])
        place_scores = self.place_head(tokens).flatten(0, 1).float()
        loss = PLACE_LOSS * nn.functional.cross_entropy(place_scores, places.flatten())
        named = (
            (self.point_head, self.point_classes, POINT_LOSSES, points),
            (self.shape_head, self.shape_classes, SHAPE_LOSSES, shapes[:, :, None]),
            (self.character_head, (FIRST_SHAPE,), CHARACTER_LOSSES, characters[..., None]),
        )
        for head, classes, shares, labels in named:
            scores = head(tokens).unflatten(-1, (labels.shape[2], -1)).flatten(0, 2).float().split(classes, dim=-1)
            for part, share, kind in zip(scores, shares, labels.long().flatten(0, 2).unbind(-1), strict=True):
                weight = torch.ones(part.shape[-1], device=part.device)
                weight[0] = BACKGROUND_WEIGHT
                loss = loss + share * nn.functional.cross_entropy(part, kind, weight, ignore_index=UNKNOWN)
        return loss

    def forward(
        self,
        point_labels: torch.Tensor,
        shape_labels: torch.Tensor,
        character_labels: torch.Tensor,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        visuals: list[int] | None = None,
        **inputs,
    ) -> dict[str, torch.Tensor]:
        if pixel_values is not None:
            encoded = {"image": self.pvc.get_image_features(pixel_values, image_grid_thw)}
            steps = self.pvc.config.num_image_steps
        else:
            encoded = {"video": self.pvc.get_video_features(pixel_values_videos, video_grid_thw)}
            steps = 1
        (features,) = encoded.values()
        losses, loss = {}, 0.0
        if self.token_loss:
            # The first step of a tile says what it shows; the later ones are free to say something else.
            tokens = torch.cat(features.pooler_output).unflatten(0, (-1, steps, point_labels.shape[1]))[:, 0]
            losses["token_loss"] = self.loss_of_tokens(tokens, point_labels, shape_labels, character_labels)
            loss = self.token_loss * losses["token_loss"]
        if labels is not None:
            features.pooler_output = [features.pooler_output[visual] for visual in visuals]
            # Labels are of the last positions of each row, from the first answer on.
            losses["answer_loss"] = self.pvc(
                **inputs, mm_encoder_outputs=encoded, labels=labels, logits_to_keep=labels.shape[1]
            ).loss
            loss = loss + self.answer_loss * losses["answer_loss"]
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}}


class MuonWithAdamW(torch.optim.Optimizer):
    """
    `torch.optim.Muon` for the matrices and AdamW, at `ADAMW_LEARNING_RATE` of its rate, for the rest.

    `groups` are lists of (name, parameter), each with its learning rate.
    """

    def __init__(self, groups: list[tuple[list[tuple[str, nn.Parameter]], float]], weight_decay: float = 0.05):
        matrices, others = [], []
        for named, rate in groups:
            matrices.append({"params": [p for name, p in named if is_matrix(name, p)], "lr": rate})
            rest = [p for name, p in named if not is_matrix(name, p)]
            others.append({"params": rest, "lr": ADAMW_LEARNING_RATE * rate})
        self.parts = (
            torch.optim.Muon(matrices, weight_decay=weight_decay),
            torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=weight_decay, fused=True),
        )
        super().__init__([dict(group) for group in (*matrices, *others)], {})
        self.param_groups = [group for part in self.parts for group in part.param_groups]

    def step(self, closure=None):
        for part in self.parts:
            part.step()

    def state_dict(self) -> dict:
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Whether Muon trains a parameter: matrices that map features to features, not tables and heads."""
    return parameter.ndim == 2 and not any(part in name for part in ("embed_tokens", "head"))


class TwoLossTrainer(Trainer):
    """`Trainer` with `MuonWithAdamW` that also logs the parts of the loss, each averaged since the last log."""

    def __init__(self, *args, tower_rate: float = 1.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.tower_rate = tower_rate
        self.parts = {}

    def create_optimizer(self, *args, **kwargs):
        trained = [(name, parameter) for name, parameter in self.model.named_parameters() if parameter.requires_grad]
        tower = [item for item in trained if "vision_tower" in item[0]]
        rest = [item for item in trained if "vision_tower" not in item[0]]
        rate = self.args.learning_rate
        # The rate that is logged is the first group's.
        groups = [(tower, self.tower_rate * rate), (rest, rate)] if tower else [(rest, rate)]
        self.optimizer = MuonWithAdamW(groups, self.args.weight_decay)
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        for name, value in outputs.items():
            if name != "loss":
                self.parts.setdefault(name, []).append(value.item())
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs.update({name: round(sum(values) / len(values), 4) for name, values in self.parts.items()})
            self.parts = {}
        super().log(logs, *args, **kwargs)


def run_stage(stage: Stage, model: TokenSupervised, processor, output: Path, args) -> None:
    """Trains one stage, from its last checkpoint if there is one, and leaves `output/stage.name/final`."""
    folder = output / stage.name
    model.token_loss, model.answer_loss = stage.token_loss, stage.answer_loss
    model.pvc.config.num_image_steps = processor.num_image_steps = stage.image_steps
    steps = max(1, round(stage.steps * args.steps_scale))
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.scheduler,
        warmup_steps=min(100, steps // 5),
        weight_decay=0.05,
        max_grad_norm=1.0,
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),
        ddp_backend="gloo" if torch.distributed.is_torchelastic_launched() and not torch.cuda.is_available() else None,
        # `choose_trained_parts` leaves none unused.
        ddp_find_unused_parameters=False,
        train_sampling_strategy="sequential",
        logging_steps=args.logging_steps,
        save_steps=args.save_steps,
        save_total_limit=1,
        remove_unused_columns=False,
        report_to=[],
        seed=args.seed,
        disable_tqdm=not sys.stdout.isatty(),
    )
    processes = arguments.world_size
    batch_size, rest = divmod(args.batch_size or stage.batch_size, processes)
    if rest:
        raise ValueError(
            f"Expected a batch size that {processes} processes can share evenly, but got "
            f"{args.batch_size or stage.batch_size}; start another number of processes or set `--batch-size`."
        )
    arguments.per_device_train_batch_size = batch_size
    schedule = Schedule(stage.weights, stage.first_level, stage.settled)
    seed = stable_seed(stage.name) + args.seed
    length = steps * batch_size * processes
    dataset = DrawnSamples(length, batch_size, seed, schedule, stage.long_share, num_processes=processes)
    dataset = DrawnAhead(dataset, args.draw_ahead, arguments.process_index)
    choose_trained_parts(model, stage)
    vision_config = model.pvc.config.vision_config
    tokens_per_side = vision_config.grid_size // vision_config.downsample_factor
    collator = Collator(processor, tokens_per_side, bool(stage.answer_loss), stage.questions_apart)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    trainer = TwoLossTrainer(
        model=model, args=arguments, train_dataset=dataset, data_collator=collator, tower_rate=stage.tower_rate
    )
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    if stage.averaged:
        after = model.state_dict()
        model.load_state_dict({name: torch.lerp(weight, after[name], 0.5) for name, weight in before.items()})
    if trainer.is_world_process_zero():
        torch.save(model.state_dict(), folder / "final.pt")
        (folder / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    trainer.accelerator.wait_for_everyone()


def choose_trained_parts(model: TokenSupervised, stage: Stage) -> None:
    """What a stage has no loss or no rate for does not train; every step gives all the rest a gradient."""
    for part in (model.pvc.model.language_model, model.pvc.lm_head):
        part.requires_grad_(stage.answer_loss > 0)
    for part in (model.point_head, model.shape_head, model.character_head, model.place_head):
        part.requires_grad_(stage.token_loss > 0)
    model.pvc.model.vision_tower.requires_grad_(stage.tower_rate > 0)


def build_model(seed: int, folder: Path | None = None) -> TokenSupervised:
    """The model of a folder, or the architecture of `config.json` with fresh weights."""
    set_seed(seed)
    # On a CPU in bfloat16, steps with eager attention took 0.6 to 0.8 of the time of those with sdpa at these sizes.
    settings = {"trust_remote_code": True, "attn_implementation": "eager"}
    if folder is not None:
        pvc = AutoModelForImageTextToText.from_pretrained(folder, **settings)
    else:
        pvc = AutoModelForImageTextToText.from_config(
            AutoConfig.from_pretrained(ROOT, trust_remote_code=True), **settings
        )
    return TokenSupervised(pvc.float())


def compile_layers(pvc: nn.Module) -> None:
    """
    Compiles each kind of layer once, for any batch; a step of several tiles takes half the time. Needs a C++ compiler.

    The function of the class is compiled, not that of each layer, so that layers share one graph.
    """
    # To the compiler the layers of every kind are one function of `GradientCheckpointingLayer`, with one limit.
    torch._dynamo.config.recompile_limit = 64
    tower, language_model = pvc.model.vision_tower, pvc.model.language_model
    for layer in (tower.shared_layers[0], tower.progressive_layers[0].temporal_norm, language_model.layers[0]):
        kind = type(layer)
        kind.forward = torch.compile(kind.forward, dynamic=True)


def round_mantissa(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """The nearest number with `bits` binary digits after the leading one."""
    mantissa, exponent = torch.frexp(weight)  # mantissas from 1/2 to 1
    return torch.ldexp(torch.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


def save_model(pvc: nn.Module, processor, folder: Path) -> None:
    """
    Saves model and processor; weights are stored in bfloat16, half the size, and load as float32.

    Rounded to `MANTISSA_BITS`, they come to 4.1 MB instead of 5.5 in git, which compresses them and keeps every copy.
    """
    weights = {name: round_mantissa(tensor, MANTISSA_BITS).bfloat16() for name, tensor in pvc.state_dict().items()}
    pvc.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--model", type=Path, help="folder of a model to go on from, instead of fresh weights")
    parser.add_argument("--stages", nargs="+", choices=names, default=names)
    parser.add_argument("--batch-size", type=int, help="instead of each stage's own")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--draw-ahead", type=int, default=64, metavar="STEPS", help="steps whose samples are drawn at once"
    )
    parser.add_argument("--logging-steps", type=int, default=20)
    parser.add_argument("--save-steps", type=int, default=400)
    args = parser.parse_args()

    model = build_model(args.seed, args.model)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    if args.compile:
        compile_layers(model.pvc)
    for stage in STAGES:
        final = args.output / stage.name / "final.pt"
        if stage.name in args.stages and not final.exists():
            run_stage(stage, model, processor, args.output, args)
        if final.exists():
            model.load_state_dict(torch.load(final, weights_only=True))
    if int(os.environ.get("RANK", 0)) == 0:
        save_model(model.pvc, processor, args.output / "model")


if __name__ == "__main__":
    main()
