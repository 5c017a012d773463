"""Text of somebody else's (data, templates, file names, what a model says), made harmless for a medium.

One function a medium: whatever is printed or put on a page passes here last.
"""

import html as html_module
import re

CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029"
    r"\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 but tab and line feed, DEL, C1 (0x9b begins an escape sequence, too), marks that reverse the direction
of writing, line breaks that only some viewers know, halves of surrogate pairs (no encoding takes them)."""
LOOK_ALIKES = str.maketrans({"`": "'", "|": "¦"})
MARKUP = re.compile(r"([\\`*_\[\]|~#!{}])")

SECRETS = re.compile(
    r"(:(?:\\?/){1,2}(?=[^\s/@:]*:(?!\d+/)[^\s@]*@(?!sha256:)))[^\s@]*(?:@[^\s@/]*)*@"
    r"|(:(?:\\?/){1,2}|\b[\w.%+-]+:(?=[^\s:/@]+@(?!sha256:)))[^/\s]*@"
    r"|([?&#;][\w.-]*(?:x-amz-|token|key|sig|secret|passw|credential)[\w.-]*=)[^&#;\s'\"]+"
    r"|(\b\w*(?:secret|passwo?r?d)\w*(?:=|[\"']\s*:\s*[\"']))[^\s'\"&,;]+"
    r"|(\b(?:Bearer|Basic) )[\w.~+/=-]{8,}"
    r"|(\b(?:hf|gh[a-z])_)[A-Za-z0-9]{20,}",
    re.I,
)
"""User and password before a host (a store's secret key has slashes in it every other time; as JSON writes
slashes, as Path leaves one of them, and without any), parameters of a signed URL, variables, tokens."""


def redacted(text: str) -> str:
    """Remove passwords, signatures and tokens from a message, which goes to logs and to the store (UTF-8)."""
    return SECRETS.sub(
        lambda found: f"{next(filter(None, found.groups()))}…" + "@" * found[0].endswith("@"), utf8(text)
    )


def utf8(text: str) -> str:
    r"""Return text that UTF-8 takes: bytes of a file name that are none, halves of a pair, as ``\udcff``."""
    return text.encode(errors="backslashreplace").decode()


def terminal(text: str) -> str:
    r"""Return text that moves no cursor: control characters as ``\x1b``; lines stay lines."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def json(text: str) -> str:
    r"""Return JSON that moves no cursor: JSON escapes C0 itself, but neither C1 nor marks of direction."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def html(text: str) -> str:
    """Escape text for an HTML page, also inside an attribute's quotes."""
    return html_module.escape(terminal(text), quote=True)


def markdown(text: str) -> str:
    """Return one line that no Markdown viewer takes for markup, in a paragraph, a list or a cell of a table.

    The Kubeflow UI's viewer renders HTML inside Markdown, so that goes too, and links that need no brackets.
    """
    one_line = re.sub(r"[^\S\u00a0]+", " ", text).strip()  # a figure keeps its unit
    line = MARKUP.sub(r"\\\1", html_module.escape(terminal(one_line), quote=False))
    line = re.sub(r"(?i)(:)(?=//)|(?<=\bwww)(\.)|(?<=mailto)(:)", lambda found: f"&#{ord(found[0])};", line)
    return re.sub(r"^(\d*)([+=.)-])", r"\1\\\2", line)


def code(text: str) -> str:
    """Return one line as inline code in Markdown, in a table too; backticks and bars become look-alikes."""
    return f"`{terminal(' '.join(text.split())).translate(LOOK_ALIKES) or ' '}`"


def code_block(text: str) -> str:
    """Return lines as a code block in Markdown: indented, which unlike a fence no text can end.

    The Kubeflow UI's viewer ends it at a line of spaces alone, so that these hold a non-breaking one.
    """
    lines = (line if line.strip() else "\xa0" for line in terminal(text).split("\n"))
    return "\n".join(f"    {line}" for line in lines)
