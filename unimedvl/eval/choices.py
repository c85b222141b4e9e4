"""Which option an answer names: places that name one are found; what stands around each tells whether it is meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from unimedvl.eval.answer_words import NUMBERS, REFUSAL, Text, read, singular
from unimedvl.eval.exact import exact, yes_no
from unimedvl.eval.rows import LETTERS

# What ends the reach of a denial.
_TURN = re.compile(r"[.;:!?\n,]|\s-+\s|\b(?:but|so|therefore|thus|hence|however|rather(?! than)|instead(?! of)|then)\b")
_DENIED_BEFORE = re.compile(
    r"\b(?:not(?! only)|no(?! doubt| question)|non|never|neither|nor|none|without(?! doubt| a doubt)|cannot|\w+n't"
    r"|unable|impossible|unsure|unlikely|exclud\w*|rul\w+ out|rather than|instead of|other than|except|absen\w+|lacks?"
    r"|wrong|incorrect|free of|negative for|less likely|if|whether)\b"
)
_BE = r"(?:is|are|was|were|be|can|could|would|should|seems?|looks?|appears?|do|does|did|has|have|may|might)"
_OUT = r"(?:wrong|incorrect|false|unlikely|less likely|excluded|ruled out|eliminated|out|absent)\b"
_DENIED_AFTER = re.compile(
    rf"[\s)]*(?:{_BE}(?:n't|\s+not|\s+never)\b|cannot\b|(?:both |all )?{_BE}\s+(?:\w+\s+){{0,2}}{_OUT}"
    rf"|would be [^.;!?\n]*\bif\b|[:,(-]?\s*{_OUT})"
)
_FILL = r"the|an?|is|it|it's|be|would|should|must|that|option|choice|letter|answer|actually|therefore|thus|most|likely"
_CORRECTED = re.compile(
    r"(?:^|[.,;:!?(-])\s*(?:no\s*[.,;:!-]|wait|sorry|correction|actually|i mean|scratch that"
    r"|on second thought|or rather)"
    rf"(?:[\s.,;:!-]|\b(?:{_FILL}|no|wait|sorry|i|mean|think|make|to)\b)*[\s(\[]*$"
)
_DECLARED_BEFORE = re.compile(
    r"\b(?:answer\b(?! (?:choice|option)s?\b)|(?:correct|right|best) (?:option|choice|one|match|diagnosis)|choose|chose"
    r"|select|pick|go(?:ing)? with|opt for)\b(?: (?:to|for) (?:the|this|your) question| here)?"
    rf"(?:[\s,:(\[=-]|\b(?:{_FILL}|clearly|probably|so|hence)\b)*$"
)
_DECLARED_AFTER = re.compile(
    r"[\s)\]:,]*(?:is|would be|must be|should be|seems|appears)\s+"
    r"(?:(?:therefore|thus|clearly|likely|most|the|my|also)\s+)*"
    r"(?:correct\b|right\s*(?:$|[.,;!\n])"
    r"|(?:(?:right|best|final|most likely) )?(?:answer|option|choice|one|fit|match)\b)"
)
_CONCLUDED = re.compile(r"\b(?:so|therefore|thus|hence|overall|consequently|finally|final|ultimately|conclusion)\b")
_BEFORE_LETTER = re.compile(
    r"is|it's|be|are|that's|answer|options?|choices?|letter|choose|chose|select|pick|with|not|isn't|nor|or|and|neither"
    r"|either|both|of|so|than|but|actually|rather|therefore|thus|hence|for|to|say|think|no|wait|mean|between|only"
    r"|correct|then|definitely|certainly|clearly|likely|probably|possibly|perhaps|maybe"
)
_AFTER_LETTER = re.compile(r"is|are|isn't|because|since|as|with|based|given|due|but|not")
# These follow "I" in a sentence, so they tell nothing about the letters A and I.
_AFTER_OTHER_LETTER = re.compile(
    r"was|were|do|does|would|can|could|must|should|seems|appears|shows|it|best|fits|matches|remains|from"
)
_PREFIX = re.compile(r"non|pre|post|anti|pseudo|sub|peri|para|extra|intra|inter")


@dataclass(frozen=True)
class _Mention:
    """Words ``start`` to ``end`` name ``options``, as a letter (``label``) or by their text."""

    start: int
    end: int
    options: frozenset[int]
    label: bool


@dataclass(frozen=True)
class _Claim:
    """Options named together ("A or B", "B: liver"), and what the words around them do with them.

    Attributes:
        declared: 0, 1 behind "so" and the like, 2 if said to be the answer or choice, 3 if both.
        corrects: takes back what was said before.
    """

    mentions: tuple[_Mention, ...]
    denied: bool
    declared: int
    corrects: bool

    @property
    def options(self) -> frozenset[int]:
        return frozenset().union(*(mention.options for mention in self.mentions))


def choose(answer: str, options: Sequence[str]) -> int | None:
    """Which option a free-text answer names, by its letter (A first) or its text.

    An option that is denied ("not B", "C is wrong"), taken back ("A... no, B") or asked ("B?") is not named. If
    several are named, the one counts that is said to be the answer ("the answer is", "I choose", "... is correct"),
    that a conclusion ends with ("so C"), or whose letter opens the answer on its own line or with its own text.
    Texts are compared word by word, with synonyms and plurals as in :func:`exact`; of overlapping texts the longest
    counts. "A" and "I" in a sentence are letters only where they cannot be an article or a pronoun.

    Returns:
        The option's number from 0; None if none is named, or more than one without such a decision.
    """
    text = read(answer)
    keys = [_option_key(option) for option in options]
    labels = _labels(keys)
    if not (len(text.words) == 1 and text.words[0] in labels):
        same = [at for at, option in enumerate(options) if exact(answer, [option])]
        if len(same) == 1:
            return same[0]
    if sorted(keys) == [("no",), ("yes",)]:
        said, lettered = yes_no(answer), _decided(text, _label_mentions(text, labels, []))
        named = {lettered} if said is None else {keys.index(("yes",) if said else ("no",)), lettered}
        named -= {None} if len(named) > 1 else set()
        return named.pop() if len(named) == 1 else None
    by_text = _text_mentions(text, keys)
    mentions = sorted(by_text + _label_mentions(text, labels, by_text), key=lambda mention: mention.start)
    asked = _asked(text)
    return _decided(text, [mention for mention in mentions if not asked[mention.end]])


def _option_key(option: str) -> tuple[str, ...]:
    words = [word for word in read(option).words if word != "the"]
    return tuple(_key(words[1:] if len(words) > 1 and words[0] in ("a", "an") else words))


def _key(words: Iterable[str]) -> list[str]:
    """Words to compare; "one" stays, since it is mostly a pronoun."""
    return [word if word == "one" else NUMBERS.get(word, singular(word)) for word in words]


def _labels(keys: Sequence[tuple[str, ...]]) -> dict[str, frozenset[int]]:
    """Letters and the options that they can mean; options that are a letter themselves are among them."""
    labels = {letter.lower(): {at} for at, letter in zip(range(len(keys)), LETTERS, strict=False)}
    for at, key in enumerate(keys):
        if len(key) == 1 and len(key[0]) == 1 and key[0].isalpha():
            labels.setdefault(key[0], set()).add(at)
    return {letter: frozenset(meant) for letter, meant in labels.items()}


def _text_mentions(text: Text, keys: Sequence[tuple[str, ...]]) -> list[_Mention]:
    """Places of the options' texts; longer ones first, none overlapping a longer one."""
    places = [at for at, word in enumerate(text.words) if word != "the"]
    said = _key(text.words[at] for at in places)
    spans: dict[tuple[int, int], set[int]] = {}
    for option, key in enumerate(keys):
        if not key or (len(key) == 1 and len(key[0]) == 1 and key[0].isalpha()):
            continue
        for at in range(len(said) - len(key) + 1):
            start, end = places[at], places[at + len(key) - 1] + 1
            if tuple(said[at : at + len(key)]) == key and _unbroken(text, start, end):
                spans.setdefault((start, end), set()).update({option}, _elliptic(text, start, end, keys))
    mentions: list[_Mention] = []
    covered: set[int] = set()
    for (start, end), named in sorted(spans.items(), key=lambda item: item[0][0] - item[0][1]):
        if covered.isdisjoint(range(start, end)):
            covered.update(range(start, end))
            mentions.append(_Mention(start, end, frozenset(named), label=False))
    return mentions


