# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT
"""
Trains the model in this repository from nothing, on what `training/tasks.py` draws.

    python -m training.train --output runs

Three stages, each a `Trainer` run that resumes from its last checkpoint and is skipped once finished:

1. `patches`: the vision tower alone learns to say what each patch shows, which the generator knows.
2. `curriculum`: the whole model answers questions of rising difficulty, many about a picture, which it sees in one
   step (`T_img` 1); the patch loss stays on as a second loss.
3. `answers`: the full distribution in the four steps of the released models.
"""

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, Trainer, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from training.data import PATCH_SAMPLES, Collator, DrawnSamples, Pages, Schedule, stable_seed
from training.scenes import COLOUR_CLASSES, WHAT_CLASSES
from training.tasks import TRAINING_TASKS


ROOT = Path(__file__).resolve().parents[1]
BACKGROUND_WEIGHT = 0.3
TASK_WEIGHTS = {
    "number": 4.0,
    "word": 5.0,
    "shape_colour": 1.0,
    "count": 2.0,
    "relation": 2.0,
    "multi_image": 1.5,
    "direction": 0.6,
    "order": 0.8,
    "flash": 0.6,
    "video_number": 1.2,
}


@dataclass(frozen=True)
class Stage:
    """
    One `Trainer` run.

    `patch_loss` and `answer_loss` weigh the two losses; without an answer loss the vision tower trains alone, on
    pages. `many_questions` weighs pictures with many questions among the tasks. `image_steps` is T_img.
    """

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    patch_loss: float
    answer_loss: float
    many_questions: float = 0.0
    image_steps: int = 4
    first_level: int = 0
    settled: float = 0.7
    scheduler: str = "cosine"


STAGES = (
    Stage("patches", 2400, 64, 2e-3, 1.0, 0.0),
    Stage("curriculum", 2600, 16, 1e-3, 0.2, 1.0, 14.0, image_steps=1, scheduler="constant_with_warmup"),
    Stage("answers", 700, 16, 7e-4, 0.1, 1.0, 6.0, first_level=2),
)


class PatchSupervised(nn.Module):
    """
    PVC with a head that names what each patch shows, for training only.

    The head is one linear layer on the vision tower's last hidden states: the classes of what and of which colour is
    at PATCH_SAMPLES^2 points of the patch.
    """

    def __init__(self, pvc: nn.Module, patch_loss: float = 1.0, answer_loss: float = 1.0):
        super().__init__()
        self.pvc = pvc
        self.patch_loss = patch_loss
        self.answer_loss = answer_loss
        self.classes = (len(WHAT_CLASSES), len(COLOUR_CLASSES))
        self.head = nn.Linear(pvc.config.vision_config.hidden_size, PATCH_SAMPLES**2 * sum(self.classes))

    def loss_of_patches(self, hidden_states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of both labels: `float[rows, 1 + n, d], uint8[rows, n * points, 2] -> float[]`."""
        labels = labels.long()
        scores = self.head(hidden_states[:, 1:]).unflatten(-1, (PATCH_SAMPLES**2, -1)).flatten(1, 2)
        loss = 0.0
        for part, kind in zip(scores.float().split(self.classes, dim=-1), labels.unbind(-1)):
            # Most of a picture is background, which is learned in no time.
            weight = torch.ones(part.shape[-1], device=part.device)
            weight[0] = BACKGROUND_WEIGHT
            loss = loss + nn.functional.cross_entropy(part.flatten(0, 1), kind.flatten(), weight=weight)
        return loss

    def forward(
        self,
        patch_labels: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_grid_thw: torch.Tensor | None = None,
        pixel_values_videos: torch.Tensor | None = None,
        video_grid_thw: torch.Tensor | None = None,
        **inputs,
    ) -> dict[str, torch.Tensor]:
        if not self.answer_loss:
            # A page is a clip of one step: what it shows does not need T_img of them.
            hidden_states = self.pvc.model.vision_tower(pixel_values).last_hidden_state
            return {"loss": self.loss_of_patches(hidden_states, patch_labels)}
        encoded, losses = {}, {}
        if pixel_values is not None:
            encoded["image"] = self.pvc.get_image_features(pixel_values, image_grid_thw)
            # The first step of a tile names its patches; the later ones are free to say something else.
            first_steps = encoded["image"].last_hidden_state[:: self.pvc.config.num_image_steps]
            losses["patch_loss"] = self.loss_of_patches(first_steps, patch_labels)
        if pixel_values_videos is not None:
            encoded["video"] = self.pvc.get_video_features(pixel_values_videos, video_grid_thw)
        # Labels are of the last positions of each row, from the first answer on.
        losses["answer_loss"] = self.pvc(
            **inputs, mm_encoder_outputs=encoded, labels=labels, logits_to_keep=labels.shape[1]
        ).loss
        loss = self.answer_loss * losses["answer_loss"] + self.patch_loss * losses.get("patch_loss", 0.0)
        return {"loss": loss, **{name: value.detach() for name, value in losses.items()}}


class TwoLossTrainer(Trainer):
    """`Trainer` that also logs the two parts of the loss."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        outputs = model(**inputs)
        self.parts = {name: value for name, value in outputs.items() if name != "loss"}
        return (outputs["loss"], outputs) if return_outputs else outputs["loss"]

    def log(self, logs, *args, **kwargs):
        if "loss" in logs:
            logs.update({name: round(value.item(), 4) for name, value in getattr(self, "parts", {}).items()})
        super().log(logs, *args, **kwargs)


def run_stage(stage: Stage, model: PatchSupervised, processor, output: Path, args) -> None:
    """Trains one stage, from its last checkpoint if there is one, and leaves `output/stage.name/final`."""
    folder = output / stage.name
    model.patch_loss, model.answer_loss = stage.patch_loss, stage.answer_loss
    model.pvc.config.num_image_steps = processor.num_image_steps = stage.image_steps
    weights = {**TASK_WEIGHTS, **dict.fromkeys(TRAINING_TASKS, stage.many_questions / 2)}
    batch_size = args.batch_size or stage.batch_size
    steps = max(1, round(stage.steps * args.steps_scale))
    seed, length = stable_seed(stage.name) + args.seed, steps * batch_size
    schedule = Schedule(weights, stage.first_level, stage.settled)
    dataset = DrawnSamples(length, batch_size, seed, schedule) if stage.answer_loss else Pages(length, seed)
    collator = Collator(processor, model.pvc.config.vision_config.grid_size)
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=batch_size,
        learning_rate=stage.learning_rate,
        lr_scheduler_type=stage.scheduler,
        warmup_steps=min(300, steps // 5),
        weight_decay=0.05,
        max_grad_norm=1.0,
        adam_beta2=0.98,
        bf16=args.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=args.workers,
        dataloader_prefetch_factor=4 if args.workers else None,
        train_sampling_strategy="sequential",
        logging_steps=args.logging_steps,
        save_steps=args.save_steps,
        save_total_limit=1,
        remove_unused_columns=False,
        report_to=[],
        seed=args.seed,
        disable_tqdm=not sys.stdout.isatty(),
    )
    trainer = TwoLossTrainer(
        model=model,
        args=arguments,
        train_dataset=dataset,
        data_collator=collator if stage.answer_loss else collator.pages,
    )
    last = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    trainer.train(resume_from_checkpoint=last)
    torch.save(model.state_dict(), folder / "final.pt")
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))


