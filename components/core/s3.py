"""S3Store: the store in a bucket. Outages are waited out; wrong settings are reported at once."""

import hashlib
import io
import itertools
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit
from xml.etree.ElementTree import ParseError

import urllib3
from minio import Minio
from minio.datatypes import Object
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError
from urllib3.exceptions import HTTPError, MaxRetryError

from deepcuts.components.core import files
from deepcuts.components.core.errors import StoreError
from deepcuts.components.core.keys import absent, checked, checked_prefix
from deepcuts.components.core.progress import Heard, unheard
from deepcuts.components.core.retry import retry

T = TypeVar("T")
FIXES = {
    "InvalidBucketName": "correct the URL",
    "NoSuchBucket": "create the bucket, or correct the URL",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "AccessDenied": "give this key the right to do it, or use another key",
    "RequestTimeTooSkewed": "set this machine's clock",
}
"""What to do about a refusal, by S3's error code."""
NOT_IMPLEMENTED = 501
MAX_PAGES = 10_000
"""Limit of one listing; a page has 1,000 names."""


class Pages(urllib3.PoolManager):
    """Connections that request each page of a listing once; minio itself would follow a store forever."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._listing = threading.local()  # a heartbeat's thread lists, too

    def begin(self) -> None:
        """Begin a listing in this thread."""
        self._listing.asked = set()

    def urlopen(  # type: ignore[override]  # as PoolManager's, whose type is a union of two
        self, method: str, url: str, redirect: bool = True, **words: Any
    ) -> urllib3.BaseHTTPResponse:
        """Send a request.

        Raises:
            ValueError: it asks for the same page of a listing again, or for too many pages.
        """
        if method == "GET" and "list-type=2" in url:
            asked = self._listing.asked
            if url in asked or len(asked) == MAX_PAGES:
                raise ValueError(
                    f"its listing does not end after {len(asked):,} pages: the store is at fault"
                )
            asked.add(url)
        return super().urlopen(method, url, redirect, **words)


class S3Store:
    """Objects in a bucket of an S3-compatible store (MinIO, SeaweedFS, a cloud provider's)."""

    def __init__(self, scheme: str, bucket: str, prefix: str, outage_seconds: float) -> None:
        endpoint = urlsplit(_setting("S3_ENDPOINT"))
        given = endpoint.netloc and "@" not in endpoint.netloc  # keys have their own variables
        if endpoint.scheme not in ("http", "https") or not given or endpoint.path.strip("/"):
            raise ValueError(
                f"S3_ENDPOINT {endpoint.geturl()!r} is not an endpoint: give http://host:port or https://host"
            )
        self._root = f"{scheme}://{bucket}/"
        self._bucket, self._prefix = bucket, f"{prefix}/" if prefix else ""
        self._endpoint, self._outage_seconds = endpoint.geturl(), outage_seconds
        self._is_exclusive = False
        # Two quick retries per request, so that one lost part does not restart a whole multipart upload;
        # ``_retry`` handles the rest. 20 s without a byte is a fault.
        self._http = Pages(
            timeout=urllib3.Timeout(connect=5, read=20),
            retries=urllib3.Retry(
                total=2,
                backoff_factor=0.2,
                status_forcelist=(500, 502, 503, 504),
                raise_on_status=False,
                respect_retry_after_header=False,
            ),
        )
        self._client = Minio(
            endpoint.netloc,
            access_key=_setting("AWS_ACCESS_KEY_ID"),
            secret_key=_setting("AWS_SECRET_ACCESS_KEY"),
            secure=endpoint.scheme == "https",
            region=os.environ.get("AWS_REGION"),
            http_client=self._http,
        )

    def uri(self, key: str) -> str:
        return self._root + self._name(key)

    def put(self, key: str, path: Path) -> None:
        name = self._name(key)
        self._retry(name, lambda: self._client.fput_object(self._bucket, name, str(path)))

    def put_bytes(self, key: str, data: bytes) -> None:
        name = self._name(key)
        self._retry(name, lambda: self._client.put_object(self._bucket, name, io.BytesIO(data), len(data)))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        self.check_exclusive()
        name, tries = self._name(key), itertools.count()
        return self._retry(name, lambda: self._put_if_absent(name, data, first=next(tries) == 0))

    def get(self, key: str, path: Path, heard: Heard = unheard) -> None:
        name = self._name(key)
        with files.staged(path) as staging:
            self._retry(name, lambda: self._download(name, staging, heard))

    def size(self, key: str) -> int:
        name = self._name(key)
        first = self._retry(name, lambda: next(self._objects(name), None))
        if first is None or first.object_name != name:
            raise absent(self.uri(key))
        return first.size or 0

    def get_bytes(self, key: str) -> bytes:
        name = self._name(key)
        return self._retry(name, lambda: b"".join(self._chunks(name)))

    def sha256(self, key: str) -> str:
        name = self._name(key)
        return self._retry(name, lambda: self._sha256(name))

    def list(self, prefix: str) -> list[str]:
        start = self._prefix + checked_prefix(prefix)
        names = self._retry(start, lambda: [*self._names(start)])
        return sorted(name.removeprefix(self._prefix) for name in names if not name.endswith("/"))

    def exists(self, key: str) -> bool:
        # Not HEAD: its response has no body, so a missing bucket would look like a missing object.
        name = self._name(key)
        return self._retry(name, lambda: next(self._names(name), "")) == name

    def delete(self, key: str) -> None:
        name = self._name(key)
        self._retry(name, lambda: self._client.remove_object(self._bucket, name))

    def _name(self, key: str) -> str:
        return self._prefix + checked(key)

    def _names(self, prefix: str) -> Iterator[str]:
        """Yield the names that begin with ``prefix``, in order."""
        return (str(item.object_name) for item in self._objects(prefix))

    def _objects(self, prefix: str) -> Iterator[Object]:
        """Yield the objects whose names begin with ``prefix``, in order."""
        seen = set()
        self._http.begin()
        for item in self._client.list_objects(self._bucket, prefix=prefix, recursive=True):
            if item.object_name in seen:  # without this the listing never ends
                raise ValueError(f"it lists {item.object_name} twice: the store is at fault")
            seen.add(item.object_name)
            yield item

    def _put_if_absent(self, name: str, data: bytes, first: bool) -> bool:
        """Send one conditional PUT to a presigned URL, as minio 7.2 has no parameter for If-None-Match."""
        url = self._client.get_presigned_url("PUT", self._bucket, name, timedelta(minutes=5))
        answer = self._http.request("PUT", url, body=data, headers={"If-None-Match": "*"}, retries=False)
        if answer.status == 412:
            # After a lost response the object may be our own; then this writer has won.
            return not first and b"".join(self._chunks(name)) == data
        if answer.status >= 500:
            raise ServerError(f"HTTP status {answer.status}", answer.status)
        if answer.status != 200:
            raise S3Error.fromxml(answer)
        return True

    def check_exclusive(self) -> None:
        """Check, once per opened store, that a second conditional put fails; some ignore the condition.

        Raises:
            ValueError: it is accepted, so two trainers could hold a lease and releases could overwrite each
                other.
        """

        def probe() -> bool:
            name = f"{self._prefix}probes/{uuid.uuid4().hex}"
            try:
                answers = [self._put_if_absent(name, text, first=True) for text in (b"first", b"second")]
            except ServerError as error:
                if error.status_code == NOT_IMPLEMENTED:  # an honest refusal
                    return False
                raise
            finally:
                self._client.remove_object(self._bucket, name)
            return answers == [True, False]

        if not self._is_exclusive:
            self._is_exclusive = self._retry(f"{self._prefix}probes", probe)
        if not self._is_exclusive:
            raise ValueError(
                f"{self._root}{self._prefix}: {self._endpoint} ignores If-None-Match: a second writer would "
                "overwrite the first unseen, and neither a lease nor the log of releases would hold: use a "
                "store that answers 412 (MinIO and AWS S3 do)"
            )

    def _chunks(self, name: str) -> Iterator[bytes]:
        answer = self._client.get_object(self._bucket, name)
        try:
            yield from answer.stream(1 << 20)
        finally:
            answer.close()
            answer.release_conn()

    def _download(self, name: str, path: Path, heard: Heard) -> None:
        done = 0
        try:
            with path.open("wb") as out:
                for chunk in self._chunks(name):
                    done += out.write(chunk)
                    heard(len(chunk))
        except BaseException:
            heard(-done)  # a retry starts over
            raise

    def _sha256(self, name: str) -> str:
        total = hashlib.sha256()
        for chunk in self._chunks(name):
            total.update(chunk)
        return total.hexdigest()

    def _retry(self, name: str, action: Callable[[], T]) -> T:
        faults = (MinioException, HTTPError, ParseError, ValueError)
        return retry(action, faults, lambda error: self._verdict(name, error), self._outage_seconds)

    def _verdict(self, name: str, error: Exception) -> Exception:
        """Return the error for the caller: StoreError for an outage, absence, ValueError for a setting."""
        if isinstance(error, MaxRetryError) and error.reason:
            error = error.reason
        code = getattr(error, "code", None) or type(error).__name__
        where = f"{self._root}{name}: {self._endpoint}"
        if code == "NoSuchKey":
            return absent(self._root + name)
        if _passes(error):
            return StoreError(f"{where} failed ({error}): check S3_ENDPOINT and the store, then run again")
        detail, fix = getattr(error, "message", error), FIXES.get(code, "check S3_ENDPOINT and AWS_REGION")
        return ValueError(f"{where} refused, {code} ({detail}): {fix}")


def _passes(error: Exception) -> bool:
    """Tell whether waiting may help: no response at all, 5xx, or throttling."""
    match error:
        case S3Error():
            status = error.response.status
            if error.code in ("SlowDown", "RequestTimeout"):  # RequestTimeout comes as 400
                return True
        case ServerError():
            status = error.status_code
        case InvalidResponseError():
            status = error._code  # minio has no public name for it
        case ParseError() | ValueError():
            return False  # 200 without the expected XML: a web server, not a store
        case _:  # for example a wrong certificate
            return not re.search("CERTIFICATE_VERIFY_FAILED|WRONG_VERSION_NUMBER", str(error))
    return status in (408, 409, 429) or (status >= 500 and status != 501)


def _setting(name: str) -> str:
    if value := os.environ.get(name):
        return value
    raise ValueError(
        f"{name} is not set: an S3 store needs S3_ENDPOINT, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY"
    )
