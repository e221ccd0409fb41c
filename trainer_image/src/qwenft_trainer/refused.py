"""What a store's errors mean: whether another try can help, and one sentence about what to mend.

obstore tells the store's answer in its message alone: "Server returned non-2xx status code: 403
Forbidden: <body>". Codes in the body are those of S3, Azure and Google.
"""

import re

_STATUS = re.compile(r"status code: (\d{3})")
_CODE, _MESSAGE = re.compile(r"<Code>(.*?)</Code>"), re.compile(r"<Message>([^<]*)</Message>")
_UNWELCOME = {401, 403}
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound")
_METADATA = ("169.254.169.254", "metadata.google.internal", "token request")
"""Where a client looks that was given no credentials: the cloud's own machines have some there."""
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_WHERE = "the Secret that spec.trainer.envFrom names"


class Refused(OSError):  # noqa: N818 - it is an answer
    """A store says no, and will say it again: no such bucket, no right, no credentials."""


def named(url: str, error: Exception) -> OSError:
    """Return an error that names the URL.

    :class:`Refused` where no other try can help, :class:`FileNotFoundError` where only this file is
    missing, else a plain :class:`OSError`.
    """
    if isinstance(error, PermissionError):
        return Refused(f"{url}: {_first_line(error)}")
    text = str(error)
    refusal = _refusal(url, text)
    if refusal is not None:
        return Refused(f"{url}: {refusal}")
    kind = FileNotFoundError if isinstance(error, FileNotFoundError) else OSError
    return kind(f"{url}: {_first_line(error)}")


def _refusal(url: str, text: str) -> str | None:
    scheme, _, rest = url.partition("://")
    status = _STATUS.search(text)
    if scheme in _KEYS and any(place in text for place in _METADATA):
        return f"no credentials were given; put {_KEYS[scheme]} into {_WHERE}"
    if status is None:
        return None
    if int(status[1]) in _UNWELCOME:
        return f"the store refuses the credentials{_said(text)}; mend {_WHERE}, or its rights"
    # A write, and a look into a folder, find nothing only where there is no bucket.
    nowhere = any(code in text for code in _NO_BUCKET)
    if nowhere or (int(status[1]) == 404 and ("list request" in text or " PUT " in text)):  # noqa: PLR2004 - HTTP's
        return f"there is no bucket or container {rest.split('/')[0]!r}; make it, or mend the URL"
    return None


def _said(text: str) -> str:
    """Return the store's own words, where it has some."""
    found = [
        part[1].strip().split("\n")[0]
        for part in (_CODE.search(text), _MESSAGE.search(text))
        if part
    ]
    return f" ({': '.join(found).rstrip('.')})" if found else ""


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
