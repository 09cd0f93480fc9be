"""Failures that libraries report in their own words, told as what a person can mend."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from adbench.errors import UserError

_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")
_DISK = ("failed writing", "No space left", "file write failed", "IoError")


@contextlib.contextmanager
def told_as_user_errors(folder: Path) -> Iterator[None]:
    """Turn memory and disk that ran out, wherever it happened, into one line each.

    Raises:
        UserError: in place of what was raised.
    """
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise UserError(_too_large(error)) from error
    except Exception as error:
        if isinstance(error, UserError | OSError):
            raise
        text = str(error)
        if isinstance(error, RuntimeError) and any(word in text for word in _MEMORY):
            raise UserError(_too_large(error)) from error
        if any(word in text for word in _DISK):
            raise UserError(
                f"{folder} cannot be written: {' '.join(text.split())[:160]}"
            ) from error
        raise


def _too_large(error: BaseException) -> str:
    told = " ".join(str(error).split())[:120]
    return (
        f"memory ran out ({told}); lower dataset.image_size, train.batch_size or the model's widths"
    )
