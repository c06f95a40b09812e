"""Lorebooks of character cards: which entries a conversation calls up, and in what order. Knows no card besides.

The words are those of the specifications of cards, versions 2 and 3; what these leave open is as SillyTavern does it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from chatui.keywords import Patterns, Text
from chatui.macros import Scene, expand

SCAN_DEPTH = 2
"""Messages that are searched where a book says nothing."""
MAX_SCAN_DEPTH = 100
MAX_SCAN_LENGTH = 200_000
"""Characters of those, the last ones."""
MAX_WORK = 2 * 10**9
"""Characters of the keys times those that are searched: where many keys are looked for, it is in less text."""
MAX_ROUNDS = 5
"""How often what was called up may call up more."""
SHARE = 0.25
"""Of the context: what the entries of a book may take that says nothing."""
MAX_SHARE = 0.5

AND_ANY, NOT_ALL, NOT_ANY, AND_ALL = range(4)
"""How secondary keys count, by SillyTavern's numbers."""
Position = Literal["before", "after"]


@dataclass(frozen=True)
class Entry:
    """A piece of lore, and when it is told: always where it is `constant`, else when a key is in the last messages.

    It stands before or after the character, or `depth` messages before the conversation's end. Where not all fit, a
    higher `priority` stays; `order` is that in which they are told. An entry that is not `recursed` is called up by
    messages alone, one that is `only_recursed` by other entries alone, and one that does not `recurse` calls up none.
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
    """A lorebook: its entries, how many messages are searched, and what the entries may take together."""

    entries: tuple[Entry, ...]
    scan_depth: int = SCAN_DEPTH
    token_budget: int | None = None
    recursive: bool = False


@dataclass(frozen=True)
class ActivatedEntries:
    """An entry that was called up, and its text with the macros replaced."""

    entry: Entry
    text: str


def tokens(text: str) -> int:
    """About how many tokens a text takes, rather too many: no tokenizer is known here."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // 3)


def budget(book: Book, context: int) -> int:
    """Tokens that the entries may take of a model's `context`."""
    wanted = SHARE * context if book.token_budget is None else book.token_budget
    return int(min(wanted, MAX_SHARE * context))


def activate_entries(book: Book, said: Sequence[str], scene: Scene, context: int) -> tuple[ActivatedEntries, ...]:
    """The entries that the messages `said` call up, in the order in which they are told, each once.

    Together they take no more than the budget(). Constant entries come first there, then those of a higher priority,
    then those of a higher order; one that does not fit is passed over.
    """
    scan = _Scan(book, said, scene)
    left = budget(book, context)
    told: list[ActivatedEntries] = []
    waiting = [entry for entry in book.entries if entry.content.strip() and _lucky(entry, scene)]
    for recursion in range(MAX_ROUNDS + 1):
        found = [entry for entry in waiting if scan.calls_up(entry, recursion > 0)]
        called = {entry.index for entry in found}
        waiting = [entry for entry in waiting if entry.index not in called]
        heard: list[str] = []
        for entry in sorted(found, key=_first_to_fit):
            hidden: list[str] = []
            text = expand(entry.content, scene, hidden).strip()
            if (cost := tokens(text)) <= left:
                left -= cost
                told.append(ActivatedEntries(entry, text))
                heard += [text, *hidden] if entry.recurses else []
        if not book.recursive or not heard or not waiting:
            break
        scan.hear(heard)
    return tuple(sorted((each for each in told if each.text), key=lambda each: (each.entry.order, each.entry.index)))


def _first_to_fit(entry: Entry) -> tuple[bool, float, float, int]:
    return not entry.constant, -entry.priority, -entry.order, entry.index


def _lucky(entry: Entry, scene: Scene) -> bool:
    """Whether an entry that is told only now and then is told this time."""
    drawn = f"{{{{// entry {entry.index}}}}}{{{{roll:d100}}}}"
    return entry.probability >= 100 or int(expand(drawn, scene)) <= entry.probability


class _Scan:
    """Where keys are looked for: in the last messages, and in what these have called up."""

    def __init__(self, book: Book, said: Sequence[str], scene: Scene) -> None:
        self._said, self._scene, self._depth = said, scene, book.scan_depth
        self._heard: list[str] = []
        self._texts: dict[int, Text] = {}
        self._patterns = Patterns()
        keys = (key for entry in book.entries for key in (*entry.keys, *entry.secondary, *entry.excluding))
        self._room = min(MAX_SCAN_LENGTH, MAX_WORK // max(sum(map(len, keys)), 1))

    def hear(self, texts: Sequence[str]) -> None:
        """Look in these as well from now on."""
        self._heard += texts
        self._texts = {}

    def calls_up(self, entry: Entry, recursion: bool) -> bool:
        """Whether the entry is told, by what is known in a `recursion` or before."""
        if entry.only_recursed if not recursion else not entry.recursed:
            return False
        text = self._text(self._depth if entry.scan_depth is None else entry.scan_depth)
        if self._any(entry, entry.excluding, text):
            return False
        return entry.constant or (self._any(entry, entry.keys, text) and self._agrees(entry, text))

    def _agrees(self, entry: Entry, text: Text) -> bool:
        """Whether the secondary keys let an entry be told of which a key was found."""
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
        """What is searched: no more than there is room for, the newest of it."""
        depth = min(depth, MAX_SCAN_DEPTH)
        if depth not in self._texts:
            searched, room = [], self._room
            for part in (*reversed(self._heard), *reversed(self._said[-depth:] if depth else [])):
                if room <= 0:
                    break
                searched.append(part[-room:])
                room -= len(part)
            self._texts[depth] = Text("\n".join(reversed(searched)), self._patterns)
        return self._texts[depth]
