"""Text scores against their libraries, cases by hand, and headings in the spellings of reports."""

from __future__ import annotations

import math
import shutil
import sys
import time

import psutil
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from unimedvl.errors import ConfigError, DataError
from unimedvl.eval import texts
from unimedvl.eval.texts import bleu, meteor, named_function, rouge, section_scores, sections, text_scores

MADE = ["The heart is normal in size.", "There is no effusion", "", "Mild cardiomegaly, stable."]
TRUE = ["The heart size is normal.", "No pleural effusion is seen.", "Lungs are clear.", "Mild cardiomegaly, stable."]
needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR runs in Java")


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_is_sacrebleus(order):
    metric = sacrebleu.BLEU(lowercase=True, tokenize="13a", smooth_method="none", max_ngram_order=order)
    assert bleu(MADE, TRUE)[0][f"bleu-{order}"] == pytest.approx(metric.corpus_score(MADE, [TRUE]).score / 100)


def test_bleu_by_hand():
    """Tokens "the heart is normal ." against "the heart size is normal .": the made one is shorter, 5 to 6.

    Words 5/5, pairs 3/4 (the heart, is normal, normal .), triples 1/3, fours 0/2.
    """
    values, about = bleu(["The heart is normal."], ["the heart size is normal."])
    brevity = math.exp(1 - 6 / 5)
    expected = [brevity, brevity * (3 / 4) ** 0.5, brevity * (3 / 4 / 3) ** (1 / 3), 0]
    # Six digits: sacrebleu's floats, rounded nowhere.
    assert list(values.values()) == pytest.approx(expected, abs=1e-6)
    assert "tok:13a" in about["bleu-4"]
    assert "case:lc" in about["bleu-4"]


def test_rouge_is_the_librarys_and_by_hand():
    scorer = RougeScorer(["rouge1", "rougeL"], use_stemmer=False)
    expected = [scorer.score(true, made) for made, true in zip(MADE, TRUE, strict=True)]
    scored = rouge(MADE, TRUE)
    assert scored["rouge-1"] == tuple(each["rouge1"].fmeasure for each in expected)
    assert scored["rouge-l"] == tuple(each["rougeL"].fmeasure for each in expected)
    # "there is no effusion" shares is, no, effusion with the 5 words of "no pleural effusion is seen".
    assert scored["rouge-1"][1] == pytest.approx(2 * 3 / (4 + 5))
    # In order: no ... effusion.
    assert scored["rouge-l"][1] == pytest.approx(2 * 2 / (4 + 5))


# Java reads a table of paraphrases for seconds at each start, so few tests start it.
@needs_java
def test_meteor_is_the_librarys():
    from pycocoevalcap.meteor.meteor import Meteor

    library = Meteor()
    whole, each = library.compute_score(
        {number: [text] for number, text in enumerate(TRUE)}, {number: [text] for number, text in enumerate(MADE)}
    )
    del library  # ends its process
    assert meteor(MADE, TRUE) == (pytest.approx(whole, abs=1e-12), pytest.approx(each, abs=1e-12))
    assert "java" not in {child.name() for child in psutil.Process().children(recursive=True)}


@pytest.mark.slow
@needs_java
def test_empty_and_other_predictions_score_zero_whatever_the_locale(monkeypatch):
    monkeypatch.setenv("LC_ALL", "C")  # the jar reads UTF-8 all the same
    assert meteor(["", "  \n ", "caf\u00e9"], ["Lungs are clear.", "No effusion.", "caf\u00e8"]) == (0, (0, 0, 0))
    scored = text_scores(["", "  \n "], ["Lungs are clear.", "No effusion."], with_meteor=False)
    assert set(scored.values.values()) == {0.0}
    assert (scored.count, scored.empty) == (2, 2)


