"""The user's token for the Hub, in a file that only its owner may read. It is never shown or logged."""

import contextlib
import hashlib
import os
import re
import uuid
from pathlib import Path

from chatui.errors import SettingsError

TOKEN = re.compile(r"[\x21-\x7e]{8,300}")


class TokenFile:
    """A token in the file `path`, which is made with mode 0600."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> str | None:
        """The token; None if there is none, or if the file holds something else."""
        try:
            token = self._path.read_text("ascii").strip()
        except (OSError, UnicodeDecodeError):
            return None
        return token if TOKEN.fullmatch(token) else None

    def write(self, token: str) -> None:
        """Keep a token. Raises SettingsError, without the token in its text, if it cannot be one."""
        token = token.strip()
        if not TOKEN.fullmatch(token):
            raise SettingsError(
                "token", "this is not a token of the Hub.", "Copy it from https://huggingface.co/settings/tokens."
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        new = self._path.with_name(f"{self._path.name}.{uuid.uuid4().hex[:8]}")
        try:
            with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
                file.write(token)
            new.replace(self._path)
        finally:
            new.unlink(missing_ok=True)

    def delete(self) -> None:
        """Forget the token."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()


class TokenFiles:
    """The tokens of all users, each in a file of its own in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def of(self, user: str) -> TokenFile:
        """The token of the user with this login name; "" is everybody where there are no logins."""
        name = f"user-{hashlib.sha256(user.encode()).hexdigest()[:32]}" if user else "everybody"
        return TokenFile(self._folder / name)


def token_for_hub(file: TokenFile | None = None) -> str | None:
    """The token in `file`, else that of HF_TOKEN, else the one that `hf auth login` stored."""
    from huggingface_hub import get_token

    return (file.read() if file else None) or get_token()
