"""From logits to tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from prismtop.demo.attention import FloatArray

_LEAST_TEMPERATURE = 1e-5  # _SAMPLING_EPS of vllm/v1/sample: below it, division overflows


class Sampler:
    """Greedy, or by temperature with the Gumbel-max trick (Gumbel 1954), one row per request."""

    def sample(
        self, logits: FloatArray, temperatures: Sequence[float], generators: Sequence[np.random.Generator]
    ) -> list[int]:
        """One token per row of ``logits`` ``[rows, vocab]``; a temperature below 1e-5 is greedy.

        Each row has its own generator, so a request's tokens do not depend on its neighbours in the batch.
        """
        token_ids: list[int] = logits.argmax(axis=-1).tolist()
        for row, (temperature, generator) in enumerate(zip(temperatures, generators, strict=True)):
            if temperature >= _LEAST_TEMPERATURE:
                noise = generator.gumbel(size=logits.shape[-1])
                token_ids[row] = int((logits[row] / temperature + noise).argmax())
        return token_ids
