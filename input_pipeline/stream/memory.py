"""The available memory, checked before a cache takes much of it."""

import os
from pathlib import Path

SHARE = 0.8
"""The fraction of the available memory that a cache may take."""


def available() -> int:
    """Return the bytes that programs can still allocate, file caches included."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else None
    return os.sysconf(pages or "SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_cache(nbytes: int, free: int, process_count: int = 1) -> None:
    """Raise ValueError if a process's share of `nbytes` is too much to cache."""
    nbytes //= process_count
    if nbytes > SHARE * free:
        raise ValueError(
            f"cache_raw would keep about {nbytes / 1e9:,.2f} GB in memory, more than "
            f"{SHARE:.0%} of the {free / 1e9:,.2f} GB that are free: set cache_raw=False"
        )
