import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from deepcuts.components.core import files
from deepcuts.components.core.errors import DataError, StoreError
from deepcuts.components.core.manifest import MANIFEST, manifest_of, verify
from deepcuts.components.core.s3 import S3Store
from deepcuts.components.core.store import FileStore, Store, Torn, open_store, publish, retrieve, withdraw
from deepcuts.components.publish import releases
from deepcuts.components.training.lease import Lease
from tests.conftest import ROOT
from tests.core.proxy import Proxy

HTML = "<html>upstream is away</html>"


def s3_error(code: str) -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>not now</Message></Error>"


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Both implementations; what this file asks of one it asks of the other."""
    if request.param == "file":
        return open_store((tmp_path / "a store").as_uri())
    return open_store(request.getfixturevalue("s3_url"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint as training writes it: one large file, small ones, one below a folder."""
    folder = tmp_path / "checkpoint"
    (folder / "nested").mkdir(parents=True)
    (folder / "weights.safetensors").write_bytes(os.urandom(300_000))
    (folder / "progress.json").write_text('{"step": 7}')
    (folder / "nested" / "name with ü + %20.txt").write_text("odd name")
    (folder / "empty").touch()
    return folder


def test_store_gives_back_what_was_put(store, tmp_path):
    (tmp_path / "local").write_bytes(b"from a file")
    store.put("a/file", tmp_path / "local")
    store.put_bytes("a/bytes", b"from memory")
    store.get("a/file", tmp_path / "new folder" / "back")
    assert (tmp_path / "new folder" / "back").read_bytes() == b"from a file"
    assert store.get_bytes("a/bytes") == b"from memory"


def test_store_put_replaces(store):
    store.put_bytes("k", b"old and longer")
    store.put_bytes("k", b"new")
    assert store.get_bytes("k") == b"new"


def test_store_keeps_an_object_of_many_parts(store, tmp_path):
    big = tmp_path / "big"
    big.write_bytes(os.urandom(12 << 20))  # 3 parts of at least 5 MiB on S3
    store.put("big", big)
    arrived: list[int] = []
    store.get("big", tmp_path / "back", arrived.append)
    assert store.sha256("big") == files.digest(big) == files.digest(tmp_path / "back")
    assert sum(arrived) == store.size("big") == 12 << 20


@pytest.mark.parametrize("read", ["get_bytes", "sha256", "size", "get"])
def test_store_missing_object_is_named_by_its_uri(store, tmp_path, read):
    argument = [tmp_path / "out" / "file"] if read == "get" else []
    with pytest.raises(FileNotFoundError, match="does not exist") as error:
        getattr(store, read)("no/such/key", *argument)
    assert store.uri("no/such/key") in str(error.value)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_store_exists_only_for_whole_keys(store):
    store.put_bytes("a/b", b"")
    assert store.exists("a/b")
    assert not store.exists("a")
    assert not store.exists("a/bc")


def test_store_delete_may_be_repeated(store):
    store.put_bytes("a", b"1")
    store.delete("a")
    store.delete("a")
    assert not store.exists("a")


def test_store_lists_sorted_keys_by_prefix(store):
    for key in ("t/step-2/w", "t/step-10/w", "t/stop", "tt/x", "ü +%/y"):
        store.put_bytes(key, b"")
    assert store.list("") == sorted(["t/step-2/w", "t/step-10/w", "t/stop", "tt/x", "ü +%/y"])
    assert store.list("t/") == ["t/step-10/w", "t/step-2/w", "t/stop"]
    assert store.list("t/step-") == ["t/step-10/w", "t/step-2/w"]
    assert store.list("t") == ["t/step-10/w", "t/step-2/w", "t/stop", "tt/x"]
    assert store.list("nothing/here") == []


def test_file_store_does_not_list_what_a_killed_writer_left(tmp_path):
    FileStore(tmp_path).put_bytes("a/k", b"1")
    files.staging_place(tmp_path / "a" / "other").touch()
    assert FileStore(tmp_path).list("") == ["a/k"]


