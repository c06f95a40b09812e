import base64
import copy
import io
import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from chatui import cards
from chatui.errors import TransferError
from chatui.generation_settings import GenerationSettings
from chatui.personas import MAX_AVATAR_LENGTH, PRESETS, Persona

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
TEXTS = (*cards.V1, *cards.V2)
BOOK = st.fixed_dictionaries({"name": TEXT, "entries": st.lists(st.dictionaries(TEXT, JSON, max_size=3), max_size=3)})


def _data(version: int) -> st.SearchStrategy[dict[str, Any]]:
    """Fields of a card as the specifications name them, with some that they do not know."""
    required = dict.fromkeys(TEXTS, TEXT) | {
        "tags": st.lists(TEXT, max_size=3),
        "alternate_greetings": st.lists(TEXT, max_size=3),
        "extensions": st.dictionaries(TEXT, JSON, max_size=3),
    }
    optional: dict[str, Any] = {"character_book": BOOK, "unknown": JSON}
    if version == 3:
        required["group_only_greetings"] = st.lists(TEXT, max_size=2)
        optional |= {
            "nickname": TEXT,
            "creation_date": st.integers(),
            "creator_notes_multilingual": st.dictionaries(TEXT, TEXT, max_size=2),
            "assets": st.lists(
                st.fixed_dictionaries({"type": TEXT, "uri": TEXT, "name": TEXT, "ext": TEXT}), max_size=2
            ),
        }
    return st.fixed_dictionaries(required, optional=optional)


def _cards(version: int) -> st.SearchStrategy[dict[str, Any]]:
    return st.builds(
        lambda data, beside: {**beside, "spec": f"chara_card_v{version}", "spec_version": f"{version}.0", "data": data},
        _data(version),
        st.fixed_dictionaries({}, optional={"fav": JSON, "create_date": TEXT, "name": TEXT}),
    )


CARDS = _cards(2) | _cards(3)
SETTINGS = st.none() | st.builds(
    GenerationSettings,
    temperature=st.floats(0, 2),
    top_k=st.integers(0, 200),
    stop=st.lists(st.text("ab\n", min_size=1), max_size=3).map(tuple),
)


def _file(card: object) -> bytes:
    return json.dumps(card).encode()


def _picture(size: tuple[int, int] = (40, 30), mode: str = "RGB", kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.new(mode, size, "red").save(out, kind, **options)
    return out.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(*chunks: bytes, end: bool = False) -> bytes:
    """A picture with these chunks after its header, or at its end."""
    plain = _picture()
    at = len(plain) - 12 if end else 33
    return plain[:at] + b"".join(chunks) + plain[at:]


def _text(key: str, card: object) -> bytes:
    return _chunk(b"tEXt", key.encode() + b"\0" + base64.b64encode(_file(card)))


def _card_in(png: bytes, key: str) -> Any:
    with Image.open(io.BytesIO(png)) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        return json.loads(base64.b64decode(image.text[key]))


def _pixels(url: str) -> Image.Image:
    assert url.startswith("data:image/png;base64,")
    return Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))


OWN = Persona(
    "Käthe",
    emoji="🧙🏽‍♀️",
    system_prompt="You are {{char}}.\n\tBe <brief> & kind.",
    greeting="Hello {{user}}!",
    examples=("One?", "Two <b>?"),
    settings=GenerationSettings(temperature=1.25, seed=7, stop=("END", "\n\n")),
    avatar=cards.avatar(_picture()),
)
V1 = {
    "name": "Robo",
    "description": "<BOT> is a robot.",
    "personality": "sassy",
    "scenario": "A bar. <user> sits down.",
    "first_mes": "BZZT, {{user}}.",
    "mes_example": "<START>\r\n{{user}}: hi\r\n{{char}}: hello",
}


def _v2(**changed: Any) -> dict[str, Any]:
    data = {**V1, **dict.fromkeys(cards.V2, ""), "alternate_greetings": [], "tags": [], "extensions": {}, **changed}
    return {"spec": "chara_card_v2", "spec_version": "2.0", "data": data}


