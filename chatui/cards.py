"""Reads and writes persona files: chatui JSON, and Tavern character cards (v1 to v3) as JSON or PNG. Knows no store."""

import base64
import binascii
import copy
import io
import json
import math
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from PIL import Image, ImageOps, PngImagePlugin
from pydantic import TypeAdapter, ValidationError

from chatui import personas, shallow_json
from chatui.errors import SettingsError, TransferError
from chatui.macros import convert_legacy_macros
from chatui.personas import AVATAR_START, MAX_AVATAR_LENGTH, MAX_NAME_LENGTH, Persona
from chatui.setting_values import settings_error, shorten
from chatui.text_cleaning import clean, clean_lines, one_line

FORMAT, VERSION = "chatui-persona", 1
MAX_FILE_BYTES = 16 * 2**20
"""Maximum size of a file. Cards are often large pictures."""
MAX_TEXT_BYTES = 4 * 2**20
"""Maximum size of a card's JSON, all of which is stored."""
MAX_DEPTH = 60
MAX_PIXELS = 25_000_000
SIDES = (256, 192, 128, 64)
"""Lengths in pixels for an avatar's longer side, tried in this order until the file is small enough."""

PNG = b"\x89PNG\r\n\x1a\n"
V1 = ("name", "description", "personality", "scenario", "first_mes", "mes_example")
V2 = ("creator_notes", "system_prompt", "post_history_instructions", "creator", "character_version")
V3_SPEC, V2_SPEC = "chara_card_v3", "chara_card_v2"
SPEC_VERSIONS = {V3_SPEC: "3.0", V2_SPEC: "2.0"}
SECTIONS = {
    "description": "About {{char}}:",
    "personality": "Personality of {{char}}:",
    "scenario": "Scenario:",
    "mes_example": "How {{char}} talks, for example:",
}
PROMPT = ("system_prompt", *SECTIONS)
"""Fields of a card that are joined into the system prompt."""

_PERSONA: TypeAdapter[Persona] = TypeAdapter(Persona)
_DEFAULT_PROMPT = "You are {{char}}, and talk with {{user}}."
_ORIGINAL = re.compile(r"\{\{\s*original\s*\}\}", re.IGNORECASE)
_DAMAGED_PICTURE = "This picture is damaged, or is none that can be read here."
_NO_CARD = "There is no persona in this picture."
_SUPPORTED_FILES = "Take a persona as JSON, or a character card as JSON or PNG."


def read(data: bytes) -> Persona:
    """Parse a persona from the bytes of a file. Raises TransferError."""
    if len(data) > MAX_FILE_BYTES:
        raise TransferError(f"This file is too large: a persona may have {MAX_FILE_BYTES // 2**20} MB.")
    try:
        if data.startswith(PNG):
            return replace(_read_json(_card_text_in_png(data)), avatar=avatar(data))
        return _read_json(data)
    except SettingsError as error:
        raise TransferError(f"This persona cannot be taken: {error.message.rstrip('.')}.", error.remedy) from None


def as_json(persona: Persona) -> str:
    """The whole persona as chatui JSON, without loss: read() returns an equal persona."""
    values = {field.name: getattr(persona, field.name) for field in fields(persona)}
    values["settings"] = persona.settings.model_dump(mode="json") if persona.settings else None
    return _to_json({"format": FORMAT, "version": VERSION, **values})


def as_card_json(persona: Persona) -> str:
    """The persona as a Tavern card: version 3 if it was imported from one, else version 2."""
    return _to_json(_export_card(persona, V3_SPEC if (persona.card or {}).get("spec") == V3_SPEC else V2_SPEC))


def as_png(persona: Persona) -> bytes:
    """The persona's picture, or a plain one, with its Tavern card in versions 2 and 3 in the text chunks."""
    chunks = PngImagePlugin.PngInfo()
    for key, spec in (("chara", V2_SPEC), ("ccv3", V3_SPEC)):
        chunks.add_text(key, base64.b64encode(json.dumps(_export_card(persona, spec)).encode()).decode())
    picture = (
        _thumbnail(_data_url_bytes(persona.avatar), 256) if persona.avatar else Image.new("RGB", (256, 256), "#d94f0c")
    )
    return _encode_png(picture, chunks)


def greetings(persona: Persona) -> tuple[str, ...]:
    """The greetings of a card: the first one, then the alternates. () for a persona without a card."""
    data = (persona.card or {}).get("data")
    if not isinstance(data, dict):
        return ()
    alternates = data.get("alternate_greetings")
    texts = [persona.greeting, *map(_macro_text, alternates if isinstance(alternates, list) else [])]
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def nickname(persona: Persona) -> str:
    """The value of {{char}}: the nickname that a card of version 3 can have, else the persona's name."""
    data = (persona.card or {}).get("data")
    name = data.get("nickname") if isinstance(data, dict) else None
    return name.strip() if isinstance(name, str) and name.strip() else persona.name


