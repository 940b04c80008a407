"""Check the budgets of size: lines of files and functions, parameters, folder depth, annotations."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "watchword"

FILE_AIM, FILE_LIMIT = 350, 600
FUNCTION_AIM, FUNCTION_LIMIT = 45, 100
SHARE_OF_SHORT = 0.9
PARAMETERS = 12
# Documented signatures are as long as they are documented; the options of a command are its parameters.
LONG_SIGNATURES = ("watchword/hf/", "watchword/config/", "watchword/prompt/tokenizer.py", "watchword/cli/")


def functions(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def length(node):
    """Lines of a function without its signature and docstring: what there is to understand."""
    body = node.body[1:] if ast.get_docstring(node) else node.body
    return node.end_lineno - body[0].lineno + 1 if body else 0


def parameters(node):
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return [one for one in arguments if one.arg.lstrip("_") not in ("self", "cls")]


def check(file):
    """Complaints and notes about one file."""
    name = file.relative_to(ROOT).as_posix()
    wrong, notes = [], []
    lines = len(file.read_text(encoding="utf-8").splitlines())
    if lines > FILE_LIMIT:
        wrong.append(f"{name}: {lines} lines, limit {FILE_LIMIT}")
    elif lines > FILE_AIM:
        notes.append(f"{name}: {lines} lines, more than {FILE_AIM} needs a reason")
    if len(file.relative_to(PACKAGE).parts) > 2 and file.suffix == ".py":
        wrong.append(f"{name}: deeper than one folder")
    for node in functions(file):
        where = f"{name}:{node.lineno} {node.name}"
        if length(node) > FUNCTION_LIMIT:
            wrong.append(f"{where}: {length(node)} lines, limit {FUNCTION_LIMIT}")
        if len(parameters(node)) > PARAMETERS and not name.startswith(LONG_SIGNATURES):
            wrong.append(f"{where}: {len(parameters(node))} parameters, limit {PARAMETERS}")
        bare = [one.arg for one in parameters(node) if one.annotation is None]
        if bare:
            wrong.append(f"{where}: parameters without annotation: {', '.join(bare)}")
    return wrong, notes


def main():
    wrong, notes, sizes = [], [], []
    for file in sorted(PACKAGE.rglob("*.py")):
        more_wrong, more_notes = check(file)
        wrong += more_wrong
        notes += more_notes
        sizes += [length(node) for node in functions(file)]
    short = sum(size <= FUNCTION_AIM for size in sizes) / max(len(sizes), 1)
    if short < SHARE_OF_SHORT:
        wrong.append(
            f"{short:.0%} of functions have at most {FUNCTION_AIM} lines, expected {SHARE_OF_SHORT:.0%}"
        )
    for note in notes:
        print(f"note: {note}")
    for one in wrong:
        print(f"over budget: {one}")
    print(f"{len(sizes)} functions, {short:.0%} of at most {FUNCTION_AIM} lines; {len(wrong)} over budget")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