def _elliptic(text: Text, start: int, end: int, keys: Sequence[tuple[str, ...]]) -> set[int]:
    """Options named by one word beside an option's text: the upper lobe in "upper and lower lobe"."""
    key, around = _key(word for word in text.words[start:end] if word != "the"), []
    if start > 1 and text.words[start - 1] in ("and", "or", "to"):
        around.append([*_key(text.words[start - 2 : start - 1]), *key[1:]])
    if start and text.gaps[start].strip() == "/":
        around.append([*_key(text.words[start - 1 : start]), *key[1:]])
    if end + 1 < len(text.words) and text.words[end] in ("and", "or", "to"):
        around.append([*key[:-1], *_key(text.words[end + 1 : end + 2])])
    if end < len(text.words) and text.gaps[end].strip() == "/":
        around.append([*key[:-1], *_key(text.words[end : end + 1])])
    return {keys.index(tuple(words)) for words in around if len(key) > 1 and tuple(words) in keys}


def _unbroken(text: Text, start: int, end: int) -> bool:
    """In one sentence, and no "non-" or "pre-" before it."""
    if start and text.gaps[start] == "-" and _PREFIX.fullmatch(text.words[start - 1]):
        return False
    return not any(re.search(r"[.;!?]\s|\n", gap) for gap in text.gaps[start + 1 : end])


