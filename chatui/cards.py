"""Personas as files: our own JSON, and Tavern character cards (v1 to v3) as JSON or inside a PNG. Knows no store."""

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

from chatui import personas
from chatui.errors import SettingsError, TransferError
from chatui.macros import renamed
from chatui.personas import AVATAR_START, MAX_AVATAR_LENGTH, MAX_NAME_LENGTH, Persona
from chatui.setting_values import settings_error, shorten
from chatui.text_cleaning import clean, clean_lines, one_line

FORMAT, VERSION = "chatui-persona", 1
MAX_FILE_BYTES = 16 * 2**20
"""Bytes; cards are often large pictures."""
MAX_TEXT_BYTES = 4 * 2**20
"""Bytes of a card's JSON, which is kept whole."""
MAX_DEPTH = 60
MAX_PIXELS = 25_000_000
SIDES = (256, 192, 128, 64)
"""Pixels that an avatar's longer side may have: the first with which it is small enough."""

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
"""The fields of a card that make up the system prompt."""

_PERSONA: TypeAdapter[Persona] = TypeAdapter(Persona)
_DEFAULT_PROMPT = "You are {{char}}, and talk with {{user}}."
_ORIGINAL = re.compile(r"\{\{\s*original\s*\}\}", re.IGNORECASE)
_DAMAGED = "This picture is damaged, or is none that can be read here."
_NO_CARD = "There is no persona in this picture."
_WANTED = "Take a persona as JSON, or a character card as JSON or PNG."


def read(data: bytes) -> Persona:
    """The persona in a file. Raises TransferError."""
    if len(data) > MAX_FILE_BYTES:
        raise TransferError(f"This file is too large: a persona may have {MAX_FILE_BYTES // 2**20} MB.")
    try:
        if data.startswith(PNG):
            return replace(_read_json(_text_in_png(data)), avatar=avatar(data))
        return _read_json(data)
    except SettingsError as error:
        raise TransferError(f"This persona cannot be taken: {error.message.rstrip('.')}.", error.remedy) from None


def as_json(persona: Persona) -> str:
    """Everything about the persona, as `read` takes it back."""
    own = {field.name: getattr(persona, field.name) for field in fields(persona)}
    own["settings"] = persona.settings.model_dump(mode="json") if persona.settings else None
    return _dumped({"format": FORMAT, "version": VERSION, **own})


def as_card_json(persona: Persona) -> str:
    """A Tavern card: of version 3 if the persona came as one, else of version 2."""
    return _dumped(_card(persona, V3_SPEC if (persona.card or {}).get("spec") == V3_SPEC else V2_SPEC))


def as_png(persona: Persona) -> bytes:
    """The persona's picture, or a plain one, with its Tavern card inside for readers of version 2 and 3."""
    text = PngImagePlugin.PngInfo()
    for key, spec in (("chara", V2_SPEC), ("ccv3", V3_SPEC)):
        text.add_text(key, base64.b64encode(json.dumps(_card(persona, spec)).encode()).decode())
    picture = _picture(_bytes_of(persona.avatar), 256) if persona.avatar else Image.new("RGB", (256, 256), "#d94f0c")
    return _as_png(picture, text)


def greetings(persona: Persona) -> tuple[str, ...]:
    """What a character begins a conversation with, the first before its alternates; () for a persona of no card."""
    data = (persona.card or {}).get("data")
    if not isinstance(data, dict):
        return ()
    alternates = data.get("alternate_greetings")
    texts = [persona.greeting, *map(_ours, alternates if isinstance(alternates, list) else [])]
    return tuple(dict.fromkeys(text for text in texts if text.strip()))


def nickname(persona: Persona) -> str:
    """What {{char}} stands for: a card of version 3 may have a shorter name than the persona's."""
    data = (persona.card or {}).get("data")
    short = data.get("nickname") if isinstance(data, dict) else None
    return short.strip() if isinstance(short, str) and short.strip() else persona.name


def avatar(data: bytes) -> str:
    """A PNG, JPEG or WebP as a small picture in a data: URL; of an animation the first frame. Raises TransferError."""
    if len(data) > MAX_FILE_BYTES:
        raise TransferError(f"This picture is too large: it may have {MAX_FILE_BYTES // 2**20} MB.")
    url = ""
    for side in SIDES:
        url = AVATAR_START + base64.b64encode(_as_png(_picture(data, side))).decode()
        if len(url) <= MAX_AVATAR_LENGTH:
            break
    return url


