"""What stores answer, as obstore tells it, and what a user reads of it.

The answers are those of moto's S3, of Azurite and of fake-gcs-server, cut where obstore's debugging
text begins.
"""

from __future__ import annotations

import pickle

import pytest

from qwenft_trainer.refused import Refused, named

SERVER = "Error performing {what} http://127.0.0.1:5557/bucket in 21ms - Server returned non-2xx "
XML = '<?xml version="1.0" encoding="utf-8"?>\n<Error><Code>{code}</Code><Message>{text}</Message>'


def answer(what: str, status: str, code: str = "", text: str = "") -> Exception:
    body = XML.format(code=code, text=text) if code else ""
    return Exception(f"Generic error: {SERVER.format(what=what)}status code: {status}: {body}")


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("s3://lost/d", answer("list request: GET", "404 Not Found", "NoSuchBucket", "none")),
        ("s3://lost/d", answer("GET", "404 Not Found", "NoSuchBucket", "none")),
        ("s3://lost/d", answer("list request: GET", "404 Not Found")),
        ("s3://lost/d/fence.json", answer("PUT", "404 Not Found")),
        ("az://lost", answer("list request: GET", "404 Not Found", "ContainerNotFound", "none")),
    ],
)
def test_a_bucket_that_is_not_there_is_named(url: str, error: Exception) -> None:
    found = named(url, error)
    assert isinstance(found, Refused)
    assert str(found) == f"{url}: there is no bucket or container 'lost'; make it, or mend the URL"


@pytest.mark.parametrize("status", ["403 Forbidden", "401 Unauthorized"])
def test_credentials_that_are_refused_come_with_the_store_s_words(status: str) -> None:
    error = answer("GET", status, "InvalidAccessKeyId", "The key does not exist.\nDebug: x")
    found = named("s3://b/d", error)
    assert isinstance(found, Refused)
    assert str(found) == (
        "s3://b/d: the store refuses the credentials (InvalidAccessKeyId: The key does not exist); "
        "mend the Secret that spec.trainer.envFrom names, or its rights"
    )
    bare = named("s3://b/d", answer("HEAD", status))
    assert "refuses the credentials; mend" in str(bare)


@pytest.mark.parametrize(
    ("url", "address", "keys"),
    [
        ("s3://b/d", "http://169.254.169.254/latest/api/token", "AWS_SECRET_ACCESS_KEY"),
        ("gs://b/d", "http://metadata.google.internal/token", "GOOGLE_SERVICE_ACCOUNT_KEY"),
        ("az://b/d", "http://169.254.169.254/metadata/oauth2", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_without_credentials_the_variables_are_named(url: str, address: str, keys: str) -> None:
    error = Exception(f"Generic error: Error performing PUT {address} in 2s, after 10 retries")
    found = named(url, error)
    assert isinstance(found, Refused)
    assert str(found).startswith(f"{url}: no credentials were given; put ")
    assert keys in str(found)


def test_a_missing_file_is_not_a_refusal() -> None:
    missing = FileNotFoundError(f"Object at d/no not found: {answer('GET', '404 Not Found')}")
    found = named("s3://b/d/no", missing)
    assert type(found) is FileNotFoundError
    assert str(found).startswith("s3://b/d/no: Object at d/no not found")


@pytest.mark.parametrize(
    "error",
    [
        answer("PUT", "503 Slow Down", "SlowDown", "Reduce your request rate."),
        answer("GET", "500 Internal Server Error"),
        Exception("Generic S3 error: HTTP error: error sending request"),
        OSError(28, "No space left on device"),
        Exception(""),
    ],
)
def test_what_may_pass_is_no_refusal(error: Exception) -> None:
    found = named("s3://b/d", error)
    assert type(found) is OSError
    assert str(found).startswith("s3://b/d: ")
    assert "\n" not in str(found)


def test_a_file_that_may_not_be_read_is_a_refusal_wherever_it_lies() -> None:
    found = named("file:///d", PermissionError(13, "Permission denied"))
    assert isinstance(found, Refused)


def test_a_refusal_reaches_other_ranks() -> None:
    sent = pickle.loads(pickle.dumps(named("s3://b", answer("PUT", "404"))))  # noqa: S301 - ours
    assert isinstance(sent, Refused)
    assert "no bucket" in str(sent)