@needs_java
def test_the_same_texts_score_one():
    made = [*TRUE, "\u0152d\u00e8me du c\u0153ur,\n\nstable", "no ||| finding"]
    scored = text_scores(made, [" ".join(text.split()) for text in made])
    assert scored.values == pytest.approx(dict.fromkeys(scored.values, 1.0))
    assert set(scored.values) == set(scored.about)
    assert set(scored.items) == {"rouge-1", "rouge-l", "meteor"}
    assert set(scored.items["meteor"]) == {1.0}


def test_without_java_nothing_is_begun(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ConfigError, match="needs Java.*leave METEOR out"):
        text_scores([], [])  # the texts are not even looked at
    assert "meteor" not in text_scores(MADE, TRUE, with_meteor=False).values


def test_a_java_that_only_says_it_is_absent(monkeypatch, tmp_path):
    stub = tmp_path / "java"
    stub.write_text("#!/bin/sh\nexit 1\n")
    stub.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(stub))
    with pytest.raises(ConfigError, match="needs Java"):
        texts.require_meteor()


def test_without_the_jar(monkeypatch):
    monkeypatch.setattr(texts.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"needs pycocoevalcap.*unimedvl\[eval\]"):
        texts.require_meteor()


@needs_java
def test_a_broken_jar_is_named(monkeypatch, tmp_path):
    (tmp_path / "no.jar").write_bytes(b"no jar")
    monkeypatch.setattr(texts, "require_meteor", lambda: (shutil.which("java"), tmp_path / "no.jar"))
    with pytest.raises(ConfigError, match=r"METEOR failed: .*no\.jar"):
        meteor(MADE, TRUE)


@pytest.mark.parametrize(("package", "score"), [("sacrebleu.metrics.bleu", bleu), ("rouge_score.rouge_scorer", rouge)])
def test_an_absent_package_is_named(monkeypatch, package, score):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=r"needs .*unimedvl\[eval\]"):
        score(MADE, TRUE)


def length_ratio(predictions, references):
    return [len(made) / len(true) for made, true in zip(predictions, references, strict=True)]


def one_too_few(predictions, references):
    return [1.0] * (len(predictions) - 1)


def not_a_number(predictions, references):
    return [math.nan] * len(predictions)


def test_a_score_is_plugged_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "my_scores", sys.modules[__name__])
    scored = text_scores(MADE, TRUE, with_meteor=False, rate="my_scores:length_ratio")
    assert scored.items["rate"] == tuple(length_ratio(MADE, TRUE))
    assert scored.values["rate"] == pytest.approx(sum(length_ratio(MADE, TRUE)) / 4)
    assert "my_scores:length_ratio" in scored.about["rate"]
    for name in ("one_too_few", "not_a_number"):
        with pytest.raises(DataError, match=rf"my_scores:{name} gave"):
            text_scores(MADE, TRUE, with_meteor=False, rate=f"my_scores:{name}")


@pytest.mark.parametrize("name", ["rate", "math:", "no_such_module:f", "math:no_such_function", "math:pi"])
def test_a_plug_in_that_cannot_be(name):
    with pytest.raises(ConfigError, match=r"rate"):
        named_function(name, "rate")


@pytest.mark.parametrize(
    ("made", "true", "problem"),
    [(["a"], ["a", "b"], "1 predictions for 2"), ([], [], "0 predictions"), (["a", "b"], ["a", " "], "item 1")],
)
def test_texts_that_do_not_match(made, true, problem):
    with pytest.raises(DataError, match=problem):
        text_scores(made, true, with_meteor=False)


SPELLINGS = [
    "FINDINGS: Heart normal.\nIMPRESSION: No disease.",
    "Findings:\nHeart normal.\n\nImpression:\nNo disease.",
    "Finding : Heart normal.\r\nImpressions - No disease.\r\n",
    "**Findings**\nHeart normal.\n**Impression**\nNo disease.",
    "**Findings:** Heart normal.\n**Impression:** No disease.",
    "**FINDINGS**: Heart normal.\n**IMPRESSION** No disease.",
    "**Findings** - Heart normal.\n**Impression** \N{EN DASH} No disease.",
    "## Findings\n\nHeart normal.\n\n## Impression\n\nNo disease.",
    "1. Findings: Heart normal.\n2. Impression: No disease.",
    "- findings: Heart normal.\n- impression: No disease.",
    "Findings\nHeart normal.\nImpression\nNo disease.",
    "Findings: Heart normal. Impression: No disease.",
    "FINDINGS: Heart normal.  IMPRESSION: No disease.",
    "  Findings - Heart normal.\n  Impression- No disease.",
]


