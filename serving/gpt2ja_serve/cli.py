"""``gpt2ja-onnx serve``."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gpt2ja_onnx.cli.options import GroupedCommand, GroupedOption, bundle_options
from gpt2ja_onnx.errors import SettingError

if TYPE_CHECKING:
    from collections.abc import Callable

_KEYS = "GPT2JA_API_KEYS"


def _option(heading: str, *names: str, **attributes: Any) -> Callable[[Any], Any]:
    attributes.setdefault("show_default", "default" in attributes)
    return click.option(*names, cls=GroupedOption, heading=heading, **attributes)


_ADDRESS, _LIMITS, _ACCESS, _LOG = "Address", "Limits", "Who may ask", "Log"


@click.command("serve", cls=GroupedCommand)
@bundle_options
@click.option(
    "--model-name", help="What clients call the model.  [default: the bundle's directory]"
)
@click.option("--batch-size", default=32, show_default=True, help="Texts that run at once.")
@click.option("--max-memory", type=int, metavar="MIB", help="Of the key-value cache.")
@click.option(
    "--prefix-cache",
    type=click.IntRange(min=0),
    metavar="MIB",
    default=128,
    show_default=True,
    help="For keys and values of earlier prompts.",
)
@click.option("--verify-hashes", is_flag=True, help="Check the bundle's files first.")
@_option(_ADDRESS, "--host", default="127.0.0.1", help="Address to bind to.")
@_option(_ADDRESS, "--port", default=8000, type=click.IntRange(0, 65535), help="0: a free one.")
@_option(
    _ADDRESS, "--unix-socket", type=click.Path(path_type=Path), help="Bind to this path instead."
)
@_option(
    _ADDRESS,
    "--certificate",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Speak TLS with this certificate (PEM).",
)
@_option(
    _ADDRESS,
    "--private-key",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Its key, where the certificate's file does not hold it.",
)
@_option(
    _ACCESS,
    "--key-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help=f"Keys of which clients must send one, one a line; so does the variable {_KEYS}, "
    "separated by commas.",
)
@_option(
    _ACCESS, "--without-key", is_flag=True, help="Let everybody in at an address that others reach."
)
@_option(
    _ACCESS, "--allowed-host", multiple=True, metavar="NAME", help="Answer to this name as well."
)
@_option(
    _ACCESS,
    "--cors-origin",
    multiple=True,
    metavar="URL|*",
    help="Let pages of this origin use the server.",
)
@_option(_LIMITS, "--max-waiting", default=1024, help="Texts that may wait; more get 429.")
@_option(_LIMITS, "--max-waiting-tokens", default=1_048_576, help="Prompt tokens likewise.")
@_option(_LIMITS, "--max-choices", default=128, help="Texts of one request.")
@_option(_LIMITS, "--max-body", default=4, metavar="MIB", help="Of a request.")
@_option(_LIMITS, "--max-header", default=32, metavar="KIB", help="Of a request's head.")
@_option(_LIMITS, "--request-timeout", default=600.0, help="Seconds to answer a request.")
@_option(_LIMITS, "--receive-timeout", default=30.0, help="Seconds for a request to arrive.")
@_option(_LIMITS, "--send-timeout", default=60.0, help="Seconds that a client may read nothing.")
@_option(_LIMITS, "--keep-alive", default=60.0, help="Seconds that idle connections are kept.")
@_option(
    _LIMITS, "--drain-timeout", default=30.0, help="Seconds to finish requests after a signal."
)
@_option(
    _LOG,
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Lines for people, or JSON lines.",
)
@_option(_LOG, "--access-log/--no-access-log", default=True, help="Log requests.")
@_option(_LOG, "--log-prompts", is_flag=True, help="Log prompts and texts as well.")
def command(
    quiet: bool,
    key_file: Path | None,
    without_key: bool,
    allowed_host: tuple[str, ...],
    cors_origin: tuple[str, ...],
    max_body: int,
    max_header: int,
    max_memory: int | None,
    prefix_cache: int,
    log_format: str,
    **settings: Any,
) -> None:
    """Serve a bundle over HTTP: OpenAI's API for completions, and a page at /.

    The first signal (Ctrl-C, SIGTERM) lets running requests end, a second one ends at once.
    """
    keys = read_keys(key_file, os.environ.get(_KEYS, ""))
    _check(settings, keys, without_key=without_key)
    # The extra's packages are imported here, so that --help needs none of them.
    from gpt2ja_serve.http.gate import is_loopback
    from gpt2ja_serve.server import run
    from gpt2ja_serve.settings import MIB, ServeSettings

    open_address = settings["unix_socket"] is None and not is_loopback(settings["host"])
    if open_address and not keys and not without_key:
        raise click.UsageError(
            f"--host {settings['host']} can be reached from elsewhere: give keys with --key-file "
            f"or {_KEYS}, or let everybody in with --without-key"
        )
    settings["access_log"] = settings["access_log"] and not quiet
    run(
        ServeSettings(
            keys=keys,
            allowed_hosts=allowed_host,
            cors_origins=tuple(origin.rstrip("/") for origin in cors_origin),
            max_body=max_body * MIB,
            max_header=max_header * 1024,
            max_memory=None if max_memory is None else max_memory * MIB,
            prefix_cache=prefix_cache * MIB,
            json_log=log_format == "json",
            **settings,
        )
    )


def read_keys(file: Path | None, variable: str) -> tuple[str, ...]:
    """The keys of a file, one a line, and of a variable, separated by commas.

    Lines that begin with # are comments.

    Raises:
        SettingError: The file holds no key, or a key cannot stand in a header.
    """
    keys = [key.strip() for key in variable.split(",")]
    if file is not None:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
        found = [line for line in lines if line and not line.startswith("#")]
        if not found:
            raise SettingError(f"{file}: holds no key; write one a line")
        keys += found
    keys = [key for key in keys if key]
    if not all(re.fullmatch(r"[!-~]+", key) for key in keys):
        raise SettingError("a key must be of printable ASCII characters without spaces")
    return tuple(dict.fromkeys(keys))


def _check(settings: dict[str, Any], keys: tuple[str, ...], *, without_key: bool) -> None:
    """Refuse numbers that make no sense, and options that exclude each other."""
    if keys and without_key:
        raise click.UsageError("--without-key contradicts the keys that are given")
    if settings["private_key"] is not None and settings["certificate"] is None:
        raise click.UsageError("--private-key needs --certificate")
    for name in (
        "max_waiting", "max_waiting_tokens", "max_choices", "request_timeout", "receive_timeout",
        "send_timeout", "keep_alive",
    ):  # fmt: skip
        if settings[name] <= 0:
            raise click.UsageError(f"--{name.replace('_', '-')} must be above 0")
    if settings["drain_timeout"] < 0:
        raise click.UsageError("--drain-timeout must not be below 0")
