"""Make the key that servers of releases read with, on a MinIO, and print it as a Secret for kubectl.

    python -m deepcuts.components.publish.reader_key s3://deepcuts kubeflow | kubectl apply -f -

S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are of a key that may make others (MinIO's own).
"""

import base64
import hashlib
import json
import os
import secrets
import sys
from typing import Any
from urllib.parse import urlsplit

from minio import MinioAdmin
from minio.credentials.providers import EnvAWSProvider
from minio.error import MinioAdminException
from urllib3.exceptions import HTTPError

from deepcuts.components.core import escape, pods
from deepcuts.components.core.errors import StoreError, exit_code
from deepcuts.components.core.keys import checked

Json = dict[str, Any]


def policy(bucket: str, prefix: str) -> Json:
    """Return what a reader may do: list the bucket, and get what lies under ``prefix`` + ``releases/``."""
    objects = f"arn:aws:s3:::{bucket}/{prefix}releases/*"
    whole = f"arn:aws:s3:::{bucket}"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [objects]},
            {"Effect": "Allow", "Action": ["s3:ListBucket", "s3:GetBucketLocation"], "Resource": [whole]},
        ],
    }


def make(store: str, namespace: str) -> Json:
    """Make the key of ``store``'s readers, or give it a new secret; return the Secret that servers take.

    Raises:
        ValueError: no such URL, or the store makes no keys this way: with the policy, to make one by hand.
        StoreError: the store does not answer.
    """
    parts = urlsplit(store)
    if parts.scheme not in ("s3", "minio") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{store!r} is no bucket: give s3://bucket or s3://bucket/prefix")
    prefix = f"{checked(parts.path.strip('/'))}/" if parts.path.strip("/") else ""
    allowed = policy(parts.netloc, prefix)
    # one key a store: to make it again is to change its secret, and no other store's readers lose theirs
    access = "reader-" + hashlib.sha256(f"{parts.netloc}/{prefix}".encode()).hexdigest()[:12]
    secret = secrets.token_urlsafe(30)
    try:
        _make(access, secret, allowed)
    except HTTPError as error:
        raise StoreError(f"S3_ENDPOINT does not answer ({error}): check it and the store") from None
    except (MinioAdminException, ValueError) as error:
        raise ValueError(
            f"the store makes no key for readers ({error}): is it a MinIO, and may this key make others? On "
            f"another store make one with its own tools, with this policy: {json.dumps(allowed)}"
        ) from None
    data = {"accesskey": access, "secretkey": secret}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": pods.READER, "namespace": namespace},
        "data": {key: base64.b64encode(value.encode()).decode() for key, value in data.items()},
    }


def _make(access: str, secret: str, allowed: Json) -> None:
    endpoint = urlsplit(os.environ.get("S3_ENDPOINT", ""))
    if endpoint.scheme not in ("http", "https"):
        raise ValueError("S3_ENDPOINT is not http://host:port or https://host")
    admin = MinioAdmin(
        endpoint=endpoint.netloc, credentials=EnvAWSProvider(), secure=endpoint.scheme == "https"
    )
    try:
        admin.add_service_account(access_key=access, secret_key=secret, name=pods.READER, policy=allowed)
    except MinioAdminException:  # there already, or no right to: the second call says which
        admin.update_service_account(access_key=access, secret_key=secret, policy=allowed)


def main(store: str, namespace: str = "kubeflow") -> int:
    """Print the Secret as JSON, or the problem on stderr; return the exit code."""
    try:
        made = make(store, namespace)
    except (ValueError, StoreError) as error:
        print(escape.terminal(escape.redacted(f"reader_key: {error}")), file=sys.stderr)
        return exit_code(error)
    print(json.dumps(made))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
