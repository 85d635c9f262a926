"""Which files are images, and which files and folders belong to nobody: by their names."""

SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp"),
    *(".bmp", ".gif", ".tif", ".tiff", ".avif"),
)
# What systems and programs leave behind, beside all names that begin with a dot.
_JUNK = {
    "__macosx",  # macOS, in archives
    "thumbs.db",  # Windows, and the next three
    "desktop.ini",
    "$recycle.bin",
    "system volume information",
    "lost+found",  # the root of a Linux disk; only root may read it
    "@eadir",  # Synology, and the next
    "#recycle",
}


def is_junk(name: str) -> bool:
    """Whether a file or folder of this name is nobody's data, such as "._cat.jpg"."""
    return name.startswith(".") or name.lower() in _JUNK


def is_image(name: str) -> bool:
    """Whether a file of this name is an image that can be decoded."""
    return name.lower().endswith(SUFFIXES) and not name.startswith(".")
