"""How the server runs: what the command line sets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from gpt2ja_onnx.device.choice import DeviceChoice
    from gpt2ja_onnx.device.cpu.native import KernelChoice

MIB = 2**20


@dataclass(frozen=True, slots=True)
class ServeSettings:
    """All settings of the server; times are in seconds, sizes in bytes.

    Attributes:
        model: The bundle; None is the demo model.
        model_name: What clients call it; None takes the bundle's directory.
        device: ``cpu``, ``cuda`` or ``auto``.
        kernels: ``auto`` or ``off``: whether native operators may run.
        threads: Threads of one operator; None takes what the process may use.
        batch_size: Sequences that run at once, at most.
        max_memory: Bytes that the key-value cache may take; None leaves it to `batch_size`.
        prefix_cache: Bytes that what is kept of earlier prompts may take.
        verify_hashes: Compare every file of the bundle with the manifest first.
        host: Address to bind to.
        port: Port to bind to; 0 takes a free one.
        unix_socket: Path to bind to instead of an address.
        certificate: Of TLS, a PEM file; None speaks plain HTTP.
        private_key: The certificate's, where that file does not hold it.
        keys: Of which a client must send one; empty lets everybody in.
        allowed_hosts: Names of this server beside those of the loopback interface.
        cors_origins: Origins whose pages may read answers; ``*`` is any.
        max_waiting: Sequences that may wait.
        max_waiting_tokens: Prompt tokens that may wait.
        max_choices: Sequences that one request may ask for.
        max_body: Bytes of a request's body.
        max_header: Bytes of a request's line and headers.
        request_timeout: Until a request is answered in full.
        receive_timeout: Until a request has arrived in full.
        send_timeout: For which a client may read nothing of what waits for it.
        keep_alive: For which an idle connection is kept.
        drain_timeout: That running requests get to end after a signal.
        json_log: Write the log as JSON lines.
        access_log: Log requests.
        log_prompts: Log prompts and texts as well.
    """

    model: Path | None = None
    model_name: str | None = None
    device: DeviceChoice = "auto"
    kernels: KernelChoice = "auto"
    threads: int | None = None
    batch_size: int = 32
    max_memory: int | None = None
    prefix_cache: int = 128 * MIB
    verify_hashes: bool = False
    host: str = "127.0.0.1"
    port: int = 8000
    unix_socket: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    keys: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    max_waiting: int = 1024
    max_waiting_tokens: int = 1_048_576
    max_choices: int = 128
    max_body: int = 4 * MIB
    max_header: int = 32 * 1024
    request_timeout: float = 600.0
    receive_timeout: float = 30.0
    send_timeout: float = 60.0
    keep_alive: float = 60.0
    drain_timeout: float = 30.0
    json_log: bool = False
    access_log: bool = True
    log_prompts: bool = False

    @property
    def name(self) -> str:
        """What clients call the model."""
        if self.model_name is not None:
            return self.model_name
        return "demo" if self.model is None else self.model.resolve().name
