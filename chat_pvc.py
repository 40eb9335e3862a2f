# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""The published way to ask: `model.chat(tokenizer, pixel_values, question, ...)`, as PVC's model card shows it."""

from collections.abc import Sequence

import torch
from transformers import GenerationConfig


class PVCChatMixin:
    """Adds `chat` to a model that generates."""

    @torch.no_grad()
    def chat(
        self,
        tokenizer,
        pixel_values: torch.Tensor | None,
        question: str,
        generation_config: GenerationConfig | dict,
        history: list[tuple[str, str]] | None = None,
        return_history: bool = False,
        num_patches_list: Sequence[int] | None = None,
        data_flag: torch.Tensor | Sequence[int] | None = None,
        split_sizes: Sequence[int] | None = None,
    ) -> str | tuple[str, list[tuple[str, str]]]:
        r"""
        One turn of a conversation, in the form that PVC and InternVL published.

        Args:
            tokenizer: the tokenizer of this checkpoint.
            pixel_values (`torch.Tensor` of shape `(num_rows, num_channels, height, width)`, *optional*):
                What `load_image` or `load_video` returned, concatenated; the rows of earlier turns included.
            question (`str`):
                `<image>` stands for an image or a video frame; put first if a first question with pixels has none.
            generation_config (`GenerationConfig` or `dict`):
                Settings of `generate`, which ends at `<|im_end|>`.
            history (`list[tuple[str, str]]`, *optional*), return_history (`bool`, defaults to `False`):
                Questions and answers so far; whether to return them with this turn.
            num_patches_list (`Sequence[int]`, *optional*):
                Rows of each `<image>`: tiles of an image or of a frame. One image, or one row a frame, if not given.
            data_flag (`torch.Tensor` or `Sequence[int]`, *optional*):
                1 for a single image, 2 for several images, 3 for the frames of a video.
            split_sizes (`Sequence[int]`, *optional*):
                Rows of each conversation of a batch in the published code. Here there is one, so they sum to the rows.

        Raises:
            ValueError: if the rows, `<image>`s and descriptions disagree.
        """
        history = list(history or [])
        num_rows = 0 if pixel_values is None else pixel_values.shape[0]
        is_video = data_flag is not None and int(torch.as_tensor(data_flag).flatten()[0]) == 3
        if num_patches_list is not None:
            rows = list(num_patches_list)
        else:
            rows = [1] * num_rows if is_video else [num_rows] * bool(num_rows)
        if num_rows and not history and "<image>" not in question:
            labels = [f"Frame{number}: " for number in range(1, len(rows) + 1)] if is_video else [""]
            question = "".join(f"{label}<image>\n" for label in labels) + question
        asked = [*(question for question, _ in history), question]
        self._check_chat(rows, num_rows, sum(text.count("<image>") for text in asked), split_sizes, is_video)

        # A noncharacter holds the place of each visual, because the template makes markup in a user's text harmless.
        keeper = "\ufdd0"
        marked = [text.replace(keeper, "").replace("<image>", keeper) for text in asked]
        messages = []
        for text, (_, answer) in zip(marked, [*history, (None, None)]):
            messages.append({"role": "user", "content": text})
            messages.append({"role": "assistant", "content": answer})
        prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        per_row = self.config.vision_config.tokens_per_frame if is_video else self.config.tokens_per_tile
        token = tokenizer.convert_ids_to_tokens(self.config.video_token_id if is_video else self.config.image_token_id)
        for count in rows:
            prompt = prompt.replace(keeper, f"<img>{token * (count * per_row)}</img>", 1)

        inputs = tokenizer(prompt, return_tensors="pt").to(self.device)
        if num_rows:
            pixels = pixel_values.to(self.device, self.dtype)
            if is_video:
                inputs.update(pixel_values_videos=pixels, video_grid_thw=torch.tensor([[len(rows), rows[0], 1]]))
            else:
                inputs.update(pixel_values=pixels, image_grid_thw=torch.tensor([[count, 1, 1] for count in rows]))
        settings = generation_config if isinstance(generation_config, dict) else generation_config.to_diff_dict()
        settings = {"eos_token_id": tokenizer.convert_tokens_to_ids("<|im_end|>"), **settings}
        generated = self.generate(**inputs, **settings)[:, inputs["input_ids"].shape[1] :]
        answer = tokenizer.batch_decode(generated, skip_special_tokens=True)[0].strip()
        return (answer, [*history, (asked[-1], answer)]) if return_history else answer

    @staticmethod
    def _check_chat(rows: list[int], num_rows: int, num_marks: int, split_sizes: Sequence[int] | None, is_video: bool):
        for name, sizes in (("num_patches_list", rows), ("split_sizes", split_sizes)):
            if sizes is not None and sum(sizes) != num_rows:
                raise ValueError(
                    f"Expected {name} to sum to the {num_rows} rows of pixel_values, got {list(sizes)}; give the rows "
                    "of every image or frame."
                )
        if len(rows) != num_marks:
            raise ValueError(
                f"Expected one <image> for each of the {len(rows)} entries of num_patches_list, got {num_marks} in "
                "the question and its history; add or remove <image>."
            )
        if is_video and len(set(rows)) > 1:
            raise ValueError(
                f"Expected frames of equally many tiles in a video, got {rows}; load them with one max_num."
            )