@pytest.mark.parametrize("persona", [OWN, *PRESETS], ids=lambda persona: persona.name)
def test_our_own_files_keep_everything(persona: Persona) -> None:
    assert cards.read(cards.as_json(persona).encode()) == persona


@pytest.mark.parametrize("persona", [OWN, *PRESETS], ids=lambda persona: persona.name)
def test_a_persona_travels_in_cards_too(persona: Persona) -> None:
    assert replace(cards.read(cards.as_card_json(persona).encode()), card=None, avatar=persona.avatar) == persona
    back = cards.read(cards.as_png(persona))
    assert replace(back, card=None, avatar=persona.avatar) == persona
    assert back.avatar == (persona.avatar or back.avatar) != ""


def test_what_we_write_follows_the_specifications() -> None:
    card = json.loads(cards.as_card_json(OWN))
    assert (card["spec"], card["spec_version"]) == ("chara_card_v2", "2.0")
    assert {name for name in TEXTS if isinstance(card["data"][name], str)} == set(TEXTS)
    assert card["data"]["alternate_greetings"] == card["data"]["tags"] == []
    png = cards.as_png(OWN)
    assert _card_in(png, "chara") == card
    newer = _card_in(png, "ccv3")
    assert (newer["spec"], newer["spec_version"]) == ("chara_card_v3", "3.0")
    assert newer["data"] == {**card["data"], "group_only_greetings": []}


def test_a_card_of_version_1_is_understood() -> None:
    persona = cards.read(_file(V1))
    assert (persona.name, persona.greeting) == ("Robo", "BZZT, {{user}}.")
    assert persona.system_prompt == (
        "You are {{char}}, and talk with {{user}}.\n\nAbout {{char}}:\n{{char}} is a robot.\n\n"
        "Personality of {{char}}:\nsassy\n\nScenario:\nA bar. {{user}} sits down.\n\n"
        "How {{char}} talks, for example:\n<START>\n{{user}}: hi\n{{char}}: hello"
    )


def test_a_character_greets_in_several_ways_and_by_its_nickname() -> None:
    card = _v2(
        first_mes="Hi, <USER>.", alternate_greetings=["Hey.", " ", 3, "Hi, {{user}}.", "<BOT> waits."], nickname=" Rob "
    )
    persona = cards.read(_file(card))
    assert cards.greetings(persona) == ("Hi, {{user}}.", "Hey.", "{{char}} waits.")
    assert cards.nickname(persona) == "Rob"
    for odd in (_v2(first_mes="", alternate_greetings="x", nickname=5), _v2(first_mes="", alternate_greetings=None)):
        assert (cards.greetings(cards.read(_file(odd))), cards.nickname(cards.read(_file(odd)))) == ((), "Robo")
    assert cards.greetings(PRESETS[0]) == ()


def test_the_cards_own_system_prompt_comes_first() -> None:
    card = _v2(system_prompt="{{ Original }} Talk like <bot>.", personality="", scenario="", mes_example="")
    persona = cards.read(_file(card))
    assert (
        persona.system_prompt
        == "You are {{char}}, and talk with {{user}}. Talk like {{char}}.\n\nAbout {{char}}:\n{{char}} is a robot."
    )


@pytest.mark.parametrize("data", [{}, dict.fromkeys(TEXTS), {"name": 5, "extensions": [], "tags": None}])
def test_fields_that_are_missing_or_no_text_are_empty(data: dict[str, Any]) -> None:
    persona = cards.read(_file({"spec": "chara_card_v2", "data": data}))
    assert persona == Persona("Unnamed", card=persona.card)
    assert json.loads(cards.as_card_json(persona))["data"].items() >= data.items()


def test_a_long_name_is_cut_but_not_in_the_card() -> None:
    persona = cards.read(_file(_v2(name="x " * 100)))
    assert persona.name == ("x " * 40).strip()
    assert json.loads(cards.as_card_json(persona))["data"]["name"] == "x " * 100


