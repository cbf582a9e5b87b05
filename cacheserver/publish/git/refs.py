"""Names of refs that are made here: which git takes, and which it cannot keep beside others. Pure.

Called where a draft is created (author.py) and where a push is planned (plan.py).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

HEADS: Final = "refs/heads/"
TAGS: Final = "refs/tags/"
_LONGEST_REF: Final = 1000
_LONGEST_PART: Final = 250  # NAME_MAX less what git appends for a lock
_BAD_IN_REF: Final = re.compile(r"[\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{|//")


def check_ref(name: str) -> str:
    """Why a full ref name is none (git-check-ref-format), or one that we do not make; empty: it is fine."""
    if len(name.encode(errors="surrogatepass")) > _LONGEST_REF:
        return f"a ref has {_LONGEST_REF} bytes at most"
    if _BAD_IN_REF.search(name) or not name.isprintable():
        return "a ref has no spaces, control characters, `..`, `@{`, `//` or any of ~ ^ : ? * [ \\"
    for part in name.split("/"):
        if not part or part.startswith((".", "-")) or part.endswith((".lock", ".")):
            return (
                f"{part!r} is no part of a ref: none is empty, begins with a dot or hyphen, or ends in .lock or a dot"
            )
        if len(part.encode()) > _LONGEST_PART:
            return f"a part of a ref has {_LONGEST_PART} bytes at most"
    return ""


def clash(name: str, others: Iterable[str]) -> str:
    """The one of `others` that cannot stand beside a ref of this name: git keeps refs as files, so `a/b` and `a/b/c`
    exclude each other. Empty: none."""
    below = f"{name}/"
    return next((other for other in others if other.startswith(below) or name.startswith(f"{other}/")), "")


def draft_clash(directory: str, workspace: str, others: Iterable[tuple[str, str]]) -> str:
    """Why git could not keep a draft of this directory and workspace beside the others, as (directory, workspace); or
    a name that git does not take at all. Empty: it can. For the create of a draft."""
    name = f"drafts/{directory}/{workspace}"
    if problem := check_ref(f"{HEADS}proposed/{directory}/{workspace}"):
        return problem
    rivals = {f"drafts/{other}/{one}": (other, one) for other, one in others}
    rival = clash(name, rivals)
    if not rival:
        return ""
    package, space = rivals[rival]
    return (
        f"git cannot hold the branch {name} beside {rival}: choose another workspace than {space!r} of {package!r} has"
    )
