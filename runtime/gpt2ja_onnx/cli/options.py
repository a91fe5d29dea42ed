"""Options of the commands: those of every bundle, and one for each setting, made from it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gpt2ja_onnx.settings.config import GenerationConfig
from gpt2ja_onnx.settings.kinds import (
    Callables,
    Choices,
    EarlyStopping,
    Flag,
    LengthDecay,
    Number,
    Schema,
    SequenceBiases,
    Source,
    Strings,
    TokenBiases,
    TokenIds,
    TokenLists,
    Whole,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from gpt2ja_onnx.settings.config import Declaration

    _F = TypeVar("_F", bound="Callable[..., Any]")

_GROUPS = {
    "length": "Length and end",
    "sampling": "Sampling",
    "penalties": "Penalties",
    "tokens": "Tokens (ids)",
    "form": "Form of the text",
    "beams": "Beam search",
    "output": "Sequences and output",
}


# Where the bundle has no say.
_DEFAULTS = {"do_sample": "sample", "seed": "drawn", "logprobs": "none", "timeout": "none"}


class GroupedOption(click.Option):
    """An option that is listed under a heading of its own."""

    def __init__(self, *arguments: Any, heading: str = "Options", **attributes: Any) -> None:
        super().__init__(*arguments, **attributes)
        self.heading = heading


class GroupedCommand(click.Command):
    """A command whose options are listed by heading."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, those without a heading first."""
        groups: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                heading = getattr(parameter, "heading", "Options")
                groups.setdefault(heading, []).append(record)
        for heading, records in groups.items():
            with formatter.section(heading):
                formatter.write_dl(records)


class _Ids(click.ParamType[list[int]]):
    """Token ids, separated by commas."""

    name = "ids"

    def convert(self, value: Any, param: Any, ctx: Any) -> list[int]:
        """See click."""
        try:
            return [int(part) for part in str(value).split(",") if value]
        except ValueError:
            self.fail(f"{value!r} is not a list of token ids such as 7,8", param, ctx)


class _Bias(click.ParamType[tuple[list[int], float]]):
    """Token ids, an equals sign, and a number."""

    name = "bias"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[list[int], float]:
        """See click."""
        ids, _, number = str(value).partition("=")
        try:
            return [int(part) for part in ids.split(",")], float(number)
        except ValueError:
            self.fail(f"{value!r} is not a bias such as 7=-1.5", param, ctx)


def bundle_options(function: _F) -> _F:
    """Options of every command that runs a bundle."""
    for option in (
        click.option("--quiet", is_flag=True, help="Print nothing but results and errors."),
        click.option(
            "--device",
            type=click.Choice(["auto", "cpu", "cuda"]),
            default="auto",
            show_default=True,
            help="'auto': the GPU for a bundle that is made for one, if it can be used.",
        ),
        click.option(
            "--kernels",
            type=click.Choice(["auto", "off"]),
            default="auto",
            show_default=True,
            help="'auto': native operators where they run; 'off': onnxruntime's own.",
        ),
        click.option(
            "--threads", type=int, help="Threads of one operator.  [default: what may be used]"
        ),
        click.option(
            "--model",
            type=click.Path(path_type=Path),
            help="Bundle, 'demo', or a model of the hub, exported once.  [default: the demo model]",
        ),
    ):
        function = option(function)
    return function


def setting_options(function: _F, without: Collection[str] = ()) -> _F:
    """One option for each setting that can be typed, and is not among those to leave out."""
    for name, item in reversed(GenerationConfig.declared().items()):
        if name in without:
            continue
        declaration: Declaration = item.metadata["declaration"]
        attributes = _attributes(name, declaration.kind)
        if attributes is None:
            continue
        shown = "" if item.default in (None, (), False) else f", or {item.default}"
        default = _DEFAULTS.get(name, f"the bundle's{shown}")
        function = click.option(
            attributes.pop("flag", f"--{name.replace('_', '-')}"),
            name,
            cls=GroupedOption,
            heading=_GROUPS[declaration.group],
            help=f"{declaration.en}  [default: {default}]",
            **attributes,
        )(function)
    return function


def _attributes(name: str, kind: object) -> dict[str, Any] | None:
    """How click takes a setting; None where it cannot be typed."""
    match kind:
        case Flag() if name == "do_sample":
            return {"flag": "--sample/--greedy", "default": None}
        case Flag():
            return {"is_flag": True, "default": None}
        case Whole():
            return {"type": int}
        case Number():
            return {"type": float}
        case EarlyStopping():
            return {"type": click.Choice(["true", "false", "never"]), "callback": _early_stopping}
        case Strings() | Choices():
            return {"multiple": True, "metavar": "TEXT"}
        case TokenIds():
            return {"type": _Ids(), "metavar": "ID,..."}
        case TokenLists():
            return {"type": _Ids(), "multiple": True, "metavar": "ID,..."}
        case TokenBiases():
            return {
                "type": _Bias(),
                "multiple": True,
                "metavar": "ID=BIAS",
                "callback": lambda ctx, param, value: {ids[0]: bias for ids, bias in value},
            }
        case SequenceBiases():
            return {"type": _Bias(), "multiple": True, "metavar": "ID,...=BIAS"}
        case LengthDecay():
            return {"type": (int, float), "metavar": "START FACTOR"}
        case Source():
            return {"metavar": "TEXT"}
        case Schema():
            return {"metavar": "JSON"}
        case Callables():
            return None
        case _:
            raise AssertionError(f"{name}: no option is known for {kind!r}")


def _early_stopping(ctx: object, param: object, value: str | None) -> bool | str | None:
    return {"true": True, "false": False}.get(value or "", value)


def given_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Those settings that were typed."""
    return {name: value for name, value in settings.items() if value not in (None, (), {})}


def check_contradictions(given: dict[str, Any]) -> None:
    """Refuse options that another one makes idle.

    Raises:
        click.UsageError: An option would do nothing.
    """
    greedy, beams = given.get("do_sample") is False, given.get("num_beams", 1) > 1
    for name, item in GenerationConfig.declared().items():
        use = item.metadata["declaration"].use
        option = f"--{name.replace('_', '-')}"
        if name in given and use == "sampling" and greedy:
            raise click.UsageError(f"{option} does nothing with --greedy, which draws nothing")
        if name in given and use == "beams" and name != "num_beams" and not beams:
            raise click.UsageError(f"{option} does nothing without --num-beams above 1")
    if greedy and not beams and given.get("num_return_sequences", 1) > 1:
        raise click.UsageError("--num-return-sequences gives the same text with --greedy")
