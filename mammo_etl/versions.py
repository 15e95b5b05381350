"""The packages whose versions decide what a run contains, byte by byte."""

from importlib.metadata import version

PACKAGES = ("mammo", "numpy", "opencv-python-headless", "pydicom", "pyarrow", "tensorstore", "zarr", "zlib-ng")


def package_versions() -> dict[str, str]:
    """Their versions here."""
    return {name: version(name) for name in PACKAGES}
