import hashlib

from tests import public_data


def test_files_are_found_by_digest_under_any_name_and_only_these(tmp_path):
    source, folder = tmp_path / "clone" / "data", tmp_path / "data"
    source.mkdir(parents=True)
    (source / "renamed.csv").write_text("a,b\n1,2\n")
    (source / "train.csv").write_text("a,b\n3,4\n")
    wanted = {"set/train.csv": hashlib.sha256(b"a,b\n1,2\n").hexdigest(), "set/test.csv": "0" * 64}
    assert public_data.missing(folder, wanted) == wanted
    public_data.take(tmp_path / "clone", folder, wanted)
    assert (folder / "set/train.csv").read_text() == "a,b\n1,2\n"
    assert list(public_data.missing(folder, wanted)) == ["set/test.csv"]
    (folder / "set/train.csv").write_text("changed")
    assert public_data.missing(folder, wanted) == wanted
