"""What all requests share: the model, the limits, what goes on."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Literal

from gpt2ja_onnx import GPT2Ja
from gpt2ja_serve.http.errors import ApiError, unavailable
from gpt2ja_serve.metrics import Metrics

if TYPE_CHECKING:
    from gpt2ja_serve.settings import ServeSettings

Phase = Literal["loading", "ready", "draining"]


class Service:
    """One model that is served.

    Args:
        settings: How.

    Attributes:
        settings: How.
        phase: What it does now.
        running: Requests for the model that are not answered yet.
        metrics: What is counted.
        created: When it was made, in seconds since 1970.
    """

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.phase: Phase = "loading"
        self.running = 0
        self.created = int(time.time())
        self._model: GPT2Ja | None = None
        self._fingerprint = ""
        self.metrics = Metrics(settings.name, lambda: self._model)

    @property
    def model(self) -> GPT2Ja:
        """The model.

        Raises:
            ApiError: It is not loaded yet, or takes nothing any more.
        """
        if self.phase == "draining":
            raise unavailable("the server is shutting down")
        if self._model is None:
            raise unavailable("the model is being loaded")
        return self._model

    @property
    def fingerprint(self) -> str:
        """Within which a seed gives the same text."""
        return self._fingerprint

    def check_name(self, name: str | None) -> None:
        """Refuse any name but the model's; None is no name.

        Raises:
            ApiError: There is no such model.
        """
        if name is not None and name != self.settings.name:
            raise ApiError(
                404,
                f"the model {name[:80]!r} does not exist; this server has {self.settings.name!r}",
                param="model",
                code="model_not_found",
            )

    async def load(self) -> None:
        """Load the model, in a thread.

        Raises:
            Gpt2jaError: It cannot be loaded.
        """
        settings = self.settings
        model = await asyncio.to_thread(
            GPT2Ja.load,
            settings.model,
            threads=settings.threads,
            batch_size=settings.batch_size,
            max_memory=settings.max_memory,
            max_waiting=settings.max_waiting,
            max_waiting_tokens=settings.max_waiting_tokens,
            device=settings.device,
            kernels=settings.kernels,
            prefix_cache_bytes=settings.prefix_cache,
            verify_hashes=settings.verify_hashes,
        )
        self._fingerprint = model.fingerprint
        self._model = model
        if self.phase == "loading":
            self.phase = "ready"

    def drain(self) -> None:
        """Take no further requests."""
        self.phase = "draining"

    async def close(self) -> None:
        """Cancel what still runs, and let the model go."""
        self.phase = "draining"
        if self._model is not None:
            await asyncio.to_thread(self._model.close, cancel=True)
