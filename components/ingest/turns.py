"""Convert the turns of a conversation in any dialect to Messages in a trainable order, counting repairs."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Message, Role, ToolCall
from deepcuts.components.ingest import masks

ROLES: dict[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "chatgpt": "assistant",
    "ai": "assistant",
    "function_call": "assistant",
    "tool_call": "assistant",
    "tool": "tool",
    "ipython": "tool",
    "observation": "tool",
    "function": "tool",
    "tool_response": "tool",
}
CONTENT = ("content", "value", "text", "parts")
"""Keys of a turn with its content, likeliest first."""
TURN_KEYS = {
    *("role", "from", "tool_calls", "function_call", "tool_call_id", "name"),
    *("reasoning_content", "reasoning", "thinking", *masks.LEARNED, *masks.MASKED, *masks.UNCLEAR),
}
"""Keys of a turn that are used; others are counted as not used."""
THOUGHTS = ("thinking", "reasoning")
"""Types of parts with the assistant's reasoning."""
ADVICE = {
    "tool_use": "write it as the turn's tool_calls",
    "tool_result": "write it as a turn of role tool",
}
"""Advice for parts that could be trained in another form."""
ORDER = re.compile("s?a?(u(at+)*a)+")
"""A system turn, an assistant's greeting, then questions, calls with their results, and answers."""


def conversation(turns: Iterable[Mapping[str, Any]], changes: Counter[str]) -> tuple[Message, ...]:
    """Return ``turns`` as Messages that end with a learned answer; ``changes`` counts repairs.

    Empty system turns are dropped, consecutive user turns joined, turns after the last learned answer cut
    off, and answers before the first question kept as context.

    Raises:
        DataError: the turns cannot be trained on; the message is the reason.
    """
    found = [_message(turn, changes) for pair in turns for turn in _spoken(pair)]
    found = _joined(found, changes)
    if all(message.role != "assistant" for message in found):
        raise DataError("no assistant turn, so nothing to learn: add the answer")
    while not found[-1].learned:
        if not any(message.learned for message in found):
            raise DataError(
                "every assistant turn is masked (weight 0, loss false), so nothing to learn: leave one at 1"
            )
        changes["turns after the last learned answer, cut off"] += 1
        found.pop()
    order = "".join(message.role[0] for message in found)
    if "u" not in order:
        raise DataError("no answer to a question, so nothing to learn: add the answer")
    if not ORDER.fullmatch(order):
        raise DataError(
            "turns do not alternate (a system turn first or none, then user, assistant, ...; a tool turn "
            f"after the assistant that calls it), here {', '.join(m.role for m in found[:8])}: reorder them"
        )
    first = order.index("a")
    if first < order.index("u"):
        changes["assistant turns before the first question, kept as context"] += 1
        found[first] = msgspec.structs.replace(found[first], weight=0)
    return tuple(found)


