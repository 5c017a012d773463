"""Sizes and words that keep the house readable: small files, short functions, one way each."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCES = sorted(
    path
    for folder in ("components", "pipelines")
    for path in (ROOT / folder).rglob("*.py")
    if "_pb2" not in path.name
)
LINES, FUNCTION_LINES = 300, 60
RECIPES = ("compress", "distill", "finetune", "retrain", "tune", "tune_katib")
RECIPE_LINES = 950
TRANSLATED = re.compile(r"\b(told|goes on|whoever|beside|anew|mend(?:ed|s)?|dearer)\b")
MAX_TRANSLATED = 12
"""Words that a native reader stops at (CONTRIBUTING.md, Style): what is left are names in YAML and flags."""


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_no_file_is_longer_than_300_lines() -> None:
    assert {name(path) for path in SOURCES if path.read_text().count("\n") > LINES} == set()


def test_no_function_is_longer_than_60_lines() -> None:
    """A decorated pipeline is a list of steps, no function."""
    long = {
        f"{name(path)}:{node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno > FUNCTION_LINES
        and not any("pipeline" in ast.unparse(decorator) for decorator in node.decorator_list)
    }
    assert long == set()


def test_the_six_recipes_stay_short() -> None:
    lines = {recipe: (ROOT / f"pipelines/{recipe}.py").read_text().count("\n") for recipe in RECIPES}
    assert sum(lines.values()) <= RECIPE_LINES, lines


def test_words_of_translated_english_become_fewer() -> None:
    found = sum(len(TRANSLATED.findall(path.read_text())) for path in SOURCES)
    assert found <= MAX_TRANSLATED


def test_one_clock_one_price_one_table() -> None:
    """Time, prices and tables are made in one place each."""
    one_way = {
        "components/core/clock.py": r"datetime\.(now|utcnow|fromtimestamp|today)\(|date\.today\(",
        "components/core/pricing.py": r"usd_per_hour\)? ?[*/]|[*/] ?\(?[\w.]*usd_per_hour",
        "components/core/markdown.py": r"\|-{3}|-{3}\|",
    }
    for home, pattern in one_way.items():
        found = {name(path) for path in SOURCES if re.search(pattern, path.read_text())}
        assert found <= {home}, pattern
        assert home in found or home.endswith("markdown.py")


def test_old_names_stand_only_where_they_are_translated() -> None:
    old = re.compile(r"answer_loss|AnswerLoss|[Ff]oresight|\b(MOST|LEAST)_[A-Z]|\blesson\b(?!\")")
    found = {name(path) for path in SOURCES if old.search(path.read_text())}
    assert found == {"components/core/former_names.py"}


def test_no_step_imports_another_step() -> None:
    """What two steps share is in components/core, components/training, or a module that is no step."""
    crossing = {
        f"{name(path)} imports {module}"
        for path in (ROOT / "components").rglob("*.py")
        for module in re.findall(
            r"^\s*(?:from|import) deepcuts\.components\.(\w+)(?:\.step\b| import [\w, ]*\bstep\b)",
            path.read_text(),
            re.MULTILINE,
        )
        if path.parent.name != module
    }
    assert crossing == set()


def test_a_class_name_means_one_thing() -> None:
    """Over code and tests; ``Handler`` is how each test names its subclass of http.server's class."""
    homes: dict[str, set[str]] = {}
    for path in (*SOURCES, *(ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text())
        names = [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
        for name_of in names:
            homes.setdefault(name_of, set()).add(name(path))
    twice = {found: paths for found, paths in homes.items() if len(paths) > 1}
    assert twice.keys() == {"Handler", "Interrupted"}, twice
