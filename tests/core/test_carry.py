from pathlib import Path

from components.core import carry


def test_folder_and_file_go_to_the_store_and_come_back(tmp_path: Path):
    model, score = tmp_path / "model", tmp_path / "score.json"
    (model / "sub").mkdir(parents=True)
    (model / "sub" / "a.bin").write_bytes(b"\0weights")
    score.write_text("{}")
    store = (tmp_path / "store").as_uri()
    assert carry.main(["put", f"{store}/out/model", str(model), f"{store}/out/score", str(score)]) == 0
    back = tmp_path / "back"
    words = [f"{store}/out/model", str(back / "model"), f"{store}/out/score", str(back / "score")]
    assert carry.main(["get", *words]) == 0
    assert (back / "model" / "sub" / "a.bin").read_bytes() == b"\0weights"
    assert (back / "score").read_text() == "{}"


def test_nothing_there_is_a_data_error_that_names_the_uri(tmp_path: Path, capsys):
    uri = f"{tmp_path.as_uri()}/none"
    assert carry.main(["get", uri, str(tmp_path / "x")]) == 3
    assert f"nothing at {uri}" in capsys.readouterr().err


def test_name_that_begins_like_another_is_not_taken_for_it(tmp_path: Path):
    (tmp_path / "store" / "model-2").mkdir(parents=True)
    (tmp_path / "store" / "model-2" / "a").write_text("2")
    assert carry.main(["get", f"{(tmp_path / 'store').as_uri()}/model", str(tmp_path / "x")]) == 3
