"""The project's images, built from plain Dockerfiles by buildah on a base made by mmdebstrap.

buildah keeps to a storage of its own in the cache. An image whose inputs have not changed (``key``)
is not built again; one whose sources alone changed keeps its layer of dependencies.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from embedded.layout import Layout
from embedded.stages import StageError, run, stage
from embedded.versions import FOLDER, Versions

REPOSITORY = FOLDER.parents[2]
BASE = "qwenft.dev/base:trixie"
_CUSTOMIZE = 'rm -f "$1/etc/resolv.conf" "$1/etc/hostname" "$1/etc/hosts"'
_AUTHORITY_VARIABLES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_DEFAULT_AUTHORITY = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipe:
    """One image: its name, its Dockerfile, and the paths in the repository that it is made of."""

    name: str
    dockerfile: str
    inputs: tuple[str, ...]


_PROJECT = ("pyproject.toml", "README.md", "LICENSE", "requirements/bootstrap.txt", "operator/src")
OPERATOR = Recipe(
    name="qwenft.dev/operator:dev",
    dockerfile="operator/Dockerfile",
    inputs=(*_PROJECT, "requirements/operator.txt"),
)
TRAINER = Recipe(
    name="qwenft.dev/trainer:dev",
    dockerfile="trainer_image/Dockerfile",
    inputs=(*_PROJECT, "requirements/trainer.txt", "trainer_image/src"),
)
RECIPES = (OPERATOR, TRAINER)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layer:
    """A layer as the builder keeps it: the digest of its archive, and its files."""

    diff_id: str
    files: Path


@dataclass(frozen=True, kw_only=True, slots=True)
class Stored:
    """A built image; ``config`` is its configuration document, the lowest layer comes first."""

    name: str
    digest: str
    config: bytes
    layers: tuple[Layer, ...]


def _files(root: Path, inputs: tuple[str, ...]) -> list[Path]:
    found: list[Path] = []
    for name in inputs:
        path = root / name
        found += [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sorted(file for file in found if "__pycache__" not in file.parts)


def key(recipe: Recipe, base_key: str, root: Path) -> str:
    """Return a hash over everything that the image is made of, by name and content."""
    digest = hashlib.sha256(f"{recipe.name}\0{base_key}\0".encode())
    for file in _files(root, (recipe.dockerfile, *recipe.inputs)):
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        digest.update(f"{file.relative_to(root)}\0{content}\0".encode())
    return digest.hexdigest()


def base_key(versions: Versions) -> str:
    """Return a hash over what the base image is made of."""
    parts = (versions.base_suite, platform.machine(), *versions.base_packages)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:10]


def index_lines(settings: Mapping[str, str]) -> str:
    """Return the shell lines that point pip and uv, in a build, to this machine's index.

    ``settings`` are pip's (``index-url``, ``extra-index-url``, ``trusted-host``); the certificates
    lie at ``/run/secrets/ca``.
    """
    lines = {
        "SSL_CERT_FILE": "/run/secrets/ca",
        "PIP_CERT": "/run/secrets/ca",
        "UV_HTTP_TIMEOUT": "600",
    }
    if "index-url" in settings:
        lines |= {"PIP_INDEX_URL": settings["index-url"], "UV_DEFAULT_INDEX": settings["index-url"]}
    if "extra-index-url" in settings:
        extra = settings["extra-index-url"]
        lines |= {"PIP_EXTRA_INDEX_URL": extra, "UV_INDEX": extra}
    if "trusted-host" in settings:
        host = settings["trusted-host"]
        lines |= {"PIP_TRUSTED_HOST": host, "UV_INSECURE_HOST": host}
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in lines.items())


def pip_settings(listing: str) -> dict[str, str]:
    """Read what ``pip config list`` prints; the environment's settings win over the files'."""
    settings: dict[str, str] = {}
    for line in sorted(listing.splitlines(), key=lambda line: line.startswith(":env:")):
        name, _, value = line.partition("=")
        settings[name.rpartition(".")[2]] = value.strip().strip("'")
    return settings


def _machine_settings() -> dict[str, str]:
    asked = subprocess.run(
        ["python3", "-m", "pip", "config", "list"], capture_output=True, text=True, check=False
    )
    return pip_settings(asked.stdout) if asked.returncode == 0 else {}


def _authority(settings: Mapping[str, str]) -> Path | None:
    named = [os.environ.get(name, "") for name in _AUTHORITY_VARIABLES]
    candidates = [
        Path(text) for text in (*named, settings.get("cert", ""), _DEFAULT_AUTHORITY) if text
    ]
    return next((path for path in candidates if path.is_file()), None)


def builder(layout: Layout, *words: str | Path) -> list[str | Path]:
    """Return a command line of the image builder, which keeps to its own storage."""
    place = layout.images
    roots: list[str | Path] = ["--root", place / "storage", "--runroot", place / "runroot"]
    return ["buildah", *roots, "--storage-driver", "overlay", *words]


def _state_file(layout: Layout) -> Path:
    return layout.images / "storage" / "built.json"


def _built(layout: Layout) -> dict[str, str]:
    file = _state_file(layout)
    return dict(json.loads(file.read_text())) if file.exists() else {}


def _write_built(layout: Layout, built: dict[str, str]) -> None:
    partial = _state_file(layout).with_suffix(".partial")
    partial.write_text(json.dumps(built, indent=1), encoding="utf-8")
    partial.replace(_state_file(layout))


def forget(layout: Layout, name: str) -> None:
    """Forget what an image was built from, so that it is built again when asked for."""
    _write_built(layout, {key: value for key, value in _built(layout).items() if key != name})


def build_base(layout: Layout, versions: Versions) -> None:
    """Make the base image unless it is there: the bare distribution with Python."""
    wanted = base_key(versions)
    if _built(layout).get(BASE) == wanted:
        return
    layout.images.mkdir(parents=True, exist_ok=True)
    log = layout.logs / "image-base.log"
    log.unlink(missing_ok=True)
    archive = layout.images / "base.partial.tar"
    packages = f"--include={','.join(versions.base_packages)}"
    flags = ["--mode=root", "--variant=minbase", "--dpkgopt=force-unsafe-io", packages]
    mirror = [mirror] if (mirror := os.environ.get("QWENFT_DEBIAN_MIRROR")) else []
    with stage(
        f"image {BASE}", remedy="is the Debian mirror reachable? QWENFT_DEBIAN_MIRROR names another"
    ):
        customize = f"--customize-hook={_CUSTOMIZE}"
        command: list[str | Path] = [
            "mmdebstrap",
            *flags,
            customize,
            versions.base_suite,
            archive,
            *mirror,
        ]
        run(command, log=log)
        container = run(builder(layout, "from", "scratch")).strip()
        run(builder(layout, "add", "--quiet", container, archive, "/"), log=log)
        run(builder(layout, "commit", "--quiet", "--rm", container, BASE), log=log)
        archive.unlink()
        _write_built(layout, {**_built(layout), BASE: wanted})


def build(layout: Layout, versions: Versions, recipe: Recipe) -> None:
    """Build one image unless its inputs are those it was built from."""
    wanted = key(recipe, base_key(versions), REPOSITORY)
    if _built(layout).get(recipe.name) == wanted:
        return
    log = layout.logs / f"image-{Path(recipe.dockerfile).parent}.log"
    log.unlink(missing_ok=True)
    settings = _machine_settings()
    authority = _authority(settings)
    with stage(f"image {recipe.name}", remedy="read the log; is the package index reachable?"):
        folder = Path(tempfile.mkdtemp(prefix="qwenft-secrets-"))
        try:
            (folder / "index").write_text(index_lines(settings), encoding="utf-8")
            shutil.copy(authority, folder / "ca") if authority else (folder / "ca").touch()
            run(_build_command(layout, recipe, folder), log=log, environment=dict(os.environ))
        finally:
            shutil.rmtree(folder)
        _write_built(layout, {**_built(layout), recipe.name: wanted})


def _build_command(layout: Layout, recipe: Recipe, secrets: Path) -> list[str | Path]:
    passed = [f"--secret=id={name},src={secrets / name}" for name in ("index", "ca")]
    flags = ["--isolation=chroot", "--network=host", "--pull-never", "--layers", *passed]
    # No test compiles layers on the cluster, and a build may reach no package mirror.
    names = [f"--build-arg=BASE={BASE}", "--build-arg=COMPILERS=", f"--tag={recipe.name}"]
    file = f"--file={REPOSITORY / recipe.dockerfile}"
    return builder(layout, "bud", *flags, *names, file, REPOSITORY)


def build_all(layout: Layout, versions: Versions) -> None:
    """Build the base and every image that changed."""
    build_base(layout, versions)
    for recipe in RECIPES:
        build(layout, versions, recipe)


def stored(storage: Path, name: str) -> Stored:
    """Read a built image out of the builder's storage; ``StageError`` where it is not there."""
    images = json.loads((storage / "overlay-images" / "images.json").read_text())
    image = next((each for each in images if name in each.get("names", ())), None)
    if image is None:
        raise StageError(f"{name} is not built", remedy="run the verb `images`")
    layers = json.loads((storage / "overlay-layers" / "layers.json").read_text())
    by_id = {layer["id"]: layer for layer in layers}
    chain: list[Layer] = []
    place = image["layer"]
    while place:
        files = storage / "overlay" / place / "diff"
        chain.append(Layer(diff_id=by_id[place]["diff-digest"], files=files))
        place = by_id[place].get("parent", "")
    digest = f"sha256:{image['id']}"
    encoded = base64.b64encode(digest.encode()).decode()
    config = (storage / "overlay-images" / image["id"] / f"={encoded}").read_bytes()
    return Stored(name=name, digest=digest, config=config, layers=tuple(reversed(chain)))
