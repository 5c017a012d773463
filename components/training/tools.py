"""Tool calls: pass them to a chat template, check that it shows them, and find them in generated text."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from deepcuts.components.core import examples
from deepcuts.components.core.errors import DataError
from deepcuts.components.core.examples import Example, Message


def as_turn(message: Message) -> dict[str, Any]:
    """Return a Message in the form chat templates expect: OpenAI's, with arguments as an object."""
    turn: dict[str, Any] = {"role": message.role, "content": message.content}
    for key in ("reasoning_content", "tool_call_id", "name"):
        if value := getattr(message, key):
            turn[key] = value
    if message.tool_calls:
        turn["tool_calls"] = [
            {"type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            | ({"id": call.id} if call.id else {})
            for call in message.tool_calls
        ]
    return turn


def check_shown(example: Example, text: str) -> None:
    """Raise DataError unless ``text``, a rendered Example, shows its tools, calls, results and reasoning."""
    shown = _dense(text)
    said = _dense(" ".join(examples.said(message) for message in example.messages))
    for message in example.messages:
        for call in message.tool_calls:
            if _dense(call.name) not in shown or not all(_shows(shown, v) for v in call.arguments.values()):
                raise DataError(
                    "the base's chat template does not show tool calls: train on a base that supports them"
                )
        if message.role == "tool" and _dense(message.content) not in shown:
            raise DataError(
                "the base's chat template leaves out tool results: train on a base that supports them"
            )
    for tool in example.tools:
        name = _dense(str(tool["function"]["name"]))
        if shown.count(name) <= said.count(name):  # calls contain the name, too
            raise DataError("the base's chat template does not show tools: use a base that supports them")
    if (thought := example.messages[-1].reasoning_content) and _dense(thought) not in shown:
        raise DataError(
            "the base's chat template does not show reasoning_content: drop it, or use another base"
        )


def has_extras(example: Example) -> bool:
    """Tell whether a template might leave something out: tools, calls, results or reasoning."""
    return bool(example.tools) or any(
        message.role == "tool" or message.tool_calls or message.reasoning_content
        for message in example.messages
    )


def calls_in(text: str) -> list[tuple[str, Any]]:
    """Return (name, arguments) of each call in a generated text, as JSON with or without tags.

    Also reads ``name{...}``, the form of Mistral and of Llama's built-in tools.
    """
    found: list[tuple[str, Any]] = []
    for start, value in _objects(text):
        arguments = value.get("arguments", value.get("parameters"))
        if isinstance(value.get("name"), str) and arguments is not None:
            arguments = _loaded(arguments) if isinstance(arguments, str) else arguments
            found.append((value["name"], arguments))
        elif named := text[:start].rstrip().removesuffix("[ARGS]").rpartition("]")[2].split()[-1:]:
            found.append((named[0], value))
    return found


def same_calls(given: str, wanted: Message) -> bool:
    """Tell whether a generated text makes the calls of ``wanted``, in any order, by parsed arguments."""
    expected = [(call.name, call.arguments) for call in wanted.tool_calls]
    calls = calls_in(given)
    return len(calls) == len(expected) and all(calls.count(c) == expected.count(c) for c in expected)


def _objects(text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the outermost JSON objects in a text with their offsets."""
    decoder, place = json.JSONDecoder(), 0
    while (start := text.find("{", place)) >= 0:
        try:
            value, place = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            place = start + 1
            continue
        if isinstance(value, dict):
            yield start, value


def _loaded(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _shows(shown: str, value: object) -> bool:
    """Tell whether a text shows an argument; of a nested one, its leaves."""
    if isinstance(value, Mapping):
        return all(_shows(shown, item) for item in value.values())
    if isinstance(value, list):
        return all(_shows(shown, item) for item in value)
    if isinstance(value, str):
        return _dense(value) in shown or _dense(json.dumps(value)[1:-1]) in shown
    return value is None or str(value).lower() in shown.lower()


def _dense(text: str) -> str:
    """Remove white space from ``text``, as templates trim and add it."""
    return "".join(text.split())
