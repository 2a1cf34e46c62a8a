"""The versions and the machine that a run was made with."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import psutil

_PACKAGES = (
    "evoprune",
    "torch",
    "torchvision",
    "numpy",
    "ray",
    "deap",
    "pandas",
    "pyarrow",
    "safetensors",
)


def environment() -> dict[str, str | int | float | None]:
    """Everything besides the config that a result may depend on.

    Returns:
        The date (UTC), versions of Python and packages, platform, processor, number of cores that this process may use
        and memory in GiB. None for a package that is not installed.
    """
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        **{package: _version(package) for package in _PACKAGES},
        "platform": platform.platform(),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None) or platform.processor() or None
