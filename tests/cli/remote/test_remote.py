"""Tests of what all commands against a router share: whom they ask, and how they end."""

import pytest

from sglang_diffusion_routing import cli
from sglang_diffusion_routing.cli import remote
from sglang_diffusion_routing.sim.in_thread import SimInThread
from support.running import running
from support.shell import Shell

pytestmark = pytest.mark.loopback


@pytest.mark.parametrize("name", remote.COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert f"usage: sglang-d-router {name}" in shown
    assert "exit status: 0 done" in shown


def test_nobody_there_is_3(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["weights", "--url", "http://127.0.0.1:1"]) == 3
    assert capsys.readouterr().err.startswith("sglang-d-router: no answer from http://")
    assert cli.main(["weights", "--url", "http://127.0.0.1:1", "--json"]) == 3
    assert '"code": "unreachable"' in capsys.readouterr().out


async def test_a_refusal_is_4_with_the_routers_own_code(shell: Shell) -> None:
    shown = await shell.run("workers", "drain", "http://127.0.0.1:9", "--json")

    assert (shown.status, shown.json["code"]) == (4, "unknown_worker")
    assert shown.err.startswith("sglang-d-router: 404: ")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["refit"], "PATH"),
        (["workers"], "ACTION"),
        (["workers", "lsit"], "lsit"),
        (["workers", "drain"], "URL"),
        (["abort"], "abort needs one of --all, --group, --request-id"),
        (["top", "--intervall", "2"], "did you mean --interval?"),
        (["weights", "--timeout", "soon"], "must be a positive number of seconds, not 'soon'"),
    ],
)
def test_a_bad_flag_is_2_and_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert sentence in shown.err


async def test_the_flag_wins_over_the_environment(shell: Shell, workers: list[SimInThread]) -> None:
    # A worker is no router, and knows no such list.
    assert (await shell.run("workers", "list", "--url", workers[0].url)).status == 4


async def test_who_has_no_key_is_told_where_commands_take_it_from(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(api_key=["user"], admin_key=["boss"]) as router:
        shell = Shell(str(router.client.base_url), capsys, monkeypatch)
        nobody, doctor = await shell.run("weights"), await shell.run("doctor")
        monkeypatch.setenv("SGLANG_D_ROUTER_API_KEY", "user")
        user, look = await shell.run("pause"), await shell.run("weights")
        monkeypatch.setenv("SGLANG_D_ROUTER_ADMIN_KEY", "boss")
        boss = await shell.run("pause")
    assert (nobody.status, user.status, look.status, boss.status) == (4, 4, 0, 0)
    assert nobody.err.endswith("; set $SGLANG_D_ROUTER_API_KEY, or $SGLANG_D_ROUTER_ADMIN_KEY\n")
    assert user.err.endswith("; set $SGLANG_D_ROUTER_ADMIN_KEY\n")
    assert doctor.status == 1
    assert "wants a key" in doctor.out
    assert "    set $SGLANG_D_ROUTER_API_KEY, or $SGLANG_D_ROUTER_ADMIN_KEY\n" in doctor.out
