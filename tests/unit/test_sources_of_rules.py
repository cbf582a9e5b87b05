"""A rule names a source that its reader can open: a public document, or a file of this repository."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PUBLIC = {"image-layout.md", "layer.md", "docs/spec/auth/token.md", "oauth.md", "doc/http-grpc-status-mapping.md"}
"""Of opencontainers/image-spec, distribution/distribution, and grpc/grpc."""
PAGE = re.compile(r"(?<![\w./-])((?:[\w-]+/)*[\w-]+\.md)\b")


def test_every_page_that_code_cites_is_in_this_repository() -> None:
    known = {path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/**/*.md")}
    known |= {path.name for path in ROOT.glob("*.md")} | {"configs/etcd/README.md", "examples/catalogs/README.md"}
    cited = [
        (path.relative_to(ROOT).as_posix(), page)
        for folder in ("cacheserver", "bench", "configs")
        for path in ROOT.glob(f"{folder}/**/*")
        if path.suffix in (".py", ".yaml", ".proto")
        for page in PAGE.findall(path.read_text(encoding="utf-8"))
    ]
    assert cited
    assert [(where, page) for where, page in cited if page not in known | PUBLIC] == []