@settings(max_examples=3 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS)
def test_an_untouched_card_comes_back_whole(card: dict[str, Any]) -> None:
    persona = cards.read(_file(card))
    assert json.loads(cards.as_card_json(persona)) == card
    assert cards.read(cards.as_json(persona).encode()) == persona
    png = cards.as_png(persona)
    for key in ("chara", "ccv3"):
        assert _card_in(png, key)["data"].items() >= card["data"].items()
    again = cards.read(png)
    assert replace(again, avatar="", card=None) == replace(persona, card=None)


@settings(max_examples=3 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(CARDS, st.text("abc<>{}\n", min_size=1).map(lambda text: f"x{text}y"), SETTINGS)
def test_what_the_user_edited_is_exported(card: dict[str, Any], text: str, own: GenerationSettings | None) -> None:
    persona = cards.read(_file(card))
    for edited in (
        replace(persona, system_prompt=text),
        replace(persona, greeting=text),
        replace(persona, name="Another name of at most eighty characters, which the card cannot have had"),
        replace(persona, emoji="🤖", examples=("One?",), settings=own),
    ):
        exported = json.loads(cards.as_card_json(edited))
        back = cards.read(_file(exported))
        assert replace(back, card=None) == replace(edited, card=None)
        touched = {"name", "first_mes", "extensions", *cards.PROMPT}
        for name in card["data"].keys() - touched:
            assert exported["data"][name] == card["data"][name]
        assert (
            exported["data"]["extensions"].items()
            >= {name: value for name, value in card["data"]["extensions"].items() if name != "chatui"}.items()
        )


def test_older_readers_find_what_was_edited() -> None:
    beside = {**_v2(), **V1, "create_date": "2023"}
    edited = replace(cards.read(_file(beside)), greeting="Hi.")
    exported = json.loads(cards.as_card_json(edited))
    assert exported["first_mes"] == exported["data"]["first_mes"] == "Hi."
    assert (exported["name"], exported["create_date"]) == ("Robo", "2023")


def test_exporting_changes_nothing_in_the_persona() -> None:
    persona = cards.read(_file(_v2()))
    before = copy.deepcopy(persona)
    edited = replace(persona, greeting="Hi.", system_prompt="Be brief.", emoji="🤖")
    cards.as_card_json(edited), cards.as_png(edited), cards.as_json(edited)
    assert persona == before


def test_the_newer_card_of_a_picture_is_taken() -> None:
    old, new = _v2(name="old"), {**_v2(name="new"), "spec": "chara_card_v3", "spec_version": "3.0"}
    for chunks in ([_text("chara", old), _text("ccv3", new)], [_text("ccv3", new), _text("chara", old)]):
        assert cards.read(_png(*chunks)).name == "new"
    assert cards.read(_png(_text("chara", old))).name == "old"
    assert cards.read(_png(_text("chara", V1))).name == "Robo"


@pytest.mark.parametrize("key", ["chara", "Chara", "CHARA", "ccv3"])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("plain", [False, True])
def test_every_kind_of_text_chunk_is_read(key: str, end: bool, plain: bool) -> None:
    name = key.encode() + b"\0"
    text = _file(_v2()) if plain else base64.b64encode(_file(_v2())).rstrip(b"=")
    for chunk in (
        _chunk(b"tEXt", name + text),
        _chunk(b"zTXt", name + b"\0" + zlib.compress(text)),
        _chunk(b"iTXt", name + b"\0\0en\0Figur\0" + text),
        _chunk(b"iTXt", name + b"\1\0\0\0" + zlib.compress(text)),
    ):
        assert cards.read(_png(_chunk(b"tEXt", b"Comment\0hi"), chunk, end=end)) == replace(
            cards.read(_file(_v2())), avatar=cards.avatar(_picture())
        )


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (900, 600), (10, 3000), (3000, 1)])
def test_avatars_are_small_and_keep_their_shape(size: tuple[int, int]) -> None:
    image = _pixels(cards.avatar(_picture(size)))
    scale = min(1.0, 256 / max(size))
    assert image.size == tuple(max(1, round(side * scale)) for side in size)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [("PNG", "RGBA"), ("PNG", "P"), ("PNG", "LA"), ("PNG", "1"), ("JPEG", "CMYK"), ("JPEG", "L"), ("WEBP", "RGBA")],
)
def test_pictures_of_many_kinds_become_avatars(kind: str, mode: str) -> None:
    image = _pixels(cards.avatar(_picture((300, 200), mode, kind)))
    assert (image.format, image.size) == ("PNG", (256, 171))


