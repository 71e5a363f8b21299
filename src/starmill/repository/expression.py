"""Data queries in words: ``night = 2019-03-26 and band in (g, r) and not airmass > 1.8``.

::

    query      := term { "or" term }
    term       := factor { "and" factor }
    factor     := "not" factor | "(" query ")" | name comparison
    comparison := ("=" | "==" | "!=" | "<" | "<=" | ">" | ">=") value
                | ["not"] "in" "(" item { "," item } ")"
                | "like" pattern            (* and ? stand for any characters, any one character)
                | "is" ["not"] "null"
    item       := value | value ".." value  (both ends included)

A value is a number, a word, or text in quotes. Names are dimensions and the columns of the exposure record.
Values become bound parameters, never text of an SQL statement.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import sqlalchemy as sa

from starmill.errors import InputError
from starmill.repository.data_id import DIMENSIONS

#: Columns of the exposure record that a query may name, besides the dimensions.
EXPOSURE_COLUMNS: dict[str, type] = {
    "object": str,
    "image_type": str,
    "mjd": float,
    "exposure_time": float,
    "airmass": float,
    "ra": float,
    "dec": float,
}
NAMES: dict[str, type] = {**DIMENSIONS, **EXPOSURE_COLUMNS}

_MAX_LENGTH = 20_000
_MAX_DEPTH = 40
_TOKEN = re.compile(
    r"\s*(?:(?P<text>'[^']*'|\"[^\"]*\")|(?P<sign><=|>=|!=|==|=|<|>|\(|\)|,|\.\.)"
    r"|(?P<word>(?:(?!\.\.)[^\s'\"<>=!(),])+))"
)
_SIGNS: dict[str, Callable[[Any, Any], Any]] = {
    "=": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}

Scalar = str | int | float


@dataclass(frozen=True)
class Comparison:
    """One test of one name; `items` are values or (low, high) pairs."""

    name: str
    operator: str
    items: tuple[Scalar | tuple[Scalar, Scalar], ...]

    def clause(self, columns: Mapping[str, Any]) -> sa.ColumnElement[bool]:
        """Return the SQL condition with bound parameters."""
        column = columns[self.name]
        if self.operator == "null":
            return sa.type_coerce(column.is_(None), sa.Boolean)
        if self.operator == "like":
            return _like_clause(column, str(self.items[0]))
        if self.operator == "in":
            plain = [item for item in self.items if not isinstance(item, tuple)]
            parts = [column.in_(plain)] if plain else []
            parts += [column.between(*item) for item in self.items if isinstance(item, tuple)]
            return sa.or_(*parts)
        return sa.type_coerce(_SIGNS[self.operator](column, self.items[0]), sa.Boolean)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Test a mapping; as in SQL, an absent value fulfils no comparison."""
        value = values.get(self.name)
        if self.operator == "null":
            return value is None
        if value is None:
            return False
        if self.operator == "like":
            return fnmatchcase(str(value), str(self.items[0]).replace("[", "[[]"))
        if self.operator == "in":
            return any(
                item[0] <= value <= item[1] if isinstance(item, tuple) else value == item
                for item in self.items
            )
        return bool(_SIGNS[self.operator](value, self.items[0]))

    def names(self) -> set[str]:
        """Names the test needs."""
        return {self.name}


@dataclass(frozen=True)
class Combination:
    """``and`` or ``or`` of several parts, or ``not`` of one."""

    operator: str
    parts: tuple[Comparison | Combination, ...]

    def clause(self, columns: Mapping[str, Any]) -> sa.ColumnElement[bool]:
        """Return the SQL condition with bound parameters."""
        clauses = [part.clause(columns) for part in self.parts]
        if self.operator == "not":
            return sa.not_(clauses[0])
        return sa.and_(*clauses) if self.operator == "and" else sa.or_(*clauses)

    def matches(self, values: Mapping[str, Any]) -> bool:
        """Test a mapping."""
        if self.operator == "not":
            return not self.parts[0].matches(values)
        test = all if self.operator == "and" else any
        return test(part.matches(values) for part in self.parts)

    def names(self) -> set[str]:
        """Names the test needs."""
        return set().union(*(part.names() for part in self.parts))


Expression = Comparison | Combination


def _like_clause(column: Any, pattern: str) -> sa.ColumnElement[bool]:
    escaped = re.sub(r"([%_!])", r"!\1", pattern).replace("*", "%").replace("?", "_")
    clause: sa.ColumnElement[bool] = sa.cast(column, sa.String).like(escaped, escape="!")
    return clause


def parse_expression(text: str) -> Expression | None:
    """Parse a data query.

    Parameters
    ----------
    text : str
        The query; empty or blank means everything.

    Returns
    -------
    expression : Expression or None
        None for an empty text. Raises `InputError` that shows where the text cannot be understood.
    """
    if len(text) > _MAX_LENGTH:
        raise InputError(f"the data query has {len(text)} characters; {_MAX_LENGTH} are allowed")
    tokens = _tokens(text)
    if not tokens:
        return None
    parser = _Parser(text, tokens)
    expression = parser.query(0)
    if parser.kind:
        raise parser.error("expected 'and', 'or' or the end")
    return expression