def build_model(seed: int) -> PatchSupervised:
    """The architecture of `config.json` with fresh weights."""
    set_seed(seed)
    config = AutoConfig.from_pretrained(ROOT, trust_remote_code=True)
    # On a CPU in bfloat16, steps with eager attention took 0.6 to 0.7 of the time of those with sdpa at these sizes.
    pvc = AutoModelForImageTextToText.from_config(config, trust_remote_code=True, attn_implementation="eager")
    return PatchSupervised(pvc.float())


def compile_layers(pvc: nn.Module) -> None:
    """
    Compiles each kind of layer once, for any batch; a step of several tiles takes half the time. Needs a C++ compiler.

    The function of the class is compiled, not that of each layer, so that layers share one graph.
    """
    tower, language_model = pvc.model.vision_tower, pvc.model.language_model
    for layer in (tower.shared_layers[0], tower.progressive_layers[0].temporal_norm, language_model.layers[0]):
        kind = type(layer)
        kind.forward = torch.compile(kind.forward, dynamic=True)


def save_model(pvc: nn.Module, processor, folder: Path) -> None:
    """Saves model and processor; weights are stored in bfloat16, half the size, and load as float32."""
    weights = {name: tensor.bfloat16() for name, tensor in pvc.state_dict().items()}
    pvc.save_pretrained(folder, state_dict=weights)
    processor.save_pretrained(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [stage.name for stage in STAGES]
    parser.add_argument("--output", type=Path, default=ROOT / "runs")
    parser.add_argument("--stages", nargs="+", choices=names, default=names)
    parser.add_argument("--batch-size", type=int, help="instead of each stage's own")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="multiplies the steps of every stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--workers", type=int, default=1, help="processes that draw ahead")
    parser.add_argument("--logging-steps", type=int, default=20)
    parser.add_argument("--save-steps", type=int, default=400)
    args = parser.parse_args()

    model = build_model(args.seed)
    processor = AutoProcessor.from_pretrained(ROOT, trust_remote_code=True)
    if args.compile:
        compile_layers(model.pvc)
    for stage in STAGES:
        final = args.output / stage.name / "final.pt"
        if stage.name in args.stages and not final.exists():
            run_stage(stage, model, processor, args.output, args)
        if final.exists():
            model.load_state_dict(torch.load(final, weights_only=True))
    save_model(model.pvc, processor, args.output / "model")


if __name__ == "__main__":
    main()
