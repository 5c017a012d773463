import json
import os
import shutil
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel

from deepcuts.components.core import cli, files
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.store import open_store, publish
from deepcuts.components.fetch import safety
from deepcuts.components.fetch.step import fetch
from tests.components.hub import COMMIT, Hub
from tests.conftest import ROOT, SHARED

TENSORS = {"embed": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32]}}


KEYS = st.sampled_from(
    [
        "vocab_size",
        "text_config",
        "weight_map",
        "auto_map",
        "version",
        "model",
        "vocab",
        "type",
        "added_tokens",
    ]
)


def write_safetensors(path: Path, header: dict, data: bytes) -> None:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def write_tokenizer(path: Path, words: int, added: int = 0) -> None:
    tokenizer = Tokenizer(WordLevel({f"w{i}": i for i in range(words)}, unk_token="w0"))
    tokenizer.add_tokens([AddedToken(f"<a{i}>") for i in range(added)])
    tokenizer.save(str(path))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The smallest folder that passes for a model: 4 tokens, one tensor."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "llama", "vocab_size": 4}')
    write_safetensors(folder / "model.safetensors", TENSORS, bytes(32))
    write_tokenizer(folder / "tokenizer.json", words=4)
    return folder


def run(uri: object, kind: str, artifact: Path) -> int:
    return cli.run(fetch, ["--uri", str(uri), "--kind", kind, "--artifact", str(artifact)])


def refused(capsys: pytest.CaptureFixture[str], uri: object, kind: str, out: Path) -> tuple[int, str]:
    """Exit code and message of a fetch that must leave nothing behind."""
    before = sorted(out.parent.iterdir())
    code = run(uri, kind, out)
    assert sorted(out.parent.iterdir()) == before
    return code, capsys.readouterr().err


def test_fetch_model_copies_the_whole_folder(model, tmp_path):
    facts = fetch(str(model), "model", tmp_path / "out", config=None)
    assert facts == {
        "source": str(model),
        "digest": files.digest(model),
        "bytes": files.size_bytes(model),
        "files": 3,
        "skipped": 0,
        "skipped_unsafe": "",
        "generation_config": "none",
    }
    assert files.digest(tmp_path / "out") == facts["digest"]


def test_fetch_copies_and_never_links(model, tmp_path):
    fetch(model.as_uri(), "model", tmp_path / "out", config=None)
    for path in (tmp_path / "out").iterdir():
        assert not path.is_symlink()
        assert path.stat().st_nlink == 1 and path.stat().st_mode & 0o111 == 0


def test_fetch_leaves_pickles_and_code_behind_and_says_so(model, tmp_path):
    for name in ("pytorch_model.bin", "modeling_x.py", "README.md", ".hidden.json", "training_args.bin"):
        (model / name).write_bytes(b"x")
    facts = fetch(str(model), "model", tmp_path / "out", config=None)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "config.json", "model.safetensors", "tokenizer.json",
    ]  # fmt: skip
    assert facts["skipped"] == 5
    assert facts["skipped_unsafe"] == "modeling_x.py, pytorch_model.bin, training_args.bin"


@pytest.mark.parametrize("name", ["a.bin", "a.pt", "a.pth", "a.pkl", "a.ckpt", "a.h5", "a.msgpack", "A.BIN"])
def test_fetch_model_with_pickled_weights_only_is_refused(model, tmp_path, capsys, name):
    (model / "model.safetensors").rename(model / name)
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3
    assert name in message and "convert them to safetensors" in message


@pytest.mark.parametrize(
    "name", ["consolidated.safetensors", "model.fp16.safetensors", "model-00001-of-00001.safetensors"]
)
def test_fetch_model_whose_weights_no_loader_looks_for_is_refused(model, tmp_path, capsys, name):
    (model / "model.safetensors").rename(model / name)
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3
    assert f"weights only as {name}, and transformers looks for model.safetensors" in message