def test_of_an_animation_the_first_frame_is_taken() -> None:
    out = io.BytesIO()
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(out, "PNG", save_all=True, append_images=frames[1:])
    image = _pixels(cards.avatar(out.getvalue()))
    assert not getattr(image, "is_animated", False)
    assert image.getpixel((0, 0)) == (255, 0, 0)


def test_transparency_stays() -> None:
    out = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 255, 0, 0)).save(out, "PNG")
    assert _pixels(cards.avatar(out.getvalue())).getpixel((0, 0)) == (0, 255, 0, 0)


def test_nothing_but_pixels_survives() -> None:
    secret = PngImagePlugin.PngInfo()
    secret.add_text("Comment", "where I live")
    secret.add_itxt("XML:com.adobe.xmp", "where I live")
    exif = Image.Exif()
    exif[0x010E] = "where I live"
    for data in (
        _picture(pnginfo=secret, exif=exif, icc_profile=b"where I live", dpi=(71, 71)),
        _picture(kind="JPEG", exif=exif, comment=b"where I live"),
    ):
        kinds = [kind for kind, _ in cards._chunks(base64.b64decode(cards.avatar(data).partition(",")[2]))]
        assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_a_picture_that_cannot_be_packed_is_made_smaller() -> None:
    noise = Image.effect_noise((256, 256), 100)
    out = io.BytesIO()
    Image.merge("RGBA", [noise, noise.rotate(90), noise.rotate(180), noise.rotate(270)]).save(out, "PNG")
    url = cards.avatar(out.getvalue())
    assert len(url) <= MAX_AVATAR_LENGTH
    assert 64 <= max(_pixels(url).size) < 256