def checked_avatar(url: str) -> str:
    """A picture in a data: URL, made anew by us; "" is none. Raises TransferError."""
    return avatar(_bytes_of(url)) if url else ""


def _read_json(data: bytes) -> Persona:
    found = _parsed(data)
    if not isinstance(found, dict):
        raise TransferError("This file holds no persona.", _WANTED)
    if found.get("format") == FORMAT:
        return _read_own(found)
    return personas.checked(_meant(_as_card(found)))


def _parsed(data: bytes) -> Any:
    if len(data) > MAX_TEXT_BYTES:
        raise TransferError(f"This persona is too large: its text may have {MAX_TEXT_BYTES // 2**20} MB.")
    try:
        return _clean(json.loads(data.decode("utf-8-sig")))
    except (ValueError, RecursionError):
        raise TransferError("This file is not JSON that can be read here.", _WANTED) from None


def _clean(value: Any, depth: int = 0) -> Any:
    """What JSON and every database can keep of a value. Raises ValueError for what is no JSON, or nested too deeply."""
    if depth > MAX_DEPTH or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError("cannot be kept")
    if isinstance(value, dict):
        return {clean(key, nul=""): _clean(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, list):
        return [_clean(inner, depth + 1) for inner in value]
    return clean(value, nul="") if isinstance(value, str) else value


def _read_own(found: dict[str, Any]) -> Persona:
    if found.get("version") != VERSION:
        raise TransferError("This persona was written by another version of chatui.", "Update chatui to read it.")
    try:
        persona = _PERSONA.validate_python(found)
    except ValidationError as error:
        raise settings_error(error) from None
    card = None if persona.card is None else _as_card(persona.card)
    return personas.checked(replace(persona, avatar=checked_avatar(persona.avatar), card=card))


def _as_card(found: dict[str, Any]) -> dict[str, Any]:
    """A card of any version with its fields in "data", as versions 2 and 3 have them."""
    spec = found.get("spec")
    if spec in SPEC_VERSIONS or (spec is None and "data" in found):
        if isinstance(found.get("data"), dict):
            return found
        raise TransferError("This character card has no data.", _WANTED)
    if spec is not None:
        raise TransferError(f"This kind of character card is not known: {shorten(spec)}.", "Versions 1 to 3 are.")
    if any(isinstance(found.get(name), str) for name in V1):
        return {"data": found}
    raise TransferError("This file holds no persona.", _WANTED)


def _meant(card: dict[str, Any]) -> Persona:
    """What a card says in our words; all of it is in `card` besides. Its texts may be too long."""
    data = card["data"]
    texts = {name: _ours(data.get(name)) for name in (*PROMPT, "name", "first_mes")}
    parts = [f"{label}\n{texts[name]}" for name, label in SECTIONS.items() if texts[name]]
    own_prompt = _ORIGINAL.sub(_DEFAULT_PROMPT, texts["system_prompt"])
    if own_prompt or parts:
        parts.insert(0, own_prompt or _DEFAULT_PROMPT)
    return replace(
        _extras(data),
        name=one_line(texts["name"], MAX_NAME_LENGTH) or "Unnamed",
        system_prompt="\n\n".join(parts),
        greeting=texts["first_mes"],
        card=card,
    )


def _ours(value: object) -> str:
    """A card's text with our variables; "" for what is no text."""
    return renamed(clean_lines(value)).strip() if isinstance(value, str) else ""


def _extras(data: dict[str, Any]) -> Persona:
    """A persona of what only our own cards tell, see `_card`; nothing where that is not ours after all."""
    extensions = data.get("extensions")
    told = extensions.get("chatui") if isinstance(extensions, dict) else None
    try:
        known = {name: told[name] for name in ("emoji", "examples", "settings")} if isinstance(told, dict) else {}
        return personas.checked(_PERSONA.validate_python({"name": "Unnamed", **known}))
    except (KeyError, ValidationError, SettingsError):
        return Persona("Unnamed")


def _card(persona: Persona, spec: str) -> dict[str, Any]:
    """The card that the persona came from, changed where the persona has been, and complete for this version."""
    card = copy.deepcopy(persona.card) if persona.card else {"data": {}}
    data, was = card["data"], _meant(card)
    before = dict(data)
    if persona.name != was.name or "name" not in data:
        data["name"] = persona.name
    if persona.system_prompt != was.system_prompt:
        data.update(dict.fromkeys(PROMPT, ""), system_prompt=persona.system_prompt)
    if persona.greeting != was.greeting:
        data["first_mes"] = persona.greeting
    extras = (persona.emoji, persona.examples, persona.settings)
    if extras != (was.emoji, was.examples, was.settings):
        settings = persona.settings.model_dump(mode="json") if persona.settings else None
        told = {"emoji": persona.emoji, "examples": list(persona.examples), "settings": settings}
        known = data.get("extensions")
        data["extensions"] = {**(known if isinstance(known, dict) else {}), "chatui": told}
    for name, value in data.items():  # older readers look beside "data"
        if name in card and value != before.get(name):
            card[name] = value
    empty: dict[str, Any] = {**dict.fromkeys((*V1, *V2), ""), "alternate_greetings": [], "tags": [], "extensions": {}}
    if spec == V3_SPEC:
        empty["group_only_greetings"] = []
    version = card.get("spec_version") if card.get("spec") == spec else None
    return {**card, "spec": spec, "spec_version": version or SPEC_VERSIONS[spec], "data": {**empty, **data}}


def _dumped(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2)


def _text_in_png(png: bytes) -> bytes:
    """The JSON of the card in a PNG, the newest version that is there."""
    found: dict[str, bytes] = {}
    for kind, body in _chunks(png):
        key, _, rest = body.partition(b"\0")
        name = key.decode("latin-1").lower()
        if kind in (b"tEXt", b"zTXt", b"iTXt") and name in ("chara", "ccv3"):
            found.setdefault(name, _chunk_text(kind, rest))
    text = found.get("ccv3") or found.get("chara")
    if text is None:
        raise TransferError(_NO_CARD, "Its card may have been lost when it was sent or edited: take the original file.")
    if text.lstrip().startswith(b"{"):
        return text
    if len(text) > 2 * MAX_TEXT_BYTES:
        raise TransferError(f"This persona is too large: its text may have {MAX_TEXT_BYTES // 2**20} MB.")
    try:
        return base64.b64decode(text + b"==")  # some writers leave the end out
    except (binascii.Error, ValueError):
        raise TransferError("The card in this picture is damaged.", "Take the original file.") from None


def _chunks(png: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A PNG's chunks before its end: (kind, body)."""
    at, kind = len(PNG), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", png, at) if at + 12 <= len(png) else (len(png), b"")
        if at + 12 + length > len(png):
            raise TransferError("This picture is cut off.", "Take the original file.")
        yield kind, png[at + 8 : at + 8 + length]
        at += 12 + length


def _chunk_text(kind: bytes, rest: bytes) -> bytes:
    """What follows the key of a text chunk, unpacked."""
    if kind == b"tEXt":
        return rest
    packed = kind == b"zTXt" or rest[:1] == b"\1"
    text = rest[1:] if kind == b"zTXt" else rest[2:].split(b"\0", 2)[-1]
    if not packed:
        return text
    try:
        return zlib.decompressobj().decompress(text, 2 * MAX_TEXT_BYTES + 1)
    except zlib.error:
        raise TransferError("The card in this picture is damaged.", "Take the original file.") from None


def _bytes_of(url: str) -> bytes:
    try:
        return base64.b64decode(url.removeprefix(AVATAR_START), validate=True)
    except (binascii.Error, ValueError):
        raise TransferError(_DAMAGED) from None


def _picture(data: bytes, side: int) -> Image.Image:
    """The picture with nothing but its pixels, at most `side` wide and high."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.draft("RGB", (2 * side, 2 * side))
            mode = "RGBA" if image.has_transparency_data else "RGB"
            small = ImageOps.exif_transpose(image).convert(mode)
        small.thumbnail((side, side))
        return Image.frombytes(mode, small.size, small.tobytes())
    except Image.DecompressionBombError:
        raise TransferError(f"This picture is too large: it may have {MAX_PIXELS // 10**6} million pixels.") from None
    except Exception:  # Pillow's readers raise anything for a damaged file
        raise TransferError(_DAMAGED, "Take a PNG, a JPEG or a WebP.") from None


def _as_png(picture: Image.Image, text: PngImagePlugin.PngInfo | None = None) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=text)
    return out.getvalue()