def test_fetch_model_with_weights_for_llama_cpp_says_how_to_unpack_them(model, tmp_path, capsys):
    (model / "model.safetensors").rename(model / "model.Q4_0.gguf")
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and "from_pretrained with gguf_file" in message


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_fetch_model_without_its_parts_is_refused(model, tmp_path, capsys, name):
    (model / name).unlink()
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3
    assert f"no {name.replace('model', '*')} among" in message


def test_fetch_model_whose_own_code_transformers_does_not_need_is_taken_without_it(model, tmp_path):
    settings = {"model_type": "llama", "vocab_size": 4, "auto_map": {"AutoModel": "modeling_x.Model"}}
    (model / "config.json").write_text(json.dumps(settings))
    (model / "modeling_x.py").write_text("raise SystemExit")
    assert run(model, "model", tmp_path / "out") == 0
    assert not (tmp_path / "out" / "modeling_x.py").exists()


def test_fetch_model_takes_its_weights_once(model, tmp_path):
    (model / "original").mkdir()
    for name in (
        "consolidated.safetensors",
        "original/model.safetensors",
        "model-00001-of-00001.safetensors",
    ):
        shutil.copy(model / "model.safetensors", model / name)
    (model / "model.safetensors.index.json").write_text("{}")
    assert run(model, "model", tmp_path / "out") == 0
    found = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.*")}
    assert {name for name in found if "safetensors" in name} == {"model.safetensors"}


@pytest.mark.parametrize("method", ["gptq", "awq", "bitsandbytes", "mxfp4", "fp8"])
def test_fetch_model_that_is_quantized_already_is_refused_with_the_fix(model, tmp_path, capsys, method):
    settings = {"model_type": "llama", "vocab_size": 4, "quantization_config": {"quant_method": method}}
    (model / "config.json").write_text(json.dumps(settings))
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and method in message and "give the original model" in message


def test_fetch_model_that_is_an_adapter_or_has_no_tokenizer_is_refused_with_the_fix(model, tmp_path, capsys):
    (model / "config.json").rename(model / "adapter_config.json")
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and "merge it into its base" in message
    (model / "adapter_config.json").rename(model / "config.json")
    (model / "tokenizer.json").unlink()
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and "add the tokenizer files" in message


@pytest.mark.parametrize(
    ("file", "setting"),
    [
        ("config.json", {"auto_map": {"AutoModel": "modeling_x.Model"}}),
        ("config.json", {"text_config": {"auto_map": {}}}),
        ("config.json", {"parts": [{"_attn_implementation_internal": "someone/kernel"}]}),
        ("config.json", {"model_file": "x.py"}),
        ("config.json", {"trust_remote_code": True}),
        ("config.json", {"attn_implementation": "someone/kernel"}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["x.T", None]}}),
        ("sub/config.json", {"auto_map": {}}),
    ],
)
def test_fetch_model_that_brings_code_is_refused(model, tmp_path, capsys, file, setting):
    (model / "sub").mkdir()
    (model / file).write_text(json.dumps({"vocab_size": 4} | setting))
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3
    assert file.rpartition("/")[2] in message and "code" in message


def test_fetch_model_with_a_harmless_attention_setting_passes(model, tmp_path):
    (model / "config.json").write_text('{"attn_implementation": "sdpa", "trust_remote_code": false}')
    assert fetch(str(model), "model", tmp_path / "out", config=None)["files"] == 3


def test_fetch_model_takes_words_for_settings_only_in_configurations(model, tmp_path):
    (model / "vocab.json").write_text('{"auto_map": 1, "model_file": 2}')
    assert fetch(str(model), "model", tmp_path / "out", config=None)["files"] == 4


@pytest.mark.parametrize(
    "text", ["{", "[1]", "\xff", "[" * 100_000, '{"a":' + "[" * 900 + '{"auto_map": 1}' + "]" * 900 + "}"]
)
def test_fetch_model_with_a_broken_configuration_is_refused(model, tmp_path, capsys, text):
    (model / "config.json").write_text(text, encoding="latin-1")
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and "config.json" in message


