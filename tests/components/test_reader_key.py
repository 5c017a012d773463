"""The keys of SECURITY.md on a real MinIO: servers read releases, nothing else; steps do what they must."""

import base64
import json
import re
import secrets

import pytest

from deepcuts.components.core import files, pods
from deepcuts.components.core.store import open_store
from deepcuts.components.publish import reader_key, releases
from deepcuts.components.publish.pull import pull
from deepcuts.components.training.lease import held
from tests.conftest import ROOT


@pytest.fixture
def released(s3_url, tmp_path):
    """A separate store with one release in service."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "weights").write_bytes(b"w" * 1000)
    releases.release(open_store(s3_url), "m", model, "v1", files.digest(model))
    open_store(s3_url).put_bytes("trainings/x/secret", b"s")
    return s3_url


def use(monkeypatch: pytest.MonkeyPatch, secret: dict) -> str:
    """Take the key that a pod would get of this Secret."""
    for key, name in pods.SECRET_ENV.items():
        monkeypatch.setenv(name, base64.b64decode(secret["data"][key]).decode())
    return base64.b64decode(secret["data"]["accesskey"]).decode()


def test_reader_pulls_a_release_and_can_neither_write_nor_read_anything_else(released, tmp_path, monkeypatch):
    made = reader_key.make(released, "kubeflow")
    assert (made["kind"], made["metadata"]) == ("Secret", {"name": pods.READER, "namespace": "kubeflow"})
    use(monkeypatch, made)
    pull(released, "m", "latest", tmp_path / "got")
    assert (tmp_path / "got" / "weights").read_bytes() == b"w" * 1000
    store = open_store(released, outage_seconds=2)
    with pytest.raises(FileNotFoundError):  # absent is said as absent, not as forbidden
        pull(released, "other", "v1", tmp_path / "none")
    for forbidden in (
        lambda: store.put_bytes("releases/m/log/000009.json", b"{}"),
        lambda: store.put_if_absent("releases/m/v2/x", b"x"),
        lambda: store.delete("releases/m/v1/weights"),
        lambda: store.get_bytes("trainings/x/secret"),
    ):
        with pytest.raises(ValueError, match="AccessDenied"):
            forbidden()
    assert reader_key.main(released) == 2, "a reader makes no keys"


def test_making_it_again_changes_the_secret_and_leaves_other_stores_readers(released, tmp_path, monkeypatch):
    first, other = reader_key.make(released, "kubeflow"), reader_key.make(released + "/inner", "kubeflow")
    again = reader_key.make(released, "kubeflow")
    assert first["data"]["accesskey"] == again["data"]["accesskey"] != other["data"]["accesskey"]
    use(monkeypatch, first)
    with pytest.raises(ValueError, match="SignatureDoesNotMatch"):
        pull(released, "m", "latest", tmp_path / "old")
    use(monkeypatch, again)
    pull(released, "m", "latest", tmp_path / "new")


def test_a_store_that_makes_no_keys_is_said_with_the_policy_and_no_secret(monkeypatch, capsys):
    for name in pods.SECRET_ENV.values():
        monkeypatch.setenv(name, "hidden-key-of-mine")
    assert reader_key.main("file:///tmp") == 2
    monkeypatch.setenv("S3_ENDPOINT", "nonsense")
    assert reader_key.main("s3://mine/below") == 2
    said = capsys.readouterr()
    assert "arn:aws:s3:::mine/below/releases/*" in said.err and said.out == ""
    assert json.dumps(reader_key.policy("mine", "below/")) in said.err and "hidden-key" not in said.err


def test_steps_need_no_right_but_those_that_security_md_names(released, tmp_path, monkeypatch):
    row = next(line for line in (ROOT / "SECURITY.md").read_text().splitlines() if pods.SECRET in line)
    actions = [f"s3:{name}" for name in re.findall(r"`(?:s3:)?([A-Z]\w+)`", row)]
    assert len(actions) == 7
    bucket = released.split("/")[2]
    resources = [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]
    allowed = {"Effect": "Allow", "Action": actions, "Resource": resources}
    access, secret = f"writer-{secrets.token_hex(4)}", secrets.token_urlsafe(30)
    reader_key._make(access, secret, {"Version": "2012-10-17", "Statement": [allowed]})
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secret)
    store = open_store(released, outage_seconds=2)
    (tmp_path / "model" / "weights").write_bytes(b"2" * (11 << 20))  # in three parts
    with held(store, "x") as lease:
        lease.renew()
        releases.release(store, "m", tmp_path / "model", "v2", files.digest(tmp_path / "model"))
    assert releases.rollback(store, "m") == ("v2", "v1")
    pull(released, "m", "v2", tmp_path / "got")
    assert files.digest(tmp_path / "got" / "weights") == files.digest(tmp_path / "model" / "weights")
    store.delete("trainings/x/secret")
    assert not store.exists("trainings/x/secret")
