"""Create a read-only key for release servers on MinIO, and print it as a Secret for kubectl.

    python -m deepcuts.components.publish.reader_key s3://deepcuts kubeflow | kubectl apply -f -

S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are of a key that may create others (MinIO's own).
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
    """Return a reader's permissions: list the bucket, and get objects under ``prefix`` + ``releases/``."""
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
    """Create the readers' key of ``store``, or give it a new secret; return the Secret for servers.

    Raises:
        ValueError: the URL is wrong, or the store creates no keys this way; includes the policy.
        StoreError: the store does not answer.
    """
    parts = urlsplit(store)
    if parts.scheme not in ("s3", "minio") or not parts.netloc or parts.query or parts.fragment:
        raise ValueError(f"{store!r} is not a bucket: give s3://bucket or s3://bucket/prefix")
    prefix = f"{checked(parts.path.strip('/'))}/" if parts.path.strip("/") else ""
    allowed = policy(parts.netloc, prefix)
    # one key per store: creating it again changes its secret, and other stores' readers keep theirs
    access = "reader-" + hashlib.sha256(f"{parts.netloc}/{prefix}".encode()).hexdigest()[:12]
    secret = secrets.token_urlsafe(30)
    try:
        _make(access, secret, allowed)
    except HTTPError as error:
        raise StoreError(f"S3_ENDPOINT does not answer ({error}): check it and the store") from None
    except (MinioAdminException, ValueError) as error:
        raise ValueError(
            f"the store creates no key for readers ({error}): is it MinIO, and may this key do so? On "
            f"another store create one with its own tools, with this policy: {json.dumps(allowed)}"
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
    except MinioAdminException:  # it exists already, or is forbidden; the second call shows which
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
