"""deepcuts preview: the data as it would be trained, without running anything."""

import json
import os
import re
import subprocess
import sys

import pytest

from deepcuts.pipelines.command import cli
from tests.components.hub import COMMIT, Hub
from tests.conftest import ROOT


def test_preview_shows_what_is_learned_from_a_run_file_and_writes_nothing_else(tmp_path, monkeypatch, capsys):
    rows = [{"q": f"{number} apples?", "gold": "yes", "note": "x"} for number in range(5)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    base = ROOT / "pipelines/examples/base"
    (tmp_path / "run.yaml").write_text(
        f"base_uri: {base}\ndata_uri: data.jsonl\ncolumns: {{prompt: q, completion: gold}}\n"
        "valid_share: 0.2\ntest_share: 0.2\nrecipe: {epochs: 10}\n"
    )
    argv = ["deepcuts", "preview", "-f", str(tmp_path / "run.yaml"), "--html", str(tmp_path / "p.html")]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as left:
        cli.main()
    assert left.value.code == 0
    shown = capsys.readouterr().out
    assert (
        "columns: prompt from q, completion from gold" in shown and "5 x column 'note (not mapped)'" in shown
    )
    assert "<|user|>0 apples?<|end|><|assistant|>⟦yes<|end|>⟧" in shown
    total = int(re.search(r"([\d,]+) training tokens", shown)[1].replace(",", ""))
    assert f"A run trains {10 * round(0.6 * total):,} tokens = 10 epochs of about" in shown
    assert "<mark>" in (tmp_path / "p.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data.jsonl", "p.html", "run.yaml"]


def test_preview_says_that_a_run_would_refuse_the_data(tmp_path, monkeypatch, capsys):
    rows = [{"question": f"{number}?", "answer": "yes" if number else ""} for number in range(5)]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    sets = [f"base_uri={ROOT / 'pipelines/examples/base'}", f"data_uri={tmp_path / 'data.jsonl'}"]
    for share, refused in ((0.1, True), (0.2, False)):
        argv = ["deepcuts", "preview", *(w for s in (*sets, f"max_bad_share={share}") for w in ("--set", s))]
        monkeypatch.setattr(sys, "argv", argv)
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr().out
        assert (
            "a run refuses this: 1 of 5 rows are bad" in said
        ) == refused and "set aside: 1 x empty" in said


def test_preview_copies_no_weights_of_a_base_on_the_hub(tmp_path):
    (tmp_path / "data.jsonl").write_text(json.dumps({"question": "2+2?", "answer": "4"}))
    with Hub("models/org/name", ROOT / "pipelines/examples/base") as hub:
        sets = (f"base_uri=hf://org/name@{COMMIT}", f"data_uri={tmp_path / 'data.jsonl'}")
        argv = [sys.executable, "-m", "deepcuts.pipelines.command.cli", "preview"]
        done = subprocess.run(
            [*argv, *(word for one in sets for word in ("--set", one))],
            env=os.environ | {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "cache")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0 and "⟦4<|end|>⟧" in done.stdout
        assert "tokenizer.json" in hub.sent and "model.safetensors" not in hub.sent