@pytest.mark.parametrize("report", SPELLINGS)
def test_usual_spellings(report):
    assert sections(report) == {"findings": "Heart normal.", "impression": "No disease."}


@pytest.mark.parametrize(
    "text",
    [
        "Findings consistent with pneumonia.",
        "No acute\nfindings\nare seen.",
        "The impression is that of edema; findings: stable.",
        "Impression-like artifacts.",
        "Her Findings: none.",
        "Findingsless",
        "",
    ],
)
def test_words_of_a_sentence_are_no_headings(text):
    assert sections(text) == ({"": text} if text else {})


def test_other_headings_end_a_section():
    report = (
        "EXAM: Chest. INDICATION: Cough\nCOMPARISON: None.\nFINDINGS: Clear.\n\nIMPRESSION:\n1. Normal.\n"
        "RECOMMENDATIONS: None.\nFINDINGS AND IMPRESSION: Both."
    )
    assert sections("Read by me.\n" + report) == {
        "": "Read by me.",
        "exam": "Chest.",
        "indication": "Cough",
        "comparison": "None.",
        "findings": "Clear.",
        "impression": "1. Normal.",
        "recommendation": "None.",
        "findings and impression": "Both.",
    }


def test_parts_of_the_same_name_are_joined_and_empty_ones_left_out():
    assert sections("Findings: One.\nImpression:\nFindings: Two.") == {"findings": "One.\nTwo."}


@given(st.text())
def test_text_without_headings_is_kept(text):
    known = ("finding", "impression", "history", "information", "indication", "comparison", "technique", "exam")
    known += ("procedure", "conclusion", "recommendation")
    if not any(name in text.lower() for name in known):
        assert sections(text) == ({"": text.strip()} if text.strip() else {})


BODY = st.lists(
    st.sampled_from(["Heart normal.", "no effusion", "findings are stable", "- mild edema", "3 mm"]), min_size=1
)


@given(BODY, BODY, st.sampled_from(["{}:", "**{}**", "# {}", "{} -"]), st.booleans())
def test_what_is_put_under_headings_is_found_there(findings, impression, form, capitals):
    def heading(name):
        return form.format(name.upper() if capitals else name)

    findings, impression = "\n".join(findings), "\n".join(impression)
    report = f"{heading('Findings')}\n{findings}\n\n{heading('Impression')}\n{impression}"
    assert sections(report) == {"findings": findings, "impression": impression}


def test_long_rules_and_marks_are_read_in_no_time():
    start = time.perf_counter()
    sections("-" * 5000 + "\n" + "* " * 5000 + "\n" + "1." * 5000)
    # Milliseconds if linear or quadratic; for ever if exponential.
    assert time.perf_counter() - start < 5


def test_scores_by_section():
    true = ["FINDINGS: Heart normal in size.\nIMPRESSION: No disease.", "Findings: Lungs are clear.", "No headings."]
    made = ["Findings: Heart normal in size.\nImpression: Pneumonia.", "Lungs are clear.", "No headings."]
    scored = section_scores(made, true, with_meteor=False)
    assert list(scored) == ["whole", "findings", "impression"]
    assert [each.count for each in scored.values()] == [3, 2, 1]
    assert scored["findings"].items["rouge-1"] == (1.0, 0.0)  # no heading, no section
    assert scored["findings"].empty == 1
    assert scored["impression"].values["rouge-1"] == 0
    assert scored["whole"].items["rouge-1"][2] == 1
    assert list(section_scores(["a b"], ["a b"], with_meteor=False)) == ["whole"]
