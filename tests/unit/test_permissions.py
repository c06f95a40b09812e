"""Who may do what with models: the operator, admins by their login, and all others."""

from itertools import product
from pathlib import Path

import pytest

from chatui.chat import ModelStatus
from chatui.errors import ForbiddenError, SettingsError
from chatui.models.permissions import Permissions, User
from chatui.security import serves_one_computer
from chatui.settings import AppSettings

OPERATOR, GUEST, ADA, BOB = User(is_operator=True), User(), User("ada"), User("bob")
DEFAULT, SERVED = ModelStatus("default", "ready", source="default"), ModelStatus("served", "unloaded", source="served")
ADDED = ModelStatus("added", "unloaded", source="added", added=True)
MODELS = [DEFAULT, SERVED, ADDED]


def choices(permissions: Permissions, user: User) -> list[str]:
    return [model.name for model in permissions.choices(user, MODELS)]


def test_the_operator_and_admins_may_do_everything() -> None:
    permissions = Permissions(["ada"], ["served"])
    for user in (OPERATOR, ADA):
        permissions.check_manage(user)
        assert choices(permissions, user) == ["default", "served", "added"]


@pytest.mark.parametrize("user", [GUEST, BOB, User("Ada"), User("ada "), User("ada,bob"), User("login:ada")], ids=repr)
def test_all_others_may_change_nothing_and_choose_what_they_are_allowed(user: User) -> None:
    with pytest.raises(ForbiddenError, match="Only the operator"):
        Permissions(["ada"]).check_manage(user)
    assert choices(Permissions(["ada"]), user) == ["default", "served"]
    assert choices(Permissions(["ada"], ["added"]), user) == ["default", "added"]
    assert choices(Permissions(["ada"], ["other"]), user) == ["default"]


def test_without_admins_nobody_is_one() -> None:
    for admins, user in product(([], [""]), (GUEST, ADA)):
        assert not Permissions(admins).may_manage(user)


def test_a_folder_is_allowed_by_its_path_and_not_another_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("mine", "theirs"):
        (tmp_path / name / "model").mkdir(parents=True)
    mine, theirs = (ModelStatus("model", "ready", source=str(tmp_path / name / "model")) for name in ("mine", "theirs"))
    monkeypatch.chdir(tmp_path)
    for given in (str(tmp_path / "mine" / "model"), "mine/model", "./mine/model"):
        permissions = Permissions((), [given])
        assert permissions.may_choose(GUEST, mine)
        assert not permissions.may_choose(GUEST, theirs)
    assert Permissions((), ["model"]).may_choose(GUEST, mine)  # by its name


def test_settings_name_admins_among_the_logins() -> None:
    settings = AppSettings(auth="ada:secret", admin=" ada ,", allow_models="a/b, c")
    permissions = Permissions.from_settings(settings, {"ada": "secret"})
    assert permissions.may_manage(ADA)
    assert permissions.may_choose(GUEST, ModelStatus("a/b", "unloaded", source="a/b", added=True))
    with pytest.raises(SettingsError, match="'ada' is no login of --auth"):
        Permissions.from_settings(settings, {"bob": "secret"})
    with pytest.raises(ValueError, match="add --auth"):
        AppSettings(admin="ada")


def test_a_server_that_others_can_reach_has_no_operator_by_the_connection() -> None:
    assert serves_one_computer(AppSettings())
    for shared in (
        {"host": "0.0.0.0"},
        {"host": "192.168.1.5"},
        {"auth": "ada:secret"},
        {"share": True, "share_without_login": True},
        {"root_path": "/chat"},
    ):
        assert not serves_one_computer(AppSettings.model_validate(shared))
