"""Which joins between large tables leave the distribution column out: told by PostgreSQL's own parser."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from pglast import ast, parse_sql
from pglast.enums import A_Expr_Kind, SetOperation

# A column of a source, by the source's alias.
_Column = tuple[str, str]


@dataclass
class _Scope:
    """The large sources that a query puts side by side, those of the queries around it among them.

    A source has the column that it is distributed by, or None: what is made of a large table in a CTE
    or a subquery is large too, and may hand the column on under any name.
    """

    large: dict[str, str | None] = field(default_factory=dict)
    equal: list[tuple[_Column, _Column]] = field(default_factory=list)


class Joins:
    """Finds joins, given the large tables and the column that each is distributed by."""

    def __init__(self, distributed: Mapping[str, str]) -> None:
        self._distributed = distributed

    def apart(self, text: str) -> Iterator[str]:
        """Yield each pair of large sources that a statement of `text` joins by something else.

        Two belong together if a chain of equalities leads from the distribution column of the one to
        that of the other.
        """
        for statement in parse_sql(text):
            yield from self._query(statement.stmt, _Scope(), {})

    def _query(self, node: Any, around: _Scope, made: Mapping[str, bool]) -> Iterator[str]:
        made = dict(made)
        for cte in node.withClause.ctes if getattr(node, "withClause", None) else ():
            yield from self._query(cte.ctequery, _Scope(), made)
            made[cte.ctename] = self._is_large(cte.ctequery, made)
        if isinstance(node, ast.SelectStmt) and node.op != SetOperation.SETOP_NONE:
            for side in (node.larg, node.rarg):
                yield from self._query(side, around, made)
            return
        if isinstance(node, ast.InsertStmt):
            if node.selectStmt is not None:
                yield from self._query(node.selectStmt, around, made)
            return
        scope = _Scope(dict(around.large), list(around.equal))
        own: list[str] = []
        within: list[tuple[Any, set[str]]] = []
        conditions: list[Any] = []
        for part in _parts(node, of_scope=True):
            match part:
                case ast.RangeVar():
                    alias = part.alias.aliasname if part.alias else part.relname
                    if part.relname in made:
                        large, column = made[part.relname], None
                    else:
                        column = self._distributed.get(part.relname)
                        large = column is not None
                    if large:
                        scope.large[alias] = column
                        own.append(alias)
                case ast.RangeSubselect():
                    # What looks at those before it is held against them where it reads.
                    within.append((part.subquery, set(scope.large) if part.lateral else set()))
                    if not part.lateral and self._is_large(part.subquery, made):
                        scope.large[part.alias.aliasname] = None
                        own.append(part.alias.aliasname)
                case ast.SubLink():
                    conditions.append(part.subselect)
                case ast.A_Expr(kind=A_Expr_Kind.AEXPR_OP) if part.name[-1].sval == "=":
                    one, other = _column(part.lexpr), _column(part.rexpr)
                    if one and other:
                        scope.equal += [(one, other), (other, one)]
        yield from _apart(scope, own)
        for query, seen in [*within, *((query, set(scope.large)) for query in conditions)]:
            large = {alias: column for alias, column in scope.large.items() if alias in seen}
            yield from self._query(query, _Scope(large, scope.equal if seen else []), made)

    def _is_large(self, node: Any, made: Mapping[str, bool]) -> bool:
        return any(
            isinstance(part, ast.RangeVar)
            and (part.relname in self._distributed or made.get(part.relname, False))
            for part in _parts(node, of_scope=False)
        )


def _parts(node: Any, *, of_scope: bool) -> Iterator[Any]:
    """Walk the nodes under `node`; `of_scope`: not into its CTEs and into queries within."""
    if isinstance(node, tuple):
        for each in node:
            yield from _parts(each, of_scope=of_scope)
        return
    if not isinstance(node, ast.Node):
        return
    for name in node:
        if of_scope and name == "withClause":
            continue
        value = getattr(node, name)
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, ast.Node):
                yield each
                if of_scope and isinstance(each, ast.RangeSubselect | ast.SubLink):
                    continue
            yield from _parts(each, of_scope=of_scope)


def _column(node: Any) -> _Column | None:
    if isinstance(node, ast.ColumnRef) and len(node.fields) == 2:
        alias, name = node.fields
        if isinstance(name, ast.String):
            return alias.sval, name.sval
    return None


def _apart(scope: _Scope, own: list[str]) -> Iterator[str]:
    """Name the large sources of a query that stand in no chain with the first one."""
    if not scope.large:
        return
    first, *others = scope.large
    reached = _reached(scope, first)
    for alias in others:
        if alias not in reached and (alias in own or first in own):
            yield f"{first} with {alias}"


def _reached(scope: _Scope, start: str) -> set[str]:
    """Return the large sources whose distribution column equals that of `start`."""

    def distributed(column: _Column) -> bool:
        alias, name = column
        return scope.large.get(alias, "") in (name, None)

    known = {one for one, _ in scope.equal if one[0] == start and distributed(one)}
    while more := {other for one, other in scope.equal if one in known} - known:
        known |= more
    return {alias for alias, name in known if distributed((alias, name))}
