"""What ``make gpu-missing`` says of a directory of wheels."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

SCRIPT = Path(__file__).with_name("check_gpu.py")


def wheel(folder: Path, name: str, version: str, tag: str, *needs: str) -> None:
    inside = f"{name}-{version}.dist-info/METADATA"
    lines = [f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {n}" for n in needs)]
    with ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as archive:
        archive.writestr(inside, "\n".join(lines))


def said(folder: Path) -> str:
    (folder / "pins").write_text("llguidance==99.0\n")
    command = [sys.executable, str(SCRIPT), "--extras", "constrain", "--wheels", str(folder)]
    done = subprocess.run(
        [*command, "--constraints", str(folder / "pins")], capture_output=True, text=True
    )
    assert not done.stderr
    return done.stdout


def test_a_wheel_of_another_python_or_version_is_missing(tmp_path: Path) -> None:
    wheel(tmp_path, "llguidance", "99.0", "cp27-cp27m-linux_x86_64")
    wheel(tmp_path, "llguidance", "9.9.9", "py3-none-any")
    assert "wheel llguidance==99.0" in said(tmp_path)


def test_requirements_of_wheels_are_followed_where_they_hold_here(tmp_path: Path) -> None:
    needs = ("absent-one>=2", "absent-two; extra == 'x'", "absent-three; python_version < '3'")
    wheel(tmp_path, "llguidance", "99.0", "py3-none-any", *needs)
    lines = [
        line for line in said(tmp_path).splitlines() if "llguidance" in line or "absent" in line
    ]
    assert len(lines) == 1
    assert "wheel absent-one>=2" in lines[0]
