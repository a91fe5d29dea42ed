"""Prints everything that ``make gpu-check`` would miss here; needs the standard library and pip."""

from __future__ import annotations

import argparse
import ctypes
import shutil
import sys
import tomllib
from email.parser import HeaderParser
from importlib.metadata import distributions
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from pip._vendor.packaging.requirements import Requirement
from pip._vendor.packaging.tags import sys_tags
from pip._vendor.packaging.utils import canonicalize_name, parse_wheel_filename
from pip._vendor.packaging.version import Version

ROOT = Path(__file__).parents[1]
DISK_GB = 20
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
# What only building asks for: hatchling's hook, and that of the native operators.
ZIG = "ziglang>=0.15; sys_platform == 'linux' and platform_machine == 'x86_64'"
BUILD = ["hatchling>=1.27", "editables~=0.3", ZIG]


def main() -> None:
    """Print a line for each thing that is missing, and exit with 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--extras", required=True, help="Extras of pyproject.toml, with commas.")
    parser.add_argument("--wheels", type=Path, help="Directory of wheels; without it, an index.")
    parser.add_argument("--constraints", type=Path, default=ROOT / "constraints.txt")
    options = parser.parse_args()
    missing = [*machine_problems()]
    if options.wheels is not None:
        pins = read_pins(options.constraints)
        missing += missing_wheels(options.extras.split(","), options.wheels, pins)
    for line in missing:
        print(f"missing: {line}")
    if not missing:
        print("nothing is missing")
    sys.exit(bool(missing))


def machine_problems() -> list[str]:
    """What the machine itself lacks: the driver, a card, room on the disk."""
    found = []
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        found.append("NVIDIA driver: libcuda.so.1 was not found; install a driver for CUDA 13")
    else:
        version, cards = ctypes.c_int(), ctypes.c_int()
        driver.cuDriverGetVersion(ctypes.byref(version))
        if version.value < 13000:
            found.append(f"NVIDIA driver for CUDA 13: this one is for {version.value / 1000:.1f}")
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(cards)) or not cards.value:
            found.append("NVIDIA GPU: the driver names none")
    free = shutil.disk_usage(ROOT).free / 1e9
    if free < DISK_GB:
        found.append(f"disk: {DISK_GB} GB free under {ROOT}, found {free:.1f} GB")
    return found


def missing_wheels(extras: list[str], folder: Path, pins: dict[str, Version]) -> list[str]:
    """Requirements that neither a wheel for this Python nor what is installed answers."""
    wheels = read_wheels(folder)
    installed = {canonicalize_name(d.metadata["Name"]): d for d in distributions()}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    optional = project["optional-dependencies"]
    waiting = [Requirement(text) for text in [*project["dependencies"], *BUILD]]
    waiting += [Requirement(text) for extra in extras for text in optional[extra]]
    waiting = [need for need in waiting if need.marker is None or need.marker.evaluate()]
    seen: set[tuple[str, frozenset[str]]] = set()
    missing: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name == project["name"]:
            waiting += [Requirement(t) for extra in requirement.extras for t in optional[extra]]
            continue
        known = (f"{name}{requirement.specifier}", frozenset(requirement.extras))
        if known in seen:
            continue
        seen.add(known)
        pin = pins.get(name)
        answers = dict(wheels.get(name, {}))
        if name in installed:
            there = installed[name]
            answers.setdefault(Version(there.version), there.requires or [])
        fitting = [v for v in answers if fits(v, requirement, pin)]
        if not fitting:
            wanted = f"=={pin}" if pin else str(requirement.specifier)
            there_are = ", ".join(map(str, answers)) or "none"
            missing.add(f"wheel {name}{wanted} for Python {PYTHON} (found: {there_are})")
            continue
        for text in answers[max(fitting)]:
            need = Requirement(text)
            asked = ["", *requirement.extras]
            if need.marker is None or any(need.marker.evaluate({"extra": e}) for e in asked):
                waiting.append(need)
    return sorted(missing)


def fits(version: Version, requirement: Requirement, pin: Version | None) -> bool:
    """Whether a version answers a requirement and its pin; a local suffix (+cu130) is let be."""
    if pin is not None and version.public != pin.public:
        return False
    return requirement.specifier.contains(version, prereleases=True)


def read_wheels(folder: Path) -> dict[str, dict[Version, list[str]]]:
    """Versions and requirements of the wheels in ``folder`` that this Python can install."""
    tags = set(sys_tags())
    found: dict[str, dict[Version, list[str]]] = {}
    for path in folder.glob("*.whl"):
        name, version, _, its_tags = parse_wheel_filename(path.name)
        if not tags.isdisjoint(its_tags):
            found.setdefault(name, {})[version] = requirements_of(path)
    return found


def requirements_of(wheel: Path) -> list[str]:
    with ZipFile(wheel) as archive:
        inside = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        headers: Any = HeaderParser().parsestr(archive.read(inside).decode())
    return headers.get_all("Requires-Dist") or []


def read_pins(path: Path) -> dict[str, Version]:
    """Exact versions of a file of constraints, by name."""
    pairs = (line.split("==") for line in path.read_text().splitlines() if "==" in line)
    return {canonicalize_name(name): Version(version.strip()) for name, version in pairs}


if __name__ == "__main__":
    main()
