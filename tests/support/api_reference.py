"""
A reference engine: graphql-core executes every field, with one statement for each relation and
level.

It reads the same declarations as the compiler, so it shows the errors that the compiler makes with
them, but no error in the declarations: expressions have their own tests.
"""

from base64 import b64encode
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from graphql import GraphQLSchema, execute, get_named_type, parse
from psycopg import AsyncConnection, AsyncRawCursor
from psycopg.rows import dict_row
from strawberry.dataloader import DataLoader

from api.compiler import declared, expand, is_many, source_of, table_of
from api.engine import format_error
from api.fields import Column, Computed, Paginated, Related, Same, ValuePart
from app.domain.journal import format_timestamp

# What names a row of a view: a view has no ctid.
VIEW_KEYS = {"profiles": "profiles.seq", "series": "series.name"}


def row_key(table: str) -> str:
    """Return the SQL of a text that names one row of a table or a view."""
    return f"{VIEW_KEYS.get(table, f'{table}.ctid')}::text"


class Reference:
    """Returns the responses that the engine must return."""

    def __init__(self, schema: GraphQLSchema, conn: AsyncConnection, facts: object) -> None:
        self.schema, self.conn, self.facts = schema, conn, facts
        self.loaders: dict[Any, DataLoader] = {}

    async def execute(
        self, query: str, variables: Any = None, operation_name: str | None = None
    ) -> dict[str, Any]:
        self.loaders = {}
        result = execute(
            self.schema,
            parse(query),
            variable_values=variables,
            operation_name=operation_name,
            middleware=[self],
        )
        result = await result if hasattr(result, "__await__") else result
        errors = [format_error(error, "BAD_USER_INPUT") for error in result.errors or ()]
        if result.data is None and all(error.path is None for error in result.errors or ()):
            return {"errors": errors}
        return {"data": result.data, **({"errors": errors} if errors else {})}

    def resolve(self, default: Any, row: Any, info: Any, **args: Any) -> Any:
        """Resolve any field (graphql-core calls this around each)."""
        if info.field_name.startswith("__") or info.parent_type.name.startswith("__"):
            return default(row, info, **args)
        definition = info.parent_type.fields[info.field_name]
        declaration = declared(definition)
        arguments = {}
        for camel, (name, argument) in zip(
            definition.args, declaration.metadata["arguments"].items(), strict=True
        ):
            arguments[name] = None if args.get(camel) is None else argument.convert(args[camel])
            if arguments[name] is not None:
                argument.check(arguments[name], self.facts)
        target = get_named_type(definition.type)
        match source_of(definition):
            case Column(sql=str()) as source if not row:
                return self.value(self.column_sql(source, ""), {})
            case Column():
                value = row[declaration.python_name]
                return str(value) if isinstance(value, UUID) else value
            case Same():
                return row[declaration.python_name] if row else {}
            case ValuePart():
                part = getattr(row, declaration.python_name)
                return part(**arguments) if arguments else part
            case Computed() as computed:
                computed.check(arguments)
                of_row = {name: row[sql.partition(".")[2]] for name, sql in supplied(computed)}
                return self.computed(computed, {**of_row, **arguments})
            case Paginated() as page:
                nodes = get_named_type(target.fields["nodes"].type)
                parent = table_of(info.parent_type)
                return self.page(page, nodes, arguments, parent=parent, row=row)
            case Related() as relation:
                key = (info.parent_type.name, info.field_name, tuple(arguments.items()))
                if key not in self.loaders:
                    parent = table_of(info.parent_type)
                    self.loaders[key] = DataLoader(
                        lambda of: self.rows(
                            parent=parent,
                            of=of,
                            target=target,
                            relation=relation,
                            arguments=arguments,
                        )
                    )
                rows = self.loaders[key].load(row["row_key"] if row else "")
                return self.shown(rows, is_many(definition.type))

    async def value(self, sql: str, names: dict[str, str]) -> Any:
        """Return an expression that is about no row."""
        (row,) = await self.query(f"SELECT {expand(sql, names)} AS value")
        return row["value"]

    async def shown(self, loading: Any, many: bool) -> Any:
        rows = await loading
        return rows if many else next(iter(rows), None)

    def columns(self, type_: Any) -> str:
        """Every column and expression of a type, by its name in Python."""
        table = table_of(type_)
        sources = {declared(field).python_name: source_of(field) for field in type_.fields.values()}
        listed = [
            f"({self.column_sql(source, f'{table}.{name}')}) AS {name}"
            for name, source in sources.items()
            if isinstance(source, Column)
        ]
        key = [f"{row_key(table)} AS row_key"] if table else []
        return ", ".join([*key, *listed])

    def column_sql(self, source: Column, column: str) -> str:
        """Return the SQL of a column; facts of the process are written into it as literals."""
        if not source.facts:
            return source.sql or column
        names = {
            name: f"'{fact.value(self.facts)}'::{fact.type}" for name, fact in source.facts.items()
        }
        return expand(source.sql, names)

    async def query(self, sql: str, *values: Any) -> list[dict[str, Any]]:
        cursor = AsyncRawCursor(self.conn, row_factory=dict_row)
        sent = [
            value if isinstance(value, list) or value is None else str(value) for value in values
        ]
        return await (await cursor.execute(sql.encode(), sent)).fetchall()

    async def rows(
        self, parent: str, of: list[str], target: Any, relation: Related, arguments: dict[str, Any]
    ) -> list[list[Any]]:
        """Return the related rows for each row of `parent` (by its key)."""
        names = named(arguments, 2)
        order = relation.order
        if relation.join:  # looked up for each row, where the engine joins it
            field = target.fields[relation.join]
            other = table_of(get_named_type(field.type))
            order = f"(SELECT {order} FROM {other} WHERE {expand(source_of(field).where, {})})"
        nth = f"row_number() OVER ({f'ORDER BY {order}' if order else ''}) AS nth"
        where = expand(relation.where, names)
        inner = f"SELECT {self.columns(target)}, {nth} FROM {table_of(target)} WHERE {where}"
        if parent:
            key = row_key(parent)
            source = f"{parent}, LATERAL ({inner}) related WHERE {key} = ANY($1::text[])"
        else:
            source = f"({inner}) related WHERE $1::text[] IS NOT NULL"
        of_column = row_key(parent) if parent else "''"
        sql = f"SELECT {of_column} AS of, related.* FROM {source} ORDER BY of, nth"
        rows = await self.query(sql, of, *arguments.values())
        return [[row for row in rows if row["of"] == one] for one in of]

    async def computed(self, computed: Computed, arguments: dict[str, Any]) -> Any:
        """Return a computed value; its attributes are the parts."""
        sql = f"SELECT {expand(computed.rows, named(arguments, 1))} AS result"
        (found,) = await self.query(sql, *arguments.values())
        return computed.compute(found["result"].encode(), arguments)

    async def page(
        self,
        page: Paginated,
        target: Any,
        arguments: dict[str, Any],
        *,
        parent: str,
        row: Any,
    ) -> Any:
        """
        Return a page of all rows, which Python sorts and cuts.

        If the field belongs to a row, `parent` is the table of that row.
        """
        first, after = arguments.pop("first"), arguments.pop("after")
        names = named(arguments, 1)
        keys = ", ".join(f"{sql} AS key_{n}" for n, sql in enumerate(page.sort_keys))
        sql = (
            f"SELECT {self.columns(target)}, {keys} FROM {table_of(target)} WHERE "
            f"{expand(page.where, names)}"
        )
        values = [*arguments.values()]
        if parent:
            values.append(row["row_key"])
            where = f"{row_key(parent)} = ${len(values)}"
            sql = f"SELECT nodes.* FROM {parent}, LATERAL ({sql}) nodes WHERE {where}"

        def place(row: dict[str, Any]) -> tuple[Any, ...]:
            values = (row[f"key_{n}"] for n in range(len(page.sort_keys)))
            return tuple(
                format_timestamp(value) if isinstance(value, datetime) else value
                for value in values
            )

        rows = sorted(await self.query(sql, *values), key=place, reverse=page.descending)
        beyond = rows
        if after is not None:
            start = tuple(
                key.parse(part)
                for key, part in zip(page.sort_keys.values(), after.split(" "), strict=True)
            )
            beyond = [
                row
                for row in rows
                if (place(row) < start if page.descending else place(row) > start)
            ]
        nodes = beyond[:first]
        edges = [
            {"cursor": b64encode(" ".join(map(str, place(row))).encode()).decode(), "node": row}
            for row in nodes
        ]
        info = {
            "has_next_page": len(beyond) > first,
            "has_previous_page": len(beyond) < len(rows),
            "start_cursor": edges[0]["cursor"] if edges else None,
            "end_cursor": edges[-1]["cursor"] if edges else None,
        }
        return {"edges": edges, "nodes": nodes, "page_info": info}


def named(arguments: dict[str, Any], start: int) -> dict[str, str]:
    """Return the SQL parameter of each argument, and the constant for whether it was left out."""
    names = {name: f"${n}" for n, name in enumerate(arguments, start)}
    return names | {f"no_{name}": str(value is None).lower() for name, value in arguments.items()}


def supplied(computed: Computed) -> Iterable[tuple[str, str]]:
    """Return the arguments that the row of a computed field supplies, with their columns."""
    return computed.row_arguments.items()
