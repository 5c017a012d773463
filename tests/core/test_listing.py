"""Listings of a store that never end."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from deepcuts.components.core import s3
from deepcuts.components.core.store import open_store


class Empty(BaseHTTPRequestHandler):
    """A store that has nothing to list, and always more of it; ``token`` says where to go on."""

    token = b"<NextContinuationToken>again</NextContinuationToken>"
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        if "list-type" in self.path:
            token = self.token.replace(b"%d", b"%d" % self.asked)
            inner = b"<IsTruncated>true</IsTruncated>" + token
        else:
            inner = b""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(
            b"<?xml version='1.0'?><ListBucketResult><Name>bucket</Name>" + inner + b"</ListBucketResult>"
        )

    def log_message(self, *words: object) -> None:
        pass


NEW = b"<NextContinuationToken>t%d</NextContinuationToken>"
NAMED = b"<Contents><Key>p/a</Key><Size>1</Size><ETag>e</ETag></Contents>"


@pytest.mark.parametrize("token", [Empty.token, b"", NEW, Empty.token + NAMED, NAMED, NEW + NAMED])
def test_listing_that_goes_on_for_ever_ends(monkeypatch, token):
    monkeypatch.setattr(s3, "MAX_PAGES", 30)
    monkeypatch.setattr(Empty, "token", token)
    monkeypatch.setattr(Empty, "asked", 0)
    with ThreadingHTTPServer(("127.0.0.1", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("S3_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
            monkeypatch.setenv(name, "us-east-1")
        store = open_store("s3://bucket/p", outage_seconds=2)
        for _ in range(2):
            with pytest.raises(ValueError, match="listing does not end|lists p/a twice"):
                store.list("")
        server.shutdown()
    assert Empty.asked <= 60
