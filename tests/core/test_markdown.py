"""A cell stays in its cell."""

from deepcuts.components.core import escape, markdown


def test_a_table_has_a_rule_and_a_line_per_row() -> None:
    text = markdown.table(["what", "tokens"], [["kept", "1,000"], ["dropped", 3]], right=[1])
    assert text == "| what | tokens |\n|---|--:|\n| kept | 1,000 |\n| dropped | 3 |"


def test_bars_and_line_breaks_of_a_cell_do_not_end_it() -> None:
    text = markdown.table(["a", "b"], [["x|y\nz", escape.markdown("p|q")]])
    assert text.splitlines()[2] == "| x\\|y z | p\\|q |"
