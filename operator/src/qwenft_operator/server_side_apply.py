"""What an apply sends: one text that is JSON and YAML.

The apiserver reads it as YAML. JSON escapes what is beyond 16 bits, an emoji, as a pair of
surrogates; YAML takes none, and the apiserver refused such an object for ever.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["CONTENT_TYPE", "encoded"]

CONTENT_TYPE = "application/apply-patch+yaml; charset=utf-8"
"""With a parameter, so that the client library leaves the text as it is."""
_NOT_IN_YAML = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What may stand in JSON and not in YAML, or ends a line there (YAML 1.2, sections 5.1 and 5.4)."""


def encoded(manifest: Mapping[str, Any]) -> bytes:
    """Return the manifest as it is sent."""
    text = json.dumps(manifest, ensure_ascii=False)
    return _NOT_IN_YAML.sub(lambda found: f"\\u{ord(found[0]):04x}", text).encode()
