"""What TensorFlow reads from the environment when it is imported."""

import os


def prepare() -> None:
    """Set what the user has not set; to be called before TensorFlow's first import."""
    # No chatter, and the same bits on every processor.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    # Of files on gs:// only what is asked for: the default reads 64 MiB around it.
    os.environ.setdefault("GCS_READ_CACHE_MAX_SIZE_MB", "0")
    os.environ.setdefault("GCS_READ_CACHE_BLOCK_SIZE_MB", "0")
