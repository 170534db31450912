"""
Random valid operations over any schema: fragments, directives, aliases, variables, several
operations.
"""

from random import Random
from typing import Any

from graphql import (
    get_named_type,
    is_enum_type,
    is_leaf_type,
    is_non_null_type,
    is_required_argument,
)

MISSING = object()
INTROSPECTION = (
    "__schema { queryType { name } types { name kind } }",
    '__type(name: "Batch") { name fields { name type { kind ofType { name } } } }',
    'x: __type(name: "Nope") { name }',
)


class Operations:
    """
    Makes random operations; `values` has the values that may be sent for each argument's name.
    """

    def __init__(self, schema: Any, values: dict[str, list[Any]], seed: int) -> None:
        self.schema, self.values, self.random = schema, values, Random(seed)
        self.variables: dict[str, tuple[str, str, Any]] = {}
        self.fragments: list[str] = []
        self.count = 0
        self.names: list[str] = []

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def make(self) -> tuple[str, dict[str, Any], str | None]:
        """Return a document, its variables, and the operation's name."""
        self.fragments = []
        several = self.chance(0.15)
        names = self.names = ["One", "Two"] if several else [self.random.choice(["", "One"])]
        values: dict[str, Any] = {}
        texts = []
        self.allow_fragments = self.chance(0.6)
        for name in names:
            self.variables = {}
            body = self.selection(
                self.schema.query_type, self.random.choice([2, 3, 4, 5]), root=True
            )
            declared = ", ".join(
                f"${n}: {type_}{default}" for n, (type_, default, _) in self.variables.items()
            )
            texts.append(f"query {name}{f'({declared})' if declared else ''} {body}")
            values |= {
                n: value for n, (_, _, value) in self.variables.items() if value is not MISSING
            }
            self.allow_fragments = self.allow_fragments and not several
        chosen = (
            self.random.choice(names) if several else self.random.choice([names[0] or None, None])
        )
        if self.chance(0.02):
            chosen = "Nope"
        return "\n".join([*texts, *self.fragments]), values, chosen

    def another(self, name: str | None) -> str | None:
        """Another operation of the same document, if it has several."""
        return self.random.choice(self.names) if len(self.names) > 1 else name

    def again(self, variables: dict[str, Any]) -> dict[str, Any]:
        """
        Return other values for the same document: a cached plan must not contain the first ones.
        """
        return {name: self.other(value) for name, value in variables.items() if self.chance(0.95)}

    def other(self, value: Any) -> Any:
        if isinstance(value, bool):
            return self.chance(0.5)
        alike = [other for values in self.values.values() if value in values for other in values]
        return self.random.choice([value, None, *alike])

    def variable(self, type_: str, value: Any, default: str = "") -> str:
        self.count += 1
        self.variables[f"v{self.count}"] = (type_, default, value)
        return f"$v{self.count}"

    def directive(self) -> str:
        if not self.chance(0.12):
            return ""
        which = self.random.choice(["skip", "include"])
        literal = self.random.choice(["true", "false"])
        condition = literal if self.chance(0.4) else self.variable("Boolean!", self.chance(0.5))
        return f" @{which}(if: {condition})"

    def argument(self, name: str, argument: Any) -> str | None:
        """The text of an argument's value, or None to leave it out."""
        if not is_required_argument(argument) and self.chance(0.45):
            return None
        named, non_null = get_named_type(argument.type), is_non_null_type(argument.type)
        value = self.random.choice(list(named.values) if is_enum_type(named) else self.values[name])
        literal = str(value) if is_enum_type(named) or isinstance(value, int) else f'"{value}"'
        choice = self.random.random()
        if choice < 0.45:
            return literal
        if choice < 0.5 and not non_null:
            return "null"
        if choice < 0.75:
            return self.variable(str(argument.type), value)
        if choice < 0.85:
            return self.variable(
                str(named), MISSING if self.chance(0.6) else value, f" = {literal}"
            )
        if non_null and is_required_argument(argument):
            return self.variable(str(argument.type), value)
        # A nullable variable, also where a default makes that valid and only its null fails.
        return self.variable(str(named), self.random.choice([MISSING, None, value]))

    def arguments(self, field: Any) -> str:
        texts = {name: self.argument(name, argument) for name, argument in field.args.items()}
        listed = ", ".join(f"{name}: {text}" for name, text in texts.items() if text is not None)
        return f"({listed})" if listed else ""

    def selection(self, type_: Any, depth: int, root: bool = False) -> str:
        done: list[tuple[str, str]] = []

        def one() -> str:
            if self.chance(0.08):
                return f"{self.random.choice(['', 't0: ', 't1: '])}__typename{self.directive()}"
            if root and self.chance(0.05):
                return self.random.choice(INTROSPECTION)
            if done and self.chance(0.15):  # the same field again, to be merged
                head, name = self.random.choice(done)
            else:
                fields = [
                    n
                    for n, f in type_.fields.items()
                    if depth > 1 or is_leaf_type(get_named_type(f.type))
                ]
                if not fields:
                    return "__typename"
                name = self.random.choice(fields)
                arguments = self.arguments(type_.fields[name])
                alias = f"a{len(done)}_{name}: " if arguments or self.chance(0.4) else ""
                head = f"{alias}{name}{arguments}"
                done.append((head, name))
            target = get_named_type(type_.fields[name].type)
            below = "" if is_leaf_type(target) else f" {self.selection(target, depth - 1)}"
            return f"{head}{self.directive()}{below}"

        parts = [one() for _ in range(self.random.choice([1, 1, 2, 2, 3, 4]))]
        if self.chance(0.12):
            parts.append(
                f"... {self.random.choice(['', f'on {type_.name}'])}{self.directive()} {{ {one()} "
                f"}}"
            )
        if self.allow_fragments and self.chance(0.15):
            at, name = len(self.fragments), f"F{len(self.fragments)}"
            self.fragments.append("")
            self.fragments[at] = f"fragment {name} on {type_.name} {{ {one()} {one()} }}"
            parts += [f"...{name}{self.directive()}", f"...{name}"][: self.random.choice([1, 2])]
        self.random.shuffle(parts)
        return f"{{ {' '.join(parts)} }}"
