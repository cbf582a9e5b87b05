"""Text that compresses like text: the same words for the same seed, on every machine and Python."""

from __future__ import annotations

import random
from typing import Final

_TEXT: Final = (
    "a the of and to in for on with by from as at into over after before each every no one two many any this that "
    "operator cluster namespace resource controller deployment service volume storage backup restore snapshot network "
    "policy certificate secret token identity role binding account user tenant project quota limit request memory cpu "
    "node pool replica leader follower election lease log metric trace alert dashboard query index shard partition "
    "database message queue topic stream event source sink gateway route ingress proxy mesh cache registry image layer "
    "digest tag catalog package channel version upgrade rollback release install remove configure manage monitor scale "
    "heal secure encrypt rotate schedule watch list update delete create apply validate observe reconcile publish "
    "subscribe connect deploy run build test sign verify scan mirror sync import export migrate automatic manual "
    "declarative native hybrid edge cloud bare metal virtual machine container workload application pipeline workflow "
    "job task function model training inference accelerator driver firmware device sensor topology zone region fault "
    "tolerant available durable consistent distributed scalable lightweight enterprise community supported certified "
    "default optional required custom standard advanced basic full single multiple high low fast safe simple provides "
    "enables supports requires allows uses runs stores keeps makes lets helps reduces when where which through without"
)
_WORDS: Final = _TEXT.split()


def sentences(rng: random.Random, length: int) -> str:
    """Sentences and paragraphs of exactly `length` characters."""
    parts: list[str] = []
    size = 0
    while size < length:
        count = rng.randint(6, 18)
        # min of two draws: frequent words are more frequent than rare ones, as in text
        words = [_WORDS[min(rng.randrange(len(_WORDS)), rng.randrange(len(_WORDS)))] for _ in range(count)]
        end = ".\n\n" if rng.random() < 0.15 else ". "
        sentence = " ".join(words).capitalize() + end
        parts.append(sentence)
        size += len(sentence)
    return "".join(parts)[:length]


def name(rng: random.Random, words: int = 2) -> str:
    """A DNS-1123 label of `words` words."""
    return "-".join(rng.choice(_WORDS[25:]) for _ in range(words))


def hexadecimal(rng: random.Random, digits: int = 64) -> str:
    return f"{rng.getrandbits(digits * 4):0{digits}x}"


def semantic_version(number: int) -> str:
    """The number-th version of a line that has minor releases of up to eight patches: 0.1.0, 0.1.1, ..."""
    minor, patch = divmod(number, 8)
    return f"{minor // 12}.{minor % 12 + 1}.{patch}"
