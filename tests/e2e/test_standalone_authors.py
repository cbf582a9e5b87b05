"""A plain machine on which several people make packages: who may what is said by the groups of a file of tokens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.conftest import StartServer
from tests.support.gitserver import GitRepository
from tests.support.server import API
from tests.support.waiting import eventually

pytestmark = pytest.mark.e2e

TOKENS = {name: name[0] * 32 for name in ("ada", "bert", "cleo", "rita")}
FILE = (
    f'{TOKENS["ada"]},ada,1,makers\n{TOKENS["bert"]},bert,2,"makers,deciders"\n'
    f"{TOKENS['cleo']},cleo,3,deciders\n{TOKENS['rita']},rita,4,visitors\n"
)
REPOSITORY = """\
apiVersion: config.cacheserver.dev/v1alpha1
kind: Repository
metadata: {{name: edge}}
spec:
  source: {{git: {{url: "{url}", ref: {{branch: main}}}}}}
  format: KRM
  access: ReadWrite
  approval: {{forbidSelf: true, perRepository: true}}
"""
REVISIONS = f"{API}/namespaces/default/packagerevisions"
ITEM = f"{REVISIONS}/edge.app.w1"
CREATE = {
    "apiVersion": "cacheserver.dev/v1alpha1",
    "kind": "PackageRevision",
    "metadata": {},
    "spec": {"repository": "edge", "packageName": "app", "workspaceName": "w1"},
}


class Desk:
    """Asks as one of the users."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def ask(self, user: str, method: str, path: str, body: object = None) -> tuple[int, Any]:
        media = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {TOKENS[user]}", "Content-Type": media}
        async with self._session.request(method, path, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def move(self, user: str, lifecycle: str, *, subresource: bool = False) -> tuple[int, Any]:
        path = f"{ITEM}/approval" if subresource else ITEM
        return await self.ask(user, "PATCH", path, {"spec": {"lifecycle": lifecycle}})

    async def is_now(self, lifecycle: str) -> None:
        async def does() -> bool:
            _, found = await self.ask("rita", "GET", ITEM)
            return bool(found["spec"]["lifecycle"] == lifecycle and "operation" not in found["status"])

        await eventually(does, within_s=60)


@pytest.fixture
def git(tmp_path: Path) -> GitRepository:
    return GitRepository(tmp_path / "edge.git")


@pytest.fixture
async def desk(start_server: StartServer, tmp_path: Path, git: GitRepository) -> AsyncIterator[Desk]:
    tokens = tmp_path / "tokens.csv"
    tokens.touch(0o600)
    tokens.write_text(FILE)
    (tmp_path / "repository.yaml").write_text(REPOSITORY.format(url=git.url))
    groups = ("--readers", "visitors", "--authors", "makers", "--approvers", "deciders")
    repositories = ("--repositories", str(tmp_path / "repository.yaml"))
    server = start_server("--token-auth-file", str(tokens), *groups, *repositories, wait=False)
    server.spawn()
    async with aiohttp.ClientSession(server.url) as session:

        async def is_up() -> bool:
            try:
                async with session.get("/readyz") as answer:
                    return answer.status == 200
            except aiohttp.ClientError:
                return False

        await eventually(is_up, within_s=60)
        yield Desk(session)


def is_refused(flag: str) -> Callable[[tuple[int, Any]], bool]:
    return lambda answer: answer[0] == 403 and f"({flag})" in answer[1]["message"]


async def test_authors_write_approvers_decide_and_nobody_decides_on_his_own(desk: Desk, git: GitRepository) -> None:
    """Each is refused by the setting that would let him; and what was approved is in git, by who approved it."""
    by_authors, by_approvers = is_refused("--authors"), is_refused("--approvers")
    assert by_authors(await desk.ask("rita", "POST", REVISIONS, CREATE))
    assert by_authors(await desk.ask("cleo", "POST", REVISIONS, CREATE))
    assert (await desk.ask("ada", "POST", REVISIONS, CREATE))[0] == 201
    assert by_authors(await desk.move("rita", "Proposed"))
    assert by_authors(await desk.ask("cleo", "DELETE", ITEM))
    assert (await desk.move("bert", "Proposed"))[0] in (200, 504)
    await desk.is_now("Proposed")
    assert by_approvers(await desk.move("ada", "Published"))
    assert by_approvers(await desk.move("ada", "Published", subresource=True))
    code, refused = await desk.move("bert", "Published")
    assert (code, "forbidSelf" in refused["message"]) == (403, True)
    assert by_authors(await desk.move("rita", "Published"))
    assert (await desk.move("cleo", "Published"))[0] in (200, 504)
    await desk.is_now("Published")
    assert git.git("log", "-1", "--format=%an %P", "app/v1").startswith("cleo ")
    assert "Proposed-by: bert" in git.git("log", "-1", "--format=%B", "app/v1")
