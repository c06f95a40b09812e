"""Lorebooks of character cards: which entries a conversation activates, and in what order.

Follows the specifications of character cards, versions 2 and 3, and SillyTavern where they leave something open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatui.keywords import SearchableText, TimedRegexes
from chatui.macros import MacroValues, expand

SCAN_DEPTH = 2
"""Default number of last messages that are searched for keys."""
MAX_SCAN_DEPTH = 100
MAX_SCAN_LENGTH = 200_000
"""Maximum number of characters searched, counted from the end of the messages."""
MAX_COMPARISONS = 2 * 10**9
"""Maximum of (characters of all keys) × (characters searched). With more keys, less text is searched."""
MAX_RECURSION_ROUNDS = 5
"""Rounds of recursion, in which activated entries activate others."""
BUDGET_FRACTION = 0.25
"""Default share of the context for the entries of a book."""
MAX_BUDGET_FRACTION = 0.5

AND_ANY, NOT_ALL, NOT_ANY, AND_ALL = range(4)
"""How secondary keys are combined, by SillyTavern's numbers."""
Position = Literal["before", "after"]


@dataclass(frozen=True)
class Entry:
    """A lorebook entry. It is always activated if `constant`, else when one of its `keys` is in the last messages.

    `secondary_keys` are combined by `selective_logic`. A key in `exclude_keys` prevents the activation. The text goes
    to `position`, before or after the character, or if `depth` is not None before the last `depth` messages. Entries
    are sorted by `order`. If not all of them fit the budget, those with a higher `priority` are used. `probability`
    is in percent. `scan_depth` overrides that of the book.

    `exclude_recursion`: activated by messages only. `delay_until_recursion`: activated by other entries only.
    `prevent_recursion`: does not activate others. These are SillyTavern's names.
    """

    index: int
    content: str
    keys: tuple[str, ...] = ()
    secondary_keys: tuple[str, ...] = ()
    selective_logic: int = AND_ANY
    exclude_keys: tuple[str, ...] = ()
    constant: bool = False
    case_sensitive: bool = False
    whole_words: bool = False
    is_regex: bool = False
    order: float = 100
    priority: float = 0
    probability: float = 100
    position: Position = "after"
    depth: int | None = None
    scan_depth: int | None = None
    exclude_recursion: bool = False
    prevent_recursion: bool = False
    delay_until_recursion: bool = False


@dataclass(frozen=True)
class Book:
    """A lorebook: its entries, the number of messages to search, and the token budget of all entries together."""

    entries: tuple[Entry, ...]
    scan_depth: int = SCAN_DEPTH
    token_budget: int | None = None
    recursive: bool = False


@dataclass(frozen=True)
class ActivatedEntry:
    """An activated entry, and its text with macros expanded."""

    entry: Entry
    text: str


