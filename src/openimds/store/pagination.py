"""SQL for the filters, sort keys and pages of lists."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from openimds.resources.errors import BadRequest
from openimds.resources.query import ListQuery

Filter = Callable[[Sequence[str]], sa.ColumnElement[bool]]
"""(values of one query parameter) → SQL condition."""

_INTEGER = re.compile(r"-?[0-9]{1,18}")

TRUE_WORDS = frozenset({"true", "1", "t", "yes", "y", "on"})
FALSE_WORDS = frozenset({"false", "0", "f", "no", "n", "off"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ListSpec:
    """The filters and sort keys of one kind of row."""

    model: type[Any]
    columns: Mapping[str, Any]
    """Attribute → column, for filters by equality and for sort keys."""
    filters: Mapping[str, Filter] = field(default_factory=dict)
    """Filters of attributes without a column."""
    options: tuple[Any, ...] = ()
    """SQLAlchemy's loader options for the serializer."""

    def without(self, hidden: Iterable[str]) -> ListSpec:
        """The spec without hidden attributes: a filter by one selects no row, and sorting by one is an error."""
        hidden = frozenset(hidden)
        columns = {name: column for name, column in self.columns.items() if name not in hidden}
        return replace(self, columns=columns, filters={**self.filters, **dict.fromkeys(hidden, _nothing)})


def _nothing(_values: Sequence[str]) -> sa.ColumnElement[bool]:
    return sa.false()


def page(
    session: Session, collection: ListSpec, query: ListQuery, visible: sa.ColumnElement[bool]
) -> tuple[list[Any], bool]:
    """Returns the rows of one page, and whether more rows follow. Raises BadRequest for an invalid query."""
    statement = sa.select(collection.model).where(visible, *_conditions(collection, query))
    order = _order(collection, query)
    if query.marker is not None:
        statement = statement.where(_beyond(_marker(session, collection, query.marker, visible, order), order))
    statement = statement.order_by(*(column.desc() if down else column.asc() for column, down in order))
    if query.limit is not None:
        statement = statement.limit(query.limit + 1)
    rows = list(session.scalars(statement.options(*collection.options)))
    more = query.limit is not None and len(rows) > query.limit
    rows = rows[: query.limit] if more else rows
    return (rows[::-1] if query.reverse else rows), more


def as_bool(name: str, value: str) -> bool:
    """Converts `True`, `1`, `yes` and the like. Raises BadRequest, which names the attribute."""
    if value.lower() in TRUE_WORDS | FALSE_WORDS:
        return value.lower() in TRUE_WORDS
    raise BadRequest(
        name, f"Invalid input for operation: {name}: '{value}' cannot be converted to boolean.", kind="InvalidInput"
    )


def equals(name: str, column: Any) -> Filter:
    """A filter by equality. Values are converted to the type of the column."""

    def condition(values: Sequence[str]) -> sa.ColumnElement[bool]:
        converted = [_converted(name, column, value) for value in values]
        matches: sa.ColumnElement[bool] = column.in_([value for value in converted if value is not None])
        if None in converted:  # `?gateway_ip=` selects rows without one
            return sa.or_(matches, column.is_(None), column == "")
        return matches

    return condition


def constant(value: Any) -> Filter:
    """The filter of an attribute that has this value in all rows."""

    def condition(values: Sequence[str]) -> sa.ColumnElement[bool]:
        return sa.true() if str(value).lower() in {v.lower() for v in values} else sa.false()

    return condition


def _conditions(collection: ListSpec, query: ListQuery) -> list[sa.ColumnElement[bool]]:
    conditions = []
    unknown = []
    for name, values in query.filters.items():
        if name in collection.filters:
            conditions.append(collection.filters[name](values))
        elif name in collection.columns:
            conditions.append(equals(name, collection.columns[name])(values))
        else:
            unknown.append(name)
    if unknown:
        raise BadRequest(
            unknown[0], f"{unknown} is invalid attribute for filtering; try again without.", kind="HTTPBadRequest"
        )
    return conditions


def _converted(name: str, column: Any, value: str) -> Any:
    kind = column.type
    if isinstance(kind, sa.Boolean):
        return as_bool(name, value)
    if isinstance(kind, sa.Integer):
        if not _INTEGER.fullmatch(value):
            message = f"Invalid input for operation: {name}: '{value}' is not an integer of at most 18 digits."
            raise BadRequest(name, message, kind="InvalidInput")
        return int(value)
    return value or None


def _order(collection: ListSpec, query: ListQuery) -> list[tuple[sa.ColumnElement[Any], bool]]:
    """(sortable expression, whether descending), with the id last, so that the order is total."""
    order = []
    for name, descending in query.sort:
        if name not in collection.columns:
            raise BadRequest(
                "sort_key", f"sort_key: '{name}' is invalid attribute for sort key.", kind="HTTPBadRequest"
            )
        order.append((_sortable(collection.columns[name]), descending != query.reverse))
    order.append((collection.model.id, query.reverse))
    return order


def _sortable(column: Any) -> sa.ColumnElement[Any]:
    """The column with NULL as the least value in both databases."""
    if isinstance(column.type, sa.Boolean):
        return sa.cast(column, sa.Integer)
    if not getattr(column, "nullable", True):
        return sa.type_coerce(column, column.type)
    return sa.func.coalesce(column, -1 if isinstance(column.type, sa.Integer) else "")


def _marker(
    session: Session,
    collection: ListSpec,
    marker: str,
    visible: sa.ColumnElement[bool],
    order: Sequence[tuple[sa.ColumnElement[Any], bool]],
) -> Sequence[Any]:
    """The values of the sort keys in the marker's row."""
    statement = sa.select(*(expression for expression, _ in order)).where(collection.model.id == marker, visible)
    row = session.execute(statement).first()
    if row is None:
        raise BadRequest("marker", f"marker: {marker} is not an item of this collection.", kind="BadRequest")
    return tuple(row)


def _beyond(values: Sequence[Any], order: Sequence[tuple[sa.ColumnElement[Any], bool]]) -> sa.ColumnElement[bool]:
    """The condition for rows after these values: (a > x) or (a = x and b > y) or …"""
    alternatives = []
    equal: list[sa.ColumnElement[bool]] = []
    for (expression, descending), value in zip(order, values, strict=True):
        alternatives.append(sa.and_(*equal, expression < value if descending else expression > value))
        equal.append(expression == value)
    return sa.or_(*alternatives)
