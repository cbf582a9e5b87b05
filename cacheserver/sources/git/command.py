"""Runs the git program with nothing of the machine's or the remote's configuration, and says what went wrong.

Argument lists only. Memory, CPU time and the size of files are limited for git and all that it starts (Limits). No
hooks, no prompts, no submodules, only the transport of the one URL; credentials travel in the
environment of the process and in private files, never in arguments. Every run has a time limit, and its whole process
group dies with it.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import field
from pathlib import Path
from subprocess import PIPE
from typing import Final
from urllib.parse import unquote, urlsplit

from cacheserver import children
from cacheserver.errors import SourceError, SourceInvalidError, SourceTooLargeError
from cacheserver.priority import NICE
from cacheserver.slotted import slotted
from cacheserver.sources.credentials import GitCredentials
from cacheserver.sources.git.complaints import error_for, exceeded
from cacheserver.sources.threads import first_error
from cacheserver.sources.tree import Limits

_STDERR_BYTES: Final = 64 << 10
_READ_BYTES: Final = 1 << 18
_TERM_S: Final = 3.0  # After SIGTERM git removes its locks and half-written packs; then SIGKILL.

# What git and ssh need of our environment: to be found, and to get out. Nothing that names git's files or programs.
_INHERITED: Final = (
    "PATH", "TMPDIR", "SSL_CERT_FILE",
    "http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY",
)  # fmt: skip

_CONFIG: Final = {
    "core.hooksPath": "/dev/null",
    "core.fsmonitor": "false",
    "core.symlinks": "false",
    "core.bigFileThreshold": "16m",  # Larger blobs are streamed; git's 512 MiB would be held in memory.
    "submodule.recurse": "false",
    "fetch.recurseSubmodules": "false",
    # Ours: off. Many real repositories carry old harmless faults (padded modes) for which it refuses them whole; hashes
    # are checked in any case, nothing is checked out, and names are checked where they are used.
    "transfer.fsckObjects": "false",
    "transfer.bundleURI": "false",
    "protocol.allow": "never",
    "gc.autoDetach": "false",  # Never a process that outlives its run.
    "maintenance.autoDetach": "false",
    "gc.pruneExpire": "6.hours.ago",  # A reader of the last state may still want them; nobody does for two weeks.
    "pack.threads": "2",
    # A few objects would be unpacked to a file each: `git index-pack` keeps the pack, and limits hold for both.
    "fetch.unpackLimit": "1",
    # Within the address space that a process gets. git's own: a window of 1 GiB, and as much as there is in all; 96 MiB
    # of bases; a `gc` that holds ten objects of any size.
    "core.packedGitWindowSize": "8m",
    "core.packedGitLimit": "64m",
    "core.deltaBaseCacheLimit": "16m",
    "pack.windowMemory": "64m",
    "pack.deltaCacheSize": "32m",
    "http.lowSpeedLimit": "1000",
    "http.lowSpeedTime": "30",
    "credential.interactive": "false",
    "advice.defaultBranchName": "false",
}
# POSIX, ulimit: files in blocks of 512 bytes; memory in KiB (dash, bash, busybox). Set between fork and exec, for git
# and all that it starts. What the system refuses to set is a limit lower still. Without SIGXFSZ a file that is too
# large is an error that git reports, not an end without a word.
#
# nice: git gives way to what serves, though not where Linux weighs sessions first (sched(7), The autogroup feature):
# git has one of its own, for its end, which counts as much as the server's.
_CONFINED: Final = """
trap '' XFSZ
for limit in '-c 0' "-v $1" "-f $2" "-St $3" "-Ht $4"; do ulimit $limit 2>/dev/null || :; done
nice=$5
shift 5
command -v nice >/dev/null || exec git "$@"
exec nice -n "$nice" git "$@"
"""
_SHELL: Final = "/bin/sh"
_CPU_GRACE_S: Final = 5  # After SIGXCPU, the kernel's SIGKILL.
_PROTOCOLS: Final = {"https", "http", "ssh", "file", "git"}

# git-credential: asked for the URL's host only (credential.<url>.helper), answers from the environment.
_HELPER: Final = (
    '!f() { test "$1" = get && printf "username=%s\\npassword=%s\\n" '
    '"$CACHESERVER_GIT_USERNAME" "$CACHESERVER_GIT_PASSWORD"; }; f'
)


@slotted(frozen=True)
class Remote:
    """A repository elsewhere and who we are there. ca: PEM certificates trusted besides the system's."""

    url: str
    credentials: GitCredentials = field(default_factory=GitCredentials)
    ca: bytes = b""

    def __post_init__(self) -> None:
        """Raises: SourceInvalidError for a URL that git could take for something else."""
        parts = urlsplit(self.url)
        if parts.scheme not in _PROTOCOLS or parts.password is not None or any(char < " " for char in self.url):
            raise SourceInvalidError("a git URL is https://, ssh:// or file:// and holds no password")
        if (parts.hostname or "").startswith("-") or (parts.username or "").startswith("-"):
            raise SourceInvalidError(f"{self.url!r}: a host or user does not start with a hyphen")
        if "\n" in self.credentials.username + self.credentials.password + self.credentials.bearer_token:
            raise SourceInvalidError("a git user, password or token does not hold a line break")

    @property
    def scheme(self) -> str:
        """Of the URL: https, http, ssh, file or git."""
        return urlsplit(self.url).scheme

    @property
    def location(self) -> str:
        """What git is given: a path for file://, since git reads a bundle only under its plain path."""
        return unquote(urlsplit(self.url).path) if self.scheme == "file" else self.url

    @property
    def origin(self) -> str:
        """SCHEME://HOST[:PORT], without a user: what credentials are for."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@slotted(frozen=True)
class Answer:
    """How a git ended. verb: which it was. complaint: the end of what it wrote to stderr, not scrubbed: never shown."""

    verb: str
    status: int
    printed: bytes
    complaint: str


class Git:
    """Runs git for one remote. home: a private directory for keys and an empty HOME; made by the caller.

    limits: of each process. environ: what PATH and proxy variables are taken from; our own environment by default.
    """

    def __init__(
        self, remote: Remote, home: Path, environ: Mapping[str, str] | None = None, *, limits: Limits | None = None
    ) -> None:
        self.remote = remote
        self.limits = limits or Limits()
        self._home = home
        environ = os.environ if environ is None else environ
        self._inherited = {name: environ[name] for name in _INHERITED if name in environ}

    async def run(
        self,
        *arguments: str,
        timeout_s: float,
        stdin: bytes | AsyncIterator[bytes] = b"",
        most_bytes: int = 64 << 20,
        pass_fds: Sequence[int] = (),
    ) -> bytes:
        """What git prints. Raises: SourceError of the kind that its complaint means, SourceTooLargeError; what stdin
        raises, and then git was ended before it read to an end."""
        answer = await self.attempt(
            *arguments, timeout_s=timeout_s, stdin=stdin, most_bytes=most_bytes, pass_fds=pass_fds
        )
        if answer.status:
            raise self.error(answer)
        return answer.printed

    def error(self, answer: Answer) -> SourceError:
        """What a git that failed means."""
        if cap := exceeded(answer.complaint, answer.status, local=self.remote.scheme == "file"):
            return self.limits.error(cap, f"{self.remote.url}: git {answer.verb}")
        return error_for(answer.complaint, self.remote.url, self.remote.credentials.secrets())

    async def attempt(
        self,
        *arguments: str,
        timeout_s: float,
        stdin: bytes | AsyncIterator[bytes] = b"",
        most_bytes: int = 64 << 20,
        pass_fds: Sequence[int] = (),
    ) -> Answer:
        """As run, for whoever has a use for a git that fails. Raises: SourceError where it did not end by itself."""
        try:
            async with asyncio.timeout(timeout_s):
                async with self.process(*arguments, pass_fds=pass_fds) as process:
                    return await self._converse(process, stdin, most_bytes, arguments)
        except TimeoutError as exc:
            raise error_for("timed out", f"{self.remote.url}: git {_verb(arguments)}, {timeout_s:.0f} s", ()) from exc
        except ExceptionGroup as group:  # of what stdin is read from
            raise first_error(group) from group

    async def _converse(
        self,
        process: children.Child,
        stdin: bytes | AsyncIterator[bytes],
        most_bytes: int,
        arguments: Sequence[str],
    ) -> Answer:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        async with asyncio.TaskGroup() as tg:
            feeding = tg.create_task(_feed(process.stdin, stdin))
            complaining = tg.create_task(_tail(process.stderr))
            printed = await _all(process.stdout, most_bytes)
            if printed is not None:
                await process.wait()
            else:
                await _kill(process)
        del feeding
        if printed is None:
            raise SourceTooLargeError(f"{self.remote.url}: git {_verb(arguments)} prints over {most_bytes} bytes")
        status, complaint = process.returncode or 0, complaining.result().decode(errors="replace")
        return Answer(_verb(arguments), status, printed, complaint)

    @asynccontextmanager
    async def process(
        self, *arguments: str, pass_fds: Sequence[int] = (), complaints: int = PIPE
    ) -> AsyncIterator[children.Child]:
        """A running git; it and its children are gone when this ends. complaints: a file for its stderr, else a pipe.

        Raises: SourceError where there is no git.
        """
        private = await asyncio.to_thread(self._private)
        try:
            environment = await asyncio.to_thread(self._environment, private)
            if await asyncio.to_thread(shutil.which, "git", path=environment.get("PATH")) is None:
                raise SourceError("git cannot be started: it is not on PATH; install git 2.31 or later")
            process = await self._start(arguments, environment, pass_fds, complaints)
            try:
                yield process
            finally:
                try:
                    await _kill(process)
                finally:
                    process.close()
        finally:
            # Keys: gone even when we are being cancelled.
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, private, ignore_errors=True))

    async def _start(
        self, arguments: Sequence[str], environment: Mapping[str, str], pass_fds: Sequence[int], complaints: int
    ) -> children.Child:
        try:
            return await children.start(
                *(_SHELL, "-c", _CONFINED, "git", *self._limited(), *arguments), stderr=complaints,
                environment=environment, directory=self._home, pass_fds=pass_fds, new_session=True, limit=_READ_BYTES,
            )  # fmt: skip
        except OSError as exc:
            raise SourceError(f"git cannot be started: {exc.strerror}; install git 2.31 or later") from exc

    def _limited(self) -> Sequence[str]:
        """What `_CONFINED` takes: KiB of memory, blocks of a file, seconds of CPU, those until it is killed, and how
        nice it is."""
        limits = self.limits
        blocks = limits.total_bytes // 512 + 1
        killed_s = limits.git_cpu_s + _CPU_GRACE_S
        return [str(number) for number in (limits.git_memory_bytes >> 10, blocks, limits.git_cpu_s, killed_s, NICE)]

    def _private(self) -> Path:
        """A directory for one run's keys. Those of runs whose process was killed are taken away first.

        One whose caller is cancelled just then stays, empty, until this process ends; a TemporaryDirectory would warn.
        """
        for left in self._home.glob("run-*-*"):
            if not _alive(int(left.name.split("-")[1])):
                shutil.rmtree(left, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=self._home))

    def _environment(self, private: Path) -> dict[str, str]:
        remote, credentials = self.remote, self.remote.credentials
        config = dict(_CONFIG) | {f"protocol.{remote.scheme}.allow": "always"}
        environment = self._inherited | {
            "HOME": str(self._home),
            "LC_ALL": "C",
            "MALLOC_ARENA_MAX": "1",  # glibc reserves 64 MiB of address space for each thread that allocates.
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": "/dev/null",
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "",
            "GIT_NO_LAZY_FETCH": "1",
            # Should the cache lie in somebody's working copy: that one's configuration is not ours.
            "GIT_CEILING_DIRECTORIES": str(self._home.resolve().parent),
        }
        if credentials.bearer_token:
            config[f"http.{remote.origin}.extraHeader"] = f"Authorization: Bearer {credentials.bearer_token}"
            config["http.followRedirects"] = "false"  # The header would go along.
        elif credentials.password:
            config[f"credential.{remote.origin}.helper"] = _HELPER
            environment["CACHESERVER_GIT_USERNAME"] = credentials.username or "git"
            environment["CACHESERVER_GIT_PASSWORD"] = credentials.password
        if remote.ca:
            config["http.sslCAInfo"] = str(_trusted(private, remote.ca))
        elif trusted := self._inherited.get("SSL_CERT_FILE"):
            # OpenSSL's variable, which the registry client heeds; git's curl may be built on another library.
            config["http.sslCAInfo"] = trusted
        if remote.scheme == "ssh":
            environment["GIT_SSH_COMMAND"] = _ssh_command(private, credentials)
        if remote.scheme == "file":
            environment["GIT_CONFIG_GLOBAL"] = str(_safe_directory(private, remote.location))
        environment["GIT_CONFIG_COUNT"] = str(len(config))
        for at, (key, value) in enumerate(config.items()):
            environment[f"GIT_CONFIG_KEY_{at}"], environment[f"GIT_CONFIG_VALUE_{at}"] = key, value
        return environment


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _trusted(private: Path, ca: bytes) -> Path:
    file = private / "ca.pem"
    system = ssl.get_default_verify_paths().cafile
    ours = Path(system).read_bytes() + b"\n" if system else b""
    file.write_bytes(ours + ca)
    return file


def _safe_directory(private: Path, location: str) -> Path:
    # git-config(1), safe.directory: a repository of another user, a mounted volume say, is refused unless named. Only a
    # global file counts for the upload-pack at the other end of file://; the operator named this path.
    file = private / "gitconfig"
    quoted = location.replace("\\", "\\\\").replace('"', '\\"')
    file.write_text(f'[safe]\n\tdirectory = "{quoted}"\n\tdirectory = "{quoted}/.git"\n')
    return file


def _ssh_command(private: Path, credentials: GitCredentials) -> str:
    known_hosts = private / "known_hosts"
    known_hosts.write_bytes(credentials.known_hosts)
    options = [
        "-F", "/dev/null", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
        "-o", f"UserKnownHostsFile={known_hosts}", "-o", "GlobalKnownHostsFile=/dev/null",
        "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "ConnectTimeout=15",
        "-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=3", "-o", "ClearAllForwardings=yes",
    ]  # fmt: skip
    if credentials.ssh_key:
        key = private / "key"
        key.touch(mode=0o600)
        # ssh insists on a last newline, which editors and YAML like to take away.
        key.write_bytes(credentials.ssh_key.rstrip(b"\n") + b"\n")
        options += ["-i", str(key)]
    return shlex.join(["ssh", *options])


async def _feed(stream: asyncio.StreamWriter, content: bytes | AsyncIterator[bytes]) -> None:
    try:
        async for piece in _once(content) if isinstance(content, bytes) else content:
            if stream.is_closing():
                return  # It has ended already, and a write to it would be an error of another kind.
            stream.write(piece)
            await stream.drain()
        stream.close()
    except (BrokenPipeError, ConnectionResetError):
        pass  # It ended before it read all; its exit status says why.


async def _once(content: bytes) -> AsyncIterator[bytes]:
    yield content


async def _all(stream: asyncio.StreamReader, most_bytes: int) -> bytes | None:
    found = bytearray()
    while piece := await stream.read(_READ_BYTES):
        found += piece
        if len(found) > most_bytes:
            return None
    return bytes(found)


async def _tail(stream: asyncio.StreamReader) -> bytes:
    found = b""
    while piece := await stream.read(_READ_BYTES):
        found = (found + piece)[-_STDERR_BYTES:]
    return found


async def _kill(process: children.Child) -> None:
    """Ends the process group, politely and then surely. Also when we are being cancelled ourselves."""
    if process.returncode is not None:
        return
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(_TERM_S):
            await process.wait()
    except TimeoutError:
        pass
    finally:
        _signal(process, signal.SIGKILL)  # The group: helpers may outlive git.
        await process.wait()


def _signal(process: children.Child, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def _verb(arguments: Sequence[str]) -> str:
    return next((argument for argument in arguments if re.match(r"[a-z]", argument)), "")