def tokens(text: str) -> int:
    """Estimate the number of tokens without a tokenizer: a third of the UTF-8 bytes, rather too high."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 3)


def budget(book: Book, context_length: int) -> int:
    """The maximum number of tokens of all entries, for a model with this context length in tokens."""
    requested = BUDGET_FRACTION * context_length if book.token_budget is None else book.token_budget
    return int(min(requested, MAX_BUDGET_FRACTION * context_length))


def activate_entries(
    book: Book, messages: Sequence[str], macro_values: MacroValues, context_length: int
) -> tuple[ActivatedEntry, ...]:
    """The entries that the messages activate, sorted by `order`, each at most once.

    Together they take at most budget() tokens. The budget goes to constant entries first, then by priority, then by
    order, the highest first. An entry that does not fit is skipped.
    """
    scan = _Scan(book, messages, macro_values)
    tokens_left = budget(book, context_length)
    activated: list[ActivatedEntry] = []
    candidates = [entry for entry in book.entries if entry.content.strip() and _passes_probability(entry, macro_values)]
    for recursion in range(MAX_RECURSION_ROUNDS + 1):
        matching = [entry for entry in candidates if scan.activates(entry, recursion > 0)]
        matching_indices = {entry.index for entry in matching}
        candidates = [entry for entry in candidates if entry.index not in matching_indices]
        new_texts: list[str] = []
        for entry in sorted(matching, key=_budget_order):
            hidden: list[str] = []
            text = expand(entry.content, macro_values, hidden).strip()
            if (cost := tokens(text)) <= tokens_left:
                tokens_left -= cost
                activated.append(ActivatedEntry(entry, text))
                new_texts += [] if entry.prevent_recursion else [text, *hidden]
        if not book.recursive or not new_texts or not candidates:
            break
        scan.add_texts(new_texts)
    return tuple(
        sorted((each for each in activated if each.text), key=lambda each: (each.entry.order, each.entry.index))
    )


def _budget_order(entry: Entry) -> tuple[bool, float, float, int]:
    return not entry.constant, -entry.priority, -entry.order, entry.index


def _passes_probability(entry: Entry, macro_values: MacroValues) -> bool:
    """Draw whether an entry is used, by its `probability`."""
    roll = f"{{{{// entry {entry.index}}}}}{{{{roll:d100}}}}"
    return entry.probability >= 100 or int(expand(roll, macro_values)) <= entry.probability


class _Scan:
    """Searches the last messages and the texts of activated entries for keys."""

    def __init__(self, book: Book, messages: Sequence[str], macro_values: MacroValues) -> None:
        self._messages, self._macro_values, self._depth = messages, macro_values, book.scan_depth
        self._activated_texts: list[str] = []
        self._texts: dict[int, SearchableText] = {}
        self._regexes = TimedRegexes()
        keys = (key for entry in book.entries for key in (*entry.keys, *entry.secondary_keys, *entry.exclude_keys))
        self._max_length = min(MAX_SCAN_LENGTH, MAX_COMPARISONS // max(sum(map(len, keys)), 1))

    def add_texts(self, texts: Sequence[str]) -> None:
        """Add texts of activated entries, which are searched in the next round."""
        self._activated_texts += texts
        self._texts = {}

    def activates(self, entry: Entry, recursion: bool) -> bool:
        """Whether the entry is activated: in a round of `recursion`, or by the messages alone."""
        if entry.exclude_recursion if recursion else entry.delay_until_recursion:
            return False
        text = self._text(self._depth if entry.scan_depth is None else entry.scan_depth)
        if self._any(entry, entry.exclude_keys, text):
            return False
        return entry.constant or (self._any(entry, entry.keys, text) and self._secondary_keys_match(entry, text))

    def _secondary_keys_match(self, entry: Entry, text: SearchableText) -> bool:
        """Whether the secondary keys satisfy the entry's `selective_logic`."""
        if not entry.secondary_keys:
            return True
        if entry.selective_logic in (AND_ANY, NOT_ANY):
            return self._any(entry, entry.secondary_keys, text) is (entry.selective_logic == AND_ANY)
        return all(self._any(entry, [key], text) for key in entry.secondary_keys) is (entry.selective_logic == AND_ALL)

    def _any(self, entry: Entry, keys: Sequence[str], text: SearchableText) -> bool:
        return any(
            text.contains(expand(key, self._macro_values), entry.case_sensitive, entry.whole_words, entry.is_regex)
            for key in keys
        )

    def _text(self, depth: int) -> SearchableText:
        """The text to search for this scan depth, cut to the last `_max_length` characters."""
        depth = min(depth, MAX_SCAN_DEPTH)
        if depth not in self._texts:
            parts, length_left = [], self._max_length
            for part in (*reversed(self._activated_texts), *reversed(self._messages[-depth:] if depth else [])):
                if length_left <= 0:
                    break
                parts.append(part[-length_left:])
                length_left -= len(part)
            self._texts[depth] = SearchableText("\n".join(reversed(parts)), self._regexes)
        return self._texts[depth]
