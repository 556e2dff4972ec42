"""There is something worth saying about every symptom."""

from __future__ import annotations

import pytest

from lossguard.detectors import Symptom
from lossguard.detectors.advice import ADVICE, Advice

EACH = pytest.mark.parametrize("advice", ADVICE.values(), ids=[str(s) for s in ADVICE])


def test_every_symptom_has_advice_in_the_order_of_the_symptoms() -> None:
    """None is missing, none is there twice."""
    assert list(ADVICE) == list(Symptom)
    assert all(advice.symptom is symptom for symptom, advice in ADVICE.items())


@EACH
def test_it_has_causes_fixes_and_limits(advice: Advice) -> None:
    """At least three causes and fixes, and what is not found or found wrongly."""
    assert len(advice.causes) >= 3
    assert len(advice.fixes) >= 3
    assert advice.misses
    assert advice.false_alarms
    assert advice.title
    assert advice.guard


@EACH
def test_sentences_are_whole(advice: Advice) -> None:
    """They begin with a capital or with code, end in a full stop, and close their backticks."""
    one = (advice.meaning, advice.looks, advice.guard)
    for sentence in (*one, *advice.causes, *advice.fixes, *advice.misses, *advice.false_alarms):
        assert sentence == " ".join(sentence.split()), sentence
        assert sentence.rstrip(")").endswith("."), sentence
        assert sentence.count("`") % 2 == 0, sentence


@EACH
def test_nothing_is_said_twice(advice: Advice) -> None:
    """Within one advice."""
    said = [*advice.causes, *advice.fixes, *advice.misses, *advice.false_alarms]
    assert len(set(said)) == len(said)


def test_no_two_symptoms_share_a_title_or_a_name() -> None:
    """Otherwise ``explain`` could not tell them apart."""
    titles = [advice.title for advice in ADVICE.values()]
    assert len(set(titles)) == len(titles)
    names = [str(s) for s in ADVICE] + [n for a in ADVICE.values() for n in a.also_called]
    assert len(set(names)) == len(names)


@EACH
def test_symptoms_that_are_referred_to_exist(advice: Advice) -> None:
    """A word of code that looks like one of ours is one of ours."""
    known = {str(symptom) for symptom in Symptom}
    nearly = {name.replace("_", "") for name in known}
    text = " ".join((*advice.causes, *advice.fixes, advice.guard, *advice.misses))
    for code in text.split("`")[1::2]:
        assert code in known or code.replace("_", "") not in nearly, code
