"""The command line: one group whose commands are imported when they are called."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback
import warnings
from importlib.metadata import version
from typing import NamedTuple

import click

from gpt2ja_onnx.cli.outputs import ReaderGoneError
from gpt2ja_onnx.errors import Gpt2jaError, MissingExtraError


class _Entry(NamedTuple):
    """A command: the module that holds it as `command`, its extra, and what it does in a line."""

    module: str
    extra: str
    help: str


_COMMANDS = {
    "generate": _Entry("gpt2ja_onnx.cli.generate", "cpu", "Continue prompts."),
    "score": _Entry("gpt2ja_onnx.cli.score", "cpu", "Log-probability and perplexity of texts."),
    "choose": _Entry("gpt2ja_onnx.cli.choose", "cpu", "Say which continuation is the likeliest."),
    "serve": _Entry("gpt2ja_serve.cli", "serve", "Serve a bundle over HTTP, with a page."),
    "batch": _Entry(
        "gpt2ja_serve.batch.cli", "batch", "Run a resumable job over files of prompts."
    ),
    "inspect": _Entry("gpt2ja_onnx.cli.inspect", "cpu", "Say what a bundle is and where it runs."),
    "diagnose": _Entry(
        "gpt2ja_onnx.cli.diagnose", "cpu", "Run a bundle; say what a fault's report needs."
    ),
    "export": _Entry("gpt2ja_export.cli", "export", "Export a checkpoint to a verified bundle."),
    "train": _Entry("gpt2ja_train.cli", "train", "Train a model: corpus, tokenizer, weights."),
    "bench": _Entry("gpt2ja_bench.cli", "bench", "Compare with PyTorch and other engines."),
}
_OURS = ("gpt2ja_onnx", "gpt2ja_export", "gpt2ja_train", "gpt2ja_bench", "gpt2ja_serve")


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name].module).command
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any: their extras may not be installed."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in _COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("gpt2ja-onnx"), prog_name="gpt2ja-onnx")
@click.option("--debug", is_flag=True, help="Show tracebacks.")
def group(debug: bool) -> None:
    """Export a Japanese GPT-2 to ONNX, generate text with it, and train one."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in arguments
    # The flag is accepted anywhere, as `gpt2ja-onnx generate --debug` is what people type.
    arguments = [_decoded(argument) for argument in arguments if argument != "--debug"]
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = group.main(arguments, prog_name="gpt2ja-onnx", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one finds the end under way
        click.echo("interrupted", err=True)
        sys.exit(130)
    except ReaderGoneError:
        # Silence Python's flush at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if debug:
            traceback.print_exc()
        else:
            click.echo(f"error: {_describe(error, arguments)}", err=True)
        sys.exit(1)


def _decoded(argument: str) -> str:
    """An argument as UTF-8, where the locale made its bytes unreadable."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument).decode("utf-8", errors="replace")
    return argument


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    click.echo(f"warning: {message}", err=True)


def _describe(error: Exception, arguments: list[str]) -> str:
    if isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in _OURS:
        command = next((word for word in arguments if word in _COMMANDS), "generate")
        error = MissingExtraError(
            f"{command} needs {error.name}, which is not installed: "
            f"pip install -c constraints.txt 'gpt2ja-onnx[{_COMMANDS[command].extra}]'"
        )
    if isinstance(error, Gpt2jaError):
        return " ".join(str(error).split())
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"{reason} ({type(error).__name__}; --debug shows where)"