def test_fetch_model_cut_short_anywhere_is_refused(model, tmp_path):
    whole = (model / "model.safetensors").read_bytes()
    for length in range(len(whole)):
        (model / "model.safetensors").write_bytes(whole[:length])
        with pytest.raises(DataError, match="model.safetensors is cut short or broken"):
            fetch(str(model), "model", tmp_path / "out", config=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source"]


@pytest.mark.parametrize(
    "header",
    [
        {"a": {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 64]}},
        {"a": {"dtype": "F32", "shape": [4, 2], "data_offsets": [32, 0]}},
        {"a": {"dtype": "F32", "shape": [400, 2], "data_offsets": [0, 32]}},
        {"a": {"dtype": "F99", "shape": [4, 2], "data_offsets": [0, 32]}},
        TENSORS | {"b": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]}},
    ],
)
def test_fetch_model_with_impossible_offsets_is_refused(model, tmp_path, header):
    write_safetensors(model / "model.safetensors", header, bytes(32))
    with pytest.raises(DataError, match="model.safetensors is cut short or broken"):
        fetch(str(model), "model", tmp_path / "out", config=None)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 9) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(data=struct.pack("<Q", 2) + b"{}")
@given(data=st.binary(max_size=64) | st.binary(max_size=64).map(lambda b: struct.pack("<Q", len(b)) + b))
def test_check_model_refuses_any_bytes_in_place_of_weights(model, data):
    (model / "model.safetensors").write_bytes(data)
    with pytest.raises(DataError):
        safety.check_model(model)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=JSON, index=JSON, tokenizer=JSON)
def test_check_model_on_any_json_raises_nothing_but_data_error(model, config, index, tokenizer):
    (model / "config.json").write_text(json.dumps(config))
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    if tokenizer:
        (model / "tokenizer.json").write_text(json.dumps(tokenizer))
    with suppress(DataError):
        safety.check_model(model)


