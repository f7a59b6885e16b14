"""Which version of a package is installed?"""

from importlib.metadata import PackageNotFoundError, version


def installed_version(package: str) -> str | None:
    """Null where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
