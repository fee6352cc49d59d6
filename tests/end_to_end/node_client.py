"""The client in JavaScript: its packages from npm, its stubs from proto/, kept in the cache."""

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

from tests.end_to_end.stack import ROOT, Ran, run

SOURCE = Path(__file__).parent / "node"
CACHE = ROOT / ".cache" / "node-client"
INSTALL_SECONDS_MAX = 90.0
NODE_MAJOR_LEAST = 20

TEMPLATE = """\
version: v2
plugins:
  - local: {plugin}
    out: {out}
    opt: [target=js, import_extension=js]
"""


async def node_client(directory: Path) -> Path:
    """Generate the client into a directory and return its script. Skips where there is no Node."""
    await _require_node()
    packages = await _packages()
    shutil.copy(SOURCE / "client.mjs", directory)
    shutil.copy(SOURCE / "package.json", directory)
    (directory / "node_modules").symlink_to(packages)
    template = directory / "buf.gen.yaml"
    template.write_text(
        TEMPLATE.format(plugin=packages / ".bin" / "protoc-gen-es", out=directory / "generated")
    )
    generated = await run(buf(), "generate", "--template", template)
    assert generated.code == 0, generated.errors
    return directory / "client.mjs"


def buf() -> Path:
    """The buf that is installed beside this Python."""
    return Path(sys.executable).parent / "buf"


async def _require_node() -> None:
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"there is no {tool} here")
    version = (await run("node", "--version")).output.strip()
    if int(version.lstrip("v").partition(".")[0]) < NODE_MAJOR_LEAST:
        pytest.skip(f"node is {version}; the gRPC client needs {NODE_MAJOR_LEAST}")


async def _packages() -> Path:
    """Install what package.json pins, once for each content of it; safe beside other sessions."""
    wanted = hashlib.sha256((SOURCE / "package.json").read_bytes()).hexdigest()[:12]
    final = CACHE / wanted
    if not final.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=CACHE, prefix="unfinished-"))
        try:
            shutil.copy(SOURCE / "package.json", draft)
            await _install(draft)
            with contextlib.suppress(OSError):  # another session was faster
                os.rename(draft, final)  # noqa: PTH104 - bound by nothing but the disk
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return final / "node_modules"


async def _install(directory: Path) -> None:
    # No lock file: it would hold the addresses of a registry. The versions are pinned instead.
    ran: Ran | None = None
    with contextlib.suppress(TimeoutError):
        ran = await run(
            "npm",
            "install",
            "--no-package-lock",
            "--ignore-scripts",
            "--no-audit",
            "--no-fund",
            directory=directory,
            timeout=INSTALL_SECONDS_MAX,
        )
    if ran is None or ran.code != 0:
        why = "no answer" if ran is None else ran.errors[-300:]
        pytest.skip(f"npm cannot install the gRPC client: {why}")