def avatar(data: bytes) -> str:
    """A PNG, JPEG or WebP scaled down into a data: URL; the first frame of an animation. Raises TransferError."""
    if len(data) > MAX_FILE_BYTES:
        raise TransferError(f"This picture is too large: it may have {MAX_FILE_BYTES // 2**20} MB.")
    url = ""
    for side in SIDES:
        url = AVATAR_START + base64.b64encode(_encode_png(_thumbnail(data, side))).decode()
        if len(url) <= MAX_AVATAR_LENGTH:
            break
    return url


def validate_avatar(url: str) -> str:
    """Decode the picture in a data: URL and encode it again; "" (no picture) stays "". Raises TransferError."""
    return avatar(_data_url_bytes(url)) if url else ""


def _read_json(data: bytes) -> Persona:
    content = _parse_json(data)
    if not isinstance(content, dict):
        raise TransferError("This file holds no persona.", _SUPPORTED_FILES)
    if content.get("format") == FORMAT:
        return _read_chatui_json(content)
    return personas.validate(_card_to_persona(_normalize_card(content)))


def _parse_json(data: bytes) -> Any:
    if len(data) > MAX_TEXT_BYTES:
        raise TransferError(f"This persona is too large: its text may have {MAX_TEXT_BYTES // 2**20} MB.")
    try:
        return _storable(shallow_json.loads(data.decode("utf-8-sig")))
    except ValueError:
        raise TransferError("This file is not JSON that can be read here.", _SUPPORTED_FILES) from None


