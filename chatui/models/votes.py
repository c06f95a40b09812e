"""Votes between two contestants that answered the same message, and their files as CSV and JSON. Pure."""

import csv
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AwareDatetime, Field, TypeAdapter, ValidationError

from chatui.errors import TransferError
from chatui.generation_settings import GenerationSettings
from chatui.settings import MB

MAX_FILE_BYTES = 50 * MB
MAX_TAGS, MAX_TAG_LENGTH = 10, 40

Choice = Literal["a", "b", "both", "neither"]
"""The better reply. "both" and "neither" mean that the replies were equally good, or equally bad."""
Name = Annotated[str, Field(max_length=4096)]
"""The name of a model, which may be the path of a folder, or of a persona."""
Tag = Annotated[str, Field(min_length=1, max_length=MAX_TAG_LENGTH)]
Moment = Annotated[AwareDatetime, Field(ge=datetime(2000, 1, 1, tzinfo=UTC), le=datetime(2200, 1, 1, tzinfo=UTC))]


@dataclass(frozen=True)
class Contestant:
    """What wrote one of the two replies: a model with the name of a persona and its settings."""

    model: Name
    persona: Name = ""
    settings: GenerationSettings = field(default_factory=GenerationSettings)

    @property
    def name(self) -> str:
        """A name for tables: model, persona, and the settings that differ from the defaults. The seed is left out."""
        changed = self.settings.model_dump(exclude_defaults=True, exclude={"seed"})
        return " · ".join(
            [self.model, *([self.persona] if self.persona else []), *map("{0[0]}={0[1]}".format, changed.items())]
        )


@dataclass(frozen=True)
class Vote:
    """One comparison of two replies to the same message. `created` has a time zone; `tags` are words of the user."""

    a: Contestant
    b: Contestant
    choice: Choice
    created: Moment
    tags: Annotated[tuple[Tag, ...], Field(max_length=MAX_TAGS)] = ()


VOTES = TypeAdapter(list[Vote])
SETTINGS = TypeAdapter(GenerationSettings)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = ("created", "choice", "a_model", "a_persona", "a_settings", "b_model", "b_persona", "b_settings", "tags")


def tags_in(text: str) -> tuple[str, ...]:
    """The tags in a text of words, without repetitions; those that are too long are cut."""
    words = (word[:MAX_TAG_LENGTH] for word in text.replace(",", " ").split())
    return tuple(dict.fromkeys(words))[:MAX_TAGS]


def as_json(votes: Iterable[Vote]) -> str:
    """Lossless JSON, for from_json()."""
    return VOTES.dump_json(list(votes), indent=1).decode() + "\n"


def from_json(data: bytes) -> list[Vote]:
    """The votes of a file that as_json() has written. Raises TransferError."""
    if len(data) > MAX_FILE_BYTES:
        raise TransferError(f"The file is larger than {MAX_FILE_BYTES // MB} MB.", "Choose another one.")
    try:
        return VOTES.validate_json(data)
    except ValidationError:
        raise TransferError("The file has no votes of chatui.", "Choose another one.") from None


def as_csv(votes: Iterable[Vote]) -> str:
    """A table for spreadsheets. A text that a spreadsheet would run as a formula gets an apostrophe before it.

    See https://owasp.org/www-community/attacks/CSV_Injection.
    """
    file = io.StringIO()
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    for vote in votes:
        sides = [
            text
            for side in (vote.a, vote.b)
            for text in (side.model, side.persona, SETTINGS.dump_json(side.settings).decode())
        ]
        texts = [vote.created.isoformat(), vote.choice, *sides, " ".join(vote.tags)]
        writer.writerow("'" + text if text.startswith(FORMULA_STARTS) else text for text in texts)
    return file.getvalue()
