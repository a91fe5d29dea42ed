"""``python -m gpt2ja_onnx.cli``: what launchers such as accelerate start."""

from gpt2ja_onnx.cli import main

main()
