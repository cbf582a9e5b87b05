"""Search by words: what is found, in which order, that nothing tells of other namespaces, and what texts cost."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cacheserver.query.search import MOST_HITS, MOST_WORDS, SearchIndex, at_once, document_words
from cacheserver.query.words import edits, folded, stem, trigrams, words


def package(name: str, *, namespace: str = "team", **status: Any) -> Mapping[str, Any]:
    return {
        "metadata": {"namespace": namespace, "name": f"r.{name}"},
        "spec": {"packageName": name, "repository": "r", "format": "FBC"},
        "status": status,
    }


def index(*packages: Mapping[str, Any]) -> SearchIndex:
    made = SearchIndex()
    for each in packages:
        made.put(each)
    return made


def found(made: SearchIndex, text: str, namespace: str | None = None) -> list[str]:
    return [hit.facts.package for hit in at_once(made.search(text, namespace)).hits]


SHELF = (
    package("argo-cd", displayName="Argo CD", keywords=["gitops"], summary="Delivers what git says"),
    package("cert-manager", displayName="cert-manager", providedAPIs=[{"group": "cert-manager.io", "kind": "Issuer"}]),
    package("ledger", displayName="Ledger", summary="A journal that works with argo cd", provider={"name": "ACME"}),
    package("rabbitmq-operator", providedAPIs=[{"group": "rabbitmq.com", "kind": "RabbitmqCluster"}]),
    package("lamp", displayName="Café Lamp", categories=["Lighting"]),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("argo-cd", ["argo-cd", "ledger"]),
        ("argocd", ["argo-cd"]),
        ("ARGO cd", ["argo-cd", "ledger"]),
        ("cd argo", ["argo-cd", "ledger"]),
        ("gitops", ["argo-cd"]),
        ("rabb", ["rabbitmq-operator"]),
        ("RabbitmqCluster", ["rabbitmq-operator"]),
        ("cluster", ["rabbitmq-operator"]),
        ("rabitmq", ["rabbitmq-operator"]),
        ("Issuer.cert-manager.io", ["cert-manager"]),
        ("certmanager", ["cert-manager"]),
        ("cafe", ["lamp"]),
        ("lighting", ["lamp"]),
        ("acme", ["ledger"]),
        ("delivering", ["argo-cd"]),
        ("quantum", []),
    ],
)
def test_words_find_what_says_them(text: str, expected: list[str]) -> None:
    assert found(index(*SHELF), text) == expected


def test_what_matched_is_told() -> None:
    [hit] = at_once(index(*SHELF).search("gitops")).hits
    assert hit.matched == ("keywords",)
    assert at_once(index(*SHELF).search("RabbitmqCluster")).hits[0].matched == ("providedAPIs",)


def test_the_package_of_that_name_comes_first_and_what_is_deprecated_later() -> None:
    made = index(
        package("quay-bridge", displayName="Quay"),
        package("quay"),
        package("quay-old", keywords=["quay"], deprecation={"message": "use quay"}),
        package("quay-new", keywords=["quay"]),
    )
    assert found(made, "quay")[:2] in (["quay", "quay-bridge"], ["quay-bridge", "quay"])
    assert found(made, "quay")[2:] == ["quay-new", "quay-old"]


def test_an_empty_text_finds_everything_by_name() -> None:
    assert found(index(*SHELF), "") == sorted((p["spec"]["packageName"] for p in SHELF), key=lambda n: (len(n), n))


def test_of_a_facet_of_many_values_those_are_told_that_most_hits_have() -> None:
    """They are looked at some at a time, for there may be as many as there are packages."""
    names = [f"maker {n:04}" for n in range(3_000)]
    made = index(*(package(f"p{at}", provider={"name": name}) for at, name in enumerate([*names, *names[2_990:]])))
    steps, most, told = made.search("", None, facets=True), 0, dict[str, int]()
    while not told:
        try:
            most = max(most, next(steps))
        except StopIteration as end:
            told = end.value.facets["provider"]
    assert list(told.items()) == [*((name, 2) for name in names[2_990:]), *((name, 1) for name in names[:40])]
    assert most <= 4_096


def test_facets_count_all_hits() -> None:
    counted = at_once(index(*SHELF).search("", None, facets=True)).facets
    assert counted["namespace"] == {"team": 5}
    assert counted["category"] == {"Lighting": 1}
    assert counted["provider"] == {"ACME": 1}


@pytest.mark.parametrize("seed", range(5))
def test_an_index_that_changed_is_one_that_was_made_anew(seed: int) -> None:
    choose = random.Random(seed)
    vocabulary = ["argo", "cd", "vault", "ledger", "rabbitmq", "cert-manager", "lamps"]
    made, held = SearchIndex(), dict[tuple[str, str], Mapping[str, Any]]()
    for _ in range(200):
        one = package(f"p{choose.randrange(12)}", keywords=choose.sample(vocabulary, choose.randrange(4)))
        name = (one["metadata"]["namespace"], one["metadata"]["name"])
        if choose.random() < 0.7:
            held[name] = one
            made.put(one)
        else:
            held.pop(name, None)
            made.remove(name)
    fresh = index(*held.values())
    assert len(made) == len(held)
    for text in (*vocabulary, "led", "rabitmq", "lamp", "p1", "vault ledger", ""):
        assert found(made, text) == found(fresh, text)
    for name in held:
        made.remove(name)
    assert (made._postings, made._words.places, made._words._grams, made._words._stems) == ({}, {}, {}, {})


# --- other namespaces ---


@given(st.lists(st.sampled_from(["argo", "vault", "vaults", "secret"]), max_size=6), st.sampled_from("abcde"))
def test_what_other_namespaces_have_changes_no_answer(theirs: Sequence[str], letter: str) -> None:
    mine = (package("vaulted", keywords=["argos"]), package("lamp", summary="a secretive lamp"))
    alone = index(*mine)
    others = (package(f"{word}{at}", namespace="other", keywords=[word]) for at, word in enumerate(theirs))
    beside = index(*others, *mine)
    for text in ("argo", "vault", "valut", "secret lamp", letter, ""):
        here, there = (at_once(made.search(text, "team", facets=True)) for made in (alone, beside))
        assert here == there


def test_a_word_that_others_spell_right_is_still_misspelled_here() -> None:
    made = index(package("infinispan"), package("infinspan", namespace="other"))
    assert found(made, "infinspan", "team") == ["infinispan"]


# --- what it costs ---


@pytest.mark.parametrize(
    "text",
    ["a", "\u0000", "\u0301" * 500, "\ufdfa" * 500, "é" * 500, "x" * 512, "a b c d e f g h i j " * 25, "- - -", "ﬃ"],
)
def test_no_text_takes_long_steps(text: str) -> None:
    made = index(*(package(f"aa{at:04}-b{at % 7}", keywords=[f"k{at}"]) for at in range(2_000)))
    steps = made.search(text)
    looked_at = 0
    while True:
        try:
            step = next(steps)
        except StopIteration:
            break
        assert step <= 8_192
        looked_at += step
    assert looked_at < 200_000


def test_a_package_that_says_very_much_is_put_in_by_its_first_words() -> None:
    kinds = [{"group": f"g{at}.example.com", "version": "v1", "kind": f"Kind{at}Of{at}"} for at in range(10_000)]
    text = " ".join(f"word{at}" for at in range(10_000))
    _, weights = document_words(package("app", providedAPIs=kinds, summary=text, displayName=text, keywords=[text] * 9))
    assert len(weights) == MOST_WORDS
    assert weights["app"] == 8


@pytest.mark.parametrize("letter", ["a ", "ab", "é ", "\ufdfa"])
def test_texts_of_a_package_are_read_up_to_a_bound_whatever_stands_for_many_letters(letter: str) -> None:
    long = letter * 512
    _, said = document_words(package("p", keywords=["first", *[long] * 50, "last"], summary="behind"))
    assert "first" in said
    assert not {"last", "behind"} & said.keys()
    assert len(said) < MOST_WORDS
    assert len(folded("\ufdfa" * 100)) <= 300


def test_words_of_all_are_bounded_and_every_package_is_found_by_its_name() -> None:
    made = SearchIndex(most_words=100)
    common = package("first", keywords=["shared"])
    made.put(common)
    for at in range(50):
        made.put(package(f"pack{at}", keywords=["shared", *(f"w{at}x{n}" for n in range(10))]))
    assert len(made._words.places) <= 100 + 2 * 50, "names, and what they are made of, come beside"
    assert [found(made, f"pack{at}")[0] for at in range(50)] == [f"pack{at}" for at in range(50)]
    assert len(found(made, "shared")) == 51
    assert found(made, "w0x9")[0] == "pack0"
    assert "pack49" not in found(made, "w49x9")
    for at in range(49):
        made.remove(("team", f"r.pack{at}"))
    made.put(package("pack49", keywords=["w49x9"]))
    assert found(made, "w49x9")[0] == "pack49"


@pytest.mark.parametrize("word", ["kubernetesoperatorframework", "interpretations", "observabilityplatformservice"])
def test_long_words_are_forgiven_too(word: str) -> None:
    made = index(package("right", keywords=[word]))
    for at in range(len(word)):
        for wrong in (word[:at] + word[at + 1 :], word[:at] + "q" + word[at:], word[:at] + "q" + word[at + 1 :]):
            assert found(made, wrong) == ["right"], wrong


def test_the_best_are_ranked_and_all_are_counted() -> None:
    made = index(*(package(f"app-{at}") for at in range(MOST_HITS + 5)))
    answer = at_once(made.search("app"))
    assert (len(answer.hits), answer.total) == (MOST_HITS, MOST_HITS + 5)


# --- words ---


def test_words_are_folded_and_bounded() -> None:
    assert words("Café_au-lait, ﬃ! Ⅷ") == ["cafe", "au", "lait", "ffi", "viii"]
    assert words("x" * 100) == ["x" * 40]
    assert stem("delivering") == stem("delivers") == "deliver"
    assert folded("İstanbul").startswith("i")


@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_edits_are_those_of_the_plain_definition(one: str, other: str) -> None:
    def plain(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        least = min(plain(a[1:], b) + 1, plain(a, b[1:]) + 1, plain(a[1:], b[1:]) + (a[0] != b[0]))
        if len(a) > 1 and len(b) > 1 and a[0] == b[1] and a[1] == b[0]:
            least = min(least, plain(a[2:], b[2:]) + 1)
        return least

    if len(one) + len(other) <= 9:
        assert edits(one, other, 2) == min(plain(one, other), 3)
    assert trigrams("a") == {"^a$"}
