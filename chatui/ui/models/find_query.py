"""What is looked for in the tab Find, as the forms and links of the page send it. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self, cast
from urllib.parse import parse_qsl, urlencode

from chatui.i18n import N_
from chatui.models.fit import TIGHT, Device
from chatui.models.hub import Library, ModelSearch, Sort
from chatui.models.leaderboards import TAGS, Domain

MAX_TEXT = 100
MAX_PAGES = 10
SIZES: Mapping[str, str] = {
    "": N_("any size"),
    "fits": N_("fits here in 8 bit"),
    "max:1B": "≤ 1B",
    "min:1B,max:4B": "1B – 4B",
    "min:4B,max:9B": "4B – 9B",
    "min:9B": "≥ 9B",
}
"""Numbers of parameters, as huggingface_hub writes a range of them."""
DOMAINS: Mapping[str, str] = {
    "": N_("any domain"),
    "code": N_("code"),
    "maths": N_("maths"),
    "medicine": N_("medicine"),
    "law": N_("law"),
    "vision": N_("vision"),
}
LANGUAGES: Mapping[str, str] = {
    "": N_("any language"),
    "ar": "العربية",
    "de": "Deutsch",
    "en": "English",
    "es": "Español",
    "fr": "Français",
    "hi": "हिन्दी",
    "it": "Italiano",
    "ja": "日本語",
    "ko": "한국어",
    "nl": "Nederlands",
    "pl": "Polski",
    "pt": "Português",
    "ru": "Русский",
    "tr": "Türkçe",
    "uk": "Українська",
    "vi": "Tiếng Việt",
    "zh": "中文",
}
LICENCES: Mapping[str, str] = {
    "": N_("any licence"),
    **{name: name for name in ("apache-2.0", "mit", "cc-by-4.0", "cc-by-nc-4.0", "gemma", "llama3.1", "llama3.2")},
}
LIBRARIES: Mapping[str, str] = {"": N_("any format"), "safetensors": "safetensors", "gguf": "GGUF"}
SORTS: Mapping[str, str] = {
    "trending_score": N_("trending"),
    "downloads": N_("most downloads"),
    "likes": N_("most likes"),
    "last_modified": N_("newest"),
}
FILTERS: Mapping[str, Mapping[str, str]] = {
    "size": SIZES,
    "domain": DOMAINS,
    "language": LANGUAGES,
    "licence": LICENCES,
    "library": LIBRARIES,
    "sort": SORTS,
}
"""For each filter its values, with their names in English."""


@dataclass(frozen=True)
class FindQuery:
    """A search. `page` is how many pages of it are shown."""

    text: str = ""
    size: str = ""
    domain: Domain = ""
    language: str = ""
    licence: str = ""
    library: str = ""
    sort: str = "trending_score"
    page: int = 1

    @classmethod
    def parse(cls, fields: Mapping[str, str]) -> Self:
        """The query in the fields of a form or link. Values that are none of FILTERS are ignored."""
        values: dict[str, Any] = {
            name: fields[name] for name, known in FILTERS.items() if name in fields and fields[name] in known
        }
        page = fields.get("page", "1")
        number = int(page) if page.isascii() and page.isdecimal() and len(page) < 4 else 1
        text = " ".join(fields.get("text", "").split())[:MAX_TEXT]
        return cls(text=text, page=min(max(number, 1), MAX_PAGES), **values)

    def encoded(self, **more: str) -> str:
        """The query and further fields as a query string, as `fields_of` reads it."""
        return urlencode({name: value for name, value in asdict(self).items() if value not in ("", 1)} | more)

    def next_page(self) -> Self | None:
        """The query that shows one page more; None if there may be no more."""
        return replace(self, page=self.page + 1) if self.page < MAX_PAGES else None

    def search(self, devices: Iterable[Device]) -> ModelSearch:
        """What to ask the Hub for."""
        size = f"max:{max_parameters(devices) // 10**6}M" if self.size == "fits" else self.size
        return ModelSearch(
            self.text,
            "image-text-to-text" if self.domain == "vision" else ModelSearch.task,
            (TAGS[self.domain],) if self.domain in TAGS else (),
            self.language,
            self.licence,
            cast("Library | None", self.library or None),
            parameters=size,
            sort=cast("Sort", self.sort),
        )


def fields_of(query: str) -> dict[str, str]:
    """The fields of a query string; the last one counts if there are several of a name."""
    try:
        return dict(parse_qsl(query, keep_blank_values=True, max_num_fields=50))
    except ValueError:
        return {}


def max_parameters(devices: Iterable[Device]) -> int:
    """The number of parameters whose weights fit a device in 8 bit, with room for the rest."""
    return int(TIGHT * max((device.free for device in devices), default=0))
