"""An arithmetic expression as text -> its exact value and the integers it uses; nothing is executed.

Only integers, + - * / and brackets pass the character filter; the tree is then walked by hand with Fractions, so there
are no powers, names or calls to abuse. This is what scores countdown and puzzle24.
"""

import ast
import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from operator import add, mul, sub, truediv

MAX_CHARS = 200
MAX_DEPTH = 40
MAX_DIGITS = 12
ALLOWED = re.compile(r"[0-9+\-*/() ]+")

OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: add,
    ast.Sub: sub,
    ast.Mult: mul,
    ast.Div: truediv,
}


class NotArithmetic(ValueError):
    """The text is not a bounded arithmetic expression."""


@dataclass(frozen=True, slots=True)
class Evaluated:
    value: Fraction
    numbers: tuple[int, ...]
    """Every integer written, in order of appearance."""


def evaluate(text: str) -> Evaluated:
    """Value and integers of an expression; NotArithmetic for anything else, a division by zero included."""
    text = text.strip().replace("\u00d7", "*").replace("\u00f7", "/").replace("\u2212", "-")
    if len(text) > MAX_CHARS or not ALLOWED.fullmatch(text) or re.search(rf"[0-9]{{{MAX_DIGITS + 1}}}", text):
        raise NotArithmetic("not a short expression of integers, + - * / and brackets")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise NotArithmetic("brackets or operators do not fit together") from error
    numbers: list[int] = []
    try:
        return Evaluated(walk(tree.body, numbers, depth=0), tuple(numbers))
    except ZeroDivisionError as error:
        raise NotArithmetic("division by zero") from error


def walk(node: ast.expr, numbers: list[int], depth: int) -> Fraction:
    """Value of one node; the integers met are appended to `numbers`."""
    if depth > MAX_DEPTH:
        raise NotArithmetic(f"nested deeper than {MAX_DEPTH}")
    match node:
        case ast.Constant(value=int(value)):
            numbers.append(value)
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -walk(operand, numbers, depth + 1)
        case ast.UnaryOp(op=ast.UAdd(), operand=operand):
            return walk(operand, numbers, depth + 1)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            return OPERATORS[type(op)](walk(left, numbers, depth + 1), walk(right, numbers, depth + 1))
        case _:
            raise NotArithmetic(f"{type(node).__name__} is not arithmetic")
