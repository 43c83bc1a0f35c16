"""What was understood of the tables and the scans' JSON, in words, before any work begins."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from ddae_app.bids.cohort import Cohort
from ddae_app.bids.covariates import Covariates
from ddae_app.bids.metadata import SCANNER_FIELDS, ScanMetadata
from ddae_app.bids.scan import Scan
from ddae_app.errors import InvalidBIDSError

MOST_NAMED = 5
"""Of the same kind; the others are counted."""

MOST_SITES = 30

LIKE = {
    'age': (re.compile(r'(.*_)?age(_|\W|\d|at|in|years|months|$)', re.IGNORECASE)),
    'sex': (re.compile(r'(.*_)?(sex|gender)(_|\W|\d|at|$)', re.IGNORECASE)),
}
"""Names of columns that seem to hold an age or a sex."""

SHORT = 5
"""Letters and digits of a name. Shorter ones often differ in one on purpose."""


def facts(cohort: Cohort, scans: Sequence[Scan]) -> list[str]:
    """Scans, sites, ages and sexes, a line each."""
    known = [cohort[scan] for scan in scans]
    people = {scan.participant for scan in scans}
    sessions = {(scan.participant, scan.session) for scan in scans if scan.session}
    where = f' in {_plural(len(sessions), "session")}' if sessions else ''
    return [
        f'input: {len(scans)} T1w of {_plural(len(people), "participant")}{where}',
        _sites(cohort, known),
        _ages(cohort, known),
        _sexes(cohort, known),
    ]


def _sites(cohort: Cohort, known: Sequence[Covariates]) -> str:
    counts = Counter(c.site for c in known if c.site)
    if not counts:
        return 'sites: unknown'
    named = [f'{site} {n}' for site, n in sorted(counts.items())[:MOST_SITES]]
    more = len(counts) - len(named)
    parts = [', '.join(named) + (f' and {more} more sites' if more else '')]
    missing = len(known) - counts.total()
    parts += [f'{missing} not known'] if missing else []
    column, by = cohort.site_column, cohort.source_site_from
    filled = sum(c.site_from == by for c in known)
    if filled and column != by:
        parts.append(f'{filled} of them by {by}')
    named_by = sorted(_named_by(known))
    where = by if column == by else ', '.join(named_by) or f'column {column!r}'
    if others := [repr(c) for c in cohort.other_columns if f'column {c!r}' not in named_by]:
        where += f'; not {", ".join(others)}'
    return f'sites ({where}): {"; ".join(parts)}'


def _named_by(known: Iterable[Covariates]) -> Counter[str]:
    """The columns and JSON fields that name the sites, in words; tables of sessions as one."""
    sources = (re.sub(r'^(column .*) of .*', r'\1', c.site_from) for c in known if c.site)
    return Counter(text for text in sources if text.startswith(('column ', 'JSON field ')))


def _ages(cohort: Cohort, known: Sequence[Covariates]) -> str:
    ages = [c.age for c in known if not math.isnan(c.age)]
    unread = sum('age' in c.unread for c in known)
    if not ages and not unread:
        return 'age unknown' + _no_values(cohort.age_column, 'age', known)
    ends = dict.fromkeys(f'{end(ages):.4g}' for end in (min, max)) if ages else {}
    parts = [f'{" to ".join(ends)} years' if ages else 'none understood']
    as_read = {
        c.texts['age']: f'{c.age:.4g}' for c in known if 'age' in c.texts and not math.isnan(c.age)
    }
    if other := [f'{text!r} read as {age}' for text, age in as_read.items() if _differ(text, age)]:
        parts[0] += f' ({other[0]})'
    parts += [f'{unread} not understood'] if unread else []
    missing = len(known) - len(ages) - unread
    parts += [f'{missing} missing'] if missing else []
    return f'ages ({cohort.age_column}): {"; ".join(parts)}'


def _differ(text: str, age: str) -> bool:
    """Whether an age is written otherwise than as a plain number of years."""
    try:
        return abs(float(text) - float(age)) > 0.05
    except ValueError:
        return True


def _sexes(cohort: Cohort, known: Sequence[Covariates]) -> str:
    written: dict[str, set[str]] = {'M': set(), 'F': set(), 'other': set()}
    counts: Counter[str] = Counter()
    for c in known:
        if text := c.texts.get('sex'):
            written[c.sex or 'other'].add(text)
            counts[c.sex or 'other'] += 1
    unread = sum('sex' in c.unread for c in known)
    if not counts and not unread:
        return 'sex unknown' + _no_values(cohort.sex_column, 'sex', known)
    parts = []
    for sex, texts in written.items():
        if counts[sex]:
            other = sorted(text for text in texts if text.upper() != sex)
            spelled = f' ({", ".join(map(repr, other[:MOST_NAMED]))})' if other else ''
            parts.append(f'{sex} {counts[sex]}{spelled}')
    if counts['other']:
        parts[-1] += ', which a model takes as not known'
    parts += [f'{unread} not understood'] if unread else []
    missing = len(known) - counts.total() - unread
    parts += [f'{missing} missing'] if missing else []
    return f'sexes ({cohort.sex_column}): {"; ".join(parts)}'


def _no_values(column: str, name: str, known: Sequence[Covariates]) -> str:
    if any(c.fault for c in known):
        return ''
    return f' (no value in {column})' if column else f' (no table has a column {name})'


def warnings(cohort: Cohort, scans: Sequence[Scan], metadata: ScanMetadata) -> list[str]:
    """What is wrong, doubtful or missing, a line each.

    Parameters
    ----------
    cohort : Cohort
    scans : sequence of Scan
    metadata : ScanMetadata
        Of the dataset.
    """
    known = {scan: cohort[scan] for scan in scans}
    lines = _listed([c.fault for c in known.values() if c.fault])
    unread = [text for c in known.values() if not c.fault for text in c.unread.values()]
    lines += _listed(unread)
    rowless = {label: _no_row([label]) for label in cohort.without_row}  # told of together
    lines += _listed(
        [
            f'no site: {c.no_site}'
            for scan, c in known.items()
            if c.site is None and not c.fault and c.no_site != rowless.get(scan.participant)
        ]
    )
    lines += [*cohort.doubts, *_not_read(cohort), *_changed_sexes(known)]
    if cohort.without_row:
        lines.append(_no_row(cohort.without_row))
    if cohort.without_folder:
        lines.append(
            f'participants.tsv has rows without a folder: {_people(cohort.without_folder)}'
        )
    taken = Counter(name for c in known.values() for name in c.inherited)
    for name, n in taken.items():
        lines.append(
            f'{name} of {_plural(n, "scan")} is that of participants.tsv, since it is n/a in the '
            'table of sessions'
        )
    columns = _named_by(known.values())
    if len({text.lower() for text in columns}) > 1 and not any('JSON' in text for text in columns):
        lines.append(
            'the sites are named by '
            + ' and '.join(f'{text} ({_plural(n, "scan")})' for text, n in sorted(columns.items()))
            + '; if these are not the same thing, name one by --site-column'
        )
    by = cohort.source_site_from
    if cohort.source_site and not any(c.site_from == by for c in known.values()):
        lines.append(f'{by} {cohort.source_site}: no scan lacks a site, so the flag names none')
    lines += near_twins({c.site for c in known.values() if c.site})
    return lines + contradictions({s: c.site for s, c in known.items() if c.site}, metadata)


def _not_read(cohort: Cohort) -> list[str]:
    """Columns that seem to hold an age or a sex, in tables of which none was read."""
    lines = []
    for name, column in (('age', cohort.age_column), ('sex', cohort.sex_column)):
        tables = {'sub-*_sessions.tsv': cohort.other_of_sessions.get(name, ())}
        if not column:
            tables = {'participants.tsv': cohort.columns, **tables}
        for table, columns in tables.items():
            if like := [c for c in columns if LIKE[name].match(c)]:
                lines.append(
                    f'{table}: {", ".join(map(repr, like))} not read; if it is the {name}, '
                    f'call the column {name}'
                )
    return lines


def _changed_sexes(known: Mapping[Scan, Covariates]) -> list[str]:
    """People whose sex differs between their sessions."""
    sexes: dict[str, set[str]] = {}
    for scan, c in known.items():
        if c.sex:
            sexes.setdefault(scan.participant, set()).add(c.sex)
    return _listed(
        [
            f'sub-{label}: sex is M in one session and F in another'
            for label, s in sexes.items()
            if len(s) > 1
        ]
    )


def _listed(texts: Sequence[str]) -> list[str]:
    """The first few different texts, and how many more there are."""
    different = list(dict.fromkeys(texts))
    more = len(different) - MOST_NAMED
    return different[:MOST_NAMED] + ([f'... and {more} more of this kind'] if more > 0 else [])


def without_scan(labels: Sequence[str]) -> str:
    """A warning about participants of whom no scan is taken, where all of the dataset are.

    Parameters
    ----------
    labels : sequence of str
        At least one.
    """
    return (
        f'no scan is taken of {_people(labels)}: the folder holds no T1w image (a UNIT1 is none), '
        'or only contrast-enhanced ones'
    )


def _no_row(labels: Sequence[str]) -> str:
    return f'participants.tsv has no row of {_people(labels)}'


def _people(labels: Sequence[str]) -> str:
    named = ', '.join(f'sub-{label}' for label in labels[:MOST_NAMED])
    more = len(labels) - MOST_NAMED
    return named + (f' and {more} more' if more > 0 else '')


def near_twins(names: Iterable[str], others: Iterable[str] | None = None) -> list[str]:
    """Warnings about names that may mean the same site.

    They differ in case, spaces, marks, accents or leading zeros only; or, if they are long enough,
    in one letter that does not number them as in PhantomA and PhantomB.

    Parameters
    ----------
    names : iterable of str
    others : iterable of str, optional
        Compare each name with each of these instead of among themselves.
    """
    groups: list[list[str]] = []
    plain = {name: _plain(name) for name in (*names, *(others or ()))}
    for name in sorted(names):
        if others is not None:
            groups.append([name, *(o for o in others if _are_twins(plain[name], plain[o]))])
            continue
        joined = [g for g in groups if any(_are_twins(plain[name], plain[o]) for o in g)]
        groups = [g for g in groups if g not in joined]
        groups.append([*(other for g in joined for other in g), name])
    return [
        f'the sites {", ".join(map(repr, sorted(set(group))))} have nearly the same name; if they '
        'are one, write it alike'
        for group in groups
        if len(set(group)) > 1
    ]


def _plain(name: str) -> str:
    """Letters and digits of a name alone, numbers as numbers."""
    text = unicodedata.normalize('NFKD', name).casefold()
    text = re.sub(r'(?<=\d)\.0+$|\.0$', '', text.strip())
    return re.sub(r'(?<!\d)0+(?=\d)', '', ''.join(c for c in text if c.isalnum()))


def _are_twins(a: str, b: str) -> bool:
    if a == b:
        return True
    if min(len(a), len(b)) < SHORT:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    start = min(len(a), len(b)) if start is None else start
    a, b = a[start:], b[start:]
    end = 0
    while end < min(len(a), len(b)) and a[-1 - end] == b[-1 - end]:
        end += 1
    x, y = a[: len(a) - end], b[: len(b) - end]
    if any(c.isdigit() for c in x + y):
        return False
    swapped = len(x) == 2 and x == y[::-1]
    replaced = len(x) == len(y) == 1 and end > 0
    return swapped or replaced or len(x) + len(y) == 1


def contradictions(sites: Mapping[Scan, str], metadata: ScanMetadata) -> list[str]:
    """Warnings where the JSON of the scans contradicts the sites that the tables name.

    Parameters
    ----------
    sites : mapping of Scan to str
    metadata : ScanMetadata
        Of the dataset.
    """
    names = {_plain(site): site for site in sites.values()}
    found: dict[str, dict[str, dict[str, list[Scan]]]] = {}
    lines, elsewhere = [], []
    for scan, site in sites.items():
        for field in SCANNER_FIELDS:
            try:
                value = metadata.text(scan, field)
            except InvalidBIDSError as e:
                lines.append(str(e))
                break
            if value is None:
                continue
            found.setdefault(site, {}).setdefault(field, {}).setdefault(value, []).append(scan)
            other = names.get(_plain(value), site)
            if other != site:
                elsewhere.append(
                    f'{scan.stem} is of site {site}, but {field} of its JSON names site {other}'
                )
    lines = _listed(lines) + _listed(elsewhere)
    for site, fields in sorted(found.items()):
        mixed = [
            f'{field} is {_counted(values)}'
            for field, values in fields.items()
            if len({_plain(value) for value in values}) > 1
        ]
        if mixed:
            lines.append(
                f'the JSON of the scans of site {site} names several scanners: '
                f'{"; ".join(mixed)}; is it one site?'
            )
    return lines


def _counted(values: Mapping[str, Sequence[Scan]]) -> str:
    """The values of a field by how often they occur, the rarest with its scans."""
    ordered = sorted(values.items(), key=lambda item: (-len(item[1]), item[0]))
    parts = [f'{value!r} ({len(scans)})' for value, scans in ordered[:MOST_NAMED]]
    more = len(ordered) - MOST_NAMED
    rarest = ordered[-1][1]
    named = ', '.join(scan.stem for scan in rarest) if len(rarest) <= 3 else ''
    text = ', '.join(parts) + (f' and {more} more' if more > 0 else '')
    return text + (f' (the last: {named})' if named and more <= 0 else '')


def _plural(count: int, thing: str) -> str:
    return f'{count} {thing}{"s" * (count != 1)}'
