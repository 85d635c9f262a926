"""List the packages of a wheel: configs and parity are inside vitjax.

Their names are generic, and a user's project may have packages of the same names.
`vitjax.config.shipped` finds them.
"""

from setuptools import find_packages, setup

SHIPPED = ("configs", "parity")


def under(*names: str) -> list[str]:
    """Return these packages and the packages in them."""
    return find_packages(include=[p for name in names for p in (name, f"{name}.*")])


setup(
    packages=[
        *under("vitjax", "input_pipeline"),
        *(f"vitjax.shipped.{name}" for name in under(*SHIPPED)),
    ],
    package_dir={f"vitjax.shipped.{name}": name for name in SHIPPED},
)
