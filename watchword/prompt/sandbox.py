"""Run a template that somebody else wrote: what it may touch, and how much work it may do.

A chat template is code from a checkpoint folder. Jinja2's immutable sandbox keeps it from attributes with
underscores and from changing what it is given; here every operation that can make a value grow, or that walks
through a whole value, is also charged to a `Meter` before it is done: loops, calls, operators, comparisons,
filters and output. Values that are not plain data never reach the template.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.compiler import CodeGenerator
from jinja2.ext import Extension
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from watchword.errors import CapacityError
from watchword.prompt.meter import (
    MAX_NUMBER,
    METER,
    check_format,
    check_join,
    check_method,
    check_numbers,
    check_operator,
    check_replace,
    check_result,
    check_whole,
    weigh,
)

PLAIN = (str, bytes, int, float, list, tuple, dict)
NOT_OFFERED = (
    "urlize",
    "xmlattr",
    "striptags",
    "wordwrap",
    "pprint",
    "filesizeformat",
    "forceescape",
    "random",
    "urlencode",
)
"""Filters of Jinja2 for web pages, whose cost is hard to foresee; prompts do not use them."""
SHALLOW: tuple[str, ...] = (
    "length",
    "count",
    "first",
    "last",
    "list",
    "map",
    "items",
    "attr",
    "default",
    "d",
    "reverse",
    "batch",
    "slice",
    "select",
    "selectattr",
    "reject",
    "rejectattr",
    "join",
)
"""Filters that do not look into the parts of their value."""


class Opaque:
    """Stands in a template for a picture, tensor or other object: it can be tested for presence, not used."""

    __slots__ = ("kind",)

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __str__(self) -> str:
        return f"<{self.kind}>"


def plain(value: Any) -> Any:
    """A copy of nested data in which all but dicts, lists, text, numbers, booleans and None is `Opaque`."""
    if value is None or isinstance(value, str | int | float | bool):
        return value
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return (
        [plain(entry) for entry in value] if isinstance(value, list | tuple) else Opaque(type(value).__name__)
    )


class Generation(Extension):
    """`{% generation %} ... {% endgeneration %}`: marks what an assistant said."""

    tags = {"generation"}  # noqa: RUF012 (the name and type are Jinja2's)

    def parse(self, parser: Any) -> nodes.Node:
        """A call block over what stands inside."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("mark"), [], [], body).set_lineno(line)

    def mark(self, caller: Callable[[], str]) -> str:
        """Render the inside and note where in the output it stands."""
        said, meter = caller(), METER.get()
        meter.spans.append((meter.written, meter.written + len(said)))
        return said


