"""Writes a Python script that asks a server of OpenAI's API for a reply with the `openai` package. Pure."""

from pathlib import PurePath
from typing import Any

from chatui.inspection import Inspection
from chatui.python_code import call, comment_lines, literal, quoted

ARGUMENTS = ("model", "max_tokens", "temperature", "top_p", "seed", "stop", "reasoning_effort")
"""Fields that are arguments of the package. All others go into `extra_body`."""
LEFT_OUT = ("stream", "stream_options", "logprobs", "top_logprobs", "return_progress", "return_token_ids")
"""Fields that make no difference to the text."""

CLIENT = """\
from openai import OpenAI

client = OpenAI(base_url="http://YOUR-SERVER/v1", api_key="YOUR-KEY")
"""
PRINT_REPLY = """\
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
"""


def introduction(inspection: Inspection) -> str:
    """What the script does, and what it cannot promise."""
    server = inspection.model.server
    software = server.software if server is not None else "the server"
    return (
        f"Sends the messages and settings of this reply to the server that wrote it: {software}. Put its address and "
        "your key in below. Whether the same seed gives the same reply again is up to the server. "
        "Needs: pip install openai"
    )


def script_parts(inspection: Inspection) -> tuple[str, str, str]:
    """The code that makes the client, that has the messages, and that asks and prints."""
    return CLIENT, _messages(inspection), f"stream = {call('client.chat.completions.create', _arguments(inspection))}\n"


def as_python(inspection: Inspection) -> str:
    """The script."""
    header = "".join(f"{line}\n" for line in comment_lines(introduction(inspection)))
    client, messages, asking = script_parts(inspection)
    return "\n".join([header + client, messages, asking + PRINT_REPLY])


def _messages(inspection: Inspection) -> str:
    lines = [
        f'    {{"role": {quoted(message.role)}, "content": {literal(message.content)}}},\n'
        for message in inspection.prompt.messages
    ]
    return f"messages = [\n{''.join(lines)}]\n"


def _arguments(inspection: Inspection) -> list[str]:
    sent = {name: value for name, value in inspection.prompt.sent.items() if name not in LEFT_OUT}
    own = {name: value for name, value in sent.items() if name in ARGUMENTS}
    more = {name: value for name, value in sent.items() if name not in ARGUMENTS}
    own["model"] = _model(inspection)
    arguments = ["messages=messages", *(f"{name}={_code(value)}" for name, value in own.items()), "stream=True"]
    return [*arguments, *([f"extra_body={_code(more)}"] if more else [])]


def _model(inspection: Inspection) -> str:
    """The server's name of the model; without the folders of its machine, which are nobody's concern."""
    name = str(inspection.prompt.sent.get("model", inspection.model.source))
    return PurePath(name).name if name.startswith("/") else name


def _code(value: Any) -> str:
    """A value of JSON as a Python literal."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{quoted(name)}: {_code(each)}" for name, each in value.items()) + "}"
    return "[" + ", ".join(map(_code, value)) + "]" if isinstance(value, list | tuple) else repr(value)
