# Copyright 2026 The PVC project authors. SPDX-License-Identifier: MIT  # trf-ignore: TRF028 (the licence is MIT)
"""
What a stream remembers: keys and values of the progressive layers per patch position, and of the language model.

Temporal attention has no positions of its own (time enters by AdaLN), so the order in which keys lie in the cache does
not matter. That is why a bounded cache is a ring that is written over, and never moved.
"""

from functools import partial

import torch
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer


class PVCCacheLayer(DynamicLayer):
    """
    Keys and values of one layer, `float[n, heads, t, head_dim]`, in memory that is written once.

    Exact, without a `window`: memory doubles when it is full, up to the horizon, so a step copies no earlier one.
    (`DynamicLayer` copies all of them at every step: at 64 frames of 448 pixels, 300M in float32, 6.4 GB a frame.)
    Memory is kept when steps are taken back, so what is read again and again never asks for more.
    """

    def __init__(self, sink: int = 0, window: int | None = None, num_steps: int | None = None):
        super().__init__()
        self.num_steps = num_steps
        self.sink = sink
        self.window = window
        self.cumulative_length = 0

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = self._allocated(key_states), self._allocated(value_states)
        self.is_initialized = True

    def _allocated(self, states: torch.Tensor) -> torch.Tensor:
        steps = states.shape[-2] if self.window is None else self.sink + self.window
        return states.new_empty(*states.shape[:-2], steps, states.shape[-1])

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Writes the new steps, `float[n, heads, steps, head_dim]` each, and returns all that are remembered.

        Raises:
            ValueError: if a bounded cache is given several steps: the last may write over what the first sees.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first, steps = self.cumulative_length, key_states.shape[-2]
        if self.window is not None:
            if steps > 1:
                raise ValueError(
                    f"Expected one step at a time in a cache bounded to {self.sink} + {self.window} steps, got "
                    f"{steps}; give frames one by one, or make a cache without a window."
                )
            if first >= self.sink:
                first = self.sink + (first - self.sink) % self.window
        elif first + steps > self.keys.shape[-2]:
            most = self.num_steps or 2 * first
            self._grow(max(first + steps, min(2 * first, most)))
        self.keys[..., first : first + steps, :] = key_states
        self.values[..., first : first + steps, :] = value_states
        self.cumulative_length += steps
        kept = self._num_kept()
        return self.keys[..., :kept, :], self.values[..., :kept, :]

    def _grow(self, capacity: int) -> None:
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_empty(*old.shape[:-2], capacity, old.shape[-1])
            new[..., : self.cumulative_length, :] = old[..., : self.cumulative_length, :]
            setattr(self, name, new)

    def _num_kept(self) -> int:
        if self.window is None:
            return self.cumulative_length
        return min(self.cumulative_length, self.sink + self.window)

    def crop(self, tokens_to_remove: int) -> None:
        """
        Take back the last steps, their number given below zero as to `DynamicLayer`.

        Raises:
            ValueError: for a number above zero, or for more than one step of a bounded cache that has begun to forget:
                the next step takes the place of one, but what others were written over is gone.
        """
        steps = min(-tokens_to_remove, self.cumulative_length)
        forgets = self.window is not None and self.cumulative_length > self.sink + self.window
        if steps < 0 or (forgets and steps > 1):
            most = "one step" if forgets else "all steps"
            raise ValueError(f"Expected 0 for none to -n for n steps, {most} at most, to be taken back, got {-steps}.")
        self.cumulative_length -= steps

    def get_seq_length(self) -> int:
        """Steps seen so far, those that a bounded cache has forgotten included."""
        return self.cumulative_length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Keys that `query_length` new steps will see, and the step of the first of them."""
        seen = self.cumulative_length + query_length
        kept = seen if self.window is None else min(seen, self.sink + self.window)
        return kept, seen - kept


def growing_cache(config) -> DynamicCache:
    """
    A language model's cache of [`PVCCacheLayer`]s, from which any number of tokens can be taken back.

    Layers of sliding attention keep everything too: what they must not see, the library's mask hides.

    Raises:
        ValueError: if the model has layers that are not attention, or keep more than keys and values.
    """
    cache = DynamicCache(config=config)
    others = {type(layer).__name__ for layer in cache.layers} - {"DynamicLayer", "DynamicSlidingWindowLayer"}
    if others:
        raise ValueError(
            f"Expected a language model whose layers are attention, from whose cache tokens can be taken back, got "
            f"layers cached by {', '.join(sorted(others))}; give it whole conversations by `generate`."
        )
    cache.layers = [PVCCacheLayer() for _ in cache.layers]
    return cache


class PVCTemporalCache(Cache):
    """
    What one clip's earlier steps left in the progressive layers; `temporal_cache=[...]` of [`PVCVisionModel`].

    Exact without a `window`: frames in any split give the features of the whole clip, and memory grows by
    `2 * num_temporal_layers * (1 + num_patches) * hidden_size` values a step (50 MB at 300M in bfloat16). For
    inference: it is written in place, so it takes no part in training (`DynamicCache` does).

    Args:
        sink (`int`, *optional*, defaults to 0), window (`int`, *optional*):
            Bounded: the first `sink` and the last `window` steps are remembered, the current one among them. Then
            memory is constant, and features are not those of the whole clip once it is longer than both together.
        num_steps (`int`, *optional*): the horizon of the clip, beyond which an exact cache reserves no memory.

    Raises:
        ValueError: if `sink` or `window` is too small.
    """

    def __init__(self, sink: int = 0, window: int | None = None, num_steps: int | None = None):
        whole = all(isinstance(number, int) for number in (sink, 1 if window is None else window))
        if not whole or sink < 0 or (window is not None and window < 1) or (sink and window is None):
            raise ValueError(
                f"Expected a window of at least 1 with sink >= 0, or neither, got sink={sink!r} and "
                f"window={window!r}; a cache without a window remembers everything."
            )
        self.is_bounded = window is not None
        super().__init__(layer_class_to_replicate=partial(PVCCacheLayer, sink, window, num_steps))

    def rewind(self, num_steps: int) -> None:
        """Take back what layers hold beyond `num_steps`: an interruption leaves layers of unlike length."""
        for layer in self.layers:
            layer.crop(min(0, num_steps - layer.get_seq_length()))