def test_store_lists_more_than_one_page(s3_url):
    store = open_store(s3_url)
    keys = [f"k/{i:04}" for i in range(1001)]  # S3 answers with 1000 at a time
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put_bytes(key, b""), keys))
    assert store.list("k/") == keys


def test_store_keeps_the_scheme_it_was_opened_with(s3_url):
    open_store(s3_url).put_bytes("k", b"1")
    again = open_store(s3_url.replace("s3://", "minio://") + "/")
    assert again.get_bytes("k") == b"1"
    assert again.uri("k").startswith("minio://mlpipeline/")


def test_store_below_a_prefix_does_not_see_its_neighbours(s3_url):
    open_store(f"{s3_url}/one").put_bytes("k", b"1")
    assert open_store(f"{s3_url}/on").list("") == []
    assert open_store(s3_url).list("") == ["one/k"]


def test_store_conditional_put_has_one_winner(store):
    def claim(writer: int) -> bool:
        return store.put_if_absent("lease", f"writer {writer}".encode())

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(claim, range(8)))
    assert won.count(True) == 1
    assert store.get_bytes("lease") == f"writer {won.index(True)}".encode()


def test_store_conditional_put_works_again_after_delete(store):
    assert store.put_if_absent("lease", b"1")
    store.delete("lease")
    assert store.put_if_absent("lease", b"2")
    assert store.list("") == ["lease"]


@pytest.mark.parametrize(
    "key", ["", "/etc/x", "../x", "a/../x", "a//b", "a/", ".", "a/./b", "a\\b", "a\nb", "\0"]
)
def test_store_refuses_a_key_that_is_not_a_plain_path(store, key):
    for refused in (store.exists, store.get_bytes, store.delete, store.uri):
        with pytest.raises(ValueError, match="not a plain relative path"):
            refused(key)
    with pytest.raises(ValueError, match="not a plain relative path"):
        store.put_bytes(key, b"")


@given(key=st.text(alphabet=st.sampled_from("a./\\ é\0\n-"), max_size=12))
def test_file_store_never_writes_outside_its_root(tmp_path_factory, key):
    root = tmp_path_factory.mktemp("keys") / "root"
    try:
        FileStore(root).put_bytes(key, b"x")
    except ValueError:
        assert not root.exists()
    else:
        assert FileStore(root).list("") == [key]
        assert [p.name for p in root.parent.iterdir()] == ["root"]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/path",
        "file://host/path",
        "file:path",
        "gs://b/p",
        "s3:///p",
        "s3://b/p?x=1",
        "s3://me:hunter2@b/p",
        "http://h/b",
        "minio://b/../c",
    ],
)
def test_open_store_refuses_other_urls(url, monkeypatch):
    for name in ("S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "http://x")
    with pytest.raises(ValueError, match="give file:///path|leave it off|not a plain"):
        open_store(url)


@pytest.mark.parametrize("name", ["S3_ENDPOINT", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_open_store_names_the_missing_variable(s3_url, monkeypatch, name):
    monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=f"^{name} is not set"):
        open_store(s3_url)


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "http://me:hunter2@127.0.0.1:9000"])
def test_open_store_refuses_an_endpoint_without_scheme_or_with_keys(s3_url, monkeypatch, endpoint):
    monkeypatch.setenv("S3_ENDPOINT", endpoint)
    with pytest.raises(ValueError, match="give http://host:port"):
        open_store(s3_url)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"AWS_ACCESS_KEY_ID": "nobody"}, "check AWS_ACCESS_KEY_ID"),
        ({"AWS_SECRET_ACCESS_KEY": "wrongwrong"}, "check AWS_SECRET_ACCESS_KEY"),
        ({"AWS_SECRET_ACCESS_KEY": "wrongwrong", "AWS_REGION": "us-east-1"}, "check AWS_SECRET_ACCESS_KEY"),
    ],
)
def test_s3_wrong_credentials_fail_at_once_with_the_fix(s3_url, monkeypatch, changed, message):
    for name, value in changed.items():
        monkeypatch.setenv(name, value)
    store, start = open_store(s3_url), time.monotonic()
    for action in (store.exists, store.get_bytes, lambda key: store.put_if_absent(key, b"x")):
        with pytest.raises(ValueError, match=message):
            action("k")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("region", ["", "us-east-1"])
