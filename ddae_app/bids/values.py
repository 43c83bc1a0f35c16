"""Ages and sexes as tables write them: read where they have one meaning, else refused in words."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any

MISSING = {
    '', 'n/a', '#n/a', 'na', '<na>', 'n.a.', 'n.a', 'nan', 'none', 'null', 'unknown', 'missing',
    'not available', 'not applicable', 'not known', '-', '--', '---', '–', '—', '.',
}  # fmt: skip
"""How tables write that a value is not known; everything else is a value."""

MAX_AGE = 130

TOP_CODED = 80
"""Ages from which on ``89+`` and ``>89`` hide how old a person is; ``18+`` says nothing."""

YEARS = {'year': 1.0, 'month': 1 / 12, 'week': 7 / 365.25, 'day': 1 / 365.25}

UNITS = {
    word: unit
    for unit, words in {
        'year': 'y yr yrs yo year years a',
        'month': 'm mo mos mth mths month months',
        'week': 'w wk wks week weeks',
        'day': 'd day days',
    }.items()
    for word in words.split()
}
"""Units by the words and letters of tables, of DICOM (``034Y``) and of UCUM (``a``, ``mo``)."""

SEXES = {
    word: sex
    for sex, words in {
        'M': 'm male males man boy hombre varon varón masculino homme masculin mann männlich uomo',
        'F': 'f female females woman girl mujer femenino femenina femme feminin féminin frau '
        'weiblich donna',
        'O': 'o other intersex',
    }.items()
    for word in words.split()
}
"""Sexes by their words: M, F, and O for what BIDS calls other."""

NEGATIONS = {'not', 'non', 'no', 'nicht', 'kein', 'pas'}
"""Words that turn what the next one says into its opposite."""

_NUMBER = r'\d+(?:[.,]\d+)?(?:e\+?\d+)?'
_AGE = re.compile(
    rf'(?P<above>>=?|≥)?\s*(?P<number>{_NUMBER})\s*(?P<plus>\+)?\s*(?P<word>[a-z]+)?'
    r'(?:[ -]old| of age)?'
)
_YEARS_AND_MONTHS = re.compile(r'(\d+)\s*(y[a-z]*)[\s,;]*(\d+)\s*(m[a-z]*)')
_RANGE = re.compile(r'[\d.,]+\s*[a-z]*\s*(-|–|—|to|/)\s*[\d.,]+\s*[a-z]*')


def is_missing(text: str | None) -> bool:
    """Whether a cell says that its value is not known."""
    return (text or '').strip().lower() in MISSING


def shown(text: str) -> str:
    """A text of a table in a message: quoted, without control characters, and not long."""
    return repr(text if len(text) <= 60 else f'{text[:60]}...')


def read_unit(text: str) -> str:
    """The unit of a column of ages, from the ``Units`` of its data dictionary.

    Raises
    ------
    ValueError
        It names no unit of time, or several.
    """
    if is_missing(text):
        return 'year'
    units = {UNITS[word] for word in re.findall('[a-z]+', text.lower()) if word in UNITS}
    if len(units) != 1:
        raise ValueError('expected years, months, weeks or days')
    return units.pop()


def read_age(text: str, unit: str = 'year') -> float:
    """An age in years.

    Parameters
    ----------
    text : str
        A number, ``034Y``, ``40 years``, ``18 mo``, ``2y 6m``, or from 80 years on ``89+``.
    unit : {'year', 'month', 'week', 'day'}
        Of a number that has none of its own.

    Raises
    ------
    ValueError
        It has no single meaning, with what was expected.
    """
    plain = text.strip().lower()
    if parts := _YEARS_AND_MONTHS.fullmatch(plain):
        years, year, months, month = parts.groups()
        if (UNITS.get(year), UNITS.get(month)) == ('year', 'month'):
            return _checked(int(years) + int(months) / 12)
    match = _AGE.fullmatch(plain)
    if match is None or match['word'] not in {None, *UNITS}:
        if _RANGE.fullmatch(plain):
            raise ValueError('a range is no single age')
        raise ValueError('expected an age such as 34, 34.5, 034Y, 18 months or 89+')
    unit = UNITS[match['word']] if match['word'] else unit
    if re.search(r',\d{3}$', match['number']) and unit != 'year':
        raise ValueError('the comma may stand for a decimal point or for thousands')
    age = _checked(float(match['number'].replace(',', '.')) * YEARS[unit])
    if (match['above'] or match['plus']) and age < TOP_CODED:
        raise ValueError(f'only ages of {TOP_CODED} years or more may be given as a lower limit')
    return age


def _checked(age: float) -> float:
    if not 0 <= age <= MAX_AGE:
        raise ValueError(f'expected 0 to {MAX_AGE} years (is the unit in participants.json?)')
    return age


def said(column: Mapping[str, Any], *names: str) -> Any:
    """What a data dictionary says of a column under the first of some names; None if nothing.

    People write ``units`` and ``Unit`` as well. The name as it is given comes before other case.
    """
    for name in names:
        alike = (key for key in column if key.strip().lower() == name.lower())
        value = next((column[key] for key in (name, *alike) if column.get(key)), None)
        if value is not None:
            return value
    return None


def meanings(levels: Any) -> dict[str, str]:
    """What codes mean, by the ``Levels`` of a data dictionary: texts, or objects that hold one.

    An empty text, as in templates of dictionaries, says nothing of its code.
    """
    if not isinstance(levels, dict):
        return {}
    texts = {
        code: level.get('Description', '') if isinstance(level, dict) else level
        for code, level in levels.items()
    }
    return {_code(code): t for code, t in texts.items() if isinstance(t, str) and t.strip()}


def meaning_of(text: str, levels: Mapping[str, str]) -> str | None:
    """What a data dictionary says that a value means; None if it does not explain it."""
    return levels.get(_code(text))


def _code(text: str) -> str:
    # Spreadsheets and data frames turn 1 into 1.0 where a column has gaps.
    return re.sub(r'^(\d+)\.0+$', r'\1', text.strip().lower())


def read_sex(text: str, levels: Mapping[str, str], beside: Collection[str] = ()) -> str | None:
    """A sex: the data dictionary first, then the words of several languages.

    Parameters
    ----------
    text : str
    levels : mapping of str to str
        As :func:`meanings` returns them.
    beside : collection of str
        The other values of the column, in lower case.

    Returns
    -------
    {'M', 'F', 'O', None}
        None where the dictionary says that it is missing.

    Raises
    ------
    ValueError
        It has no single meaning, with what was expected.
    """
    meaning = meaning_of(text, levels)
    if meaning is not None and is_missing(meaning):
        return None
    words = re.findall(r'[^\W\d_]+', (text if meaning is None else meaning).lower())
    sexes = {SEXES[word] for word in words if word in SEXES}
    if meaning is None and (len(words) != 1 or words[0] != text.strip().lower()):
        sexes = set()
    if any(before in NEGATIONS and word in SEXES for before, word in pairwise(words)):
        sexes = set()  # who is not female may be male or other
    if len(sexes) != 1:
        raise ValueError(
            'expected M, F or O, a word such as female or other, or a code that "Levels" in '
            'participants.json explains'
        )
    # Hombre and mujer, varón and mujer: beside the one, M is the other.
    if meaning is None and words == ['m'] and {'h', 'v'} & set(beside):
        raise ValueError(
            'beside H or V it may be mujer or male; say which by "Levels" in participants.json'
        )
    return sexes.pop()