def _tokens(text: str) -> list[tuple[str, str, int]]:
    tokens = []
    position = 0
    end = len(text.rstrip())
    while position < end:
        found = _TOKEN.match(text, position)
        if found is None or found.end() == position:
            raise InputError(
                f"data query, character {position + 1}: cannot read {text[position : position + 20]!r}"
            )
        kind = found.lastgroup or ""
        tokens.append((kind, found[kind], found.start(kind)))
        position = found.end()
    return tokens


class _Parser:
    """Recursive descent over the tokens."""

    def __init__(self, text: str, tokens: list[tuple[str, str, int]]) -> None:
        self.text = text
        self.tokens = [*tokens, ("", "", len(text))]
        self.index = 0

    @property
    def kind(self) -> str:
        return self.tokens[self.index][0]

    @property
    def token(self) -> str:
        return self.tokens[self.index][1]

    def error(self, message: str) -> InputError:
        found = repr(self.token[:40]) if self.kind else "the end"
        return InputError(f"data query, character {self.tokens[self.index][2] + 1}: {message}, found {found}")

    def word(self, *words: str) -> bool:
        """Take the next token if it is one of these words."""
        if self.kind == "word" and self.token.lower() in words:
            self.index += 1
            return True
        return False

    def sign(self, *signs: str) -> str | None:
        """Take the next token if it is one of these signs."""
        if self.kind == "sign" and self.token in signs:
            self.index += 1
            return self.tokens[self.index - 1][1]
        return None

    def query(self, depth: int) -> Expression:
        if depth > _MAX_DEPTH:
            raise self.error(f"more than {_MAX_DEPTH} levels of brackets")
        parts = [self.term(depth)]
        while self.word("or"):
            parts.append(self.term(depth))
        return parts[0] if len(parts) == 1 else Combination("or", tuple(parts))

    def term(self, depth: int) -> Expression:
        parts = [self.factor(depth)]
        while self.word("and"):
            parts.append(self.factor(depth))
        return parts[0] if len(parts) == 1 else Combination("and", tuple(parts))

    def factor(self, depth: int) -> Expression:
        if self.word("not"):
            if depth > _MAX_DEPTH:
                raise self.error(f"more than {_MAX_DEPTH} levels")
            return Combination("not", (self.factor(depth + 1),))
        if self.sign("("):
            inner = self.query(depth + 1)
            if not self.sign(")"):
                raise self.error("expected ')'")
            return inner
        return self.comparison()

    def comparison(self) -> Expression:
        name = self.name()
        if operator := self.sign("=", "==", "!=", "<", "<=", ">", ">="):
            return Comparison(name, "=" if operator == "==" else operator, (self.value(name),))
        if self.word("is"):
            negated = self.word("not")
            if not self.word("null"):
                raise self.error("expected 'null'")
            return _negate(Comparison(name, "null", ()), negated)
        negated = self.word("not")
        if self.word("in"):
            return _negate(Comparison(name, "in", self.items(name)), negated)
        if self.word("like"):
            return _negate(Comparison(name, "like", (self.plain(),)), negated)
        raise self.error("expected a comparison (=, !=, <, <=, >, >=, in, like, is null)")

    def name(self) -> str:
        name = self.token.lower()
        if self.kind != "word" or name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(NAMES)}"
            raise self.error(f"expected a name ({hint})")
        self.index += 1
        return name

    def items(self, name: str) -> tuple[Scalar | tuple[Scalar, Scalar], ...]:
        if not self.sign("("):
            raise self.error("expected '('")
        items: list[Scalar | tuple[Scalar, Scalar]] = []
        while True:
            low = self.value(name)
            items.append((low, self.value(name)) if self.sign("..") else low)
            if self.sign(")"):
                return tuple(items)
            if not self.sign(","):
                raise self.error("expected ',' or ')'")

    def plain(self) -> str:
        if self.kind not in {"word", "text"}:
            raise self.error("expected a value")
        self.index += 1
        kind, token, _ = self.tokens[self.index - 1]
        return token[1:-1] if kind == "text" else token

    def value(self, name: str) -> Scalar:
        position = self.index
        text = self.plain()
        kind = NAMES[name]
        if name == "night" and re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            text = text.replace("-", "")
        if kind is str:
            return text
        try:
            number = int(text) if kind is int else float(text)
        except ValueError:
            number = float("nan")
        if number != number or abs(number) > 2**62:  # NaN compares unequal to itself
            self.index = position
            raise self.error(f"{name} needs {'an integer' if kind is int else 'a number'}")
        return number


def _negate(expression: Expression, negated: bool) -> Expression:
    return Combination("not", (expression,)) if negated else expression
