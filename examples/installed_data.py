"""Real input that ships inside Python packages, found without importing them."""

from importlib.util import find_spec
from pathlib import Path

from headway_worker import PermanentError


def installed_file(package: str, path: str) -> Path:
    """A file of an installed package.

    Only looked up: importing a package for one of its files may cost seconds, or fail where its
    code is older than its dependencies. PermanentError if the package or the file is missing:
    replay the job once it is installed.
    """
    spec = find_spec(package)
    folders = (spec and spec.submodule_search_locations) or []
    for folder in folders:
        if (file := Path(folder, path)).is_file():
            return file
    raise PermanentError(
        f"{path} of the package {package} is not installed; pip install 'headway[demo]'"
    )
