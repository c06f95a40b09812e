"""Who may load, unload, fetch and delete models, and which models all others may choose."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chatui.chat import ModelStatus
from chatui.errors import ForbiddenError, SettingsError
from chatui.setting_values import shorten, split_list
from chatui.settings import AppSettings


@dataclass(frozen=True)
class User:
    """The sender of a request, by the login, "" without one.

    `is_operator` means that the request comes from the account that runs the server, on this computer, and that the
    server serves nobody else.
    """

    login: str = ""
    is_operator: bool = False


class Permissions:
    """Decides what a user may do with models. By default there is no admin, and nobody but the operator may manage."""

    def __init__(self, admins: Collection[str] = (), allowed_models: Collection[str] | None = None) -> None:
        """`allowed_models` are names or paths, as for --model; None allows all that were not added in the page."""
        self._admins = frozenset(admins)
        self._allowed = None if allowed_models is None else frozenset(map(_absolute, allowed_models))

    @classmethod
    def from_settings(cls, settings: AppSettings, logins: Collection[str]) -> Self:
        """The permissions of --admin and --allow-models. Raises SettingsError if an admin is none of the logins."""
        admins = split_list(settings.admin)
        for name in admins:
            if name not in logins:
                raise SettingsError("admin", f"{shorten(name)} is no login of --auth.", "Add it there, or correct it.")
        return cls(admins, settings.allow_models or None)

    def may_manage(self, user: User) -> bool:
        """Whether the user may load, unload, fetch and delete models, and choose all of them."""
        return user.is_operator or (user.login != "" and user.login in self._admins)

    def check_manage(self, user: User) -> None:
        """Raise ForbiddenError unless the user may manage models."""
        if not self.may_manage(user):
            raise ForbiddenError(
                "Only the operator of this server may do this with its models.",
                "Ask the operator, who can name you with --admin.",
            )

    def may_choose(self, user: User, model: ModelStatus) -> bool:
        """Whether the user may have replies of this model, which is loaded for them if it is not."""
        if self.may_manage(user):
            return True
        if self._allowed is None:
            return not model.added
        return not self._allowed.isdisjoint({model.name, _absolute(model.source)})

    def choices(self, user: User, models: Sequence[ModelStatus]) -> list[ModelStatus]:
        """The models that the user may choose. The first one is the default model, which everybody may choose."""
        return [*models[:1], *(model for model in models[1:] if self.may_choose(user, model))]


def _absolute(source: str) -> str:
    """An existing path as an absolute one; other names unchanged."""
    path = Path(source).expanduser()
    return str(path.absolute()) if source and path.exists() else source
