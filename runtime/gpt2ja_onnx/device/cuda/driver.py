"""NVIDIA's driver, asked without any CUDA library."""

from __future__ import annotations

import ctypes

_LIBRARY = "libcuda.so.1"


def driver_problem(cuda_major: int) -> str | None:
    """Why the driver cannot run what was built for CUDA `cuda_major`; None if it can.

    Source: the CUDA driver API, initialization, version and device management.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError:
        return f"there is no NVIDIA driver here ({_LIBRARY} is not found)"
    if status := driver.cuInit(0):
        return f"the NVIDIA driver does not start (cuInit gives {status})"
    version, count = ctypes.c_int(), ctypes.c_int()
    driver.cuDriverGetVersion(ctypes.byref(version))
    major, minor = version.value // 1000, version.value % 1000 // 10
    if major < cuda_major:
        return (
            f"the NVIDIA driver is for CUDA {major}.{minor}, the installed onnxruntime-gpu for "
            f"CUDA {cuda_major}; update the driver, or install an onnxruntime-gpu for CUDA {major}"
        )
    driver.cuDeviceGetCount(ctypes.byref(count))
    return None if count.value else "the NVIDIA driver sees no GPU"
