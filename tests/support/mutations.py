"""Mistakes that are planted into a module: one change of its syntax tree, whatever its layout."""

import ast
import inspect
from functools import cache
from string import Formatter
from types import ModuleType
from typing import Any, NamedTuple, Protocol


class Mutation(Protocol):
    """One mistake: a change of the node that it matches."""

    @property
    def within(self) -> str:
        """The function or the class in which it is planted; everywhere if empty."""

    def matches(self, node: ast.AST) -> bool:
        """Return whether this node is meant."""

    def mutate(self, node: Any) -> ast.AST:
        """Return what stands in the place of the node that is meant."""


class Swap(NamedTuple):
    """Another expression, or another statement, in the place of one."""

    old: str
    new: str
    within: str = ""

    def matches(self, node: ast.AST) -> bool:
        """Return whether it is the old one."""
        type_, dumped = _pattern(self.old)
        return type(node) is type_ and ast.dump(node) == dumped

    def mutate(self, node: Any) -> ast.AST:
        """Return the new one."""
        return _parsed(self.new)


class Argument(NamedTuple):
    """Another value of an argument that a call of `function` passes by name."""

    function: str
    name: str
    new: str
    within: str = ""

    def matches(self, node: ast.AST) -> bool:
        """Return whether it is a call of the function with this argument."""
        match node:
            case ast.Call(func=ast.Name(id=self.function)):
                return self.name in [argument.arg for argument in node.keywords]
        return False

    def mutate(self, node: Any) -> ast.AST:
        """Return the call with the other value."""
        for argument in node.keywords:
            if argument.arg == self.name:
                argument.value = _parsed(self.new)
        return node


class Text(NamedTuple):
    """
    Another part of a text, which may be an f-string: then an expression in it stands in braces, as
    `ast.unparse` writes it. Docstrings are no texts.
    """

    old: str
    new: str
    within: str = ""

    def matches(self, node: ast.AST) -> bool:
        """Return whether the text has this part."""
        return self.old in _template(node)

    def mutate(self, node: Any) -> ast.AST:
        """Return the text with its new part."""
        text = _template(node).replace(self.old, self.new)
        return _joined(text) if isinstance(node, ast.JoinedStr) else ast.Constant(text)


def parsed(modules: list[ModuleType]) -> list[ast.Module]:
    """Return the syntax trees of modules."""
    return [ast.parse(inspect.getsource(module)) for module in modules]


def places(trees: list[ast.Module], mutation: Mutation) -> int:
    """Return how many nodes of these trees a mutation means."""
    finding = _Planting(mutation, plant=False)
    for tree in trees:
        finding.plant_in(tree)
    return finding.places


def mutated(modules: list[ModuleType], mutation: Mutation | None) -> list[ModuleType]:
    """Return these modules compiled again, with the mistake in the one place that it must have."""
    trees = parsed(modules)
    if mutation is not None:
        planting = _Planting(mutation, plant=True)
        for tree in trees:
            planting.plant_in(tree)
        assert planting.places == 1, f"{mutation} has {planting.places} places"
    return [_made(module, tree) for module, tree in zip(modules, trees, strict=True)]


def _made(module: ModuleType, tree: ast.Module) -> ModuleType:
    made = ModuleType(module.__name__)
    code = compile(ast.fix_missing_locations(tree), f"{module.__name__}, compiled again", "exec")
    exec(code, made.__dict__)
    return made


class _Planting(ast.NodeTransformer):
    """Plants a mistake, or only finds its places, and counts them."""

    def __init__(self, mutation: Mutation, *, plant: bool) -> None:
        self.mutation, self.plant, self.places = mutation, plant, 0

    def plant_in(self, tree: ast.Module) -> None:
        """Find the places in a module, or in the part of it in which the mistake is planted."""
        scopes: list[ast.AST] = [tree]
        for name in filter(None, self.mutation.within.split(".")):
            inner = (one for scope in scopes for one in ast.walk(scope))
            scopes = [one for one in inner if getattr(one, "name", None) == name]
        for scope in scopes:
            self.visit(scope)

    def visit(self, node: ast.AST) -> Any:
        """Replace a node that the mistake matches, and visit the parts of every other one."""
        is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if is_docstring:
            return node
        if self.mutation.matches(node):
            self.places += 1
            return self.mutation.mutate(node) if self.plant else node
        # The parts of an f-string are no texts of their own.
        return node if isinstance(node, ast.JoinedStr) else self.generic_visit(node)


def _parsed(source: str) -> ast.AST:
    (statement,) = ast.parse(source).body
    return statement.value if isinstance(statement, ast.Expr) else statement


@cache
def _pattern(source: str) -> tuple[type[ast.AST], str]:
    node = _parsed(source)
    return type(node), ast.dump(node)


def _template(node: ast.AST) -> str:
    """Return a text; an f-string as a template, with its expressions in braces."""
    match node:
        case ast.Constant(value=str() as text):
            return text
        case ast.JoinedStr():
            return "".join(map(_template_part, node.values))
    return ""


def _template_part(part: ast.expr) -> str:
    match part:
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
    return _template(part).replace("{", "{{").replace("}", "}}")


def _joined(template: str) -> ast.JoinedStr:
    """Return the f-string of a template."""
    values: list[ast.expr] = []
    for text, name, _, _ in Formatter().parse(template):
        values.append(ast.Constant(text))
        if name is not None:
            values.append(ast.FormattedValue(_parsed(name), conversion=-1))
    return ast.JoinedStr(values)
