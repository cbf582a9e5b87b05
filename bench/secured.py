"""The questions of `serve` and `watch` again as a cluster asks them: TLS, a user who has to be reviewed, two replicas.

The user shows a client certificate of a group that RBAC of a real kube-apiserver lets read packages, so every answer
went through authentication and a SubjectAccessReview, remembered for ten seconds. Both replicas follow one etcd; the
questions go to the first.
"""

from __future__ import annotations

import dataclasses
from contextlib import ExitStack

from bench import processes, serve, watch
from bench.errors import BenchError
from bench.options import Options
from bench.peers import kube
from bench.processes import Identity, Server
from bench.report.table import Report, Sample
from bench.target import Target
from cacheserver.security.certs import Subject, Usage

_GROUP = "readers"
_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_ROLE = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRole",
    "metadata": {"name": _GROUP},
    "rules": [{"apiGroups": ["cacheserver.dev"], "resources": ["*"], "verbs": ["get", "list", "watch"]}],
}
_PACED = 160.0
"""Writes a second: near the most that kube-apiserver delivers whole to 500 watchers."""
_BURST_AIM, _PACED_AIM = "2 or more", "1.33 or more"
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
    _compressed(options, report, target, write)
    count, rate = options.latency_watchers, options.write_rate
    paced = watch.run(watch.Load(count, round(rate * 3), rate), options, write, target)
    watch.delays(report, f"{count} watchers, {rate:.0f} writes/s", paced)
    for name, server in (("asked", first), ("other", second)):
        memory = server.child.settled_memory()
        report.add(f"RSS of the {name} replica", Sample(memory.rss / 1e6, "MB", {"peak_MB": memory.peak / 1e6}))


def _compressed(options: Options, report: Report, target: Target, write: watch.Write) -> None:
    """What it costs to encrypt events as they are, beside the same events compressed once: in bursts, and paced."""
    for count in (options.watchers, options.latency_watchers):
        bursts = watch.Load(count, options.burst // 3)
        paced = watch.Load(count, round(options.watch_seconds * _PACED), _PACED)
        for load, said in ((bursts, f"a burst of {bursts.writes} writes"), (paced, f"{_PACED:.0f} writes/s")):
            name = f"{count} watchers, {said}"
            used = {}
            for gzip in (False, True):
                what = f"CPU an event {'with' if gzip else 'without'} gzip, {name}"
                try:
                    outcome = watch.run(dataclasses.replace(load, gzip=gzip), options, write, target)
                except BenchError as exc:  # plain events of all of them may be more than the machine encrypts
                    report.note(f"{what}: {exc}")
                    continue
                sample = watch.throughput(outcome)
                used[gzip] = sample.parts["server_us_an_event"]
                report.add(what, Sample(used[gzip], "us", {**sample.parts, "events/s": sample.value}))
            if len(used) == 2:
                aim = _BURST_AIM if load is bursts else _PACED_AIM
                report.add(f"CPU without gzip to with it, {name}", Sample(used[False] / used[True], "times", {}, aim))
