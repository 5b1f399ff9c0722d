"""Check that tests/ mirrors src/ file by file.

`core/pool.py` of the package is tested in `tests/core/test_pool.py`; a package's own `__init__.py`, when it holds
code, in `tests/<package>/test_<package>.py`. Outside `FREE` every tests file has its module. Exceptions have a reason.
"""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "sglang_diffusion_routing"
TESTS = ROOT / "tests"

EXCEPTIONS: dict[str, str] = {}
# Directories of tests that cut across modules.
FREE = {"clients", "conformance", "docs", "e2e", "engine", "faults", "gpu", "support", "tools"}


def holds_code(path: Path) -> bool:
    """Tell whether a module does anything: some function has more in it than a docstring or an ellipsis."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return any(not _is_constant(statement) for function in functions for statement in function.body)


def _is_constant(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def tests_of(module: Path) -> Path:
    """Give the tests file of a module, both relative to their roots."""
    name = module.parent.name if module.name == "__init__.py" else module.stem
    return module.parent / f"test_{name}.py"


def faults() -> list[str]:
    """List each module without tests, each test without a module, each exception without need."""
    modules = {path.relative_to(SRC) for path in SRC.rglob("*.py") if holds_code(path)}
    wanted = {tests_of(module): module for module in sorted(modules)}
    present = {path.relative_to(TESTS) for path in TESTS.rglob("test_*.py")}
    found = [
        f"src: {module} has no tests/{tests}"
        for tests, module in wanted.items()
        if tests not in present and str(module) not in EXCEPTIONS
    ]
    found += [
        f"tests: {tests} tests no module of that name"
        for tests in sorted(present - set(wanted))
        if tests.parts[0] not in FREE and not (SRC / tests.parent / f"{tests.stem.removeprefix('test_')}.py").exists()
    ]
    needed = {str(module) for tests, module in wanted.items() if tests not in present}
    found += [f"tools: {name} needs no exception" for name in EXCEPTIONS if name not in needed]
    return found


def main() -> int:
    """Print each fault; give 1 when there is any."""
    found = faults()
    for fault in found:
        print(fault)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
