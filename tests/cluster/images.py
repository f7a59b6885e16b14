"""The real Dockerfile built without a Docker engine: by buildah, over a Debian made by debootstrap. Needs root."""

import json
import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass(frozen=True)
class Image:
    """A root file system, and what the image says of starting it."""

    root: Path
    config: dict[str, Any]

    @cached_property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])


class Builder:
    """buildah with a store of its own in ``folder``. To be closed: it mounts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def debian(self, tag: str) -> None:
        """The base, as Debian's own images are made. What apt has kept on this machine is not fetched again."""
        system = self._folder / "debian"
        options = ["--variant=minbase", "--cache-dir=/var/cache/apt/archives"]
        _succeed("debootstrap", *options, "bookworm", str(system), *_mirror())
        container = self._buildah("from", "scratch")
        self._buildah("copy", "--quiet", container, str(system), "/")
        self._buildah("commit", "--quiet", "--rm", container, tag)

    def build(self, tag: str, base: str) -> Image:
        """The Dockerfile of the repository, with the torch of this environment."""
        arguments = {"BASE_IMAGE": base, "TORCH_SPEC": f"torch=={version('torch')}", "REVISION": REVISION}
        options = [text for name, value in arguments.items() for text in ("--build-arg", f"{name}={value}")]
        options += [text for mount in self._pip_settings() for text in ("--volume", mount)]
        # The other format has no health checks.
        self._buildah(
            "bud", "--isolation", "chroot", "--jobs", "2", *options, "--format", "docker", "--tag", tag, str(ROOT)
        )
        config = json.loads(self._buildah("inspect", "--type", "image", tag))["Docker"]["config"]
        return Image(Path(self._buildah("mount", self._buildah("from", tag))), config)

    def close(self) -> None:
        """Unmount, and give back the disk."""
        self._buildah("rm", "--all")
        mounted = [part.mountpoint for part in psutil.disk_partitions(all=True)]
        for place in sorted((path for path in mounted if Path(path).is_relative_to(self._folder)), reverse=True):
            _succeed("umount", place)
        # Some hundred thousand files, with which Python would take its time.
        _succeed("rm", "-rf", "--one-file-system", str(self._folder))

    def _buildah(self, *arguments: str) -> str:
        places = ["--root", str(self._folder / "store"), "--runroot", str(self._folder / "run")]
        return _succeed("buildah", *places, *arguments)

    def _pip_settings(self) -> list[str]:
        """Mounts by which pip in the build takes packages from where pip takes them here."""
        listed = _succeed("pip", "config", "list")
        settings = dict(re.findall(r"^\S+\.([\w-]+)='(.*)'$", listed, re.MULTILINE))
        known = {
            key: settings[key] for key in ("cert", "find-links", "index-url", "extra-index-url") if key in settings
        }
        words = [word for value in known.values() for word in value.split()]
        # An index that is a folder links to files beside it.
        folders = {
            Path(word.removeprefix("file://")).parent if word.startswith("file:") else Path(word) for word in words
        }
        mounts = [f"{folder}:{folder}:ro" for folder in folders if folder.is_dir()]
        if "cert" in known:
            # Not in its own place, into which Debian's package of certificates writes.
            mounts.append(f"{known['cert']}:/run/certificates.crt:ro")
            known["cert"] = "/run/certificates.crt"
        file = self._folder / "pip.conf"
        file.write_text("\n".join(["[global]", *(f"{key} = {value}" for key, value in known.items())]))
        return [*mounts, f"{file}:/etc/pip.conf:ro"]


def _mirror() -> list[str]:
    """Where apt takes Debian's packages from on this machine, if it is one with Debian 12."""
    return _succeed("apt-get", "indextargets", "--format", "$(REPO_URI)", "Codename: bookworm").split()[:1]


def _succeed(*command: str) -> str:
    """What ``command`` prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout.strip()
