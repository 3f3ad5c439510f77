"""A formula as text -> a sympy expression built node by node; sympy's own `parse_expr` would `eval` the text.

Scores reasoning-gym's integration and polynomial datasets. Runs inside the worker, which bounds what simplification may
cost; the bounds here keep a hostile formula from being built at all.
"""

import ast
from collections.abc import Mapping
from typing import Any

import sympy  # type: ignore[import-untyped]

MAX_CHARS = 500
MAX_DEPTH = 60
MAX_EXPONENT = 60
NAMES = ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh", "exp", "log", "sqrt")
FUNCTIONS: dict[str, Any] = {name: getattr(sympy, name) for name in NAMES} | {
    "ln": sympy.log,
    "abs": sympy.Abs,
    "Abs": sympy.Abs,
}


class NotAFormula(ValueError):
    """The text is not a bounded formula over the given symbols."""


def build(text: str, symbols: Mapping[str, sympy.Symbol]) -> sympy.Expr:
    """The expression a text denotes, over `symbols` and the usual functions; NotAFormula for anything else."""
    if len(text) > MAX_CHARS or not text.isascii():
        raise NotAFormula(f"over {MAX_CHARS} characters, or not ASCII")
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise NotAFormula("not an expression") from error
    return node_to_sympy(tree.body, symbols, depth=0)


def node_to_sympy(node: ast.expr, symbols: Mapping[str, sympy.Symbol], depth: int) -> sympy.Expr:
    if depth > MAX_DEPTH:
        raise NotAFormula(f"nested deeper than {MAX_DEPTH}")

    def inner(child: ast.expr) -> sympy.Expr:
        return node_to_sympy(child, symbols, depth + 1)

    match node:
        case ast.Constant(value=bool() | complex()):
            raise NotAFormula("not a real number")
        case ast.Constant(value=int(value)) if abs(value) < 10**30:
            return sympy.Integer(value)
        case ast.Constant(value=float(value)) if abs(value) < 1e30:
            return sympy.Float(value)
        case ast.Name(id=name) if name in symbols:
            return symbols[name]
        case ast.Name(id="pi"):
            return sympy.pi
        case ast.Name(id="E" | "e"):
            return sympy.E
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -inner(operand)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return inner(operand)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return power(inner(left), inner(right))
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub() | ast.Mult() | ast.Div() as op, right=right):
            return combine(op, inner(left), inner(right))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return FUNCTIONS[name](inner(argument))
        case _:
            raise NotAFormula(f"{type(node).__name__} does not belong in a formula")


def combine(op: ast.operator, left: sympy.Expr, right: sympy.Expr) -> sympy.Expr:
    match op:
        case ast.Add():
            return left + right
        case ast.Sub():
            return left - right
        case ast.Mult():
            return left * right
        case _:
            return left / right


def power(base: sympy.Expr, exponent: sympy.Expr) -> sympy.Expr:
    """A power whose exponent is small or symbolic; a numeric tower such as 9**9**9 stops at its second floor."""
    if exponent.is_number and not (exponent.is_Rational and abs(exponent) <= MAX_EXPONENT):
        raise NotAFormula(f"an exponent beyond {MAX_EXPONENT}")
    if base.is_Integer and abs(base) > 10**30:
        raise NotAFormula("a power of a huge number")
    return base**exponent


def judge_integral(answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether the derivative of the answer is the integrand; the constant C is free."""
    name = entry["metadata"]["variable"]
    x = sympy.Symbol(name)
    formula = build(answer, {name: x, "C": sympy.Symbol("C")})
    integrand = build(entry["metadata"]["integrand"], {name: x})
    return bool(sympy.simplify(sympy.diff(formula, x) - integrand) == 0)


def judge_polynomial(answer: str, entry: Mapping[str, Any]) -> bool:
    """Whether the answer is the expanded product; a repeated question, still in factors, is not."""
    letters = {letter: sympy.Symbol(letter) for letter in "abcdfghijklmnopqrstuvwxyz"}
    return bool(build(answer, letters) == build(entry["answer"], letters))
