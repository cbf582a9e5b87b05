"""What has to hold of a git repository that packages are published to, read with plain git alone; and of what is served
beside it, as plain HTTP gives it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.support.gitserver import GitRepository
from tests.support.history import History


def refs(repository: GitRepository) -> dict[str, str]:
    """Every ref and its commit."""
    listed = repository.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split(" ", 1) for line in listed)


def files_at(repository: GitRepository, commit: str, directory: str) -> dict[str, tuple[str, str]]:
    """Path below the directory -> (mode, name of the blob)."""
    listed = repository.git("ls-tree", "-r", "-z", "--full-tree", commit, f"{directory}/").split("\0")
    rows = [line.split("\t", 1) for line in listed if line]
    return {path.removeprefix(f"{directory}/"): (left.split()[0], left.split()[2]) for left, path in rows}


def check(
    repository: GitRepository,
    published: Iterable[tuple[str, str, str]],
    contents: Mapping[tuple[str, str], Mapping[str, bytes]] | None = None,
    *,
    main: str = "main",
) -> None:
    """Fails where git and what is served differ.

    published: (directory, revision, workspace) of every revision that is said to be published. contents: files that
    some of them have, by directory and revision, byte for byte.
    """
    found = refs(repository)
    head = found.get(f"refs/heads/{main}", "")
    said = list(published)
    for directory, revision, workspace in said:
        tag = f"refs/tags/{directory}/{revision}"
        assert tag in found, f"{directory} {revision} is Published and has no tag"
        for kind in ("drafts", "proposed"):
            assert f"refs/heads/{kind}/{directory}/{workspace}" not in found, (
                f"{directory} {revision} has a branch left"
            )
        ancestors = repository.git("merge-base", found[tag], head)
        assert ancestors == found[tag], f"{tag} is no ancestor of {main}"
        if contents is not None and (directory, revision) in contents:
            _check_files(repository, found[tag], directory, contents[directory, revision])
    ours = {tag for tag, commit in found.items() if tag.startswith("refs/tags/") and _ours(repository, commit)}
    for tag in ours:
        assert repository.git("merge-base", found[tag], head) == found[tag], f"{tag} is no ancestor of {main}"
    if head:
        first_parents = repository.git("rev-list", "--first-parent", head).splitlines()
        assert all(found[tag] in first_parents for tag in ours), "a tag of ours is not in main's own line"


def check_served(
    repository: GitRepository, served: Mapping[str, dict[str, Any]], files: Mapping[str, Mapping[str, bytes]]
) -> None:
    """Of all package revisions of a repository, by name, that were written here; files: of each, by name.

    Fails where git and these differ, either way round.
    """
    published: list[tuple[str, str, str]] = []
    contents: dict[tuple[str, str], Mapping[str, bytes]] = {}
    branches: dict[str, str] = {}
    for name, item in served.items():
        spec, package = item["spec"], item["spec"]["packageName"]
        match spec["lifecycle"]:
            case "Draft" | "Proposed":
                kind = "drafts" if spec["lifecycle"] == "Draft" else "proposed"
                branches[f"refs/heads/{kind}/{package}/{spec['workspaceName']}"] = name
            case lifecycle:
                published.append((package, spec["revision"], spec["workspaceName"]))
                contents[package, spec["revision"]] = files[name]
                if lifecycle == "DeletionProposed":
                    branches[f"refs/heads/deletionProposed/{package}/{spec['revision']}"] = name
    assert len(contents) == len(published), "two names for one published revision"
    check(repository, published, contents)
    found = refs(repository)
    tags = {f"refs/tags/{package}/{revision}" for package, revision, _ in published}
    assert {ref for ref in found if ref.startswith("refs/tags/")} == tags, "tags of what is not served"
    kept = {ref for ref in found if ref.startswith("refs/heads/") and ref != "refs/heads/main"}
    assert kept == branches.keys(), "branches, and revisions that should have one, differ"
    for ref, name in branches.items():
        if not ref.startswith("refs/heads/deletionProposed/"):
            _check_files(repository, found[ref], served[name]["spec"]["packageName"], files[name])


def check_numbers(history: History, *, main: str = "main") -> None:
    """No number of a package was ever of two revisions, and one that was published kept its number and its content."""
    owners: dict[tuple[str, str, str], str] = {}
    content: dict[str, str] = {}
    for step in history.steps:
        item = step.new
        if item is None or item["kind"] != "PackageRevision" or item["spec"]["lifecycle"] in ("Draft", "Proposed"):
            continue
        spec, uid = item["spec"], item["metadata"]["uid"]
        if spec["revision"] == main:
            continue  # what the branch itself holds
        owner = owners.setdefault((spec["repository"], spec["packageName"], spec["revision"]), uid)
        assert owner == uid, f"{spec['packageName']} {spec['revision']} was given to two revisions"
        digest = content.setdefault(uid, item["status"]["content"]["digest"])
        assert digest == item["status"]["content"]["digest"], "what was published has other content now"


def _check_files(repository: GitRepository, commit: str, directory: str, wanted: Mapping[str, bytes]) -> None:
    listed = files_at(repository, commit, directory)
    assert listed.keys() == wanted.keys(), f"{directory} has other files"
    for path, raw in wanted.items():
        oid = repository.git("hash-object", "--stdin", stdin=raw)
        assert listed[path][1] == oid, f"{directory}: {path} has other bytes"


def _ours(repository: GitRepository, commit: str) -> bool:
    return "Cacheserver-Operation:" in repository.git("log", "-1", "--format=%B", commit)
