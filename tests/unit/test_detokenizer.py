"""ids -> text: whatever the split, the pieces joined are the whole."""

from collections.abc import Callable, Sequence

from hypothesis import example, given
from hypothesis import strategies as st

from chatui.engine.text.detokenizer import MAX_UNFINISHED, Detokenizer

FAMILY = "👩‍👩‍👧‍👦"
REPLACEMENT = "\ufffd"
words = st.sampled_from([FAMILY, "你好", "e\u0301", "🏴‍☠️", " the", "\n", "a", "\u200d", REPLACEMENT])
texts = st.lists(st.one_of(words, st.text(max_size=4)), max_size=12).map("".join)


def decode_bytes(pieces: Sequence[bytes]) -> Callable[[list[int]], str]:
    """A byte-level tokenizer's decode, where token n stands for pieces[n]."""
    return lambda ids: b"".join(pieces[token_id] for token_id in ids).decode("utf-8", errors="replace")


def stream(decode: Callable[[list[int]], str], count: int) -> list[str]:
    decoder = Detokenizer(decode)
    return [*(decoder.push(token_id) for token_id in range(count)), decoder.flush()]


@st.composite
def split(draw: st.DrawFn, whole: bytes) -> list[bytes]:
    cuts = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=len(whole))))
    return [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True) if start < end]


class TestDetokenizer:
    @given(st.data(), texts)
    def test_pieces_of_any_split_join_to_the_text_and_show_no_half_character(
        self, data: st.DataObject, text: str
    ) -> None:
        pieces = data.draw(split(text.encode()))
        shown = stream(decode_bytes(pieces), len(pieces))
        assert "".join(shown) == text
        assert all(not piece.endswith(REPLACEMENT) for piece in shown[:-1])

    @given(
        st.lists(st.one_of(st.binary(min_size=1, max_size=3), st.sampled_from([b"\xf0", b"\x98", b"A"])), max_size=40)
    )
    @example([b"\xe4", b"\xbd", b"A", b"\xff", b"\xf0\x9f", b"\x98"])
    @example([b"\x80"] * 20 + [b"\xf0", b"\x9f", b"\x98", b"\x80", b"A"])
    def test_invalid_bytes_come_out_as_in_one_decode(self, pieces: list[bytes]) -> None:
        decode = decode_bytes(pieces)
        assert "".join(stream(decode, len(pieces))) == decode(list(range(len(pieces))))

    @given(st.lists(st.sampled_from([" the", " cat", "s", " ", "  ", "\n", "。", " 👍"]), max_size=12))
    def test_a_decoder_that_strips_the_first_space_loses_no_other(self, pieces: list[str]) -> None:
        def decode(ids: list[int]) -> str:
            return "".join(pieces[token_id] for token_id in ids).removeprefix(" ")

        assert "".join(stream(decode, len(pieces))) == decode(list(range(len(pieces))))

    def test_halves_of_characters_without_end_cost_the_same_for_each_id(self) -> None:
        decoded: list[int] = []

        def decode(ids: list[int]) -> str:
            decoded.append(len(ids))
            return REPLACEMENT * len(ids)

        shown = stream(decode, 1000)
        assert "".join(shown) == REPLACEMENT * 1000
        assert max(decoded) <= MAX_UNFINISHED + 2
        assert all(shown[MAX_UNFINISHED:])  # a reader sees that something is written

    def test_a_character_is_shown_with_its_last_byte(self) -> None:
        assert stream(decode_bytes([bytes([byte]) for byte in "a你b".encode()]), 5) == ["a", "", "", "你", "b", ""]

    def test_a_character_cut_off_at_the_end_is_shown_by_flush(self) -> None:
        assert stream(decode_bytes([b"a", b"\xe4\xbd"]), 2) == ["a", "", REPLACEMENT]

    def test_each_step_decodes_a_few_ids_only(self) -> None:
        longest = 0

        def decode(ids: list[int]) -> str:
            nonlocal longest
            longest = max(longest, len(ids))
            return "x" * len(ids)

        stream(decode, 500)
        assert longest <= 2
