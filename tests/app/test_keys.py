"""Tests of how keys are read."""

from pathlib import Path

import pytest

from sglang_diffusion_routing.app.keys import access_of, from_files, own_names, rereader
from sglang_diffusion_routing.core.worker_url import WorkerUrl
from sglang_diffusion_routing.errors import BadSetting
from sglang_diffusion_routing.proxy.access import Access
from sglang_diffusion_routing.proxy.keys import Role
from sglang_diffusion_routing.settings import Settings

pytestmark = pytest.mark.core


def roles(access: Access, *keys: str) -> list[Role | None]:
    return [access.keys.role_of(key.encode()) for key in keys]


def test_keys_come_from_the_settings_and_from_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# two at once, while one takes over from the other\n\n  filed-1  \nfiled-2\r\n")
    access = access_of(Settings(api_key="given-1, given-2", api_key_file=str(file), admin_key="root"))
    assert roles(access, "given-1", "given-2", "filed-1", "filed-2") == [Role.API] * 4
    assert roles(access, "root", "", "# two") == [Role.ADMIN, None, None]


def test_without_keys_all_is_open_and_nothing_is_rewritten() -> None:
    access = access_of(Settings())
    assert (bool(access.keys), access.guards_work, access.rewrites_heads) == (False, False, False)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "holds no key"),
        (b"# nothing\n\n", "holds no key"),
        (b"good\ns3cret and more\n", "line 2 must be one key of visible ASCII characters"),
        ("schlüssel-s3cret".encode(), "line 1 must be one key of visible ASCII characters"),
        (b"s3cret\0", "line 1 must be one key of visible ASCII characters"),
        (b"x" * (2**20 + 1), "is larger than 1 MiB"),
    ],
)
def test_a_file_that_holds_something_else_is_refused_without_showing_it(
    tmp_path: Path, content: bytes, why: str
) -> None:
    file = tmp_path / "keys"
    file.write_bytes(content)
    with pytest.raises(BadSetting) as caught:
        access_of(Settings(admin_key_file=str(file)))
    assert caught.value.message == f"--admin-key-file {file} {why}"


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(BadSetting, match=r"--api-key-file /no/such cannot be read: No such file or directory"):
        access_of(Settings(api_key_file="/no/such"))


def test_the_keys_of_workers_are_a_mapping(tmp_path: Path) -> None:
    file = tmp_path / "workers.yaml"
    file.write_text('http://gpu-1:30000: one\n"*": "0123"\n')
    access = access_of(Settings(worker_keys=str(file)))
    urls = ("http://gpu-1:30000", "http://gpu-2:30000")
    assert [access.worker_key(WorkerUrl.parse(url)) for url in urls] == ["one", "0123"]
    assert access.rewrites_heads


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a b: s3cret", "line 1: 'a b' is no pattern of workers"),
        ("a: s3cret\nb: 123", "line 2 must be an address and a key, both texts"),
        ("a: 'two s3cret words'", "line 1: the key for 'a' must be visible ASCII characters"),
        ("- s3cret", "must be a mapping of addresses of workers to keys"),
    ],
)
def test_a_file_of_workers_keys_is_refused_with_its_line(tmp_path: Path, content: str, why: str) -> None:
    file = tmp_path / "workers.yaml"
    file.write_text(content)
    with pytest.raises(BadSetting) as caught:
        access_of(Settings(worker_keys=str(file)))
    assert why in caught.value.message
    assert "s3cret" not in caught.value.message


def test_files_are_read_again_and_a_bad_one_changes_nothing(tmp_path: Path) -> None:
    keys, workers = tmp_path / "keys", tmp_path / "workers.yaml"
    keys.write_text("old\n")
    workers.write_text("'*': old\n")
    settings = Settings(api_key_file=str(keys), worker_keys=str(workers), admin_key="root")
    access = access_of(settings)
    read = rereader(settings, access)

    keys.write_text("new\n")
    workers.write_text("'*': new\n")
    put = read()
    assert roles(access, "old", "new") == [Role.API, None]
    put()
    assert roles(access, "old", "new", "root") == [None, Role.API, Role.ADMIN]
    assert access.worker_key(WorkerUrl.parse("http://a:1")) == "new"

    keys.write_text("")
    with pytest.raises(BadSetting, match="holds no key"):
        read()
    assert roles(access, "new") == [Role.API]


def test_only_files_can_change() -> None:
    found = [
        from_files(Settings(**given)) for given in ({}, {"api_key": "a"}, {"api_key_file": "f"}, {"worker_keys": "f"})
    ]
    assert found == [False, False, True, True]


def test_browsers_may_use_the_machine_s_own_name_and_those_that_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Node7.Cluster.example")
    settings = Settings(host="Router.example", allow_host=("*.x", ".Lab.edu"))
    assert own_names(settings) == ("node7.cluster.example", "router.example", "*.x", ".lab.edu")
