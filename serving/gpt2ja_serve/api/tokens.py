"""POST /tokenize and /detokenize, GET /tokenizer_info, as vLLM has them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gpt2ja_serve.api.prepared import LONG
from gpt2ja_serve.http.errors import refused
from gpt2ja_serve.http.exchange import read_json, send_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from starlette.types import Receive, Scope, Send

    from gpt2ja_onnx import GPT2Ja
    from gpt2ja_serve.service import Service

_TOKENIZE = {"model": str, "prompt": str, "add_special_tokens": bool, "return_token_strs": bool}
_DETOKENIZE = {"model": str, "tokens": list}
_NAMES = {str: "a string", bool: "true or false", list: "a list of token ids"}


class Tokens:
    """Endpoints of the tokenizer.

    Args:
        service: The server.
    """

    def __init__(self, service: Service) -> None:
        self._service = service

    async def tokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Text to ids."""
        model, content = await self._read(scope, receive, _TOKENIZE)
        text = content.get("prompt")
        if text is None:
            raise refused("prompt is missing", "prompt")
        if (special := _special(model).get(text)) is not None:
            # The only way to ask for a special token's id: inside a text it is plain characters.
            ids = [special]
        elif len(text) > LONG:
            ids = await asyncio.to_thread(model.tokenizer.encode, text)
        else:
            ids = model.tokenizer.encode(text)
        strings = [model.tokenizer.piece(token) for token in ids]
        await send_json(
            send,
            {
                "count": len(ids),
                "max_model_len": model.manifest.shape.context,
                "tokens": ids,
                "token_strs": strings if content.get("return_token_strs") else None,
            },
        )

    async def detokenize(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ids to text."""
        model, content = await self._read(scope, receive, _DETOKENIZE)
        ids, size = content.get("tokens"), model.tokenizer.vocab_size
        if ids is None or not all(type(token) is int and 0 <= token < size for token in ids):
            raise refused(f"tokens must be token ids from 0 to {size - 1}", "tokens")
        await send_json(send, {"prompt": model.tokenizer.decode(ids)})

    async def info(self, scope: Scope, receive: Receive, send: Send) -> None:
        """What the tokenizer is."""
        model = self._service.model
        special = {
            f"{name}_token": model.tokenizer.piece(token)
            for name, token in model.manifest.special_ids.items()
        }
        await send_json(
            send,
            {
                "tokenizer_class": "BertGenerationTokenizer",
                "model_max_length": model.manifest.shape.context,
                "vocab_size": model.tokenizer.vocab_size,
                "add_bos_token": False,
                "add_eos_token": False,
                "chat_template": None,
                "eos_token": None,
                **special,
            },
        )

    async def _read(
        self, scope: Scope, receive: Receive, known: Mapping[str, type]
    ) -> tuple[GPT2Ja, dict[str, Any]]:
        """The model, and the parameters, checked by their types."""
        service = self._service
        content = await read_json(scope, receive, service.settings.max_body)
        for name, value in content.items():
            shown = name[:80]
            if name not in known:
                raise refused(
                    f"unknown parameter {shown!r}; known are {', '.join(sorted(known))}",
                    shown,
                    "unknown_parameter",
                )
            if value is not None and not isinstance(value, known[name]):
                raise refused(f"{name} must be {_NAMES[known[name]]}", name, "invalid_value")
        service.check_name(content.get("model"))
        return service.model, content


def _special(model: GPT2Ja) -> dict[str, int]:
    """Special tokens by their pieces."""
    return {model.tokenizer.piece(token): token for token in model.manifest.special_ids.values()}
