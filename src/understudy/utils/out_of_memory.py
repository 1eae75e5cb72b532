"""What to do where memory does not suffice, on the machine or on its GPU."""

from __future__ import annotations

import re

__all__ = ["out_of_memory"]

WAYS_OUT = (
    "take smaller batches (data.batch_size; accumulate: 2 keeps the steps and halves what a pass holds; "
    "data.eval_batch_size for passes that only evaluate), smaller images (data.image_size), precision: bfloat16, or "
    "fewer rows in one run"
)


def out_of_memory(error: BaseException) -> str | None:
    """'out of memory (tried to allocate 2.00 GiB): take smaller batches ...'; None of any other error.

    torch's errors are known by name and text, since importing torch takes longer than most commands.
    """
    said = str(error)
    is_torchs = type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in said
    if not (is_torchs or isinstance(error, MemoryError)):
        return None
    asked = re.search(r"(tried to|unable to) allocate \d[\d.,]* \w+", said, re.IGNORECASE)
    return f"out of memory{f' ({asked[0][0].lower()}{asked[0][1:]})' if asked else ''}: {WAYS_OUT}"