def _label_mentions(text: Text, labels: dict[str, frozenset[int]], taken: Sequence[_Mention]) -> list[_Mention]:
    """Places of letters that stand for options, outside of the options' texts."""
    starts = {mention.start: mention.options for mention in taken}
    covered = {at for mention in taken for at in range(mention.start, mention.end)}
    found: dict[int, _Mention] = {}
    for at, word in enumerate(text.words):
        if word not in labels or at in covered:
            continue
        bracketed = re.search(r"[(\[]\s*$", text.gaps[at]) and re.match(r"\s*[)\]]", text.gaps[at + 1])
        own = starts.get(at + 1) == labels[word] and re.match(r"[.):]", text.gaps[at + 1])
        if bracketed or own or (_opens(text, at, labels, found.keys()) and _closes(text, at, labels, starts)):
            found[at] = _Mention(at, at + 1, labels[word], label=True)
    return list(found.values())


def _opens(text: Text, at: int, labels: dict[str, frozenset[int]], accepted: Collection[int]) -> bool:
    """Whether a letter may stand behind what is before it."""
    gap = text.gaps[at]
    if at == 0:
        return True
    if not gap or gap in "-'":
        return False
    before = at - 1
    if text.words[before] in ("and", "or", "nor") and before:
        before -= 1
    listed = before < at - 1 or gap.strip() in (",", "/", "&")
    if listed and text.words[before] in labels:  # "A, B", but not "hepatitis A, B"
        return before in accepted
    return bool(re.search(r"[.,;:!?\n=(\[]|\s-", gap) or _BEFORE_LETTER.fullmatch(text.words[at - 1]))


def _closes(text: Text, at: int, labels: dict[str, frozenset[int]], starts: dict[int, frozenset[int]]) -> bool:
    """Whether a letter may stand before what is behind it."""
    letter, gap = text.words[at], text.gaps[at + 1].lstrip("'")
    if at + 1 == len(text.words):
        return not re.match(r"[-+%]", gap)
    if not gap:
        return False
    after, word, later = at + 1, letter in ("a", "i"), text.words[at + 2 : at + 3]
    if after in starts and re.fullmatch(r"[\s.:)\](=-]*", gap):
        return not (word and gap.isspace()) or starts[after] == labels[letter]
    if re.match(r"[,;:!?)\]\n]|\.(?:\W|$)|\s+[-=]|\s*\n", gap) or (gap == "/" and text.words[after] in labels):
        return True
    if text.words[after] in ("and", "or", "nor"):
        return bool(later) and (later[0] in labels or at + 2 in starts)
    named = at > 0 and text.words[at - 1] in ("option", "choice", "letter")
    fits = _AFTER_LETTER.fullmatch(text.words[after])
    fits = fits or (not word and _AFTER_OTHER_LETTER.fullmatch(text.words[after]))
    return gap.isspace() and bool(named or fits)


def _asked(text: Text) -> list[bool]:
    """For each gap, whether the sentence from there on ends with a question mark."""
    ends = [re.search(r"[.!?\n]", gap) for gap in text.gaps]
    asked = [False]
    for end in reversed(ends):
        asked.append(end[0] == "?" if end else asked[-1])
    return asked[:0:-1]


