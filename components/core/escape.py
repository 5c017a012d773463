"""Escape untrusted text (data, templates, file names, model output), one function per medium.

Everything that is printed or put on a page goes through here last.
"""

import html as html_module
import re

CONTROLS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029"
    r"\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""C0 except tab and line feed, DEL, C1 (0x9b also begins an escape sequence), marks that reverse the writing
direction, line breaks that only some viewers know, lone surrogates (no encoding takes them)."""
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
"""User and password before a host (secret keys often contain slashes; also with slashes as JSON writes them,
collapsed as Path does, or missing), parameters of a signed URL, environment variables, tokens."""


def redacted(text: str) -> str:
    """Remove passwords, signatures and tokens from a message that goes to logs and to the store (UTF-8)."""
    return SECRETS.sub(
        lambda found: f"{next(filter(None, found.groups()))}…" + "@" * found[0].endswith("@"), utf8(text)
    )


def utf8(text: str) -> str:
    r"""Return text that UTF-8 can encode: lone surrogates and invalid bytes of file names as ``\udcff``."""
    return text.encode(errors="backslashreplace").decode()


def terminal(text: str) -> str:
    r"""Escape control characters for a terminal (``\x1b``); line breaks stay."""
    return CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text.replace("\r\n", "\n"))


def json(text: str) -> str:
    r"""Escape control characters in JSON for a terminal; JSON itself escapes only C0."""
    return CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def html(text: str) -> str:
    """Escape text for HTML, including attribute values."""
    return html_module.escape(terminal(text), quote=True)


def one_line(text: str) -> str:
    """Return text with white space as single spaces; no-break spaces stay, as a figure keeps its unit."""
    return re.sub(r"[^\S\u00a0]+", " ", text).strip()


def markdown(text: str) -> str:
    """Escape one line for Markdown, in a paragraph, a list or a table cell.

    The Kubeflow UI renders HTML inside Markdown, so HTML and bare links are escaped, too.
    """
    line = MARKUP.sub(r"\\\1", html_module.escape(terminal(one_line(text)), quote=False))
    line = re.sub(r"(?i)(:)(?=//)|(?<=\bwww)(\.)|(?<=mailto)(:)", lambda found: f"&#{ord(found[0])};", line)
    return re.sub(r"^(\d*)([+=.)-])", r"\1\\\2", line)


def code(text: str) -> str:
    """Return one line as inline Markdown code, safe in a table; backticks and bars become look-alikes."""
    return f"`{terminal(' '.join(text.split())).translate(LOOK_ALIKES) or ' '}`"


def code_block(text: str) -> str:
    """Return lines as an indented Markdown code block, which, unlike a fence, no text can end.

    The Kubeflow UI ends the block at a line of spaces only, so such a line gets a non-breaking one.
    """
    lines = (line if line.strip() else "\xa0" for line in terminal(text).split("\n"))
    return "\n".join(f"    {line}" for line in lines)
