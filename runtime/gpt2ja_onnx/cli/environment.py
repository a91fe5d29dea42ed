"""What bundles run on here, for the commands that say so."""

from __future__ import annotations


def environment() -> dict[str, str]:
    """Versions, devices and threads, by what they are called in the output."""
    import platform

    from gpt2ja_kernels import load_kernels
    from gpt2ja_onnx import __version__
    from gpt2ja_onnx.device.providers import ort
    from gpt2ja_onnx.device.threads import available_threads

    native = load_kernels()
    return {
        "gpt2ja-onnx": __version__,
        "onnxruntime": f"{ort.__version__}, {', '.join(ort.get_available_providers())}",
        "python": f"{platform.python_version()} on {platform.platform()}",
        "threads": str(available_threads()),
        "native operators": f"no: {native}" if isinstance(native, str) else native.instruction_set,
    }
