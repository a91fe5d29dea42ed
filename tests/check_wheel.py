"""Run by `make wheel` in an environment that holds the wheel and its cpu extra alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

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
print(f"the wheel works alone: 近年の機械学習は{text}")