def _bomb(width: int, height: int) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return cards.PNG + header + _chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + _chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(5001, 5000), (12_000, 12_000), (50_000, 50_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_unopened(size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "convert", pytest.fail)
    with pytest.raises(TransferError, match=r"too large|damaged"):
        cards.avatar(_bomb(*size))


def _refused(data: bytes) -> TransferError:
    with pytest.raises(TransferError) as caught:
        cards.read(data)
    assert caught.value.message.endswith(".")
    str(caught.value).encode()
    return caught.value


NESTED = b"[" * 100_000
BAD = {
    "empty": b"",
    "text": b"You are a robot.",
    "a list": b"[]",
    "a number": b"9" * 5_000,
    "deep": NESTED,
    "deep card": b'{"spec":"chara_card_v2","data":{"x":' + b"[" * 500 + b"]" * 500 + b"}}",
    "deep name": b'{"spec":' + b"[" * 900 + b"]" * 900 + b"}",
    "infinity": b'{"name":"x","description":"x","y":1e999}',
    "not a number": b'{"name":"x","description":"x","y":NaN}',
    "another JSON": b'{"messages": []}',
    "an unknown card": b'{"spec":"chara_card_v9","data":{"name":"x"}}',
    "a card without data": b'{"spec":"chara_card_v2","name":"x"}',
    "a newer persona": b'{"format":"chatui-persona","version":2,"name":"x"}',
    "no name": b'{"format":"chatui-persona","version":1}',
    "a wrong type": b'{"format":"chatui-persona","version":1,"name":5}',
    "half a character": b'{"format":"chatui-persona","version":1,"name":["\\ud800"]}',
    "a wrong setting": b'{"format":"chatui-persona","version":1,"name":"x","settings":{"temperature":9}}',
    "a wrong picture": b'{"format":"chatui-persona","version":1,"name":"x","avatar":"https://evil.test/x.png"}',
    "a wrong card": b'{"format":"chatui-persona","version":1,"name":"x","card":{"data":5}}',
    "a long prompt": _file(_v2(description="x" * 100_001)),
    "a long file": b'{"name":"' + b"x" * cards.MAX_TEXT_BYTES + b'"}',
    "a longer file": bytes(cards.MAX_FILE_BYTES + 1),
    "a picture": _png(),
    "half a chunk": _png()[:33] + _text("chara", _v2())[:-30],
    "half a picture": _png(_text("chara", _v2()))[:-20],
    "a broken card": _png(_chunk(b"tEXt", b"chara\0a")),
    "a broken packed card": _png(_chunk(b"zTXt", b"chara\0\0abc")),
    "a packed bomb": _png(_chunk(b"zTXt", b"chara\0\0" + zlib.compress(bytes(40_000_000)))),
    "an archive": b"PK\x03\x04" + bytes(100),
    "a JPEG": _picture(kind="JPEG"),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_in_a_sentence(data: bytes) -> None:
    assert len(str(_refused(data))) < 250


def _read_or_refuse(data: bytes) -> Persona | None:
    """Whatever the file is, it is a persona that can be exported, or a TransferError."""
    try:
        persona = cards.read(data)
    except TransferError as error:
        str(error).encode()
        return None
    for text in (cards.as_json(persona), cards.as_card_json(persona)):
        assert replace(cards.read(text.encode()), card=None, avatar="") == replace(persona, card=None, avatar="")
    assert cards.read(cards.as_png(persona)).system_prompt == persona.system_prompt
    return persona


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: cards.PNG + data))
def test_any_bytes(data: bytes) -> None:
    _read_or_refuse(data)


ANY_TEXT = st.text(st.characters(), max_size=20)
ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | ANY_TEXT
    | st.sampled_from(["\ud800", "\0", 10**400, "x" * 9_999]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(ANY_TEXT, inner, max_size=4),
    max_leaves=10,
)
FIELD = st.sampled_from(
    [*TEXTS, "tags", "extensions", "data", "emoji", "examples", "settings", "avatar", "card", "chatui"]
)
FIELDS = st.dictionaries(FIELD, ANY_JSON | st.dictionaries(FIELD, ANY_JSON, max_size=3), max_size=6)


@settings(max_examples=5 * settings().max_examples, suppress_health_check=[HealthCheck.too_slow])
@given(
    ANY_JSON
    | FIELDS
    | FIELDS.map(lambda found: {"format": "chatui-persona", "version": 1, "name": "x", **found})
    | st.builds(lambda spec, data: {"spec": spec, "data": data}, st.sampled_from([*cards.SPEC_VERSIONS, None]), FIELDS)
)
@example({"name": "\ud83d\ude00\ud800\0", "description": "\ud800\0<BOT>", "x\0\ud800": ["\udfff"]})
@example({"spec": "chara_card_v2", "data": {"extensions": {"chatui": {"emoji": "🤖", "examples": [], "settings": {}}}}})
@example({"format": "chatui-persona", "version": 1, "name": "x", "card": {"name": ""}})
def test_any_json(found: object) -> None:
    _read_or_refuse(_file(found))


@given(st.data())
def test_any_damage_to_a_picture(data: st.DataObject) -> None:
    whole = bytearray(cards.as_png(OWN))
    damage = data.draw(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255)), max_size=5))
    for at, byte in damage:
        whole[at] = byte
    _read_or_refuse(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@given(st.data())
def test_a_cut_picture_is_refused(data: st.DataObject) -> None:
    whole = cards.as_png(OWN)
    _refused(whole[: data.draw(st.integers(0, len(whole) - 1))])
