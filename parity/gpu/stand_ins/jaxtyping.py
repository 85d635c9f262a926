"""The names that annotations take from jaxtyping, for a machine without it.

`parity.gpu.run` adds this folder to a job's path only there. Nothing is checked.
"""

from typing import Any


class _Annotation:
    def __class_getitem__(cls, item: Any) -> Any:
        del item
        return Any


def __getattr__(name: str) -> type[_Annotation]:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Annotation
