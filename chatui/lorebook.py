"""Lorebooks of character cards: which entries a conversation activates, and in what order.

Follows the specifications of character cards, versions 2 and 3, and SillyTavern where they leave something open.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatui.keywords import Patterns, Text
from chatui.macros import Scene, expand

SCAN_DEPTH = 2
"""Default number of messages that are searched for keys."""
MAX_SCAN_DEPTH = 100
MAX_SCAN_LENGTH = 200_000
"""Characters that are searched at most, the last ones of the messages."""
MAX_WORK = 2 * 10**9
"""Upper bound of (characters of all keys) × (characters searched). More keys are searched in less text."""
MAX_ROUNDS = 5
"""Rounds of recursion, in which activated entries activate others."""
SHARE = 0.25
"""Default share of the context that the entries of a book may take."""
MAX_SHARE = 0.5

AND_ANY, NOT_ALL, NOT_ANY, AND_ALL = range(4)
"""How secondary keys are combined, by SillyTavern's numbers."""
Position = Literal["before", "after"]


@dataclass(frozen=True)
class Entry:
    """A lorebook entry. It is activated always if `constant`, else when one of its keys is in the last messages.

    It is placed before or after the character, or `depth` messages before the conversation's end. If not all fit, those
    with a higher `priority` stay. They are placed in the order of `order`. An entry that is not `recursed` is activated
    by messages only, one that is `only_recursed` by other entries only. Without `recurses` it activates no others.
    """

    index: int
    content: str
    keys: tuple[str, ...] = ()
    secondary: tuple[str, ...] = ()
    logic: int = AND_ANY
    excluding: tuple[str, ...] = ()
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
    recursed: bool = True
    recurses: bool = True
    only_recursed: bool = False


@dataclass(frozen=True)
class Book:
    """A lorebook: its entries, how many messages are searched, and the token budget of all entries together."""

    entries: tuple[Entry, ...]
    scan_depth: int = SCAN_DEPTH
    token_budget: int | None = None
    recursive: bool = False


@dataclass(frozen=True)
class ActivatedEntries:
    """An activated entry, and its text with macros expanded."""

    entry: Entry
    text: str


def tokens(text: str) -> int:
    """An estimate of a text's tokens without a tokenizer, rather too high: a third of its UTF-8 bytes."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 3)


def budget(book: Book, context: int) -> int:
    """The tokens that the entries may take, of a model's `context` of tokens."""
    requested = SHARE * context if book.token_budget is None else book.token_budget
    return int(min(requested, MAX_SHARE * context))


def activate_entries(book: Book, messages: Sequence[str], scene: Scene, context: int) -> tuple[ActivatedEntries, ...]:
    """The entries that the messages activate, in the order in which they are placed, each once.

    Together they take no more than the budget(), which goes first to constant entries, then by priority, then by order.
    An entry that does not fit is skipped.
    """
    scan = _Scan(book, messages, scene)
    left = budget(book, context)
    activated: list[ActivatedEntries] = []
    waiting = [entry for entry in book.entries if entry.content.strip() and _passes_probability(entry, scene)]
    for recursion in range(MAX_ROUNDS + 1):
        found = [entry for entry in waiting if scan.activates(entry, recursion > 0)]
        called = {entry.index for entry in found}
        waiting = [entry for entry in waiting if entry.index not in called]
        new_texts: list[str] = []
        for entry in sorted(found, key=_budget_order):
            hidden: list[str] = []
            text = expand(entry.content, scene, hidden).strip()
            if (cost := tokens(text)) <= left:
                left -= cost
                activated.append(ActivatedEntries(entry, text))
                new_texts += [text, *hidden] if entry.recurses else []
        if not book.recursive or not new_texts or not waiting:
            break
        scan.add_texts(new_texts)
    return tuple(
        sorted((each for each in activated if each.text), key=lambda each: (each.entry.order, each.entry.index))
    )


def _budget_order(entry: Entry) -> tuple[bool, float, float, int]:
    return not entry.constant, -entry.priority, -entry.order, entry.index


def _passes_probability(entry: Entry, scene: Scene) -> bool:
    """Whether an entry with a `probability` is drawn this time."""
    drawn = f"{{{{// entry {entry.index}}}}}{{{{roll:d100}}}}"
    return entry.probability >= 100 or int(expand(drawn, scene)) <= entry.probability


class _Scan:
    """Searches keys in the last messages and in the texts of activated entries."""

    def __init__(self, book: Book, messages: Sequence[str], scene: Scene) -> None:
        self._messages, self._scene, self._depth = messages, scene, book.scan_depth
        self._activated_texts: list[str] = []
        self._texts: dict[int, Text] = {}
        self._patterns = Patterns()
        keys = (key for entry in book.entries for key in (*entry.keys, *entry.secondary, *entry.excluding))
        self._room = min(MAX_SCAN_LENGTH, MAX_WORK // max(sum(map(len, keys)), 1))

    def add_texts(self, texts: Sequence[str]) -> None:
        """Search these texts too from now on."""
        self._activated_texts += texts
        self._texts = {}

    def activates(self, entry: Entry, recursion: bool) -> bool:
        """Whether the entry is activated, in a round of recursion or by the messages alone."""
        if entry.only_recursed if not recursion else not entry.recursed:
            return False
        text = self._text(self._depth if entry.scan_depth is None else entry.scan_depth)
        if self._any(entry, entry.excluding, text):
            return False
        return entry.constant or (self._any(entry, entry.keys, text) and self._agrees(entry, text))

    def _agrees(self, entry: Entry, text: Text) -> bool:
        """Whether the secondary keys allow an entry of which a key was found."""
        if not entry.secondary:
            return True
        if entry.logic in (AND_ANY, NOT_ANY):
            return self._any(entry, entry.secondary, text) is (entry.logic == AND_ANY)
        return all(self._any(entry, [key], text) for key in entry.secondary) is (entry.logic == AND_ALL)

    def _any(self, entry: Entry, keys: Sequence[str], text: Text) -> bool:
        return any(
            text.has(expand(key, self._scene), entry.case_sensitive, entry.whole_words, entry.is_regex) for key in keys
        )

    def _text(self, depth: int) -> Text:
        """The text to search for this scan depth, cut to the newest `_room` characters."""
        depth = min(depth, MAX_SCAN_DEPTH)
        if depth not in self._texts:
            searched, room = [], self._room
            for part in (*reversed(self._activated_texts), *reversed(self._messages[-depth:] if depth else [])):
                if room <= 0:
                    break
                searched.append(part[-room:])
                room -= len(part)
            self._texts[depth] = Text("\n".join(reversed(searched)), self._patterns)
        return self._texts[depth]