def test_s3_missing_bucket_fails_at_once_and_is_not_an_absent_object(s3_url, monkeypatch, region):
    monkeypatch.setenv("AWS_REGION", region)
    store, start = open_store("s3://no-such-bucket"), time.monotonic()
    actions = (store.exists, store.get_bytes, store.list, lambda key: store.put_if_absent(key, b"x"))
    for action in actions:
        with pytest.raises(ValueError, match="create the bucket"):
            action("k")
    assert time.monotonic() - start < 5


def test_s3_unreachable_endpoint_is_a_store_error_after_the_outage_allowed(s3_url, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(StoreError, match="http://127.0.0.1:9 failed .* check S3_ENDPOINT"):
        open_store(s3_url, outage_seconds=1).exists("k")
    assert 0.5 < time.monotonic() - start < 10


def test_s3_tls_against_a_plain_server_is_refused_at_once(s3_url, monkeypatch):
    monkeypatch.setenv("S3_ENDPOINT", os.environ["S3_ENDPOINT"].replace("http:", "https:"))
    with pytest.raises(ValueError, match="WRONG_VERSION_NUMBER.*check S3_ENDPOINT"):
        open_store(s3_url).exists("k")


def test_publish_and_retrieve_give_the_same_folder(store, folder, tmp_path):
    publish(store, folder, "runs/one")
    retrieve(store, "runs/one", tmp_path / "back")
    verify(tmp_path / "back")
    (tmp_path / "back" / MANIFEST).unlink()
    assert files.digest(tmp_path / "back") == files.digest(folder)


def test_publish_again_after_retrieve_keeps_the_manifest(store, folder, tmp_path):
    publish(store, folder, "one")
    retrieve(store, "one", tmp_path / "back")
    publish(store, tmp_path / "back", "two")
    assert store.get_bytes(f"one/{MANIFEST}") == store.get_bytes(f"two/{MANIFEST}")


def test_publish_other_content_leaves_nothing_of_the_old(store, folder, tmp_path):
    publish(store, folder, "one")
    (folder / "empty").unlink()
    (folder / "progress.json").write_text('{"step": 8}')
    publish(store, folder, "one")
    assert store.list("one/") == sorted(
        f"one/{name}"
        for name in [MANIFEST, "nested/name with ü + %20.txt", "progress.json", "weights.safetensors"]
    )
    retrieve(store, "one", tmp_path / "back")
    assert (tmp_path / "back" / "progress.json").read_text() == '{"step": 8}'


def test_retrieve_without_manifest_finds_nothing(store, folder, tmp_path):
    publish(store, folder, "one")
    store.delete(f"one/{MANIFEST}")
    with pytest.raises(FileNotFoundError, match=MANIFEST):
        retrieve(store, "one", tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("damage", ["other bytes", "gone", "no manifest"])
def test_retrieve_torn_folder_names_the_object_and_leaves_nothing(store, folder, tmp_path, damage):
    publish(store, folder, "one")
    key = f"one/{MANIFEST}" if damage == "no manifest" else "one/progress.json"
    if damage == "gone":
        store.delete(key)
    else:
        store.put_bytes(key, b'{"step": 8}')
    with pytest.raises(Torn) as error:
        retrieve(store, "one", tmp_path / "back")
    assert store.uri(key) in str(error.value)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "a store") == ["checkpoint"]
    publish(store, folder, "one")
    retrieve(store, "one", tmp_path / "back")


def test_retrieve_refuses_a_manifest_that_leads_out_of_its_folder(store, tmp_path):
    store.put_bytes("x", b"")
    entry = f'{{"sha256": "{store.sha256("x")}", "bytes": 0}}'
    store.put_bytes(f"one/{MANIFEST}", f'{{"files": {{"../../x": {entry}}}}}'.encode())
    with pytest.raises(Torn, match=r"one/manifest.json is not a manifest .*not a plain relative path"):
        retrieve(store, "one", tmp_path / "deep" / "back")
    assert not (tmp_path / "deep" / "back").exists()


def test_withdraw_removes_everything_below_the_prefix_only(store, folder):
    publish(store, folder, "step-1")
    publish(store, folder, "step-10")
    withdraw(store, "step-1")
    assert store.list("step-1/") == []
    assert f"step-10/{MANIFEST}" in store.list("")


def test_withdraw_that_stops_halfway_leaves_nothing_to_retrieve(tmp_path, folder):
    class Stops(FileStore):
        deleted = 0

        def delete(self, key: str) -> None:
            if self.deleted:
                raise StoreError("gone away")
            self.deleted += 1
            super().delete(key)

    store = Stops(tmp_path / "store")
    publish(store, folder, "one")
    with pytest.raises(StoreError):
        withdraw(store, "one")
    with pytest.raises(FileNotFoundError):
        retrieve(store, "one", tmp_path / "back")


@pytest.mark.parametrize("damage", ["change", "shorten", "remove", "add", "no manifest", "not a manifest"])
def test_verify_names_the_file_that_does_not_match(tmp_path, folder, damage):
    store = FileStore(tmp_path / "store")
    publish(store, folder, "one")
    retrieve(store, "one", folder)
    verify(folder)
    victim = folder / (MANIFEST if "manifest" in damage else "weights.safetensors")
    match damage:
        case "change":
            victim.write_bytes(bytes(300_000))
        case "shorten":
            os.truncate(victim, 1000)
        case "remove" | "no manifest":
            victim.unlink()
        case "add":
            victim = folder / "pytorch_model.bin"
            victim.touch()
        case "not a manifest":
            victim.write_text('{"files": 3}')
    with pytest.raises(DataError, match=victim.name):
        verify(folder)


def test_manifest_lists_every_file_but_itself(folder):
    (folder / MANIFEST).write_text("{}")
    listed = manifest_of(folder)["files"]
    assert [*listed] == ["empty", "nested/name with ü + %20.txt", "progress.json", "weights.safetensors"]
    assert listed["weights.safetensors"]["bytes"] == 300_000
    assert listed["progress.json"]["sha256"] == files.digest(folder / "progress.json")


@pytest.fixture
def proxy(s3_url, monkeypatch):
    """A proxy in front of MinIO; stores opened from here on go through it."""
    with Proxy(os.environ["S3_ENDPOINT"]) as proxy:
        monkeypatch.setenv("S3_ENDPOINT", proxy.endpoint)
        yield proxy


@pytest.mark.parametrize("answer", [(200, HTML), (404, HTML), (403, HTML), (501, s3_error("NotImplemented"))])
def test_s3_web_server_in_place_of_a_store_is_refused_at_once(s3_url, proxy, answer):
    proxy.answer, start = answer, time.monotonic()
    through = open_store(s3_url)
    for action in (through.exists, through.list):
        with pytest.raises(ValueError, match="check S3_ENDPOINT"):
            action("k")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("share", [0.02, 0.2, 0.5, 0.8, 0.95, 0.99])
def test_publish_cut_anywhere_shows_nothing_and_works_again(s3_url, proxy, folder, tmp_path, share):
    through = open_store(s3_url, outage_seconds=0.1)
    publish(through, folder, "dry run")
    total, proxy.passed = proxy.passed, 0
    proxy.up_bytes = total * share
    with pytest.raises(StoreError):
        publish(through, folder, "one")
    proxy.mend()
    with pytest.raises(FileNotFoundError):
        retrieve(through, "one", tmp_path / "back")
    publish(through, folder, "one")
    retrieve(through, "one", tmp_path / "back")
    verify(tmp_path / "back")


@pytest.mark.slow
def test_publish_cut_at_200_random_places_is_absent_or_whole(s3_url, proxy, folder, tmp_path):
    """Seeded, in both directions; 0 of 200 may be half-visible, and each must work when tried again."""
    through, draw = open_store(s3_url, outage_seconds=0), random.Random(0)
    publish(through, folder, "dry run")
    total, outcomes = proxy.passed, Counter[str]()
    for cut in range(200):
        prefix, back = f"cut-{cut}", tmp_path / f"back-{cut}"
        if draw.random() < 0.5:
            proxy.up_bytes = total * draw.random()
        else:
            proxy.down_bytes = total * draw.random()  # what is read back is as large as what is sent
        with suppress(StoreError):
            publish(through, folder, prefix)
            outcomes["came through"] += 1
        proxy.mend()
        if through.exists(f"{prefix}/{MANIFEST}"):
            retrieve(through, prefix, back)
            outcomes["whole"] += 1
        else:
            publish(through, folder, prefix)
            retrieve(through, prefix, back)
            outcomes["absent"] += 1
        verify(back)
    assert outcomes["absent"] > 150, outcomes


@pytest.mark.parametrize(
    "fault", ["cut", (503, s3_error("SlowDown")), (503, HTML), (400, s3_error("RequestTimeout"))], ids=str
)
def test_publish_waits_an_outage_out(s3_url, proxy, folder, tmp_path, fault):
    through = open_store(s3_url, outage_seconds=20)
    publish(through, folder, "dry run")
    if fault == "cut":
        proxy.up_bytes = proxy.passed / 2
    else:
        proxy.answer = fault
    threading.Timer(1.5, proxy.mend).start()
    publish(through, folder, "one")
    retrieve(through, "one", tmp_path / "back")
    verify(tmp_path / "back")


@pytest.mark.parametrize(
    "answer", [(503, s3_error("SlowDown")), (502, HTML), (429, s3_error("TooManyRequests"))], ids=str
)
def test_every_method_reports_a_busy_store_as_store_error(s3_url, proxy, tmp_path, answer):
    through = open_store(s3_url, outage_seconds=0.1)
    through.put_bytes("k", b"1")
    proxy.answer = answer
    actions = {
        "exists": lambda: through.exists("k"),
        "get": lambda: through.get("k", tmp_path / "out"),
        "list": lambda: through.list(""),
        "put_if_absent": lambda: through.put_if_absent("new", b"1"),
        "delete": lambda: through.delete("k"),
    }
    for name, action in actions.items():
        with pytest.raises(StoreError, match="50[23]|SlowDown|TooMany"):
            pytest.fail(f"{name} gave {action()}")
    assert not (tmp_path / "out").exists()
    proxy.mend()
    assert through.list("") == ["k"]


def test_download_cut_in_the_middle_leaves_no_file_and_is_tried_again(s3_url, proxy, tmp_path):
    through = open_store(s3_url, outage_seconds=0.1)
    data = os.urandom(400_000)
    through.put_bytes("k", data)
    proxy.down_bytes = 200_000
    with pytest.raises(StoreError):
        through.get("k", tmp_path / "out")
    assert [*tmp_path.iterdir()] == []
    proxy.mend()
    proxy.down_bytes = 200_000
    threading.Timer(1, proxy.mend).start()
    open_store(s3_url, outage_seconds=20).get("k", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == data


def test_conditional_put_whose_answer_is_lost_knows_its_own_object(s3_url, proxy):
    through = open_store(s3_url, outage_seconds=20)
    through.exists("k")  # the bucket's region is known from here on
    proxy.down_bytes = 1
    threading.Timer(0.3, proxy.mend).start()
    assert through.put_if_absent("k", b"mine")
    assert not through.put_if_absent("k", b"theirs")
    assert through.get_bytes("k") == b"mine"


def test_conditional_put_tried_again_does_not_claim_what_another_wrote(s3_url, proxy, monkeypatch):
    through = open_store(s3_url, outage_seconds=20)
    through.exists("k")
    proxy.up_bytes = 1
    with ThreadPoolExecutor(1) as pool:
        mine = pool.submit(through.put_if_absent, "k", b"mine")
        monkeypatch.setenv("S3_ENDPOINT", proxy.upstream)
        while proxy.up_bytes > 0:
            time.sleep(0.01)
        assert open_store(s3_url).put_if_absent("k", b"theirs")
        proxy.mend()
        assert not mine.result()


def test_publish_notices_bytes_changed_on_the_way(s3_url, proxy, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "weights").write_bytes(b"precious" * 100)
    proxy.change = lambda data: data.replace(b"precious", b"prEcious")
    through = open_store(s3_url)
    with pytest.raises(StoreError, match="one/weights came back with SHA-256"):
        publish(through, folder, "one")
    with pytest.raises(FileNotFoundError):
        retrieve(through, "one", tmp_path / "back")


def test_publish_killed_shows_nothing(tmp_path):
    """SIGKILL after 0, 7, 14 ... of 61 objects, the last too late: a manifest only when all are there."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(60):
        (folder / f"{i:02}").write_bytes(os.urandom(20_000))
    code = (
        "import sys; from pathlib import Path\n"
        "from deepcuts.components.core.store import FileStore, publish\n"
        "print('go', flush=True); publish(FileStore(Path(sys.argv[1])), Path(sys.argv[2]), 'one')"
    )
    seen = set()
    for moment in range(10):
        store = FileStore(tmp_path / f"store-{moment}")
        argv = [sys.executable, "-c", code, str(tmp_path / f"store-{moment}"), str(folder)]
        with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE) as process:
            process.stdout.readline()
            while len(store.list("one/")) < moment * 7 and process.poll() is None:
                time.sleep(0.0005)
            process.send_signal(signal.SIGKILL)
        whole = store.exists(f"one/{MANIFEST}")
        assert whole == (len(store.list("one/")) == 61)
        for key in store.list("one/"):
            assert len(store.get_bytes(key)) == 20_000 or key.endswith(MANIFEST)
        seen.add(whole)
    assert seen == {True, False}


@pytest.fixture
def careless(monkeypatch) -> None:
    """A store that takes every PUT, whatever its condition says, as some gateways do."""
    request = urllib3.PoolManager.request

    def without(self, method, url, *words, headers=None, **named):
        kept = {key: value for key, value in (headers or {}).items() if key != "If-None-Match"}
        return request(self, method, url, *words, headers=kept, **named)

    monkeypatch.setattr(urllib3.PoolManager, "request", without)


def test_store_that_ignores_the_condition_is_refused_before_anything_is_exclusive(s3_url, careless):
    store = open_store(s3_url)
    for _ in range(2):
        with pytest.raises(ValueError, match="ignores If-None-Match.*use a store that answers 412"):
            store.put_if_absent("lease", b"mine")
    assert store.list("") == []
    with pytest.raises(ValueError, match="ignores If-None-Match"):
        Lease(store, "run").acquire()
    with pytest.raises(ValueError, match="ignores If-None-Match"):
        releases._append(store, "model", 0, releases.Move("release", "v", "d", "w"))
    assert store.list("") == []


def test_store_is_probed_once_and_nothing_of_the_probe_stays(s3_url, monkeypatch):
    store = open_store(s3_url)
    assert store.put_if_absent("a", b"1") and store.list("") == ["a"]
    asked = []
    put = S3Store._put_if_absent

    def counted(self: S3Store, name: str, data: bytes, first: bool) -> bool:
        asked.append(name)
        return put(self, name, data, first)

    monkeypatch.setattr(S3Store, "_put_if_absent", counted)
    assert not store.put_if_absent("a", b"2")
    assert len(asked) == 1