@pytest.mark.parametrize(
    "weight_map", [{"a": "model-2.safetensors"}, {"a": 7}, None, {"a": "../model.safetensors"}]
)
def test_fetch_model_with_a_missing_shard_is_refused(model, tmp_path, weight_map):
    (model / "model.safetensors").rename(model / "model-00001-of-00002.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(DataError, match="model.safetensors.index.json names .* download all shards"):
        fetch(str(model), "model", tmp_path / "out", config=None)


def test_fetch_model_with_all_shards_passes(model, tmp_path):
    shard = model / "model-00001-of-00001.safetensors"
    (model / "model.safetensors").rename(shard)
    index = {"weight_map": {"embed": shard.name}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    assert fetch(str(model), "model", tmp_path / "out", config=None)["files"] == 4


@pytest.mark.parametrize(
    ("words", "added", "fits"), [(4, 0, True), (5, 0, False), (2, 2, True), (2, 3, False)]
)
def test_fetch_model_needs_an_embedding_for_every_token(model, tmp_path, capsys, words, added, fits):
    write_tokenizer(model / "tokenizer.json", words, added)
    if fits:
        assert run(model, "model", tmp_path / "out") == 0
    else:
        code, message = refused(capsys, model, "model", tmp_path / "out")
        assert code == 3 and "token ids up to 4, but config.json's vocab_size is 4" in message


def test_fetch_model_counts_token_ids_not_tokens(model, tmp_path):
    Tokenizer(WordLevel({"a": 0, "b": 9}, unk_token="a")).save(str(model / "tokenizer.json"))
    with pytest.raises(DataError, match="token ids up to 9"):
        fetch(str(model), "model", tmp_path / "out", config=None)


def test_fetch_model_looks_for_a_nested_vocabulary_size(model, tmp_path):
    (model / "config.json").write_text('{"text_config": {"vocab_size": 3}}')
    with pytest.raises(DataError, match="vocab_size is 3"):
        fetch(str(model), "model", tmp_path / "out", config=None)


@pytest.mark.parametrize("target", ["outside", "inside folder", "nowhere"])
def test_fetch_refuses_links_that_lead_out(model, tmp_path, capsys, target):
    outside = tmp_path / "secret.json"
    outside.write_text("{}")
    (model / "folder").mkdir()
    place = {"outside": outside, "inside folder": model / "folder", "nowhere": tmp_path / "gone"}[target]
    (model / "extra.json").symlink_to(place)
    code, message = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and "extra.json is a link to" in message


def test_fetch_follows_a_link_within_its_folder(model, tmp_path):
    (model / "generation_config.json").symlink_to("config.json")
    fetch(str(model), "model", tmp_path / "out", config=None)
    assert (tmp_path / "out" / "generation_config.json").read_text() == (model / "config.json").read_text()


@pytest.mark.parametrize(
    ("uri", "kind", "reason"),
    [
        ("http://host/model", "model", "is not fetched"),
        ("https://host/model", "model", "is not fetched"),
        ("ftp://host/model", "model", "is not fetched"),
        ("file://host/model", "model", "is not fetched"),
        ("", "model", "is not fetched"),
        ("hf://org/name", "model", "can move or is short"),
        ("hf://org/name@main", "model", "can move or is short"),
        ("hf://org/name@0123abc", "model", "can move or is short"),
        (f"hf://org/name@{COMMIT.upper()}", "model", "can move or is short"),
        ("hf://datasets/org/name@main", "dataset", "can move or is short"),
        (f"hf://name@{COMMIT}", "model", "names no model on the hub"),
        (f"hf://datasets/org/name@{COMMIT}", "model", "names no model on the hub"),
        (f"hf://org/name@{COMMIT}", "dataset", "names no dataset on the hub"),
        (f"hf://../name@{COMMIT}/x", "model", "can move or is short"),
        ("s3://bucket", "model", "names a whole bucket"),
        ("/tmp", "weights", "kind 'weights' is unknown"),
    ],
)
def test_fetch_refuses_what_cannot_be_repeated_or_trusted(tmp_path, capsys, uri, kind, reason):
    code, message = refused(capsys, uri, kind, tmp_path / "out")
    assert code == 2 and reason in message


def test_fetch_names_a_path_that_is_not_there(tmp_path, capsys):
    code, message = refused(capsys, tmp_path / "gone", "model", tmp_path / "out")
    assert code == 3 and f"{tmp_path / 'gone'} does not exist" in message


def test_fetch_data_takes_data_files_only(tmp_path):
    source = tmp_path / "source"
    (source / "part").mkdir(parents=True)
    for name in ("a.jsonl", "part/b.csv", "c.parquet", "load.py", "d.pkl", "run.sh", "e.so", ".git.json"):
        (source / name).write_text(name)
    facts = fetch(str(source), "dataset", tmp_path / "out", config=None)
    found = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert found == ["a.jsonl", "c.parquet", "part/b.csv"]
    assert (facts["files"], facts["skipped"]) == (3, 5)
    assert facts["skipped_unsafe"] == "d.pkl, e.so, load.py, run.sh"


def test_fetch_single_file_stays_a_file(tmp_path):
    (tmp_path / "train.csv").write_text("text,category\n")
    facts = fetch(str(tmp_path / "train.csv"), "dataset", tmp_path / "out", config=None)
    assert (tmp_path / "out").read_text() == "text,category\n"
    assert facts["digest"] == files.digest(tmp_path / "train.csv")


def test_fetch_data_from_a_pipeline_artifact_needs_no_suffix(tmp_path):
    (tmp_path / "corpus").write_text("{}\n")
    assert fetch(str(tmp_path / "corpus"), "dataset", tmp_path / "out", config=None)["files"] == 1


@pytest.mark.parametrize("name", ["load.py", "rows.pkl"])
def test_fetch_data_of_code_is_refused(tmp_path, capsys, name):
    (tmp_path / name).write_text("x")
    code, message = refused(capsys, tmp_path / name, "dataset", tmp_path / "out")
    assert code == 3 and f"no data among {name}" in message


def test_fetch_replaces_an_older_output_only_when_it_succeeds(model, tmp_path):
    out = tmp_path / "out"
    fetch(str(model), "model", out, config=None)
    first = files.digest(out)
    (model / "config.json").write_text("{")
    assert run(model, "model", out) == 3
    assert files.digest(out) == first
    (model / "config.json").write_text("{}")
    assert run(model, "model", out) == 0
    assert files.digest(out) != first


def test_fetch_published_model_is_verified(model, s3_url, tmp_path, capsys):
    store = open_store(s3_url)
    (model / "pytorch_model.bin").write_bytes(b"x")
    publish(store, model, "release")
    facts = fetch(f"{s3_url}/release", "model", tmp_path / "out", config=None)
    (model / "pytorch_model.bin").unlink()
    assert facts["digest"] == files.digest(model)  # manifest.json is the store's, not the model's
    store.put_bytes("release/tokenizer.json", b"{}")
    (tmp_path / "empty").mkdir()
    code, message = refused(capsys, f"{s3_url}/release", "model", tmp_path / "empty" / "out")
    assert code == 4 and "release/tokenizer.json has SHA-256" in message


def test_fetch_published_model_from_a_folder_is_verified(model, tmp_path, capsys):
    publish(open_store((tmp_path / "store").as_uri()), model, "release")
    assert run(tmp_path / "store" / "release", "model", tmp_path / "out") == 0
    assert files.digest(tmp_path / "out") == files.digest(model)
    (tmp_path / "store" / "release" / "model.safetensors").unlink()
    assert refused(capsys, tmp_path / "store" / "release", "model", tmp_path / "again")[0] == 4


def test_fetch_object_and_plain_folder_from_s3(model, s3_url, tmp_path):
    store = open_store(s3_url)
    for path in model.iterdir():
        store.put(f"models/{path.name}", path)
    store.put_bytes("models-old/config.json", b"not this one")
    fetch(f"{s3_url}/models/".replace("s3://", "minio://"), "model", tmp_path / "model", config=None)
    assert files.digest(tmp_path / "model") == files.digest(model)
    store.put_bytes("raw/rows.jsonl", b"{}\n")
    fetch(f"{s3_url}/raw/rows.jsonl", "dataset", tmp_path / "rows", config=None)
    assert (tmp_path / "rows").read_bytes() == b"{}\n"


def test_fetch_from_s3_says_how_far_it_is_in_bytes(model, s3_url, tmp_path, capsys):
    store = open_store(s3_url)
    publish(store, model, "release")
    for path in model.iterdir():
        store.put(f"plain/{path.name}", path)
    store.put_bytes("rows.jsonl", b"{}\n")
    for key in ("release", "plain", "rows.jsonl"):
        fetch(f"{s3_url}/{key}", "dataset" if "." in key else "model", tmp_path / key, config=None)
        size = files.size_bytes(tmp_path / key)
        assert f"100%  {size:,} of {size:,} bytes" in capsys.readouterr().err


def test_fetch_from_s3_names_what_is_missing(s3_url, tmp_path, capsys, monkeypatch):
    code, message = refused(capsys, f"{s3_url}/gone", "model", tmp_path / "out")
    assert code == 3 and f"{s3_url}/gone does not exist" in message
    code, message = refused(capsys, "s3://no-such-bucket/x", "model", tmp_path / "out")
    assert code == 2 and "create the bucket" in message
    monkeypatch.delenv("S3_ENDPOINT")
    code, message = refused(capsys, f"{s3_url}/gone", "model", tmp_path / "out")
    assert code == 2 and "S3_ENDPOINT is not set" in message


def from_hub(hub: Hub, uri: str, kind: str, tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """Fetch in a separate process, as the hub client reads its settings on import."""
    argv = [
        "-m",
        "deepcuts.components.fetch.step",
        "--uri",
        uri,
        "--kind",
        kind,
        "--artifact",
        str(tmp_path / "out"),
    ]
    settings = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    return subprocess.run(
        [sys.executable, *argv, *more], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True
    )


def test_fetch_from_the_hub_downloads_the_safe_files_of_one_commit(model, tmp_path):
    (model / "pytorch_model.bin").write_bytes(b"x" * 1000)
    (model / "name[1].json").write_text("{}")
    with Hub("models/org/name", model) as hub:
        done = from_hub(hub, f"hf://org/name@{COMMIT}", "model", tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.sent) == ["config.json", "model.safetensors", "name[1].json", "tokenizer.json"]
    (model / "pytorch_model.bin").unlink()
    assert json.loads(done.stdout)["facts"]["digest"] == files.digest(model)
    assert not (tmp_path / "out" / ".cache").exists()


def test_fetch_data_from_the_hub(tmp_path):
    source = tmp_path / "source"
    (source / "data").mkdir(parents=True)
    (source / "data" / "train.jsonl").write_text("{}\n")
    (source / "name.py").write_text("x")
    with Hub("datasets/org/name", source) as hub:
        done = from_hub(hub, f"hf://datasets/org/name@{COMMIT}", "dataset", tmp_path)
    assert done.returncode == 0, done.stderr
    assert hub.sent == ["data/train.jsonl"]
    assert (tmp_path / "out" / "data" / "train.jsonl").read_text() == "{}\n"


def test_fetch_of_several_configurations_takes_the_one_named_or_lists_them(tmp_path):
    for name in ("sft/train-00000-of-00001.jsonl", "sft/test.jsonl", "dpo/train.jsonl", "README.md"):
        (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "source" / name).write_text("{}\n")
    with Hub("datasets/org/name", tmp_path / "source") as hub:
        uri = f"hf://datasets/org/name@{COMMIT}"
        refused = from_hub(hub, uri, "dataset", tmp_path)
        assert (refused.returncode, hub.sent) == (3, [])
        assert "several configurations, which are different data: dpo, sft: name one" in refused.stderr
        assert not (tmp_path / "out").exists()
        done = from_hub(hub, uri, "dataset", tmp_path, "--config", "sft")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.sent) == ["sft/test.jsonl", "sft/train-00000-of-00001.jsonl"]
    assert json.loads(done.stdout)["facts"]["skipped"] == 2


@pytest.mark.parametrize("status", [401, 403, 404])
def test_fetch_from_the_hub_refused_names_the_fix(model, tmp_path, status):
    with Hub("models/org/name", model, status) as hub:
        done = from_hub(hub, f"hf://org/name@{COMMIT}", "model", tmp_path)
    assert done.returncode == 2
    assert f"HTTP {status}: check name and commit" in done.stderr
    assert not (tmp_path / "out").exists()


def test_fetch_from_the_hub_waits_an_outage_out(model, tmp_path):
    with Hub("models/org/name", model, failures=2) as hub:
        done = from_hub(hub, f"hf://org/name@{COMMIT}", "model", tmp_path)
    assert done.returncode == 0, done.stderr
    assert files.digest(tmp_path / "out") == files.digest(model)


def test_fetch_takes_a_real_model(tmp_path):
    real = SHARED / "models" / "stories260K"
    if not real.exists():
        pytest.skip(f"{real} is missing")
    shutil.copytree(real, tmp_path / "real")
    facts = fetch(str(real), "model", tmp_path / "out", config=None)
    assert facts["digest"] == files.digest(tmp_path / "real")


@pytest.mark.parametrize("name", ["a\nb.json", "a\x1b[2J.json", "a\\b.json"])
def test_file_name_that_no_store_takes_is_the_datas_fault_and_moves_no_cursor(model, tmp_path, capsys, name):
    (model / name).write_text("{}")
    code, said = refused(capsys, model, "model", tmp_path / "out")
    assert code == 3 and "rename it" in said and "\x1b" not in said
