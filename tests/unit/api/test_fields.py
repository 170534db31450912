"""The GraphQL type of a struct: the struct is its only declaration."""

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Annotated

import pytest
import strawberry
from graphql import print_type
from msgspec import Meta, Struct
from strawberry.schema.config import StrawberryConfig

from api.fields import ValuePart, computed, describe_enums, table, type_of
from api.schema import SCALARS
from app.domain.model import DescribedEnum


class Side(DescribedEnum):
    """Which side."""

    LEFT = "left", "The left one."


class Inner(Struct):
    """What stands inside."""

    side: Annotated[Side, Meta(description="Its side.")]


class Outer(Struct):
    """What stands outside."""

    id: Annotated[str, Meta(description="Never changes.")]
    run_date: Annotated[date | None, Meta(description="Its day.")]
    sum_pct: Annotated[Decimal, Meta(description="Its sum.")]
    one: Annotated[Inner | None, Meta(description="The one.")]
    all_of_them: Annotated[
        Sequence[Inner], Meta(description="The others.", extra={"usual_length": 7})
    ] = ()


describe_enums(Side)


@table()
class Query:
    """Everything."""

    outer: Outer = computed(
        "The root.",
        rows="",
        compute=lambda rows, arguments: Outer(id="", run_date=None, sum_pct=Decimal(0), one=None),
        check=print,
        cost=1,
        arguments={},
    )


PRINTED = '''
"""Everything."""
type Query {
  """The root."""
  outer: Outer!
}

"""What stands outside."""
type Outer {
  """Never changes."""
  id: ID!

  """Its day."""
  runDate: Date

  """Its sum."""
  sumPct: Decimal!

  """The one."""
  one: Inner

  """The others."""
  allOfThem: [Inner!]!
}

"""What stands inside."""
type Inner {
  """Its side."""
  side: Side!
}

"""Which side."""
enum Side {
  """The left one."""
  LEFT
}
'''


def test_a_struct_becomes_a_type():
    """
    Names, types, nullability, lists and descriptions are the struct's; the types of its fields are
    included.
    """
    schema = strawberry.Schema(Query, config=StrawberryConfig(scalar_map=SCALARS))._schema
    ours = ("Query", "Outer", "Inner", "Side")
    assert "\n\n".join(print_type(schema.type_map[name]) for name in ours) == PRINTED.strip()


def test_a_list_says_how_long_it_is():
    """The limit on an answer's size counts a list as often as its struct says."""
    fields = {
        field.python_name: field.metadata["source"]
        for field in type_of(Outer).__strawberry_definition__.fields
    }
    assert fields["all_of_them"] == ValuePart(usual_length=7)
    assert fields["one"] == ValuePart(usual_length=1)


class Silent(Struct):
    """A struct with a field that says nothing."""

    count: int | None


def test_a_field_without_a_description_is_named():
    """A schema without a description stops the program before it serves."""
    with pytest.raises(TypeError, match=r"Silent\.count has no description"):
        type_of(Silent)
