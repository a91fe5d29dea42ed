"""Run by `make wheel`: the wheel with native operators runs on every Linux that its name says."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

TAG = "manylinux_2_17_x86_64"

wheels = sorted(Path(sys.argv[1]).glob("*.whl"))
plain = [wheel for wheel in wheels if wheel.stem.endswith("-any")]
native = [wheel for wheel in wheels if wheel.stem.endswith(f"-{TAG}")]
assert len(plain) == 1, wheels
assert len(native) == (platform.machine() == "x86_64"), wheels
for wheel in native:
    auditwheel = Path(sys.executable).with_name("auditwheel")
    done = subprocess.run([auditwheel, "show", wheel], check=True, capture_output=True, text=True)
    said = " ".join(done.stdout.split())
    assert f'consistent with the following platform tag: "{TAG}"' in said, done.stdout
    print(f"auditwheel: {wheel.name} is consistent with {TAG}")
