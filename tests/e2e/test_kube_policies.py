"""Gates, and who may approve, in a real cluster: RBAC says who writes conditions, and who decides where."""

from __future__ import annotations

import json

import pytest

from tests.e2e.test_kube_authoring import NAME, World, cluster, kube, lifecycle, namespace, revision, server, world
from tests.support.kube import Kubectl
from tests.support.waiting import until

__all__ = ["cluster", "kube", "namespace", "server", "world"]  # fixtures

pytestmark = pytest.mark.e2e

GATE = "example.com/validated"
APPROVE = ("patch", "cpkgrev", NAME, "--type=merge", "-p", lifecycle("Published"))


def say(status: str) -> tuple[str, ...]:
    """A patch of the gate's condition."""
    change = {"status": {"conditions": [{"type": GATE, "status": status}]}}
    return ("patch", "cpkgrev", NAME, "--subresource=status", "--type=merge", "-p", json.dumps(change))


def proposed(world: World, author: Kubectl) -> None:
    world.create(author, revision(readinessGates=[{"conditionType": GATE}]))
    world.move(author, NAME, "Proposed")


def test_conditions_are_for_who_may_write_them_and_open_gates(world: World) -> None:
    author, approver, validator = (world.user(name) for name in ("author", "approver", "limited"))
    world.admin("create", "rolebinding", "validator", "--clusterrole=cacheserver:validator", "--user=limited")
    proposed(world, author)
    for user in (author, approver):
        assert 'cannot patch resource "packagerevisions/status"' in user.refused(*say("True"))
    assert f"{GATE} (nobody has written it)" in approver.refused(*APPROVE)
    until(lambda: validator.tried(*say("True"))[0], within_s=30, otherwise=lambda: validator.tried(*say("True"))[1])
    assert "cannot patch" in validator.refused(*APPROVE)
    world.move(approver, NAME, "Published")


def test_a_repository_names_who_approves_in_it_and_lets_nobody_approve_his_own(world: World) -> None:
    """Acceptance of both rules by the host cluster's own reviews."""
    author, approver = world.user("author"), world.user("approver")
    asks = {"spec": {"approval": {"forbidSelf": True, "perRepository": True}}}
    world.admin("patch", "crepo", "edge", "--type=merge", "-p", json.dumps(asks))
    world.admin("create", "rolebinding", "both", "--clusterrole=cacheserver:approver", "--user=author")
    world.create(author, revision())
    world.move(author, NAME, "Proposed")
    dry = (*APPROVE, "--dry-run=server")
    until(lambda: "(spec.approval.perRepository)" in approver.tried(*dry)[1], within_s=30)
    assert 'approve "repositories" in API group "config.cacheserver.dev" by the name "edge"' in approver.refused(
        *APPROVE
    )
    right = ("--verb=approve", "--resource=repositories.config.cacheserver.dev", "--resource-name=edge")
    world.admin("create", "role", "approve-edge", *right)
    users = ("--user=approver", "--user=author")
    world.admin("create", "rolebinding", "approve-edge", "--role=approve-edge", *users)
    until(lambda: "(spec.approval.forbidSelf)" in author.tried(*dry)[1], within_s=30)
    assert "User 'author' proposed it" in author.refused(*APPROVE)
    until(lambda: approver.tried(*dry)[0], within_s=30, otherwise=lambda: approver.tried(*dry)[1])
    world.move(approver, NAME, "Published")
