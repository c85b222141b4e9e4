"""What words and facts tell of a person: names, numbers, dates, addresses."""

from __future__ import annotations

import re
from collections.abc import Sequence

_MONTH = r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
_MONTH += r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
_DAY, _MONTH_NUMBER, _YEAR = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0?[1-9]|1[0-2])", r"(?:19|20)\d\d"
_ANY_DATE = (
    rf"(?:\d{{1,4}}(?:[-/. ]\d{{1,2}}){{2}}(?:\d\d)?|\d{{8}}|\d{{1,2}}[-/. ]?{_MONTH}[-/. ]?(?:\d\d){{1,2}})(?!\d)"
)
_DATED = (
    r"(?:DOB|D\.O\.B\b\.?|(?:date|day) of birth|birth ?da(?:te|y)|born(?: on)?"
    r"|date(?:d| of (?:exam(?:ination)?|study|service|scan|visit))?"
    r"|(?:exam|study|scan|visit|report|admission|discharge) date)"
)
_CAPITAL = f"[{''.join(sign for sign in map(chr, range(0x600)) if sign.isupper())}]"
_LETTER = r"[^\W\d_]"
_WORD = rf"{_LETTER}(?:[-'\u2019]?{_LETTER}){{1,40}}"
_NAME = rf"(?={_CAPITAL}){_WORD}"
_PARTICLES = r"(?:(?i:van|von|vom|zu|de|der|den|di|da|dos|du|del|della|la|le|al|el|bin|ibn|ter|ten) )*"
_PERSON = rf"(?:{_CAPITAL}\.? ?){{0,2}}{_PARTICLES}{_NAME}"
_CAPITALS = rf"{_CAPITAL}(?:[-'\u2019]?{_CAPITAL}){{1,40}}(?!{_LETTER})"
# Words that stand in capitals after "MR." or after "Patient:" and are nobody.
_NOBODY = (
    r"(?!(?i:the|there|this|these|that|those|no|not|normal|findings?|impression|it|its|in|on|at|as|an?|and|or|of|to|for"
    r"|from|with|without|is|was|are|were|if|all|some|both|right|left|bilateral|mild|moderate|severe|stable|unchanged"
    r"|compared?|comparison|history|indication|technique|exam|study|images?|scan|chest|brain|head|ct|mri?|mra|mrs|pet|us"
    r"|male|female|man|woman|boy|girl|child|infant|adult|young|old|elderly|aged?|years?|supine|prone|positioning|position"
    r"|none|unknown|anonymous|anonymi[sz]ed|withheld|removed|redacted|number|information|care|data)(?!\w))"
)
_STREET = r"(?:Street|St|Avenue|Ave|Road|Rd|Boulevard|Blvd|Lane|Ln|Drive|Square|Court|Place)"
_CASED = r"[A-Z][a-z]+(?:[-'][A-Z][a-z]+)?"
_NUMBER = r"[A-Z]{0,4}[- ]?\d[\d-]{2,}"

