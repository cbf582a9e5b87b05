"""The questions of `serve` and `watch` again as a cluster asks them: TLS, a user who has to be reviewed, two replicas.

The user shows a client certificate of a group that RBAC of a real kube-apiserver lets read packages, so every answer
went through authentication and a SubjectAccessReview, remembered for ten seconds. Both replicas follow one etcd; the
questions go to the first.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

from bench import processes, serve, watch
from bench.options import Options
from bench.peers import kube
from bench.processes import Identity, Server
from bench.report.table import Report, Sample
from cacheserver.security.certs import Subject, Usage

_GROUP = "readers"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": _GROUP},
    "rules": [{"apiGroups": ["cacheserver.dev"], "resources": ["*"], "verbs": ["get", "list", "watch"]}],
}
_BINDING = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": _GROUP},
    "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": _GROUP},
    "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": _GROUP}],
}


def measure(options: Options, report: Report, binary: kube.Binary) -> None:
    """Every read and watch question, `rounds` times. Raises: BenchError."""
    with kube.running(binary, options) as cluster, serve.filled(options, report) as etcd, ExitStack() as stack:
        kube.post(cluster, f"{_RBAC}/clusterroles", _ROLE)
        kube.post(cluster, f"{_RBAC}/clusterrolebindings", _BINDING)
        certificate, key = cluster.certificates.issue("client", Subject("reader", Usage.CLIENT, groups=(_GROUP,)))
        reader = Identity(certificate, key, cluster.certificates.authority("server"))
        flags = cluster.cacheserver_flags(options.work)
        first, second = (
            stack.enter_context(processes.server(etcd, options.work, flags, cluster.client)) for _ in range(2)
        )
        for _ in range(options.rounds):
            _round(dataclasses.replace(first, client=reader), second, options, report, etcd)


def _round(first: Server, second: Server, options: Options, report: Report, etcd: processes.Etcd) -> None:
    target = first.target
    for question in serve.questions(options, target):
        report.add(question.name, dataclasses.replace(serve.ask(question, target, options), aim=""))
    write = watch.into_etcd(options, etcd)
    burst = watch.run(watch.Load(options.watchers, options.burst), options, write, target)
    report.add(f"fan-out to {options.watchers} watchers, a burst of {options.burst} writes", watch.throughput(burst))
    count, rate = options.latency_watchers, options.write_rate
    paced = watch.run(watch.Load(count, round(rate * 3), rate), options, write, target)
    watch.delays(report, f"{count} watchers, {rate:.0f} writes/s", paced)
    for name, server in (("asked", first), ("other", second)):
        memory = server.child.settled_memory()
        report.add(f"RSS of the {name} replica", Sample(memory.rss / 1e6, "MB", {"peak_MB": memory.peak / 1e6}))
