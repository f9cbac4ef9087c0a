"""Settings: read, told by source, refused by name."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from negspace import settings
from negspace.errors import SettingsError


def test_defaults_are_those_of_the_specification():
    given = settings.load({})
    assert given.db_client == "pg"
    assert given.db_host == "localhost"
    assert given.db_port == 5432
    assert given.db_name == "negative_space"
    assert given.db_user == "app_user"
    assert given.db_password.reveal() == "change_me_in_production"
    assert given.db_ssl is False
    assert (given.db_pool_min, given.db_pool_max) == (2, 10)
    assert (given.db_pool_acquire_timeout, given.db_pool_idle_timeout) == (30, 30)
    assert set(given.source.values()) == {"default"}


@pytest.mark.parametrize(
    "name", ["DATABASE_URL", "DB_HOST", "DB_PORT", "DB_NAME", "DB_USER", "DB_PASSWORD"]
)
def test_naming_any_part_of_a_server_means_not_the_embedded_one(name):
    value = {"DATABASE_URL": "postgresql://host/db", "DB_PORT": "5433"}.get(name, "x")
    assert settings.load({}).embedded
    assert settings.load({"DB_POOL_MAX": "4", "DB_SSL": "true"}).embedded
    assert not settings.load({name: value}).embedded


def test_values_are_parsed_and_know_their_source():
    given = settings.load(
        {
            "DB_SSL": "Yes",
            "DB_PORT": "6000",
            "NEGSPACE_HOME": "~/somewhere",
            "NEGSPACE_ANALYZERS": "a, b,",
            "PATH": "/bin",
        }
    )
    assert given.db_ssl is True
    assert given.db_port == 6000
    assert given.home == Path.home() / "somewhere"
    assert given.analyzers == ("a", "b")
    assert given.source["db_ssl"] == given.source["home"] == "environment"
    assert given.source["db_host"] == "default"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DB_CLIENT", "mysql"),
        ("DB_HOST", ""),
        ("DB_PORT", "0"),
        ("DB_PORT", "65536"),
        ("DB_PORT", "5432x"),
        ("DB_SSL", "maybe"),
        ("DB_POOL_MAX", "-1"),
        ("DB_POOL_IDLE_TIMEOUT", "0"),
        ("DB_POOL_ACQUIRE_TIMEOUT", "nan"),
        ("DATABASE_URL", "mysql://host/db"),
        ("NEGSPACE_OWNER_URL", "host=x"),
        ("NEGSPACE_MAX_PIXELS", "1e6"),
        ("NEGSPACE_HOME", ""),
    ],
)
def test_a_malformed_value_is_refused_by_name(name, value):
    with pytest.raises(SettingsError) as caught:
        settings.load({name: value})
    assert caught.value.message == f"{name} is not valid"
    assert str(caught.value.hint).startswith("it takes ")
    assert caught.value.details["variable"] == name


def test_an_unknown_name_is_refused_with_the_nearest_known():
    with pytest.raises(SettingsError, match="DB_PASWORD is no setting") as caught:
        settings.load({"DB_PASWORD": "secret"})
    assert caught.value.hint == "did you mean DB_PASSWORD?"
    with pytest.raises(SettingsError) as caught:
        settings.load({"DB_QQQQQQQQQQQQ": "1"})
    assert caught.value.hint == "negspace settings lists them"


def test_two_that_are_at_odds_are_refused():
    with pytest.raises(SettingsError, match="DATABASE_URL and DB_HOST are both set"):
        settings.load({"DATABASE_URL": "postgresql://a/b", "DB_HOST": "c"})
    with pytest.raises(SettingsError, match=r"DB_POOL_MIN \(5\) is above DB_POOL_MAX \(4\)"):
        settings.load({"DB_POOL_MIN": "5", "DB_POOL_MAX": "4"})


def test_no_secret_shows():
    given = settings.load(
        {
            "DATABASE_URL": "postgresql://u:hush@h/d",
            "NEGSPACE_OWNER_URL": "postgresql://o:quiet@h/d",
        }
    )
    shown = f"{given} {given!r} {dataclasses.asdict(given)} {settings.described(given)}"
    assert "hush" not in shown
    assert "quiet" not in shown
    assert given.database_url is not None
    assert given.database_url.reveal() == "postgresql://u:hush@h/d"
    with pytest.raises(SettingsError) as caught:
        settings.load({"DATABASE_URL": "mysql://u:hush@h/d"})
    assert "hush" not in str(caught.value.as_dict())


def test_the_command_lists_every_setting_with_its_source(cli):
    rows = {row["name"]: row for row in cli("settings", "--json").json}
    assert rows["NEGSPACE_HOME"]["source"] == "environment"
    assert rows["DB_PORT"] == {
        "name": "DB_PORT",
        "value": 5432,
        "source": "default",
        "meaning": "port",
    }
    assert rows["DB_PASSWORD"]["value"] == "***"
    table = cli("settings").out
    assert all(name in table for name in rows)
    assert cli("settings", env={"DB_PROT": "1"}).status == 2


def test_the_page_names_every_setting_with_its_default():
    page = (Path(__file__).parent.parent / "docs/settings.md").read_text()
    for row in settings.described(settings.load({})):
        lines = [line for line in page.splitlines() if line.startswith(f"| `{row['name']}` |")]
        assert len(lines) == 1, row["name"]
        if row["value"] not in (None, "***", False):
            assert f"| `{row['value']}` |".replace(".0`", "`") in lines[0]
