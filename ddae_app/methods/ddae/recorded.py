"""A computation that a GPU repeats from a recording."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

WARM_UP = 3
"""Runs before the recording, in which libraries choose how to compute."""


class Recorded:
    """A computation on a GPU, recorded once as a CUDA graph and then only repeated.

    A network of thousands of small operations keeps a GPU waiting for Python, which starts them
    one by one. A graph starts them all at once.

    Parameters
    ----------
    compute : callable
        From tensors to a tensor, all on the GPU. What else it writes, such as the gradients of
        weights, is in the same memory after each repetition. It must not ask for a value.
    inputs : sequence of torch.Tensor
        For the recording; their shapes and types are those of all later ones.
    generator : torch.Generator
        On the GPU, which `compute` draws from besides PyTorch's own. Both have drawn other
        numbers afterwards: seed them before each repetition.
    """

    def __init__(
        self,
        compute: Callable[..., Tensor],
        inputs: Sequence[Tensor],
        generator: torch.Generator,
    ) -> None:
        self._inputs = [x.to(generator.device) for x in inputs]
        current, beside = torch.cuda.current_stream(), torch.cuda.Stream()
        beside.wait_stream(current)
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP):
                compute(*self._inputs)
        current.wait_stream(beside)
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(generator)
        with torch.cuda.graph(self._graph):
            self._result = compute(*self._inputs)

    def __call__(self, inputs: Sequence[Tensor]) -> Tensor:
        """The result for other inputs, which may be in the memory of the CPU."""
        for own, x in zip(self._inputs, inputs, strict=True):
            # From pinned memory, so that the GPU need not be ready for it.
            own.copy_(x.pin_memory(), non_blocking=True)
        self._graph.replay()
        return self._result.clone()
