"""Whether the packages that corpora need are installed -> nothing, or an error that says what to type."""

import sys
from importlib.util import find_spec

from farthing.errors import DataError

PACKAGES = (
    "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd",
    "orjson",
    "pyarrow",
    "rensa",
    "xxhash",
    "py3langid",
)


def require_extra() -> None:
    """DataError unless the [data] extra is there. Call it before importing what uses it."""
    missing = [name for name in PACKAGES if find_spec(name.split(".")[0]) is None or find_spec(name) is None]
    if missing:
        raise DataError(f"corpora need the package {missing[0]}, which is not installed: pip install 'farthing[data]'")
