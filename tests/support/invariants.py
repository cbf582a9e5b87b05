"""What has to hold of a git repository that packages are published to, read with plain git alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from tests.support.gitserver import GitRepository


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
            wanted = contents[directory, revision]
            listed = files_at(repository, found[tag], directory)
            assert listed.keys() == wanted.keys()
            for path, raw in wanted.items():
                oid = repository.git("hash-object", "--stdin", stdin=raw)
                assert listed[path][1] == oid, f"{directory} {revision}: {path} has other bytes"
    ours = {tag for tag, commit in found.items() if tag.startswith("refs/tags/") and _ours(repository, commit)}
    for tag in ours:
        assert repository.git("merge-base", found[tag], head) == found[tag], f"{tag} is no ancestor of {main}"
    if head:
        first_parents = repository.git("rev-list", "--first-parent", head).splitlines()
        assert all(found[tag] in first_parents for tag in ours), "a tag of ours is not in main's own line"


def _ours(repository: GitRepository, commit: str) -> bool:
    return "Cacheserver-Operation:" in repository.git("log", "-1", "--format=%B", commit)