class Sandbox(ImmutableSandboxedEnvironment):
    """Jinja2's immutable sandbox with a meter on everything that can grow."""

    intercepted_binops = frozenset(ImmutableSandboxedEnvironment.default_binop_table)

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[Generation, "jinja2.ext.loopcontrols"],
            optimized=False,
            finalize=_output,
        )
        self.code_generator_class = MeteredCode
        for name in NOT_OFFERED:
            del self.filters[name]
        self.filters = {name: _metered_filter(name, function) for name, function in self.filters.items()}
        self.filters |= {
            "_rounds": _rounds,
            "_joined": _joined,
            "_whole": check_whole,
            "_result": check_result,
        }
        self.filters["_charged"] = _charged
        tests: dict[str, Any] = self.tests
        self.tests = {name: _metered_test(function) for name, function in tests.items()}
        del self.globals["lipsum"]

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Every call that a template makes."""
        METER.get().step()
        values = [*args, *kwargs.values()]
        method = getattr(__obj, "__wrapped__", __obj)
        owner = getattr(method, "__self__", None)
        if isinstance(__obj, LoopContext):  # {{ loop(children) }}: a round for each child
            METER.get().step(sum(len(one) if hasattr(one, "__len__") else MAX_NUMBER for one in args))
        elif isinstance(owner, PLAIN):
            check_method(owner, method.__name__, values)
        elif __obj is dict:  # keys are hashed
            check_whole(values)
        return check_result(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Every binary operator except `~`."""
        METER.get().step()
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Every `value[key]`; keys are hashed."""
        METER.get().step()
        return super().getitem(obj, check_whole(argument))


class MeteredCode(CodeGenerator):
    """Compiles a template after rewriting what would grow or walk unseen."""

    def visit_Template(self, node: nodes.Template, frame: Any = None) -> None:
        """The root of every template."""
        super().visit_Template(Charge().visit(node), frame)


class Charge(NodeTransformer):
    """Adds a filter of ours wherever Jinja2 would work without asking the environment."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """`for x in y` becomes `for x in y | _rounds(weight of one round)`."""
        weight = _weight(node)
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_rounds", nodes.Const(weight))
        return node

    def visit_Macro(self, node: Any) -> nodes.Node:
        """Everything that can be called begins by charging its weight."""
        weight = _weight(node)
        self.generic_visit(node)
        charge = _filter(nodes.Const("", lineno=node.lineno), "_charged", nodes.Const(weight), like=node)
        node.body.insert(0, nodes.Output([charge], lineno=node.lineno))
        return node

    visit_CallBlock = visit_Macro
    visit_Block = visit_Macro

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """`a ~ b` becomes `[a, b] | _joined`."""
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_joined", like=node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """`a == b` becomes `a | _whole == b | _whole`."""
        self.generic_visit(node)
        node.expr = _filter(node.expr, "_whole", like=node)
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "_whole", like=node)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:
        """`{key: value}` becomes `{key | _whole: value}`."""
        self.generic_visit(node)
        node.key = _filter(node.key, "_whole", like=node)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """`value[1:]` becomes `(value | _result)[1:]`: a slice is a copy."""
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filter(node.node, "_result", like=node)
        return node


def _weight(node: nodes.Node) -> int:
    """What the constants inside a loop or macro can make in one round: text written, elements of literals."""
    text = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
    literals: Any = node.find_all((nodes.List, nodes.Tuple, nodes.Dict))
    elements: int = sum(len(literal.items) for literal in literals)
    return text + 8 * elements


def _filter(node: Any, name: str, *args: nodes.Expr, like: Any = None) -> nodes.Filter:
    like = node if like is None else like
    filtered = nodes.Filter(node, name, list(args), [], None, None)
    filtered.set_lineno(like.lineno).set_environment(like.environment)
    return filtered


def _rounds(value: Any, weight: int) -> Any:
    """Charge the rounds of a loop: at once where the length is known, else one by one."""
    meter = METER.get()
    if hasattr(value, "__len__"):
        meter.step(len(value))
        meter.constant(len(value) * weight)
        return value
    return _round_by_round(value, weight) if hasattr(value, "__iter__") else value


def _round_by_round(value: Any, weight: int) -> Iterator[Any]:
    meter = METER.get()
    for entry in value:
        meter.step()
        meter.constant(weight)
        yield entry


def _charged(value: Any, weight: int) -> Any:
    METER.get().step()
    METER.get().constant(weight)
    return value


def _joined(parts: list[Any]) -> str:
    METER.get().size(weigh(parts))
    return "".join(map(str, parts))


@jinja2.pass_context  # so that nothing is computed while the template is compiled
def _output(context: Any, value: Any) -> Any:
    """Every `{{ value }}`."""
    METER.get().step()
    METER.get().size(weigh(value))
    return value


def _metered_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of Jinja2 that charges the meter before it works, and what it has made."""
    skip = 1 if hasattr(function, "jinja_pass_arg") else 0  # the environment or context comes first

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        METER.get().step()
        value = args[skip] if len(args) > skip else None
        rest = [*args[skip + 1 :], *kwargs.values()]
        check_numbers(rest)
        check_whole(rest)
        if name == "join":
            value = list(_round_by_round(value, 0)) if hasattr(value, "__iter__") else []
            check_join(next((glue for glue in rest if isinstance(glue, str)), ""), value)
            args = (*args[:skip], value, *args[skip + 1 :])
        elif name not in SHALLOW and not isinstance(value, Undefined):
            check_whole(value)
        _check_growth(name, value, rest)
        return check_result(function(*args, **kwargs))

    return metered


def _check_growth(name: str, value: Any, rest: list[Any]) -> None:
    """Charge the filters whose result is larger than what goes in."""
    if name == "replace":
        check_replace(str(value), rest)
    elif name == "format":
        check_format(str(value), rest)
    elif name == "indent":
        widths = [one if isinstance(one, int) else len(one) for one in rest if isinstance(one, int | str)]
        METER.get().size(len(str(value)) + (1 + str(value).count("\n")) * sum(widths))
    elif name == "center":
        METER.get().size(len(str(value)) + sum(one for one in rest if isinstance(one, int)))
    elif name == "sum" and any(isinstance(start, list | tuple) for start in rest):
        raise CapacityError("chat template: uses sum() to join lists; use + on two lists")


def _metered_test(function: Callable[..., Any]) -> Callable[..., Any]:
    """A test of Jinja2 (`is ...`); some compare."""

    @functools.wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        METER.get().step()
        if len(args) > 1:
            check_whole(list(args))
        return function(*args, **kwargs)

    return metered
