"""Run by `make wheel` in an environment that holds the named wheel and its cpu extra alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

from gpt2ja_kernels import load_kernels
from gpt2ja_onnx import GPT2Ja

(WHEEL,) = sys.argv[1:]
COMMAND = Path(sys.executable).with_name("gpt2ja-onnx")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, encoding="utf-8", check=False
    )


for name in ("torch", "transformers", "optimum"):
    assert importlib.util.find_spec(name) is None, name

generated = run("generate", "近年の機械学習は", "--seed", "1", "--format", "jsonl")
assert generated.returncode == 0, generated.stderr
(line,) = generated.stdout.splitlines()
text = json.loads(line)["text"]
assert len(text) > 5, text
assert generated.stderr == "", generated.stderr  # the demo's notice is for terminals
assert run("inspect", "--verify-hashes").returncode == 0

native = load_kernels()
(shown,) = [
    line for line in run("inspect").stdout.splitlines() if line.startswith("native operators")
]
with GPT2Ja.load() as model:
    model.generate("近年の機械学習は", max_new_tokens=2)
    if WHEEL.endswith("-any.whl"):
        assert shown.endswith("no: this installation has no native operators"), shown
        assert model.kernels == "standard", model.kernels
    else:
        assert not isinstance(native, str), native
        assert native.calls > 0
        assert shown.endswith(native.instruction_set), shown
        assert model.kernels == native.instruction_set, model.kernels

for command in ("generate", "score", "serve", "inspect", "export", "train", "bench"):
    assert command in run("--help").stdout
    helped = run(command, "--help")
    assert helped.returncode == 0, (command, helped.stderr)

served = run("serve")
assert served.returncode == 1
assert "gpt2ja-onnx[serve]" in served.stderr, served.stderr

exported = run("export", "bundle")
assert exported.returncode == 1
hint = "pip install -c constraints.txt 'gpt2ja-onnx[export]'"
assert hint in exported.stderr, exported.stderr
assert "Traceback" not in exported.stderr
print(f"{WHEEL} works alone, on {model.kernels} kernels: 近年の機械学習は{text}")
