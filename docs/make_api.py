"""Writes the API reference of the public modules to build/docs.

Run by `make docs`. The pages need no network.
"""

from __future__ import annotations

import importlib
import inspect
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, get_args, get_origin

import pdoc.render
from pdoc.doc import Class, Function, Module, Variable

from gpt2ja_onnx.settings.config import GenerationConfig

if TYPE_CHECKING:
    from types import ModuleType

OUTPUT = Path(__file__).parents[1] / "build" / "docs"
MODULES = (
    "gpt2ja_onnx",
    "gpt2ja_onnx.errors",
    "gpt2ja_onnx.bundle.manifest",
    "gpt2ja_onnx.text.tokenizer",
    "gpt2ja_export",
    "gpt2ja_train",
)


def main() -> None:
    """Write the pages anew."""
    pdoc.render.configure(docformat="google", footer_text="gpt2ja-onnx", search=True)
    modules = {name: Module(load(name)) for name in MODULES}
    config = modules["gpt2ja_onnx"].get("GenerationConfig")
    assert isinstance(config, Class)
    describe_settings(config)
    for module in modules.values():
        for member in module.members.values():
            if isinstance(member, Class):
                spell_settings(member)
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    for name, module in modules.items():
        page = OUTPUT / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(pdoc.render.html_module(module, modules), encoding="utf-8")
    (OUTPUT / "index.html").write_text(pdoc.render.html_index(modules), encoding="utf-8")
    (OUTPUT / "search.js").write_text(pdoc.render.search_index(modules), encoding="utf-8")
    print(f"wrote {OUTPUT / 'index.html'}")


def load(name: str) -> ModuleType:
    """Import a module with its public names: pdoc finds only those that were imported."""
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        setattr(module, public, getattr(module, public))
    return module


def describe_settings(config: Class) -> None:
    """Give the fields of `GenerationConfig` the texts and defaults of their declarations."""
    for name, item in GenerationConfig.declared().items():
        member = config.members[name]
        assert isinstance(member, Variable)
        member.docstring = item.metadata["declaration"].en
        member.default_value = item.default


def spell_settings(shown: Class) -> None:
    """Write ``**settings: Settings`` where the signature says ``Unpack[Settings]``."""
    for method in shown.members.values():
        if not isinstance(method, Function):
            continue
        parameters = [
            parameter.replace(annotation=get_args(parameter.annotation)[0])
            if parameter.kind is inspect.Parameter.VAR_KEYWORD and get_origin(parameter.annotation)
            else parameter
            for parameter in method.signature.parameters.values()
        ]
        method.signature = method.signature.replace(parameters=parameters)


if __name__ == "__main__":
    main()
