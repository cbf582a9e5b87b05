"""A cluster of one node for tests: kubelet, containerd, runc and kube-proxy beside kube-apiserver and its controllers.

Programs are found where CACHESERVER_TEST_NODE, KUBEBUILDER_ASSETS or PATH say, images are the archives in
CACHESERVER_TEST_NODE_IMAGES. It needs a network namespace of its own, which `make node` makes: its addresses and its
packet filter are then nobody else's. The machine itself, what a power cut would end, is one child in namespaces of
processes and of mounts. What is left to remove are control groups below one name; stop() does. Network policies are
enforced by the program that CACHESERVER_TEST_NODE_POLICIES names, or by nobody.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import socket
import subprocess
import tarfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cacheserver.etcd.supervise import command
from tests.support.cluster_names import DOMAIN, SERVICE, ClusterNames, pods_way
from tests.support.kube import ControllerManager, FoundKube, KubeAPIServer, Kubectl, find_kube
from tests.support.waiting import until

ADDRESS: Final = "172.31.0.10"
NAME: Final = "node"
POLICIES: Final = "CACHESERVER_TEST_NODE_POLICIES"
"""Names a program that enforces NetworkPolicies in the network where it runs, with KUBECONFIG and NODE_NAME set."""
_PODS: Final = "10.244.0.0/24"
_PROGRAMS: Final = (
    *("kubelet", "kube-proxy", "kube-scheduler", "kube-controller-manager"),
    *("containerd", "containerd-shim-runc-v2", "ctr", "runc"),
    *("iptables", "ip", "unshare", "mount"),
)
_PLUGINS: Final = ("ptp", "host-local", "loopback")
"""Of the network (CNI). ptp, not bridge: what pods send passes the node's packet filter, whatever bridges do."""
_IMAGES: Final = ("cacheserver", "etcd", "pause")
_PLUGIN_DIRECTORIES: Final = ("/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni")
_WRITTEN: Final = ("/run", "/var/lib/kubelet", "/var/lib/cni", "/var/log/pods", "/var/log/containers")
"""Where the machine's programs write without being asked; all but the first outlive a power cut."""
_MACHINE: Final = """\
set -e
mount --make-rshared /
for each in $WRITTEN; do mkdir -p "$each" "$HOME$each"; mount --bind "$HOME$each" "$each"; done
mount -t tmpfs run /run
containerd --config "$HOME/containerd.toml" >>"$HOME/containerd.log" 2>&1 &
again() {  # as systemd does: a kubelet that finds containerd's socket before containerd is ready ends
    log="$HOME/${1##*/}.log"
    while :; do "$@" >>"$log" 2>&1 || true; sleep 1; done
}
again kubelet --config="$HOME/kubelet.json" --kubeconfig="$KUBECONFIG" --hostname-override="$NODE_NAME" \\
    --node-ip="$ADDRESS" --v=2 &
again kube-proxy --config="$HOME/kube-proxy.json" --hostname-override="$NODE_NAME" &
[ -z "$POLICIES" ] || again "$POLICIES" &
wait
"""
_NAMESPACES: Final = ("--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
_CGROUPS: Final = Path("/sys/fs/cgroup")
_CONTAINERD: Final = """\
version = 2
root = "{home}/containerd"
state = "/run/containerd"
[grpc]
address = "{home}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{plugins}"
conf_dir = "{home}/cni"
"""
_READY_WITHIN_S: Final = 180.0
"""Of a node that starts on a machine that has something else to do."""


@dataclass(frozen=True, slots=True)
class FoundNode:
    """path: as $PATH has it. images: by the last part of their names, what pods name them by, and their archives.

    policies: a program that enforces NetworkPolicies, if there is one.
    """

    kube: FoundKube
    path: str
    plugins: Path
    images: Mapping[str, tuple[str, Path]]
    policies: str | None


def find_node() -> FoundNode | list[str]:
    """All parts; or what is missing, in words."""
    kube = find_kube()
    places = [os.environ.get(name) for name in ("CACHESERVER_TEST_NODE", "KUBEBUILDER_ASSETS", "PATH")]
    path = os.pathsep.join([*filter(None, places), "/usr/local/sbin", "/usr/sbin", "/sbin"])
    directories = [Path(each) for each in (places[0], *_PLUGIN_DIRECTORIES) if each]
    plugins = next((each for each in directories if all((each / plugin).exists() for plugin in _PLUGINS)), None)
    archives = sorted(Path(os.environ.get("CACHESERVER_TEST_NODE_IMAGES") or "/nowhere").glob("*.tar"))
    images = {name.rpartition(":")[0].rpartition("/")[2]: (name, path) for path in archives for name in [_named(path)]}
    missing = [name for name in _PROGRAMS if shutil.which(name, path=path) is None]
    missing += ["kube-apiserver, etcd and kubectl (KUBEBUILDER_ASSETS)"] * (kube is None)
    missing += [f"network plugins {', '.join(_PLUGINS)} (CACHESERVER_TEST_NODE)"] * (plugins is None)
    missing += [f"image {name} (CACHESERVER_TEST_NODE_IMAGES)" for name in _IMAGES if name not in images]
    alone = os.geteuid() == 0 and [name for _, name in socket.if_nameindex()] == ["lo"]
    missing += ["root in a network namespace of its own (make node)"] * (not alone)
    if missing or kube is None or plugins is None:
        return missing
    return FoundNode(kube, path, plugins, images, os.environ.get(POLICIES) or None)


class Node:
    """start() returns when it takes pods. cut() and boot(): the machine's power."""

    def __init__(self, found: FoundNode, directory: Path) -> None:
        self._found = found
        self._group = f"cacheserver-test-{os.getpid()}"
        self._running = ExitStack()
        self._machine: subprocess.Popen[bytes] | None = None
        self.directory = directory
        self.kube = KubeAPIServer(found.kube, directory / "kube", address=ADDRESS)
        self.images = {short: name for short, (name, _) in found.images.items()}

    def start(self) -> None:
        for line in (
            "link set lo up",
            "link add node0 type bridge",  # an interface that is always there, for want of a real one
            f"address add {ADDRESS}/24 dev node0",
            "link set node0 up",
            # Else the kernel knows no way to Services, and does not come to the packet filter that knows one.
            "route add 10.96.0.0/24 dev node0",
        ):
            self._do("ip", *line.split())
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        self._running.callback(self.kube.stop)
        self.kube.start()
        self.admin = Kubectl(self.kube, self.kube.kubeconfig())
        self._running.enter_context(ClusterNames(self.kube, ADDRESS))
        controllers = ControllerManager(Path(self._which("kube-controller-manager")), self.kube, controllers="*")
        self._running.callback(controllers.stop)
        controllers.start()
        scheduler = self._spawn("kube-scheduler", f"--kubeconfig={self.admin_file}", "--leader-elect=false")
        self._running.callback(self._end, scheduler)
        self._configure()
        self._running.callback(self._forget)
        self.boot()
        self.admin.apply(*pods_way(self.images["cacheserver"], ADDRESS))

    @property
    def enforces(self) -> bool:
        """NetworkPolicies."""
        return self._found.policies is not None

    @property
    def admin_file(self) -> Path:
        return self.kube.directory / "admin.kubeconfig"

    def boot(self) -> None:
        """Returns when it is Ready, and what is needed to begin a pod is there."""
        socket_file = self.directory / "containerd.sock"
        socket_file.unlink(missing_ok=True)
        with (self.directory / "machine.log").open("ab") as log:
            self._machine = subprocess.Popen(
                command(self._which("unshare"), [*_NAMESPACES, "sh", "-c", _MACHINE]),
                env=self._environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until(socket_file.exists, within_s=60, otherwise=lambda: self.log("machine") + self.log("containerd")[-2000:])
        held = self._ctr("images", "list", "-q").split()
        for name, archive in self._found.images.values():
            if name not in held:
                self._ctr("images", "import", str(archive))
        until(self._ready, within_s=_READY_WITHIN_S, otherwise=lambda: self.log("kubelet")[-4000:])

    def cut(self) -> None:
        """As when its power fails: every process of it is gone, none was told, and so is what it had mounted."""
        assert self._machine is not None
        self._end(self._machine)

    def proc(self, container: str) -> Path:
        """/proc of the first process of a container that runs."""
        [group] = self._groups(container, _controllers()[0])
        return Path("/proc") / (group / "cgroup.procs").read_text().split()[0]

    def memory_limit(self, container: str) -> int:
        """Bytes that the kernel lets it have."""
        for file in ("memory.max", "memory.limit_in_bytes"):
            for controller in _controllers():
                for group in self._groups(container, controller):
                    if (group / file).exists():
                        return int((group / file).read_text())
        raise AssertionError(f"no limit of {container}")

    def _groups(self, container: str, controller: Path) -> list[Path]:
        return [path for path in (controller / self._group).rglob(container) if path.is_dir()]

    def stop(self) -> None:
        """For fixtures: gone afterwards, whatever state it was in."""
        self._running.close()

    def log(self, name: str) -> str:
        path = self.directory / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _ready(self) -> bool:
        assert self._machine is not None
        assert self._machine.poll() is None, self.log("machine")[-4000:]
        path = "jsonpath={.status.conditions[?(@.type=='Ready')]['status','lastHeartbeatTime']}"
        return self.admin.tried("get", "node", NAME, "-o", path)[1].startswith("True")

    def _configure(self) -> None:
        home = self.directory
        (home / "cni").mkdir()
        ipam = {"type": "host-local", "ranges": [[{"subnet": _PODS}]], "routes": [{"dst": "0.0.0.0/0"}]}
        network = {"cniVersion": "0.4.0", "name": "pods", "plugins": [{"type": "ptp", "ipam": ipam}]}
        (home / "cni" / "pods.conflist").write_text(json.dumps(network))
        (home / "containerd.toml").write_text(
            _CONTAINERD.format(home=home, plugins=self._found.plugins, pause=self.images["pause"])
        )
        certificates = self.kube.certificates
        kubelet = {
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "authentication": {
                "x509": {"clientCAFile": str(certificates.authority("client"))},
                "webhook": {"enabled": False},
            },
            "authorization": {"mode": "AlwaysAllow"},
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": f"/{self._group}",
            "failCgroupV1": False,
            "failSwapOn": False,
            "oomScoreAdj": 0,  # to lower it takes a right that a container may not have
            "clusterDomain": DOMAIN,
            "clusterDNS": [SERVICE],
            "resolvConf": "",
            "containerRuntimeEndpoint": f"unix://{home}/containerd.sock",
            # A full disk of the machine that tests is none of the node's.
            "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
            "imageGCHighThresholdPercent": 100,
            "nodeStatusUpdateFrequency": "2s",
            "syncFrequency": "10s",  # how often a pod's Secrets are looked at; a minute where nobody waits
        }
        (home / "kubelet.json").write_text(json.dumps(kubelet))
        proxy = {
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "clientConnection": {"kubeconfig": str(self.admin_file)},
            "mode": "iptables",
            "clusterCIDR": _PODS,
            # Written by the machine's owner alone.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        }
        (home / "kube-proxy.json").write_text(json.dumps(proxy))
        for controller in _controllers():
            (controller / self._group).mkdir(exist_ok=True)
        cpuset = _CGROUPS / "cpuset"
        for name in ("cpuset.cpus", "cpuset.mems"):
            if (cpuset / name).exists():
                (cpuset / self._group / name).write_text((cpuset / name).read_text())

    def _environ(self) -> Mapping[str, str]:
        return {
            "PATH": self._found.path,
            "HOME": str(self.directory),
            "WRITTEN": " ".join(_WRITTEN),
            "KUBECONFIG": str(self.admin_file),
            "NODE_NAME": NAME,
            "POLICIES": self._found.policies or "",
            "ADDRESS": ADDRESS,
        }

    def _forget(self) -> None:
        if self._machine is not None:
            self._end(self._machine)
        for controller in _controllers():
            for path, _, _ in os.walk(controller / self._group, topdown=False):
                until(functools.partial(_removed, Path(path)), within_s=20)

    def _which(self, program: str) -> str:
        found = shutil.which(program, path=self._found.path)
        assert found is not None
        return found

    def _spawn(self, program: str, *flags: str) -> subprocess.Popen[bytes]:
        with (self.directory / f"{program}.log").open("ab") as log:
            return subprocess.Popen(
                command(self._which(program), flags),
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _end(self, child: subprocess.Popen[bytes]) -> None:
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            child.wait()

    def _ctr(self, *arguments: str) -> str:
        return self._do(
            "ctr", "--address", str(self.directory / "containerd.sock"), "--namespace", "k8s.io", *arguments
        )

    def _do(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            [self._which(program), *arguments], capture_output=True, text=True, timeout=900, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _named(archive: Path) -> str:
    """Of the one image in what `docker save` wrote, in full."""
    with tarfile.open(archive) as opened:
        manifest = opened.extractfile("manifest.json")
        assert manifest is not None, archive
        [image] = json.load(manifest)
    name: str = image["RepoTags"][0]
    host, slash, _ = name.partition("/")
    if not slash:
        return f"docker.io/library/{name}"
    return name if "." in host or ":" in host or host == "localhost" else f"docker.io/{name}"


def _controllers() -> list[Path]:
    """Of control groups, as they are mounted: one directory for all (version 2), or each its own."""
    if (_CGROUPS / "cgroup.controllers").exists():
        return [_CGROUPS]
    return [each for each in _CGROUPS.iterdir() if each.is_dir() and (each / "cgroup.procs").exists()]


def _removed(group: Path) -> bool:
    """Whether it is gone; one whose last process is just ending is not, for a moment."""
    try:
        group.rmdir()
    except OSError:
        return False
    return True
