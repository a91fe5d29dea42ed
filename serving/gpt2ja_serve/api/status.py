"""What a server says of itself: health, models, version, metrics."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from prometheus_client import CONTENT_TYPE_LATEST

from gpt2ja_serve.api.parameters import PARAMETERS, api_default, page_type
from gpt2ja_serve.http.errors import refused, unavailable
from gpt2ja_serve.http.exchange import send_bytes, send_json

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from gpt2ja_serve.service import Service

_CHAT = (
    "this is a base model without a chat template: it continues text; call POST /v1/completions "
    "with a prompt that the text is to go on from"
)


class Status:
    """Endpoints that need no engine.

    Args:
        service: The server.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def health(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Alive."""
        await send_json(send, {"status": "ok"})

    async def ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Loaded, and not draining."""
        if self._service.phase != "ready":
            raise unavailable(f"the server is {self._service.phase}")
        await send_json(send, {"status": "ready"})

    async def version(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Which version it is."""
        await send_json(send, {"version": version("gpt2ja-onnx")})

    async def metrics(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Prometheus' text format."""
        await send_bytes(send, self._service.metrics.text(), CONTENT_TYPE_LATEST.encode())

    async def models(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The one model."""
        await send_json(send, {"object": "list", "data": [self._card()]})

    async def one_model(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The model by its name."""
        self._service.check_name(scope["path_params"]["name"])
        await send_json(send, self._card())

    async def chat(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A base model does not chat."""
        raise refused(_CHAT, "messages", "no_chat_template")

    async def settings(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The settings that the page shows, with this bundle's defaults."""
        defaults = self._service.model.defaults
        shown: list[dict[str, Any]] = []
        for name, parameter in PARAMETERS.items():
            if parameter.group is None:
                continue
            low, high = getattr(parameter.kind, "low", None), getattr(parameter.kind, "high", None)
            shown.append(
                {
                    "name": name,
                    "type": page_type(parameter.kind),
                    "minimum": low,
                    "maximum": high if high is not None and high < 2**31 - 1 else None,
                    "default": api_default(name, defaults),
                    "group": parameter.group,
                    "help": {"en": parameter.en, "ja": parameter.ja},
                }
            )
        await send_json(send, shown)

    def _card(self) -> dict[str, Any]:
        service = self._service
        model = service.model
        manifest = model.manifest
        return {
            "id": service.settings.name,
            "object": "model",
            "created": service.created,
            "owned_by": manifest.source.repository,
            "max_model_len": manifest.shape.context,
            "precision": manifest.precision,
            "device": model.device,
            "vocab_size": manifest.shape.vocab_size,
            "licence": manifest.source.licence,
            "system_fingerprint": service.fingerprint,
        }
