"""Settings: three spellings of each, who wins, and what the messages say. Sources and repositories as written.

Left out: what settings do; that is tested where they act.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver import config
from cacheserver.config import (
    SETTINGS,
    DirectorySource,
    Door,
    GitRef,
    GitSource,
    OCILayoutSource,
    OCISource,
    RefKind,
    RepositoryConfig,
    Settings,
    Validation,
)
from cacheserver.config.quantities import parse_address, parse_duration, parse_size, show_duration, show_size
from cacheserver.config.repositories import Defaults, from_path
from cacheserver.config.sources import parse_source
from cacheserver.errors import ConfigError
from cacheserver.model import Format, RepositoryKey
from tests.support.fbc import CATALOG_SOURCE

HEADER = "apiVersion: config.cacheserver.dev/v1alpha1\nkind: CacheServerConfiguration\n"
CWD = Path("/somewhere")
_SAMPLE = CATALOG_SOURCE.format(host="docker.io")


def load(flags: config.Flags | None = None, **environ: str) -> Settings:
    return config.load(flags or {}, environ, cwd=CWD)


def refused(flags: config.Flags | None = None, **environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(flags, **environ)
    return str(caught.value)


def written(tmp_path: Path, text: str, name: str = "config.yaml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def manifest(name: str = "example", spec: str = "source: {directory: {path: ./x}}", metadata: str = "") -> str:
    return (
        "apiVersion: config.cacheserver.dev/v1alpha1\nkind: Repository\n"
        f"metadata:\n  name: {name}\n{metadata}spec:\n  {spec}\n---\n"
    )


# --- where a value comes from --------------------------------------------------------------------------------------


def test_without_anything_every_setting_has_its_default() -> None:
    settings = load()
    assert str(settings.serving.listen) == "127.0.0.1:8001"
    assert settings.content.interval_s == 600
    assert settings.etcd.embedded
    assert settings.repositories == ()


def test_a_flag_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, f"{HEADER}interval: 1m\nnamespace: file\nwindowEvents: 200\n")
    settings = load(
        {"--config": file, "--interval": "3m"},
        CACHESERVER_INTERVAL="2m",
        CACHESERVER_NAMESPACE="environment",
    )
    assert settings.content.interval_s == 180
    assert settings.content.namespace == "environment"
    assert settings.cache.window_events == 200


def test_the_environment_can_name_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, f"{HEADER}logLevel: debug\n")
    assert load(CACHESERVER_CONFIG=file).logs.level is config.LogLevel.DEBUG


def test_an_empty_variable_counts_as_unset() -> None:
    assert load(CACHESERVER_ETCD_BINARY="").etcd.binary is None


def test_a_flag_can_switch_off_what_the_environment_switched_on() -> None:
    assert load(CACHESERVER_ALLOW_EMPTY="true").content.allow_empty
    assert not load({"--allow-empty": False}, CACHESERVER_ALLOW_EMPTY="true").content.allow_empty


def test_catalogs_come_as_flags_as_a_list_in_the_file_and_comma_separated_in_the_environment(tmp_path: Path) -> None:
    file = written(tmp_path, f"{HEADER}catalogs:\n- a=./x\n- b=./y\n")
    by_flag = load({"--catalog": ["a=./x", "b=./y"]})
    by_env = load(CACHESERVER_CATALOGS="a=./x, b=./y")
    by_file = load({"--config": file})
    assert by_flag.repositories == by_env.repositories
    assert [r.source for r in by_flag.repositories] == [DirectorySource(CWD / "x"), DirectorySource(CWD / "y")]
    # A file's relative paths start from the file: it means the same from wherever the server is started.
    assert [r.source for r in by_file.repositories] == [
        DirectorySource(tmp_path / "x"),
        DirectorySource(tmp_path / "y"),
    ]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.flag)
def test_every_setting_has_three_spellings_that_agree(setting: config.Setting, tmp_path: Path) -> None:
    text = _example(setting)
    file = written(tmp_path, f"{HEADER}{setting.key}: {text}\n")

    # What some settings need beside them; never the setting itself.
    pair = ("--etcd-user", "--etcd-password-file", "--etcd-cert-file", "--etcd-key-file")
    beside = {"--etcd": "https://a:1", "--kubernetes": "in-cluster", **dict.fromkeys(pair, "some/file")}
    if setting.flag == "--cluster-catalogs":
        beside["--catalogs-url"] = "https://doors"
    beside.pop(setting.flag, None)
    if setting.flag in ("--publish", "--registry"):
        beside = {"--catalog": "a=./x"}

    def value(flags: config.Flags, environ: Mapping[str, str]) -> object:
        settings = config.load({**beside, **flags}, environ, cwd=tmp_path)
        subject = next(name for name, kind in config.SUBJECTS.items() if kind is setting.subject)
        return getattr(getattr(settings, subject), setting.field)

    by_flag = value({setting.flag: [text] if setting.many else text}, {})
    assert by_flag == value({}, {setting.env: text})
    assert by_flag == value({"--config": file}, {})
    assert by_flag != getattr(setting.subject(), setting.field), "the example is the default: it proves nothing"


def _example(setting: config.Setting) -> str:
    special = {
        "--workers": "61",
        "--max-package-bytes": "48Mi",
        "--catalog": "a=./x",
        "--repositories": "repositories",
        "--etcd": "https://127.0.0.1:2379",
        "--watch-namespaces": "web,db",
        "--publish": "a=Catalog",
        "--registry": "a=127.0.0.1:50051",
        "--catalogs-url": "https://doors.example",
    }
    by_metavar = {
        "PATH": "some/file",
        "N": "101",
        "": "true",
        "TEXT": "root",
        "NAME": "web",
        "HOST:PORT": "127.0.0.1:9001",
    }
    by_metavar |= {"DURATION": "1m30s", "SIZE": "768Mi"}
    return special.get(setting.flag) or by_metavar.get(setting.kind.metavar) or setting.kind.metavar.split("|")[-1]


@pytest.fixture(autouse=True)
def _files(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "file").write_text("content\n")
    (tmp_path / "repositories").mkdir()
    (tmp_path / "repositories" / "one.yaml").write_text(manifest("from-directory"))


# --- what a message says -------------------------------------------------------------------------------------------


def test_an_error_names_the_flag_the_variable_or_the_line(tmp_path: Path) -> None:
    file = written(tmp_path, f"{HEADER}namespace: a\ninterval: 5s\n")
    assert refused({"--interval": "5s"}) == "--interval: '5s' is out of range: 10s to 168h"
    assert refused(CACHESERVER_INTERVAL="5s").startswith("CACHESERVER_INTERVAL: ")
    assert refused({"--config": file}).startswith(f"{file}:4 (interval): ")


def test_an_unknown_key_in_the_file_is_refused_with_the_likely_one(tmp_path: Path) -> None:
    file = written(tmp_path, f"{HEADER}intervall: 5m\n")
    assert refused({"--config": file}) == f"{file}:3: unknown key 'intervall'; did you mean 'interval'?"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("interval: 5m\n", "apiVersion: config.cacheserver.dev/v1alpha1 is needed here"),
        (f"{HEADER}interval: 5m\ninterval: 6m\n", "is given twice"),
        (f"{HEADER}interval: [5m, 6m]\n", "a single value is needed here"),
        (f"{HEADER}interval:\n", "has no value"),
        (f"{HEADER}---\n{HEADER}", "holds 2 documents"),
        ("a: [1, 2\n", "is not YAML"),
        ("[" * 40_000, "nested too deeply"),
        ("a: " + "x" * (1 << 20), "larger than 1 MiB"),
        ("\x00", "is not YAML"),
        ("", "holds 0 documents"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(text: str, message: str, tmp_path: Path) -> None:
    assert message in refused({"--config": written(tmp_path, text)})


def test_a_missing_file_is_refused() -> None:
    assert refused({"--config": "nowhere.yaml"}) == "/somewhere/nowhere.yaml: cannot be read: No such file or directory"


def test_unknown_variables_of_ours_are_told_but_not_those_that_kubernetes_sets() -> None:
    environ = {
        "CACHESERVER_LISTNE": "x",
        "CACHESERVER_SERVICE_HOST": "x",
        "CACHESERVER_PORT_8001_TCP": "x",
        "HOME": "/",
    }
    assert config.unknown_environment(environ) == ["CACHESERVER_LISTNE"]


def test_no_setting_can_be_mistaken_for_a_variable_that_kubernetes_sets() -> None:
    assert not [s.env for s in SETTINGS if s.env.startswith(("CACHESERVER_SERVICE_", "CACHESERVER_PORT"))]


# --- listening and etcd --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("address", ["127.0.0.1:8001", "[::1]:8001", "localhost:0", "127.9.9.9:1"])
def test_loopback_may_be_listened_on(address: str) -> None:
    config.check_listen(load({"--listen": address}))


@pytest.mark.parametrize("address", ["0.0.0.0:8001", "[::]:8001", "10.0.0.1:8001"])
def test_an_address_that_others_reach_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="needs TLS and authentication"):
        config.check_listen(load({"--listen": address}))


@pytest.mark.parametrize("address", ["8001", ":8001", "host.example:8001", "::1:8001", "127.0.0.1:99999", "127.0.0.1:"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"address|port"):
        parse_address(address)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"--etcd-cert-file": "x"}, "come together"),
        ({"--etcd-user": "x"}, "come together"),
        ({"--etcd-ca-file": "x"}, "embedded etcd is reached without TLS"),
        ({"--etcd": "http://a:1", "--etcd-ca-file": "x"}, "need https://"),
        ({"--etcd": "https://a:1", "--etcd-ca-file": "x"}, "there is no such file"),
        ({"--etcd": "https://a:1", "--etcd-user": "u", "--etcd-password-file": "x"}, "cannot be read"),
        ({"--etcd": "https://a:1,http://b:1"}, "mixes http and https"),
        ({"--etcd": "a:2379"}, "not an etcd endpoint"),
        ({"--etcd": "http://a:1/path"}, "not an etcd endpoint"),
    ],
)
def test_etcd_settings_that_contradict_each_other_are_refused(flags: config.Flags, message: str) -> None:
    assert message in refused(flags)


def test_a_password_is_never_shown(tmp_path: Path) -> None:
    file = written(tmp_path, "s3cret\n", "password")
    settings = load({"--etcd": "https://a:1", "--etcd-user": "root", "--etcd-password-file": file})
    assert settings.etcd.password() == "s3cret"
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in refused({"--etcd": "https://root:s3cret@etcd:2379"})
    assert "s3cret" not in refused({"--catalog": ["a=git+https://root:s3cret@host/repository.git"]})
    assert "s3cret" not in refused({"--catalog": ["a=https://root:s3cret@host/repository.git"]})
    assert "s3cret" not in refused({"--catalog": ["a=oci://root:s3cret@host/repository"]})


# --- sources -------------------------------------------------------------------------------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"
DIGEST = "sha256:" + "0" * 64


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("./x", DirectorySource(CWD / "x")),
        ("/x/y", DirectorySource(Path("/x/y"))),
        ("file:///x%20y", DirectorySource(Path("/x y"))),
        ("oci-layout:x", OCILayoutSource(CWD / "x")),
        ("oci://quay.io/a/b:v1", OCISource("quay.io/a/b:v1")),
        ("oci://localhost:5000/a", OCISource("localhost:5000/a")),
        (f"oci://quay.io/a/b@{DIGEST}", OCISource(f"quay.io/a/b@{DIGEST}")),
        ("git+https://h/r.git", GitSource("https://h/r.git")),
        ("git+https://h/r.git@main#a/b/", GitSource("https://h/r.git", GitRef(RefKind.NAME, "main"), "a/b")),
        ("git+https://h/r.git@feature/x", GitSource("https://h/r.git", GitRef(RefKind.NAME, "feature/x"))),
        ("git+https://h/r@pkg@1.0", GitSource("https://h/r", GitRef(RefKind.NAME, "pkg@1.0"))),
        ("git+ssh://git@h:22/r.git#d", GitSource("ssh://git@h:22/r.git", None, "d")),
        (f"git+file:///r.git@{COMMIT}", GitSource("file:///r.git", GitRef(RefKind.COMMIT, COMMIT))),
    ],
)
def test_a_source_is_read_as_its_grammar_says(text: str, source: config.SourceSpec) -> None:
    assert parse_source(text, CWD) == source


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "path is empty"),
        ("~nobody-of-that-name/x", "nobody's home"),
        ("docker://quay.io/a/b", "written oci://"),
        ("https://h/r.git", "write git\\+https"),
        ("git+http://h/r.git", "not supported"),
        ("s3://bucket", "s3:// is not supported"),
        ("file://host/x", "another machine"),
        ("oci://quay.io", "not an image"),
        ("oci://quay.io/UPPER", "not an image"),
        ("git+https://h", "names no repository"),
        ("git+https://h/r.git@", "nothing behind the @"),
        ("git+https://h/r.git@--upload-pack=x", "not a name that git accepts"),
        ("git+https://h/r.git@a..b", "not a name that git accepts"),
        ("git+ssh://-oProxyCommand=x/r.git", "hyphen"),
        ("git+ssh://-x@h/r.git", "hyphen"),
        ("git+https://h/r.git#../x", "not a directory inside"),
        ("git+https://h/r.git#.git", "not a directory inside"),
        ("git+file://h/r.git", "not a git URL"),
    ],
)
def test_a_source_that_is_none_is_refused_by_what_is_wrong(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_source(text, CWD)


# --- repositories --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.b", "A", "-a", "a-", "", "a" * 64, "a_b"])
def test_a_repository_name_is_a_label_without_dots(name: str) -> None:
    assert "not a repository name" in refused({"--catalog": [f"{name}=./x"]})


def test_a_catalog_without_a_name_is_told_how_to_give_one() -> None:
    assert "write NAME=SOURCE, as in example=./x" in refused({"--catalog": ["./x"]})
    assert "write NAME=SOURCE" in refused({"--catalog": ["./x=y"]})


def test_two_repositories_of_one_name_are_refused_with_both_places(tmp_path: Path) -> None:
    message = refused({"--catalog": ["from-directory=./x"], "--repositories": [str(tmp_path / "repositories")]})
    assert "--catalog from-directory=./x" in message
    assert "repositories" in message


def test_one_name_in_two_namespaces_is_two_repositories(tmp_path: Path) -> None:
    text = manifest(metadata="  namespace: a\n") + manifest(metadata="  namespace: b\n")
    settings = load({"--repositories": [written(tmp_path, text)]})
    assert [r.key for r in settings.repositories] == [RepositoryKey("a", "example"), RepositoryKey("b", "example")]


def test_a_manifest_says_everything_about_a_repository(tmp_path: Path) -> None:
    spec = (
        "source: {git: {url: 'https://h/r.git', ref: {tag: v1}, directory: d}}\n  format: KRM\n  deployment: true\n"
        "  interval: 1h30m\n  suspend: true\n  validation: Strict"
    )
    metadata = "  labels: {team: web}\n  annotations: {cacheserver.dev/allow-empty: 'true'}\n  uid: x\n"
    [repository] = load({"--repositories": [written(tmp_path, manifest(spec=spec, metadata=metadata))]}).repositories
    assert repository == RepositoryConfig(
        key=RepositoryKey("default", "example"),
        source=GitSource("https://h/r.git", GitRef(RefKind.TAG, "v1"), "d"),
        format=Format.KRM,
        deployment=True,
        interval_s=5400,
        suspend=True,
        validation=Validation.STRICT,
        allow_empty=True,
        annotations={"cacheserver.dev/allow-empty": "true"},
        labels={"team": "web"},
    )


@pytest.mark.parametrize("url", ["./edge.git", "../there/edge.git", "{}/edge.git"])
def test_a_git_repository_on_this_machine_is_named_by_its_path(url: str, tmp_path: Path) -> None:
    place = tmp_path / "there"
    place.mkdir()
    spec = f"source: {{git: {{url: '{url.format(place)}', ref: {{branch: main}}}}}}\n  format: KRM"
    [repository] = load({"--repositories": [written(place, manifest(spec=spec))]}).repositories
    assert repository.source == GitSource(f"file://{place}/edge.git", GitRef(RefKind.BRANCH, "main"))


def test_a_cluster_names_no_git_repository_by_a_path() -> None:
    manifest = {"metadata": {"name": "a", "namespace": "b"}, "spec": {"source": {"git": {"url": "/srv/edge.git"}}}}
    with pytest.raises(ConfigError, match="is read standalone only"):
        config.from_cluster(manifest, config.Defaults())


def test_a_manifest_takes_from_the_settings_what_it_does_not_say(tmp_path: Path) -> None:
    flags: config.Flags = {"--interval": "1m", "--validation": "strict", "--allow-empty": True, "--namespace": "web"}
    [repository] = load({**flags, "--repositories": [written(tmp_path, manifest())]}).repositories
    assert repository == RepositoryConfig(
        key=RepositoryKey("web", "example"),
        source=DirectorySource(tmp_path / "x"),
        interval_s=60,
        validation=Validation.STRICT,
        allow_empty=True,
    )


def test_the_annotation_wins_over_the_setting_of_its_name(tmp_path: Path) -> None:
    text = manifest(metadata="  annotations: {cacheserver.dev/allow-empty: 'false'}\n")
    [repository] = load({"--allow-empty": True, "--repositories": [written(tmp_path, text)]}).repositories
    assert not repository.allow_empty


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("apiVersion: v1\nkind: ConfigMap\n", ":1 (apiVersion): apiVersion: config.cacheserver.dev/v1alpha1 is needed"),
        (manifest(spec="source: {}"), "exactly one of: directory, git, oci, ociLayout"),
        (manifest(spec="source: {directory: {path: x}, oci: {image: h/x}}"), "exactly one of"),
        (manifest(spec="source: {http: {url: x}}"), "unknown key 'http'; known keys: directory, git, oci, ociLayout"),
        (manifest(spec="source: {oci: {}}"), "has no image"),
        (manifest(spec="source: {oci: {image: 'oci://h/x'}}"), "without a scheme"),
        (manifest(spec="source: {oci: {image: h/x}}\n  secretRef: {name: x}"), "secrets live in a cluster"),
        (manifest(spec="source: {git: {url: 'https://h/r', ref: {}}}"), "a ref is exactly one of"),
        (
            manifest(spec="source: {git: {url: 'https://h/r', ref: nope}}"),
            ":6 (spec.source.git.ref): 'nope' is given where keys are needed: branch, tag, commit, name",
        ),
        (manifest(spec="source: oci://h/x"), "'oci://h/x' is given where keys are needed: directory, git, oci, "),
        (manifest(spec="source: [a]"), "a list is given where keys are needed: directory, git, oci, ociLayout"),
        (manifest(spec="source: {git: {url: 'https://h/r', ref: {commit: abc}}}"), "is not a commit"),
        (manifest(spec="source: {directory: {path: x}}\n  interval: 1s"), ":7 (spec.interval): '1s' is out of range"),
        (manifest(spec="source: {directory: {path: x}}\n  format: Helm"), "'Helm' is none of: Auto, FBC, KRM"),
        (manifest(spec="source: {directory: {path: x}}\n  suspended: true"), "did you mean 'suspend'?"),
        (manifest(spec="format: FBC"), "has no source"),
        (manifest(name="a.b"), "not a repository name"),
        ("# nothing\n", "holds no Repository manifest"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused_with_its_line(text: str, message: str, tmp_path: Path) -> None:
    assert message in refused({"--repositories": [written(tmp_path, text)]})


@pytest.mark.parametrize(
    ("spec", "writable"),
    [
        ("format: KRM\n  deployment: true", True),
        ("format: KRM", False),
        ("format: KRM\n  access: ReadWrite", True),
        ("format: KRM\n  deployment: true\n  access: ReadOnly", False),
        ("deployment: true", False),
    ],
)
def test_a_repository_is_written_to_where_it_says_so_or_is_deployed_from(
    spec: str, writable: bool, tmp_path: Path
) -> None:
    source = "source: {git: {url: 'https://h/r', ref: {branch: main}}}"
    file = written(tmp_path, manifest(spec=f"{source}\n  {spec}\n  drafts: {{pushAfter: 2s}}"))
    [repository] = load({"--repositories": [file]}).repositories
    assert repository.writable is writable
    assert repository.push_after_s == 2
    served = orjson.loads(repository.spec_json())
    assert served["access"] == ("ReadWrite" if writable else "ReadOnly")
    assert served.get("drafts") == ({"pushAfter": "2s"} if writable else None)


@pytest.mark.parametrize(
    "spec",
    [
        "source: {git: {url: 'https://h/r', ref: {branch: main}}}",
        "source: {git: {url: 'https://h/r', ref: {branch: main}}}\n  format: FBC",
        "source: {git: {url: 'https://h/r', ref: {tag: v1}}}\n  format: KRM",
        "source: {git: {url: 'https://h/r'}}\n  format: KRM",
        "source: {directory: {path: x}}\n  format: KRM",
    ],
)
def test_what_cannot_be_written_to_is_not_made_writable(spec: str, tmp_path: Path) -> None:
    message = refused({"--repositories": [written(tmp_path, manifest(spec=f"{spec}\n  access: ReadWrite"))]})
    assert "(spec.access): ReadWrite is for KRM packages on a branch of a git repository" in message


def test_a_draft_is_not_kept_from_git_for_longer_than_half_a_minute(tmp_path: Path) -> None:
    spec = "source: {directory: {path: x}}\n  drafts: {pushAfter: 31s}"
    assert "(spec.drafts.pushAfter): '31s' is out of range: 0s to 30s" in refused(
        {"--repositories": [written(tmp_path, manifest(spec=spec))]}
    )


def test_who_may_approve_is_said_by_switches(tmp_path: Path) -> None:
    source = "source: {git: {url: 'https://h/r', ref: {branch: main}}}\n  format: KRM\n  access: ReadWrite"
    file = written(tmp_path, manifest(spec=f"{source}\n  approval: {{forbidSelf: true}}"))
    [repository] = load({"--repositories": [file]}).repositories
    assert (repository.approval.forbid_self, repository.approval.per_repository) == (True, False)
    assert orjson.loads(repository.spec_json())["approval"] == {"forbidSelf": True, "perRepository": False}


def test_what_revisions_are_called_is_said_by_a_word(tmp_path: Path) -> None:
    source = "source: {git: {url: 'https://h/r', ref: {branch: main}}}\n  format: KRM\n  access: ReadWrite"
    file = written(tmp_path, manifest(spec=f"{source}\n  versioning: SemVer"))
    [repository] = load({"--repositories": [file]}).repositories
    assert orjson.loads(repository.spec_json())["versioning"] == repository.versioning == "SemVer"


def test_what_has_to_be_rendered_is_said_by_a_word(tmp_path: Path) -> None:
    source = "source: {git: {url: 'https://h/r', ref: {branch: main}}}\n  format: KRM\n  access: ReadWrite"
    file = written(tmp_path, manifest(spec=f"{source}\n  render: Require"))
    [repository] = load({"--repositories": [file]}).repositories
    assert orjson.loads(repository.spec_json())["render"] == repository.render == "Require"
    wrong = written(tmp_path, manifest(spec=f"{source}\n  render: Sometimes"))
    assert "(spec.render): " in refused({"--repositories": [wrong]})


def test_a_registry_is_a_catalogs_own_and_publishes_it(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        manifest("c", spec="source: {directory: {path: x}}\n  publish: [Registry]")
        + "---\n"
        + manifest("d", spec="source: {directory: {path: x}}"),
    )

    def load(*registries: str, **more: str) -> config.Settings:
        flags: config.Flags = {"--catalog": ["a=./x", "b=./y"], "--repositories": [file], "--registry": [*registries]}
        return config.load({**flags, **more}, {}, cwd=tmp_path)

    found = load("a=127.0.0.1:50051", "default/c=[::1]:50052")
    assert [each.publish for each in found.repositories] == [{Door.REGISTRY}, frozenset(), {Door.REGISTRY}, frozenset()]
    assert {key.name: str(address) for key, address in found.registries().items()} == {
        "a": "127.0.0.1:50051",
        "c": "[::1]:50052",
    }
    for registries, words in (
        (["d=127.0.0.1:50051"], "default/d is no catalog of --catalog, and no manifest of that name says publish"),
        (["e=127.0.0.1:50051"], "default/e is no catalog"),
        (["a=127.0.0.1:50051", "b=0.0.0.0:50051"], "default/b wants port 50051, which default/a has"),
        (["a=127.0.0.1:1", "default/a=127.0.0.1:2"], "default/a is there twice"),
        (["a=127.0.0.1:8001"], "default/a wants port 8001, which --listen has"),
        (["a"], "write NAME=HOST:PORT"),
        (["A/b=127.0.0.1:1"], "write NAME=HOST:PORT"),
        (["a=example.com:1"], "is neither an IP address nor localhost"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            load(*registries)
    cluster = config.load({"--kubernetes": "in-cluster", "--registry": ["x/y=0.0.0.0:1"]}, {}, cwd=tmp_path)
    assert [(key.namespace, key.name) for key in cluster.registries()] == [("x", "y")]


def test_a_catalog_is_published_where_that_is_said_and_nowhere_else(tmp_path: Path) -> None:
    file = written(tmp_path, manifest("c", spec="source: {directory: {path: x}}\n  publish: [Rukpak, Catalog]"))
    by_flag = {"--catalog": ["a=./x", "b=./y"], "--repositories": [file], "--publish": ["b=Registry,catalog"]}
    a, b, c = load(by_flag).repositories
    assert a.publish == frozenset()
    assert b.publish == {Door.REGISTRY, Door.CATALOG}
    assert c.publish == {Door.RUKPAK, Door.CATALOG}
    assert "publish" not in orjson.loads(a.spec_json())
    assert orjson.loads(b.spec_json())["publish"] == ["Catalog", "Registry"]


def test_the_doors_of_several_catalogs_fit_one_variable() -> None:
    settings = load(CACHESERVER_CATALOGS="a=./x,b=./y", CACHESERVER_PUBLISH="a=Catalog,Registry, b=PackageManifest")
    a, b = settings.repositories
    assert a.publish == {Door.CATALOG, Door.REGISTRY}
    assert b.publish == {Door.PACKAGE_MANIFEST}


@pytest.mark.parametrize(
    ("publish", "why"),
    [
        ("b=Catalog", "--publish: --catalog names no 'b'; a manifest, or a Repository of a cluster, says so in spec."),
        ("a=Window", "--publish: 'Window' is none of: Catalog, Registry, PackageManifest, Rukpak"),
        ("a=", "--publish: 'a=' names no door: write NAME=DOOR,DOOR, as in example=Catalog"),
        ("=Catalog", "--publish: '=Catalog' names no door: write NAME=DOOR,DOOR, as in example=Catalog"),
        ("a=Catalog,,", "--publish: '' is none of: Catalog, Registry, PackageManifest, Rukpak"),
        ("Catalog", "--publish: 'Catalog' does not say which catalog: write NAME=Catalog"),
    ],
)
def test_doors_that_cannot_be_opened_are_refused(publish: str, why: str) -> None:
    assert refused({"--catalog": ["a=./x"], "--publish": [publish]}).startswith(why)


def test_packages_of_kubernetes_resources_are_not_published_to_clients_of_olm(tmp_path: Path) -> None:
    spec = "source: {directory: {path: x}}\n  format: KRM\n  publish: [Catalog]"
    message = refused({"--repositories": [written(tmp_path, manifest(spec=spec))]})
    assert "(spec.publish): only file-based catalogs are published to clients of OLM" in message


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        ({"--cluster-catalogs": "web"}, "it needs --kubernetes, and neither --catalog"),
        ({"--cluster-catalogs": "web", "--kubernetes": "in-cluster", "--catalog": ["a=./x"]}, "neither --catalog"),
        ({"--cluster-catalogs": "web", "--kubernetes": "in-cluster"}, "--cluster-catalogs needs --catalogs-url"),
        (
            {
                "--cluster-catalogs": "web",
                "--kubernetes": "in-cluster",
                "--catalogs-url": "https://a",
                "--watch-namespaces": "db",
            },
            "--cluster-catalogs web: --watch-namespaces has to name it too",
        ),
        ({"--catalogs-url": "doors.example"}, "--catalogs-url: 'doors.example' is not a URL of a server"),
        ({"--catalogs-url": "https://a?b=c"}, "is not a URL of a server"),
        ({"--catalogs-url": "https://" + "a" * 250}, "is not a URL of a server"),
        ({"--catalogs-url": "https://u:p@a"}, "holds a user or password"),
    ],
)
def test_clustercatalogs_are_followed_in_a_cluster_that_says_where_catalogs_are(flags: config.Flags, why: str) -> None:
    assert why in refused(flags)
    assert "u:p" not in refused(flags)


@pytest.mark.parametrize(
    ("approval", "why"),
    [
        ("{forbidself: true}", "forbidself"),
        ("{forbidSelf: sometimes}", "(spec.approval.forbidSelf): "),
        ("yes", "(spec.approval): "),
    ],
)
def test_a_rule_of_approval_that_is_none_is_refused(approval: str, why: str, tmp_path: Path) -> None:
    spec = f"source: {{directory: {{path: x}}}}\n  approval: {approval}"
    assert why in refused({"--repositories": [written(tmp_path, manifest(spec=spec))]})


def test_a_spec_is_served_with_every_default_written_out() -> None:
    [repository] = load({"--catalog": ["a=oci://quay.io/a/b:v1"]}).repositories
    assert orjson.loads(repository.spec_json()) == {
        "source": {"oci": {"image": "quay.io/a/b:v1", "insecure": False}},
        "format": "Auto",
        "deployment": False,
        "access": "ReadOnly",
        "interval": "10m",
        "suspend": False,
        "validation": "Isolate",
    }


# --- quantities ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"), [("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("500ms", 0.5), ("0s", 0)]
)
def test_a_duration_is_read_as_go_reads_it(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "10", "m", "10 m", "-1s", "1d", "1e3s", "1s "])
def test_a_duration_without_a_unit_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write a number and a unit"):
        parse_duration(text)


@pytest.mark.parametrize(("text", "count"), [("4096", 4096), ("500k", 500_000), ("64Mi", 64 << 20), ("4Gi", 4 << 30)])
def test_a_size_is_read_as_kubernetes_reads_it(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize("text", ["", "64MB", "1.5Gi", "-1", "64 Mi", "1e3"])
def test_a_size_in_another_notation_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="write bytes as a whole number"):
        parse_size(text)


@given(st.integers(min_value=0, max_value=10**10))
def test_what_is_shown_is_read_back(number: int) -> None:
    assert parse_duration(show_duration(number / 1000)) == pytest.approx(number / 1000)
    assert parse_size(show_size(number)) == number


def test_a_catalog_source_is_another_way_to_write_a_repository(tmp_path: Path) -> None:
    """The sample of rukpak-packageserver, as it is."""
    (tmp_path / "sample.yaml").write_text(_SAMPLE)
    [found] = from_path(tmp_path / "sample.yaml", Defaults())
    assert found.key == RepositoryKey("test", "catalogsource-sample")
    assert found.source == OCISource("docker.io/anik120/community-operator-index:v4.11")
    assert (found.interval_s, found.format, found.publish) == (2700.0, Format.FBC, frozenset((Door.RUKPAK,)))


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("core.rukpak.io", "operators.coreos.com", "core.rukpak.io/v1beta1 is needed"),
        ("45m", "1s", "out of range"),
        ("  image:", "  picture:", "unknown key"),
        ("pollingInterval: 45m", "priority: 1", "unknown key"),
        ("name: catalogsource-sample", "name: a.b", "no dots"),
    ],
)
def test_a_catalog_source_that_is_none_is_refused_with_its_line(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    (tmp_path / "sample.yaml").write_text(_SAMPLE.replace(before, after))
    with pytest.raises(ConfigError, match=r"sample.yaml:\d+") as refused:
        list(from_path(tmp_path / "sample.yaml", Defaults()))
    assert said in str(refused.value)
