"""The prompt that a server makes of messages: its text, token ids and their sources, where it has routes that tell."""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import accumulate, groupby
from typing import Any

import httpx

from chatui import shallow_json
from chatui.chat import Message, Prompt, Source, Span
from chatui.remote.backend_spec import ReplicaSpec
from chatui.remote.dialects import Dialect

Server = tuple[httpx.AsyncClient, ReplicaSpec]
"""A server, and the client that asks it."""
SPECIAL_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


async def read_prompt(
    server: Server, dialect: Dialect, body: Mapping[str, Any], messages: Sequence[Message]
) -> Prompt | None:
    """The prompt of a request with this body; None where the server does not tell it. Raises httpx.HTTPError."""
    read = {"vllm": _read_vllm, "llama.cpp": _read_llama_cpp}.get(dialect.prompt)
    tokens = await read(server, body) if read else None
    return None if tokens is None else make_prompt(*tokens, messages)


async def tokenize_text(
    server: Server, dialect: Dialect, model: str, text: str, special: bool
) -> tuple[list[int], list[str]] | None:
    """(ids, names) of the tokens of a text; None where the server does not tell them. Raises httpx.HTTPError."""
    if dialect.prompt == "llama.cpp":
        body = {"content": text, "add_special": special, "parse_special": False, "with_pieces": True}
        entries = (await _post(server, "/tokenize", body)).get("tokens", [])
        return [entry["id"] for entry in entries], [_piece(entry).decode("utf-8", "replace") for entry in entries]
    if dialect.prompt == "vllm":
        body = {"model": model, "prompt": text, "add_special_tokens": special, "return_token_strs": True}
        told = await _post(server, "/tokenize", body)
        return list(told.get("tokens", [])), list(told.get("token_strs") or [])
    return None


async def detokenize(server: Server, dialect: Dialect, model: str, ids: Sequence[int]) -> str | None:
    """The text of these tokens; None where the server does not tell it. Raises httpx.HTTPError."""
    if not dialect.prompt:
        return None
    told = await _post(server, "/detokenize", {"model": model, "tokens": list(ids)})
    text = told.get("content" if dialect.prompt == "llama.cpp" else "prompt")
    return text if isinstance(text, str) else None


def make_prompt(ids: Sequence[int], pieces: Sequence[bytes], messages: Sequence[Message]) -> Prompt:
    """A prompt of tokens with their bytes. The sources are found by where the messages are in the text."""
    data = b"".join(pieces)
    text = data.decode("utf-8", "replace")
    if "\ufffd" in text:  # the bytes are no text, so they have no characters to count
        return Prompt(text, tuple(ids), messages=tuple(messages), spans=(Span("template", len(ids)),))
    starts = [0, *accumulate(len(character.encode()) for character in text)]
    ends, at = [], 0
    for end in accumulate(map(len, pieces)):
        while at < len(text) and starts[at] < end:
            at += 1
        ends.append(at)
    sources = _token_sources(text, ends, messages)
    spans = tuple(Span(source, len(list(group))) for source, group in groupby(sources))
    return Prompt(text, tuple(ids), spans=spans, ends=tuple(ends), messages=tuple(messages))


def _token_sources(text: str, ends: Sequence[int], messages: Sequence[Message]) -> list[Source]:
    """The source of each token: that of its first character."""
    by_character: list[Source] = ["template"] * len(text)
    last = max((index for index, message in enumerate(messages) if message.role == "user"), default=-1)
    at = 0
    for index, message in enumerate(messages):
        content = message.content.strip()
        start = text.find(content, at) if content else -1
        if start < 0:
            continue
        at = start + len(content)
        by_character[start:at] = [_source(message, index, last, len(messages))] * len(content)
    if messages and messages[-1].role != "assistant":
        by_character[at:] = ["start"] * (len(text) - at)
    return [by_character[min(start, len(text) - 1)] if text else "template" for start in (0, *ends[:-1])][: len(ends)]


def _source(message: Message, index: int, last: int, count: int) -> Source:
    if message.role == "system":
        return "persona"
    if message.role == "user":
        return "message" if index == last else "user"
    return "start" if index == count - 1 else "reply"


async def _read_vllm(server: Server, body: Mapping[str, Any]) -> tuple[list[int], list[bytes]]:
    """https://docs.vllm.ai/en/stable/serving/openai_compatible_server/#tokenizer-api"""
    taken = ("model", "messages", "add_generation_prompt", "continue_final_message", "chat_template_kwargs")
    told = await _post(
        server, "/tokenize", {**{name: body[name] for name in taken if name in body}, "return_token_strs": True}
    )
    return list(told.get("tokens", [])), [token_bytes(name) for name in told.get("token_strs") or []]


async def _read_llama_cpp(server: Server, body: Mapping[str, Any]) -> tuple[list[int], list[bytes]]:
    taken = {name: body[name] for name in ("messages", "chat_template_kwargs") if name in body}
    text = (await _post(server, "/apply-template", taken)).get("prompt", "")
    asked = {"content": text, "add_special": True, "parse_special": True, "with_pieces": True}
    entries = (await _post(server, "/tokenize", asked)).get("tokens", [])
    return [entry["id"] for entry in entries], [_piece(entry) for entry in entries]


async def _post(server: Server, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
    client, replica = server
    response = await client.post(f"{replica.url}{path}", json=body, headers=dict(replica.headers))
    response.raise_for_status()
    told = shallow_json.loads(response.content)
    return told if isinstance(told, dict) else {}


def _piece(entry: Mapping[str, Any]) -> bytes:
    """The bytes of a token of llama.cpp: a text, or a list of bytes if they are no whole characters."""
    piece = entry.get("piece", "")
    return piece.encode() if isinstance(piece, str) else bytes(piece)


def token_bytes(name: str) -> bytes:
    """The bytes of a token by its name in a vocabulary: of bytes as GPT-2 has it, or of sentencepiece."""
    byte = SPECIAL_BYTE.fullmatch(name)
    if byte:
        return bytes([int(byte[1], 16)])
    table = _gpt2_bytes()
    if "▁" not in name and all(character in table for character in name):
        return bytes(table[character] for character in name)
    return name.replace("▁", " ").encode()


@cache
def _gpt2_bytes() -> dict[str, int]:
    """The byte of each character in names of GPT-2's tokens.

    https://github.com/openai/gpt-2/blob/master/src/encoder.py, bytes_to_unicode
    """
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in plain]
    return {**{chr(byte): byte for byte in plain}, **{chr(256 + index): byte for index, byte in enumerate(others)}}
