"""How much memory there is, asked before much of it is taken."""

import os
from pathlib import Path

SHARE = 0.8
"""Of the free memory, the part that a cache may take."""


def available() -> int:
    """Bytes of memory that programs can still have, caches of files included."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:  # not Linux
        pass
    pages = "SC_AVPHYS_PAGES" if "SC_AVPHYS_PAGES" in os.sysconf_names else None
    return os.sysconf(pages or "SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_cache(nbytes: int, free: int, process_count: int = 1) -> None:
    """Raise ValueError if a process's part of so many bytes should not be cached."""
    nbytes //= process_count
    if nbytes > SHARE * free:
        raise ValueError(
            f"cache_raw would keep about {nbytes / 1e9:,.2f} GB in memory, more than "
            f"{SHARE:.0%} of the {free / 1e9:,.2f} GB that are free: set cache_raw=False"
        )