def _storable(value: Any, depth: int = 0) -> Any:
    """The value with its texts cleaned for databases. Raises ValueError for NaN, infinity, and too deep nesting."""
    if depth > MAX_DEPTH or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("cannot be kept")
    if isinstance(value, dict):
        return {clean(key, nul=""): _storable(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_storable(inner, depth + 1) for inner in value]
    return clean(value, nul="") if isinstance(value, str) else value


def _read_chatui_json(content: dict[str, Any]) -> Persona:
    if content.get("version") != VERSION:
        raise TransferError("This persona was written by another version of chatui.", "Update chatui to read it.")
    try:
        persona = _PERSONA.validate_python(content)
    except ValidationError as error:
        raise settings_error(error) from None
    card = None if persona.card is None else _normalize_card(persona.card)
    return personas.validate(replace(persona, avatar=validate_avatar(persona.avatar), card=card))


def _normalize_card(content: dict[str, Any]) -> dict[str, Any]:
    """A card of any version, in the layout of versions 2 and 3: its fields in "data"."""
    spec = content.get("spec")
    if spec in SPEC_VERSIONS or (spec is None and "data" in content):
        if isinstance(content.get("data"), dict):
            return content
        raise TransferError("This character card has no data.", _SUPPORTED_FILES)
    if spec is not None:
        raise TransferError(f"This kind of character card is not known: {shorten(spec)}.", "Versions 1 to 3 are.")
    if any(isinstance(content.get(name), str) for name in V1):
        return {"data": content}
    raise TransferError("This file holds no persona.", _SUPPORTED_FILES)


def _card_to_persona(card: dict[str, Any]) -> Persona:
    """The persona that a card describes, with the whole card in `card`. Its texts are not checked for length."""
    data = card["data"]
    texts = {name: _macro_text(data.get(name)) for name in (*PROMPT, "name", "first_mes")}
    parts = [f"{label}\n{texts[name]}" for name, label in SECTIONS.items() if texts[name]]
    instructions = _ORIGINAL.sub(_DEFAULT_PROMPT, texts["system_prompt"])
    if instructions or parts:
        parts.insert(0, instructions or _DEFAULT_PROMPT)
    return replace(
        _extension_to_persona(data),
        name=one_line(texts["name"], MAX_NAME_LENGTH) or "Unnamed",
        system_prompt="\n\n".join(parts),
        greeting=texts["first_mes"],
        card=card,
    )


def _macro_text(value: object) -> str:
    """A card's text with legacy macros converted, stripped; "" if the value is not a string."""
    return convert_legacy_macros(clean_lines(value)).strip() if isinstance(value, str) else ""


def _extension_to_persona(data: dict[str, Any]) -> Persona:
    """A persona with the fields of the extension "chatui", empty if that is missing or invalid. See `_export_card`."""
    extensions = data.get("extensions")
    extension = extensions.get("chatui") if isinstance(extensions, dict) else None
    try:
        values = (
            {name: extension[name] for name in ("emoji", "examples", "settings")} if isinstance(extension, dict) else {}
        )
        return personas.validate(_PERSONA.validate_python({"name": "Unnamed", **values}))
    except (KeyError, ValidationError, SettingsError):
        return Persona("Unnamed")


def _export_card(persona: Persona, spec: str) -> dict[str, Any]:
    """The card for an export: the imported card with the edits of the persona, and all fields that `spec` requires."""
    card = copy.deepcopy(persona.card) if persona.card else {"data": {}}
    data, original = card["data"], _card_to_persona(card)
    original_data = dict(data)
    if persona.name != original.name or "name" not in data:
        data["name"] = persona.name
    if persona.system_prompt != original.system_prompt:
        data.update(dict.fromkeys(PROMPT, ""), system_prompt=persona.system_prompt)
    if persona.greeting != original.greeting:
        data["first_mes"] = persona.greeting
    extras = (persona.emoji, persona.examples, persona.settings)
    if extras != (original.emoji, original.examples, original.settings):
        settings = persona.settings.model_dump(mode="json") if persona.settings else None
        extension = {"emoji": persona.emoji, "examples": list(persona.examples), "settings": settings}
        extensions = data.get("extensions")
        data["extensions"] = {**(extensions if isinstance(extensions, dict) else {}), "chatui": extension}
    for name, value in data.items():  # readers of version 1 look for fields outside "data"
        if name in card and value != original_data.get(name):
            card[name] = value
    empty: dict[str, Any] = {**dict.fromkeys((*V1, *V2), ""), "alternate_greetings": [], "tags": [], "extensions": {}}
    if spec == V3_SPEC:
        empty["group_only_greetings"] = []
    version = card.get("spec_version") if card.get("spec") == spec else None
    return {**card, "spec": spec, "spec_version": version or SPEC_VERSIONS[spec], "data": {**empty, **data}}


def _to_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _card_text_in_png(png: bytes) -> bytes:
    """The JSON of the card in a PNG: of version 3 if there is one, else of version 2. Raises TransferError."""
    texts: dict[str, bytes] = {}
    for kind, body in _chunks(png):
        key, _, rest = body.partition(b"\0")
        name = key.decode("latin-1").lower()
        if kind in (b"tEXt", b"zTXt", b"iTXt") and name in ("chara", "ccv3"):
            texts.setdefault(name, _chunk_text(kind, rest))
    text = texts.get("ccv3") or texts.get("chara")
    if text is None:
        raise TransferError(_NO_CARD, "Its card may have been lost when it was sent or edited: take the original file.")
    if text.lstrip().startswith(b"{"):
        return text
    if len(text) > 2 * MAX_TEXT_BYTES:
        raise TransferError(f"This persona is too large: its text may have {MAX_TEXT_BYTES // 2**20} MB.")
    try:
        return base64.b64decode(text + b"==")  # some writers omit the padding
    except (binascii.Error, ValueError):
        raise TransferError("The card in this picture is damaged.", "Take the original file.") from None


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The chunks of a PNG up to IEND: (type, data). Raises TransferError if the file is truncated."""
    offset, kind = len(PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, offset) if offset + 12 <= len(png) else (len(png), b"")
        if offset + 12 + length > len(png):
            raise TransferError("This picture is cut off.", "Take the original file.")
        yield kind, png[offset + 8 : offset + 8 + length]
        offset += 12 + length


def _chunk_text(kind: bytes, rest: bytes) -> bytes:
    """The text of a chunk, decompressed; `rest` is the chunk's data after the keyword and its NUL."""
    if kind == b"tEXt":
        return rest
    compressed = kind == b"zTXt" or rest[:1] == b"\1"
    text = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    if not compressed:
        return text
    try:
        return zlib.decompressobj().decompress(text, 2 * MAX_TEXT_BYTES + 1)
    except zlib.error:
        raise TransferError("The card in this picture is damaged.", "Take the original file.") from None


def _data_url_bytes(url: str) -> bytes:
    try:
        return base64.b64decode(url.removeprefix(AVATAR_START), validate=True)
    except (binascii.Error, ValueError):
        raise TransferError(_DAMAGED_PICTURE) from None


def _thumbnail(data: bytes, side: int) -> Image.Image:
    """The picture without metadata, scaled down to at most `side` pixels in width and height. Raises TransferError."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft("RGB", (2 * side, 2 * side))
            mode = "RGBA" if image.has_transparency_data else "RGB"
            thumbnail = ImageOps.exif_transpose(image).convert(mode)
        thumbnail.thumbnail((side, side))
        return Image.frombytes(mode, thumbnail.size, thumbnail.tobytes())
    except Image.DecompressionBombError:
        raise TransferError(f"This picture is too large: it may have {MAX_PIXELS // 10**6} million pixels.") from None
    except Exception:  # Pillow raises many kinds of exceptions for damaged files
        raise TransferError(_DAMAGED_PICTURE, "Take a PNG, a JPEG or a WebP.") from None


def _encode_png(picture: Image.Image, chunks: PngImagePlugin.PngInfo | None = None) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=chunks)
    return buffer.getvalue()