def _decided(text: Text, mentions: Sequence[_Mention]) -> int | None:
    """The option on which the claims agree."""
    claims = _claims(text, mentions)
    last = max((at for at, claim in enumerate(claims) if claim.corrects and not claim.denied), default=0)
    claims = claims[last:]
    affirmed = [claim for claim in claims if not claim.denied]
    if not affirmed:
        return None
    top = max(claim.declared for claim in affirmed)
    lettered = any(mention.label for claim in affirmed for mention in claim.mentions)
    if top < 2 and not lettered and REFUSAL.search(text.between(0, len(text.words))):
        return None
    opening = _opening(text, affirmed)
    if top >= 2:
        kept = [claim for claim in affirmed if claim.declared == top]
    elif affirmed[-1].declared:
        kept = affirmed[-1:]
    else:
        kept = [opening] if opening else affirmed
    named = frozenset().union(*(claim.options for claim in kept))
    denials = [at for at, claim in enumerate(claims) if claim.denied and claim.options & named]
    if len(named) > 1 or (denials and (top < 2 or claims.index(kept[-1]) < denials[-1])):
        return None
    return next(iter(named))


def _opening(text: Text, affirmed: Sequence[_Claim]) -> _Claim | None:
    """The first claim, if it is a letter alone on its line or with its own text, and no other letter is named."""
    first, *others = affirmed
    letter = first.mentions[0]
    leads = letter.start == 0 or (letter.start == 1 and text.words[0] in ("option", "choice"))
    if not leads or not letter.label or len(first.options) > 1:
        return None
    if any(mention.label and mention.options != first.options for claim in others for mention in claim.mentions):
        return None
    return first if len(first.mentions) > 1 or "\n" in text.gaps[letter.end] else None


def _claims(text: Text, mentions: Sequence[_Mention]) -> list[_Claim]:
    runs: list[list[_Mention]] = []
    for mention in mentions:
        joined = _joined(text, runs[-1], mention) if runs else None
        if not joined:
            runs.append([mention])
            continue
        while joined == "list" and len(runs) > 1 and _only_comma(text, runs[-2][-1], runs[-1][0]):
            runs[-2:] = [runs[-2] + runs[-1]]
        runs[-1].append(mention)
    edges = [0, *(edge for run in runs for edge in (run[0].start, run[-1].end)), len(text.words)]
    gaps = [text.between(start, end) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return [_claim(run, before, after) for run, (before, after) in zip(runs, pairwise(gaps), strict=True)]


def _joined(text: Text, run: Sequence[_Mention], mention: _Mention) -> str | None:
    """``list`` for "A or B", ``same`` for a letter beside a text; None for separate claims."""
    last, gap = run[-1], text.between(run[-1].end, mention.start)
    if re.fullmatch(
        r"[\s,()\]]*(?:\band/or\b|\bor\b|\band\b|\bnor\b|/|&)[\s,(\[]*(?:(?:the|an?|option|choice)\b[\s(]*)*", gap
    ):
        return "list"
    paired = len(run) > 1 and run[-2].label != last.label and _joined(text, run[-2:-1], last) == "same"
    if last.label == mention.label or paired:
        return None
    same = re.fullmatch(r"[\s.:)\]=-]*|[ :),(\[-]*(?:(?:which is|i\.?e\.?|meaning)\s*,?\s*)?(?:the |an? )?[ (\[]*", gap)
    return "same" if same else None


def _only_comma(text: Text, first: _Mention, second: _Mention) -> bool:
    return bool(re.fullmatch(r"\s*,\s*(?:the |an? )?", text.between(first.end, second.start)))


def _claim(run: Sequence[_Mention], before: str, after: str) -> _Claim:
    clause = _TURN.split(before)[-1]
    sentence = re.split(r"[.;!?\n]", before)[-1]
    retort = run[0].label and re.search(r"[.,;:!?]\s*no\s*$", before)  # "A... no B"; but "effusion, no fracture"
    corrects = bool(_CORRECTED.search(before) or retort)
    conditional = "if" in re.findall(r"\w+", sentence)[1:]  # to the sentence's end; an "if" that opens it, to the comma
    denied = bool(_DENIED_BEFORE.search(clause) or conditional) and not corrects
    declared = bool(_DECLARED_BEFORE.search(sentence)) or bool(_DECLARED_AFTER.match(after))
    return _Claim(
        tuple(run),
        denied or bool(_DENIED_AFTER.match(after)),
        2 * declared + bool(_CONCLUDED.search(sentence)),
        corrects,
    )
