"""The logger `gpt2ja_onnx`. A program that wants its lines configures `logging`.

Warnings that a user should act on are `warnings`, and errors are raised: the log has what
somebody who runs a service looks for afterwards.
"""

from __future__ import annotations

import sys


def info(message: str, *values: object) -> None:
    """Log at INFO; nothing where the program has not imported `logging`, which takes 3 to 7 ms."""
    if "logging" in sys.modules:
        import logging

        logging.getLogger("gpt2ja_onnx").info(message, *values)


def error(message: str, cause: BaseException) -> None:
    """Log at ERROR with the traceback of `cause`; a program without handlers prints nothing."""
    import logging

    logger = logging.getLogger("gpt2ja_onnx")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())  # or logging's last resort writes to stderr
    logger.error(message, exc_info=cause)
