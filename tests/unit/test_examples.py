"""The unit file and the compose file under examples/: settings that the server takes, and nothing that stands open.

tests/e2e/test_example_commands.py runs their commands.
"""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from cacheserver.cli.arguments import USAGE
from cacheserver.config import CONFIG_FLAG, check_listen, load
from tests.support.examples import CONFIGS, EXAMPLES, compose, unit


@pytest.mark.parametrize("name", CONFIGS)
def test_its_settings_let_nobody_in_without_a_token_or_without_tls(name: str) -> None:
    settings = load({CONFIG_FLAG: str(CONFIGS[name])}, {}, cwd=Path("/"))
    check_listen(settings)
    assert not settings.serving.listen.loopback
    assert settings.serving.tls_cert_file == CONFIGS[name].parent / "tls.crt"
    assert settings.serving.token_auth_file == CONFIGS[name].parent / "tokens.csv"
    assert settings.serving.readers == ("packages",)
    assert settings.repositories


def test_the_unit_writes_where_its_settings_say_and_stays_down_when_they_are_wrong() -> None:
    settings = load({CONFIG_FLAG: str(CONFIGS["systemd"])}, {}, cwd=Path("/"))
    assert [settings.etcd.data_dir] == [Path("/var/lib") / name for name in unit()["StateDirectory"]]
    [command] = unit()["ExecStart"]
    assert shlex.split(command)[1:] == ["serve", CONFIG_FLAG, "/etc/cacheserver/config.yaml"]
    assert unit()["RestartPreventExitStatus"] == [str(USAGE)]


def test_the_compose_file_publishes_the_server_alone_and_mounts_directories() -> None:
    services = compose()["services"]
    assert {name for name, service in services.items() if "ports" in service} == {"cacheserver"}
    assert services["etcd"]["networks"] == ["inside"]
    assert compose()["networks"]["inside"] == {"internal": True}
    server = services["cacheserver"]
    assert server["command"] == ["serve", CONFIG_FLAG, "/etc/cacheserver/config.yaml"]
    sources = [volume.split(":")[0] for volume in server["volumes"]]
    # A file that is mounted alone stays the old one when a new one is moved over it.
    assert all((EXAMPLES / "compose" / source).is_dir() for source in sources if source.startswith("."))
    named = {volume.split(":")[0] for service in services.values() for volume in service["volumes"]}
    assert {source for source in named if not source.startswith(".")} == set(compose()["volumes"])


@pytest.mark.parametrize("name", ["etcd", "cacheserver"])
def test_a_container_can_do_nothing_beside_its_work(name: str) -> None:
    service = compose()["services"][name]
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