def _spoken(turn: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Split a turn with speakers as keys, ``{"human": ..., "assistant": ...}``, into one per speaker."""
    spoken = {ROLES.get(str(key).strip().lower(), ""): value for key, value in turn.items()}
    order = ("system", "user", "assistant")
    if not turn or spoken.keys() - set(order) or len(spoken) < len(turn):
        return [turn]
    return [{"role": role, "content": spoken[role]} for role in order if role in spoken]


def _message(turn: Mapping[str, Any], changes: Counter[str]) -> Message:
    held = next((key for key in CONTENT if turn.get(key) is not None), "content")
    for key in sorted(turn.keys() - TURN_KEYS - {held}):
        if turn[key] not in (None, "", [], {}, turn.get(held)):
            changes[f"turn key {str(key)[:40]!r}, not used"] += 1
    speaker = turn.get("role", turn.get("from"))
    if "role" not in turn and "from" not in turn:
        keys = ", ".join(sorted(map(str, turn)))[:100] or "none"
        raise DataError(
            f"a turn has neither role nor from, its keys are {keys}: name its speaker and content"
        )
    role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if role is None:
        shown = repr(speaker[:40]) if isinstance(speaker, str) else f"of type {type(speaker).__name__}"
        raise DataError(f"role {shown} is not one of {', '.join(ROLES)}: rename it")
    content = turn.get(held)
    weight = masks.weight(turn, role, changes)
    if str(speaker).strip().lower() in ("function_call", "tool_call"):
        call = parsed(content, "function_call") if isinstance(content, str) else content
        calls = tuple(map(_call, call if isinstance(call, list) else [call]))
        return Message(role, "", tool_calls=calls, weight=weight)
    calls = _calls(turn) if role == "assistant" else ()
    reasoning = _reasoning(turn, content) if role == "assistant" else ""
    if content is None and not calls and not turn.keys() & set(CONTENT):
        keys = ", ".join(sorted(map(str, turn)))[:100]
        raise DataError(f"a turn of role {speaker} has no content, its keys are {keys}: add its content")
    if role == "tool" and content is not None and not isinstance(content, str) and not _in_parts(content):
        content = json.dumps(content, ensure_ascii=False)  # as a server would send it
    text = "" if content is None else _content(content, role)
    if not text.strip() and not calls and role in ("user", "assistant"):
        raise DataError(f"empty {role} content: fill it, or drop the row")
    return Message(
        role,
        text,
        reasoning_content=reasoning,
        tool_calls=calls,
        tool_call_id=str(turn.get("tool_call_id") or "") if role == "tool" else "",
        name=str(turn.get("name") or "") if role == "tool" else "",
        weight=weight,
    )


def _joined(messages: Sequence[Message], changes: Counter[str]) -> list[Message]:
    result: list[Message] = []
    for message in messages:
        if message.role == "system" and not message.content.strip():
            changes["empty system turns, dropped"] += 1
        elif result and message.role == result[-1].role and message.role in ("user", "system"):
            changes[f"{message.role} turns in a row, joined"] += 1
            result[-1] = Message(message.role, f"{result[-1].content}\n\n{message.content}")
        else:
            result.append(message)
    return result


def _in_parts(value: object) -> bool:
    """Tell whether a list is content in parts, not a result that happens to be a list."""
    return isinstance(value, list) and all(isinstance(p, Mapping) and "type" in p for p in value)


def _content(value: object, role: str) -> str:
    """Return the text, or the joined text parts of a list; other parts are refused."""
    value = [value] if isinstance(value, Mapping) and "type" in value else value  # a single part
    if not isinstance(value, list):
        return text(value, f"{role} content")
    if len(value) > 1 and not any(isinstance(part, Mapping) for part in value):
        raise DataError(f"{role} content is a list of {len(value)} values: give one, or join them into one")
    parts = []
    for part in value:
        kind = part.get("type", "text") if isinstance(part, Mapping) else "text"
        if kind in THOUGHTS and role == "assistant":
            continue
        if kind not in ("text", "input_text", "output_text"):
            advice = ADVICE.get(str(kind), "only text is trained, drop it")
            raise DataError(f"{role} content has a part of type {str(kind)[:40]!r}: {advice}")
        inner = part.get("text", part.get("content")) if isinstance(part, Mapping) else part
        parts.append(text(inner, f"a text part of {role} content"))
    return "".join(parts)


def text(value: object, what: str) -> str:
    """Return ``value`` if it is a string without NUL.

    Raises:
        DataError: it is not; the message begins with ``what``.
    """
    if not isinstance(value, str):
        raise DataError(f"{what} is {type(value).__name__}, not text: make it a string")
    if "\0" in value:
        raise DataError("NUL in the text: remove it")
    return value


def tools(value: object) -> tuple[dict[str, Any], ...]:
    """Return function schemas in OpenAI's form, from a list or its JSON.

    Raises:
        DataError: they are not functions with names.
    """
    listed = parsed(value, "tools") if isinstance(value, str) else value
    if not listed:
        return ()
    if not isinstance(listed, list) or not all(isinstance(tool, Mapping) for tool in listed):
        raise DataError("tools is not a list of functions: make it one")
    found = []
    for tool in listed:
        schema = tool if isinstance(tool.get("function"), Mapping) else {"type": "function", "function": tool}
        if not isinstance(schema["function"].get("name"), str):
            raise DataError("a function in tools has no name: add it")
        found.append(dict(schema))
    return tuple(found)


def _calls(turn: Mapping[str, Any]) -> tuple[ToolCall, ...]:
    given = turn.get("tool_calls") or []
    given = parsed(given, "tool_calls") if isinstance(given, str) else given
    if not isinstance(given, list):
        raise DataError("tool_calls is not a list: make it one")
    if turn.get("function_call"):
        given = [*given, turn["function_call"]]
    return tuple(_call(call) for call in given)


def _call(call: object) -> ToolCall:
    """Read OpenAI's ``{"function": {"name", "arguments"}}`` or the inner object; JSON text is decoded."""
    if not isinstance(call, Mapping):
        raise DataError(f"a tool call is {type(call).__name__}, not an object: write name and arguments")
    function = call.get("function", call)
    function = function if isinstance(function, Mapping) else {"name": function, **call}
    arguments = function.get("arguments", function.get("parameters")) or {}
    arguments = parsed(arguments, "arguments of a tool call") if isinstance(arguments, str) else arguments
    name = function.get("name")
    if not isinstance(name, str) or not name:
        raise DataError("a tool call has no name: add it")
    if not isinstance(arguments, Mapping):
        raise DataError(f"arguments of the call {name[:40]!r} are not a JSON object: make them one")
    return ToolCall(name, dict(arguments), str(call.get("id") or ""))


def _reasoning(turn: Mapping[str, Any], content: object) -> str:
    """Return the assistant's reasoning: a key of the turn, or parts of its content."""
    for key in ("reasoning_content", *THOUGHTS):
        if turn.get(key):
            return text(turn[key], key)
    parts = content if isinstance(content, list) else []
    thoughts = [part for part in parts if isinstance(part, Mapping) and part.get("type") in THOUGHTS]
    return "".join(text(part.get(part["type"]), "a thought") for part in thoughts)


def parsed(value: object, what: str) -> Any:
    """Decode JSON text.

    Raises:
        DataError: it is not JSON; names ``what`` it is.
    """
    try:
        return json.loads(text(value, what))
    except (ValueError, RecursionError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{what}: not JSON: write it as JSON") from error
