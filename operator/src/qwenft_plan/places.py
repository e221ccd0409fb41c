"""Where something lies: a path in the container or a volume, or a URL behind which a store is."""

from __future__ import annotations

import re

__all__ = ["is_url", "url_problem"]

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s?#]+(/[^\s?#]*)?")


def is_url(path: str) -> bool:
    """Tell whether ``path`` is meant as a URL; whether it is a good one is not asked."""
    return "://" in path


def url_problem(url: str) -> str | None:
    """Return what is wrong with a URL such as ``s3://bucket/folder``, or None."""
    scheme, _, rest = url.partition("://")
    host = rest.split("/")[0]
    if "@" in host:
        return "must hold no credentials; put them into a Secret that spec.trainer.envFrom names"
    # file:///x has no host; everything else names a bucket, a container or a host.
    if not _URL.fullmatch(url) and not (scheme == "file" and rest.startswith("/")):
        return f"must be a URL such as s3://bucket/folder/file, not {url!r}"
    if ".." in rest.split("/"):
        return f"must not climb with .., as {url!r} does"
    return None