# What HIPAA's safe harbor lists and a text of an image may hold; a year alone may stay.
PATTERNS: dict[str, re.Pattern[str]] = {
    "email": re.compile(r"\b[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "date": re.compile(
        rf"(?<![\d./-]){_YEAR}([-/.]){_MONTH_NUMBER}\1{_DAY}(?![\d/]|-\d)"
        rf"|(?<![\d./-])(?:{_DAY}([-/.]){_MONTH_NUMBER}|{_MONTH_NUMBER}([-/.]){_DAY})(?:\2|\3){_YEAR}(?![\d/]|-\d)"
        rf"|(?<![\d./-])(?:{_DAY}/{_MONTH_NUMBER}|{_MONTH_NUMBER}/{_DAY})/\d\d(?![\d/]|-\d)"
        rf"|(?i:\b{_DAY}(?:st|nd|rd|th)?(?: of)?[ /.-]?{_MONTH},?[ /.-]?{_YEAR}\b)"
        rf"|(?i:\b{_DAY}-{_MONTH}-\d\d\b)"
        rf"|(?i:\b{_MONTH} {_DAY}(?:st|nd|rd|th)?,? {_YEAR}\b)"
        rf"|\b(?:{_MONTH}|{_MONTH.upper()}) {_YEAR}\b"
        rf"|(?i:\b{_DATED}\s*[:#]?\s*{_ANY_DATE})"
    ),
    "record number": re.compile(
        r"(?i:\b(?:MRN|medical record(?: number)?|accession|pat(?:ient)?\.? id|pt\.? id|hospital (?:number|no|id)"
        r"|NHS (?:number|no)|(?:case|chart|patient|pat\.?|pt\.?) (?:number|no)|SSN)\b\.?"
        rf"\s*(?:number|no\.?|#)?\s*[:#]?\s*(?:is )?{_NUMBER}"
        rf"|\bacc\b\.?\s*(?:(?:number|no\b\.?|#)\s*[:#]?|:)\s*{_NUMBER})"
        r"|\b\d{3}-\d{2}-\d{4}\b|(?<![\d.])\d{7,}(?![\d.]*\d)"
    ),
    "phone": re.compile(
        r"(?i:\b(?:tel|phone|telephone|fax|mobile))\b\.?\s*:?\s*\+?[\d(][\d() .-]{5,}\d"
        r"|(?<![\w.])(?:\+\d{1,3}[ .-]?)?\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?!\d)"
        r"|(?<![\w.])\+\d{1,3}(?:[ .-]?\d{2,4}){3,5}(?!\d)"
    ),
    "age over 89": re.compile(
        r"(?i)\b(?:9\d|1[0-2]\d)[ -]?(?:years?|yrs?|y)\.?[ -]?(?:old|of age|o\b)|\b(?:9\d|1[0-2]\d) ?y/?o\b"
        r"|\bage[d]?\s*:?\s*(?:of )?(?:9\d|1[0-2]\d)\b(?! ?(?:%|mm|cm|days|weeks|months))"
    ),
    "address": re.compile(rf"\b\d{{1,5}}[A-Za-z]? (?:{_CASED} ){{1,3}}{_STREET}\b|\b[A-Z]{{2}} \d{{5}}(?:-\d{{4}})?\b"),
    # A title in capitals may be a modality, so a name must follow it in capitals, and the dot must stand.
    "name": re.compile(
        rf"\b(?:Dr|Mr|Mrs|Ms|Prof|Professor|Doctor|Miss|Herr|Frau|Mme|PROF|PROFESSOR|DOCTOR)\b\.? {{0,2}}"
        rf"{_NOBODY}{_PERSON}"
        rf"|\b(?:DR|MR|MRS|MS|PROF)\. {{0,2}}(?:{_CAPITAL}\. ?)?{_NOBODY}{_CAPITALS}"
        rf"|\b(?:dr|mrs|mr|prof)\. {{0,2}}{_NOBODY}{_WORD}"
        rf"|\b(?i:name|physician|radiologist|referrer|surgeon|technologist|attending|consultant|reader|doctor)\s*:\s*"
        rf"(?i:(?:dr|mr|mrs|ms|prof)\b\.? ?)?{_NOBODY}{_PERSON}"
        rf"|\b(?i:(?:patient|pt|pat)\.?(?:['\u2019]s)? name)"
        rf"(?:[ \t]+(?i:is )?{_NOBODY}{_NAME}|\s*[:=]\s*{_NOBODY}{_WORD})"
        rf"|\b(?i:patient|pt|pat)\.?\s*:\s*{_NOBODY}{_NAME}(?:, ?| (?:{_CAPITAL}\.? )?){_NOBODY}{_NAME}"
        rf"|\b(?:Name|NAME) {{1,2}}{_NOBODY}{_CAPITALS},? {_NOBODY}{_CAPITALS}"
        rf"|\b(?:(?={_CAPITAL}){_WORD}\^+{_LETTER}|{_WORD}\^+{_LETTER}{{2,}})"
        rf"|\b(?i:signed|reported|dictated|read|reviewed|performed|verified|transcribed)"
        rf" (?i:by):? {_NOBODY}{_NAME},? {_NOBODY}{_NAME}"
    ),
}
# Facts by their names: what a column of a table is called.
_FACTS = re.compile(
    r"(?P<name>(?:patient|pat|pt|person|subject|full|first|last|given|family|sur|middle|maiden|physician|doctor"
    r"|referrer|referring physician|radiologist|operator|mother|father)s? ?(?:full ?)?names?"
    r"|(?:referring |attending |performing )?physician|radiologist|referrer)"
    r"|(?P<number>mrn|ssn|nhs|(?:patient|pat|pt|hospital|insurance|medical|health|national|passport)"
    r" ?(?:record|plan|security)? ?(?:id|ids|no|nr|num|number|identifier)|medical record|social security(?: number)?"
    r"|accession(?: (?:no|nr|num|number|id))?|account (?:no|number))"
    r"|(?:patients? )?(?P<date>dob|birth|birth ?da(?:te|y)|(?:date|day) of (?:birth|death)"
    r"|(?:\w+ )?date(?: ?time)?|death)"
    r"|(?P<address>(?:\w+ )?address|street|zip|zip ?code|post(?:al)? ?code)"
    r"|(?P<phone>(?:\w+ )?(?:phone|telephone|mobile|fax)(?: (?:no|number))?|tel)"
    r"|(?P<email>(?:\w+ )?e ?mail)"
)
_KINDS = {"number": "record number"}
# These may as well hold a file, a number that a data set gave, or a word; names have two parts.
_PERSONS = ("name", "patient", "subject", "person", "doctor")
_NAMED = re.compile(rf"(?:{_LETTER}|[-.'\u2019])+(?:(?:, ?|[ ^])(?:{_LETTER}|[-.'\u2019])+){{1,5}}")
_AGES = ("age", "patient age", "age years", "age in years")
_OLD = re.compile(r"0?(?:9\d|1[0-2]\d)(?:\.\d+)? ?(?:y|yrs?|years?)?", re.IGNORECASE)


def found_in(text: str) -> dict[str, list[tuple[int, int]]]:
    """Kinds of personal facts in a text, and where each begins and ends."""
    found = {kind: [match.span() for match in pattern.finditer(text)] for kind, pattern in PATTERNS.items()}
    return {kind: spans for kind, spans in found.items() if spans}


def kind_of_fact(name: str, told: Sequence[str]) -> str:
    """What a fact tells of a person, by its name; empty if nothing. A year alone may stay, as in texts.

    Args:
        name: such as that of a column; the part after the last dot counts.
        told: its values, none of them empty.
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|[\W_]+", " ", name.rpartition(".")[2]).strip().casefold()
    if words in _PERSONS:
        return "name" if any(map(_NAMED.fullmatch, told)) else ""
    if words in _AGES:
        return "age over 89" if any(map(_OLD.fullmatch, told)) else ""
    match = _FACTS.fullmatch(words)
    kind = (match.lastgroup or "") if match else ""
    said = [text for text in told if not (kind == "date" and re.fullmatch(_YEAR, text))]
    return _KINDS.get(kind, kind) if said else ""
