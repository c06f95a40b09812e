"""What is said to the servers: words in an order of each user's own, so that no two prompts begin alike."""

import random
from dataclasses import dataclass

VOCABULARY = """
able above across after again air almost along always animal answer apple around autumn baby back ball bank basket bear
beautiful before begin behind bell below bird black blue board boat body book bottle bottom bread bridge bright bring
brother brown build butter button camp candle carry castle chair change child church circle city clean clear climb clock
cloud coat cold color corner cotton country cover dance dark daughter deep desert dinner doctor door dream dress drink
drive early earth east engine evening every family farm fast father field fire fish flower follow food forest friend
fruit garden gentle glass gold grass great green hand happy heart heavy hill history home honey horse house island
kitchen lake large laugh leaf learn letter light little long market meadow milk minute mirror money moon morning mother
mountain music narrow night north ocean orange paper party pencil people picture plant pocket poem quick quiet rain
river road rock room rose round salt sand school season shadow sheep ship silver simple sister sleep slow small snow
soft song south spring stone storm story street strong summer sugar table teacher thunder tiger together town train
travel tree uncle valley village voice walk wall warm water weather west wheel white wild window winter wood yellow
"""
WORDS = VOCABULARY.split()
TASK = "\n\nWrite a long story in which all of these words appear."
NEXT = "Thank you. Please go on."
PROBES = (20, 220)

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Lengths:
    """How words become tokens in one model's prompts."""

    tokens_per_word: float
    overhead: float

    @classmethod
    def from_probes(cls, few: int, many: int) -> "Lengths":
        """From the tokens that prompts of PROBES words took."""
        slope = max((many - few) / (PROBES[1] - PROBES[0]), 0.01)
        return cls(slope, few - slope * PROBES[0])

    def words(self, tokens: int) -> int:
        """How many words make a prompt of about so many tokens."""
        return max(1, round((tokens - self.overhead) / self.tokens_per_word))


def conversation(words: int, *seed: object) -> Messages:
    """A first message of so many words; the same seed makes the same one."""
    chosen = random.Random(repr(seed)).choices(WORDS, k=words)
    return [{"role": "user", "content": " ".join(chosen) + TASK}]


def with_next_message(messages: Messages, reply: str) -> Messages:
    """The conversation with its reply and a short new message."""
    return [*messages, {"role": "assistant", "content": reply}, {"role": "user", "content": NEXT}]
