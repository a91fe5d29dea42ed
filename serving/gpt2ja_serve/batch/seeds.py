"""The seed of a row: a hash of the job's seed and what names the row."""

from __future__ import annotations

import hashlib


def row_seed(seed: int, *, id: str | int | None, position: int) -> int:  # noqa: A002  # as its column
    """The seed of a row, below 2**53, so that every reader of JSON keeps it exact.

    It is the first 53 bits of the SHA-256 of ``{seed}:id:{id}``, or of ``{seed}:row:{position}``
    where the row has no id, in UTF-8. Batches, parts, shards and workers have no say in it.

    Args:
        seed: The job's seed.
        id: The row's id; a whole number and its digits as a string are the same id.
        position: Position among all rows of the job, from 0.
    """
    key = f"{seed}:row:{position}" if id is None else f"{seed}:id:{id}"
    # Lone surrogates can be written in JSON, and are no UTF-8.
    digest = hashlib.sha256(key.encode("utf-8", errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8]) >> 11
